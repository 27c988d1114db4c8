//! Sandboxes of one runner, attempt after attempt.

use std::collections::BTreeMap;

use super::*;
use crate::domain::{HostRules, Sandbox};

/// A runner in which a job of each of these names has its sandbox. `None` where the kernel can't do it.
fn with_sandboxes(names: &[(&str, SandboxLevel)]) -> Option<Fixture> {
    if SandboxSupport::detect().level() == SandboxLevel::Off {
        eprintln!("skipped: this kernel can't do it");
        return None;
    }
    let rules = |level| {
        let sandbox = Sandbox { level, ..Sandbox::default() };
        Arc::new(HostRules { sandbox, ..HostRules::default() })
    };
    let jobs: BTreeMap<_, _> =
        names.iter().map(|(name, level)| (JobName::parse(name).unwrap(), rules(*level))).collect();
    let host_rules = HostRulesByName { jobs, ..HostRulesByName::default() };
    Some(Fixture::with(|settings| settings.host_rules = host_rules))
}

#[tokio::test]
async fn rules_that_are_kept_follow_the_binary_and_lead_to_no_other() {
    let strict = SandboxLevel::Strict;
    let Some(fixture) = with_sandboxes(&[("first", strict), ("second", strict)]) else { return };
    fixture.executable("first", b"#!/bin/sh\necho old\n");
    // Neither touches its directory, so each serves the next with its rules.
    for text in ["old", "old", "new"] {
        if text == "new" {
            let new = fixture.path("jobs/new");
            fixture.executable("new", b"#!/bin/sh\necho new\n");
            fs_err::rename(new, fixture.path("jobs/first")).unwrap();
        }
        let report = fixture.run(order("first")).await;
        assert_eq!(report.stdout.text, format!("{text}\n"), "{report:?}");
    }
    let script = format!("#!/bin/sh\ncat {}\n", fixture.path("jobs/first").display());
    fixture.executable("second", script.as_bytes());
    let report = fixture.run(order("second")).await;
    assert_eq!(report.stdout.text, "", "{report:?}");
    assert!(report.stderr.text.contains("Permission denied"), "{report:?}");
    fixture.executable("third", script.as_bytes());
    let report = fixture.run(order("third")).await;
    assert!(report.stdout.text.contains("echo new"), "without a sandbox it can: {report:?}");
}

#[tokio::test]
async fn each_strict_job_has_its_directory_for_temporary_files_and_no_other() {
    let Some(fixture) = with_sandboxes(&[("strict", SandboxLevel::Strict)]) else { return };
    let script = "#!/bin/sh\ntest \"$TMPDIR\" = \"$PWD\" && mktemp > /dev/null && echo made\n\
                  echo x > ../beside || echo kept in\n";
    for _ in 0..3 {
        fixture.executable("strict", script.as_bytes());
        let report = fixture.run(order("strict")).await;
        assert_eq!(report.stdout.text, "made\nkept in\n", "{report:?}");
    }
}

#[tokio::test]
async fn an_interpreter_that_is_out_of_reach_is_named_as_the_reason() {
    let Some(fixture) = with_sandboxes(&[("scripted", SandboxLevel::Strict)]) else { return };
    let interpreter = fixture.path("interpreter");
    fs_err::copy("/bin/sh", &interpreter).unwrap();
    fixture.executable("scripted", format!("#!{}\necho ran\n", interpreter.display()).as_bytes());
    let report = fixture.run(order("scripted")).await;
    assert_eq!(report.outcome, Outcome::SpawnError { reason: SpawnFailure::NotExecutable });
    assert!(report.error.as_ref().is_some_and(|error| error.contains("sandbox_read")), "{report:?}");
}

#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn what_each_level_costs_an_attempt() {
    const ROUNDS: usize = 2000;
    let names = [("off", SandboxLevel::Off), ("basic", SandboxLevel::Basic), ("strict", SandboxLevel::Strict)];
    let Some(fixture) = with_sandboxes(&names) else { return };
    let mut took = [const { Vec::new() }; 3];
    for (name, _) in names {
        fs_err::copy("/bin/true", fixture.path("jobs").join(name)).unwrap();
    }
    for _ in 0..ROUNDS {
        for ((name, _), took) in names.iter().zip(&mut took) {
            let slot = fixture.slots.acquire(None).await;
            let began = Instant::now();
            fixture.runner.run(slot, order(name), StopHandle::new().unwrap().1, nothing()).await.unwrap();
            took.push(began.elapsed());
        }
    }
    for ((name, _), took) in names.iter().zip(&mut took) {
        took.sort_unstable();
        eprintln!("{name}: median {:?}, tenth {:?}", took[ROUNDS / 2], took[ROUNDS / 10]);
    }
}
