//! Runs the program of an attempt in a debugger, as the attempt would find everything.

use std::path::Path;
use std::process::{Command, ExitStatus};

use super::RunnerError;
use super::attempt::Shared;
use super::order::RunOrder;
use super::slots::Slot;
use super::spawn::SpawnError;
use super::surroundings::Surroundings;

/// What the debugger and the shell add to the variables of the program.
const ADDED: [&str; 5] = ["LINES", "COLUMNS", "PWD", "OLDPWD", "SHLVL"];

/// See [`super::Runner::debug`].
pub(super) fn debug(
    shared: &Shared,
    slot: &Slot,
    order: &RunOrder,
    terminal: &[(String, String)],
) -> Result<ExitStatus, RunnerError> {
    let impeded = |error: SpawnError| RunnerError::Impeded(error.message);
    let program = shared.binaries.find(&order.job.name).map_err(|error| impeded(error.into()))?.path;
    let mut surroundings =
        Surroundings::make(&shared.scratch, &shared.settings, &shared.sandboxes, slot, order).map_err(impeded)?;
    let (work_dir, own) = surroundings.parts();
    let shared_variables = shared.environment.shared().iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let variables: Vec<_> = shared_variables.chain(own.iter().map(|(name, value)| (&**name, value.as_str()))).collect();
    let is_set = |name: &str| variables.iter().any(|(set, _)| *set == name);
    let terminal: Vec<_> = terminal.iter().filter(|(name, _)| !is_set(name)).collect();

    // The terminal is the debugger's, so a file is the program's standard input.
    let input = shared.settings.scratch_dir.join("debugged-input");
    let wrapper = shared.settings.scratch_dir.join("debugged-start");
    let added = ADDED.into_iter().filter(|name| !is_set(name)).chain(terminal.iter().map(|(name, _)| name.as_str()));
    let added: Vec<_> = added.collect();
    let start = format!("unset {}\nexec \"$@\" < {}\n", added.join(" "), quoted(&input));
    fs_err::write(&input, order.body.data().unwrap_or_default()).map_err(RunnerError::Scratch)?;
    fs_err::write(&wrapper, start).map_err(RunnerError::Scratch)?;

    #[expect(
        clippy::disallowed_methods,
        reason = "the user at the terminal works with the debugger, and no supervisor watches it"
    )]
    let mut gdb = Command::new("gdb");
    gdb.arg("-q").arg("-iex").arg(format!("set exec-wrapper sh {}", quoted(&wrapper)));
    gdb.arg("--args").arg(&*program).args(order.body.arguments());
    gdb.current_dir(&work_dir.path).env_clear();
    gdb.envs(variables.iter().copied()).envs(terminal.iter().map(|(name, value)| (name, value)));
    // A child of the main thread would be taken for an orphan.
    let ended = std::thread::scope(|scope| scope.spawn(|| gdb.status()).join());
    ended.map_err(|_| RunnerError::Panicked)?.map_err(|error| {
        RunnerError::Impeded(format!("gdb can't be started: {error}; install it (Debian: apt-get install gdb)"))
    })
}

/// The path as a shell reads it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_path_as_it_is() {
        assert_eq!(quoted(Path::new("/tmp/a b")), "'/tmp/a b'");
        assert_eq!(quoted(Path::new("/tmp/it's")), r"'/tmp/it'\''s'");
    }
}
