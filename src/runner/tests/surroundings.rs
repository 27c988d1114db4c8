//! What a job finds around it.

use super::*;
use serde_json::json;

#[tokio::test]
async fn the_environment_is_clean() {
    let fixture = Fixture::with(|settings| {
        settings.pass_environment = vec!["*".into()];
        settings.set_environment = vec![("GREETING".into(), "hi".into()), ("OMP_NUM_THREADS".into(), "99".into())];
    });
    let report = fixture.run(fixture.script("exec env")).await;
    let mut names: Vec<&str> = report.stdout.text.lines().filter_map(|l| Some(l.split_once('=')?.0)).collect();
    names.sort_unstable();
    let shell = ["PWD", "OLDPWD", "SHLVL", "_"];
    names.retain(|name| !shell.contains(name));
    assert_eq!(
        names,
        [
            "GREETING",
            "JOBBER_ATTEMPT",
            "JOBBER_CORES",
            "JOBBER_CPUS",
            "JOBBER_ERROR_FILE",
            "JOBBER_JOB_ID",
            "JOBBER_JOB_NAME",
            "JOBBER_MAX_ATTEMPTS",
            "JOBBER_OUTPUT_DIR",
            "JOBBER_WORKER",
            "OMP_NUM_THREADS",
            "OTHER",
            "PATH",
        ]
    );
    for line in ["JOBBER_ATTEMPT=2", "JOBBER_MAX_ATTEMPTS=3", "JOBBER_CORES=1", "OMP_NUM_THREADS=1", "GREETING=hi"] {
        assert!(report.stdout.text.lines().any(|l| l == line), "{line}: {}", report.stdout.text);
    }
}

#[tokio::test]
async fn a_job_of_an_array_knows_which_it_is() {
    let fixture = Fixture::new();
    let mut order = fixture.script("echo ${JOBBER_GROUP-none} ${JOBBER_ARRAY_INDEX-none}");
    assert_eq!(fixture.run(order.clone()).await.stdout.text, "none none\n");
    let options = &mut Arc::make_mut(&mut order.job).options;
    (options.group, options.array_index) = (Some("sims".parse().unwrap()), Some(0));
    assert_eq!(fixture.run(order).await.stdout.text, "sims 0\n");
}

#[tokio::test]
async fn a_job_is_pinned_to_its_cores() {
    let fixture = Fixture::new();
    let mut order = fixture.script("grep Cpus_allowed_list /proc/self/status; echo $JOBBER_CPUS $JOBBER_CORES");
    let report = fixture.run(order.clone()).await;
    let [cpu] = report.cpus[..] else { panic!("{:?}", report.cpus) };
    assert_eq!(report.stdout.text, format!("Cpus_allowed_list:\t{cpu}\n{cpu} 1\n"));
    Arc::make_mut(&mut order.job).options.cores = Some(2);
    let report = fixture.run(order).await;
    let last = report.stdout.text.lines().last().unwrap();
    assert_eq!(last, format!("{} {}", cpus::join(&report.cpus), report.cpus.len()));
}

#[tokio::test]
async fn pinning_can_be_turned_off() {
    let fixture = Fixture::with(|settings| settings.pin = false);
    let report = fixture.run(fixture.script("echo ${JOBBER_CPUS-none}; env -u OMP_NUM_THREADS nproc")).await;
    assert!(report.cpus.is_empty());
    assert_eq!(report.result, Some(json!(format!("none\n{}", fixture.slots.total_cores()))));
}

#[tokio::test]
async fn a_job_is_its_own_group_of_lower_priority_without_new_privileges() {
    let fixture = Fixture::new();
    let own = rustix::process::getpriority_process(None).unwrap();
    // The child sets its priority before it executes: the sleep waits for nothing.
    let report = fixture
        .run(fixture.script(
            "sleep 0.2; cut -d' ' -f5 /proc/$$/stat; echo $$; cut -d' ' -f19 /proc/$$/stat
             grep NoNewPrivs /proc/$$/status; grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | tr '\\n' ' '",
        ))
        .await;
    let lines: Vec<&str> = report.stdout.text.lines().collect();
    assert_eq!(lines[0], lines[1], "{lines:?}");
    assert_eq!(lines[2], (own + 5).to_string());
    assert_eq!(lines[3], "NoNewPrivs:\t1");
    assert_eq!(lines[4], "SigBlk:\t0000000000000000");
    // ls itself opens 3.
    assert_eq!(lines[6].trim(), "0 1 2 3", "no descriptor is inherited");
}

#[tokio::test]
async fn an_attempt_works_in_a_fresh_directory_that_is_removed() {
    let fixture = Fixture::new();
    let here = std::env::current_dir().unwrap();
    let order = fixture.script("pwd; ls -A | wc -l; mkdir -p a/b/c; touch a/b/f; chmod 0 a/b a; chmod 0 .");
    let first = fixture.run(order.clone()).await;
    let second = fixture.run(order).await;
    let place = |report: &AttemptReport| report.stdout.text.lines().next().unwrap().to_owned();
    assert_ne!(place(&first), place(&second));
    assert!(place(&first).starts_with(fixture.path("scratch").canonicalize().unwrap().to_str().unwrap()));
    assert!(first.stdout.text.ends_with("\n0\n"));
    assert_eq!(std::env::current_dir().unwrap(), here, "the supervisor itself has not moved");
}

#[tokio::test]
async fn no_link_leads_out_of_the_jobs_directory() {
    let fixture = Fixture::new();
    std::os::unix::fs::symlink("/bin/sh", fixture.path("jobs/escape")).unwrap();
    let report = fixture.run(order("escape")).await;
    assert!(matches!(report.outcome, Outcome::SpawnError { reason: crate::domain::SpawnFailure::NotExecutable }));
}
