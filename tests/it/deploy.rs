//! The systemd units: accepted by systemd, and in step with the defaults that they must outlast.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jobber::config::{Config, Sources};

use crate::harness::binary;

const UNITS: [&str; 2] = ["jobber-serve.service", "jobber-work.service"];

fn unit(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

fn seconds(text: &str, key: &str) -> Duration {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).expect("it is set");
    Duration::from_secs(value.parse().unwrap())
}

#[test]
fn units_outlast_the_shutdown_that_they_ask_for() {
    let config = Config::load(&Sources { environment: BTreeMap::new(), ..Sources::default() }).unwrap();
    let end = config.serve.shutdown_grace * 2;
    let (_, serve) = unit(UNITS[0]);
    assert!(seconds(&serve, "TimeoutStopSec") > end + Duration::from_secs(5));
    let (_, work) = unit(UNITS[1]);
    let drain = config.worker.drain_timeout + config.defaults.grace.unwrap() + Duration::from_secs(10);
    assert!(seconds(&work, "TimeoutStopSec") > drain + end);
    for text in [serve, work] {
        // Half of it is left for the answer, and SQLite waits up to ten seconds for another process's write.
        assert!(seconds(&text, "WatchdogSec") >= Duration::from_secs(40));
        for line in ["Type=notify", "NotifyAccess=main", "KillMode=mixed", "KillSignal=SIGTERM", "Restart=on-failure"] {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
    }
}

#[test]
fn systemd_accepts_the_units() {
    let here = Command::new("systemd-analyze").arg("--version").output();
    if !here.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no systemd-analyze here; install systemd to check the units");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let units = UNITS.map(|name| {
        let path = dir.path().join(name);
        // systemd looks whether the program is there.
        std::fs::write(&path, unit(name).1.replace("/usr/local/bin/jobber", binary())).unwrap();
        path
    });
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("jobber-"), "{said}");
}
