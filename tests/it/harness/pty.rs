//! Runs the binary on a terminal of its own, as a person does.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::Command;

use super::{Output, PATIENCE, binary};

/// How a command is run on a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Terminal<'a> {
    pub columns: u16,
    pub env: &'a [(&'a str, &'a str)],
    /// After so long the command is told to end, as by Ctrl-C; otherwise it ends by itself.
    pub interrupt: Option<Duration>,
}

impl Terminal<'_> {
    /// A terminal with so many columns.
    pub fn wide(columns: u16) -> Self {
        Self { columns, env: &[], interrupt: None }
    }

    /// Runs the binary to its end, with stdout and stderr on the terminal. What it has written stands in `stdout`.
    pub async fn run(self, args: &[&str], server: &str, dir: &Path) -> Output {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        tcsetwinsize(&terminal, Winsize { ws_row: 30, ws_col: self.columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let side = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("JOBBER_") {
                command.env_remove(name);
            }
        }
        command.args(args).current_dir(dir).kill_on_drop(true);
        command.env_remove("COLUMNS").env_remove("NO_COLOR").env("TERM", "xterm").env("JOBBER_SERVER", server);
        command.envs(self.env.iter().copied()).stdin(Stdio::null());
        command.stdout(Stdio::from(side.try_clone().unwrap())).stderr(Stdio::from(side));
        let mut child = command.spawn().unwrap();
        // It holds this side of the terminal, too: while anyone does, reading does not come to an end.
        drop(command);
        let reading = tokio::task::spawn_blocking(move || {
            let (mut terminal, mut written) = (File::from(terminal), Vec::new());
            let mut part = [0; 4096];
            // The end of a terminal is an error.
            while let Ok(length @ 1..) = terminal.read(&mut part) {
                written.extend_from_slice(&part[..length]);
            }
            String::from_utf8_lossy(&written).replace("\r\n", "\n")
        });
        if let Some(after) = self.interrupt {
            tokio::time::sleep(after).await;
            let pid = rustix::process::Pid::from_raw(child.id().expect("it runs") as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        }
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
        let stdout = tokio::time::timeout(PATIENCE, reading).await.expect("the terminal ends").unwrap();
        Output { code: status.code().unwrap_or(-1), stdout, stderr: String::new() }
    }
}

/// A text without the sequences that colour it and move the cursor.
pub fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, sequence)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        let end = sequence.find(|c: char| c.is_ascii_alphabetic()).map_or(sequence.len(), |at| at + 1);
        rest = &sequence[end..];
    }
    plain + rest
}
