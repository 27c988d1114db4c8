//! What `deploy/`, the compose file and the Dockerfile say: accepted by the tools that read it, and in step with what
//! Jobber's settings and commands are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jobber::config::{Config, Sources};

use crate::harness::binary;

const UNITS: [&str; 2] = ["jobber-serve.service", "jobber-work.service"];
const KUBERNETES: [&str; 3] =
    ["deploy/kubernetes/config.yaml", "deploy/kubernetes/serve.yaml", "deploy/kubernetes/work.yaml"];
const COMPOSE_TLS: &str = "deploy/compose.tls.yaml";

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
fn units_bound_what_their_processes_take_and_leave() {
    for name in UNITS {
        let (_, text) = unit(name);
        let tasks = text.lines().find_map(|line| line.strip_prefix("TasksMax=")).expect("it is set");
        assert!((256..100_000).contains(&tasks.parse::<u32>().unwrap()), "{name}: {tasks}");
        for line in ["PrivateIPC=yes", "RemoveIPC=yes"] {
            assert!(text.lines().any(|l| l == line), "{name}: {line}");
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

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The services of the compose file: name and text of each. Services stand at one indent, what they say deeper.
fn services() -> BTreeMap<String, String> {
    let text = file("compose.yaml");
    let services = text.split("\nservices:\n").nth(1).unwrap().split("\nvolumes:\n").next().unwrap();
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in services.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            Some(head) if !head.is_empty() => name = head.trim_end_matches(':').to_owned(),
            _ => *found.entry(name.clone()).or_default() += &format!("{line}\n"),
        }
    }
    assert!(found.len() >= 5, "{found:#?}");
    found
}

/// Words of capitals that begin with this.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with(prefix)).map(str::to_owned).collect()
}

/// Variables that are written `${NAME...}`.
fn interpolated(text: &str) -> BTreeSet<String> {
    let is_part = |c: &char| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_';
    text.split("${").skip(1).map(|rest| rest.chars().take_while(is_part).collect()).collect()
}

#[test]
fn every_variable_is_one_that_jobber_reads() {
    let mut known = words(&jobber::config::example(), "JOBBER_");
    // Clients' own, and those of whoever starts the containers.
    let clients = ["JOBBER_SERVER", "JOBBER_CA", "JOBBER_CONFIG", "JOBBER_PORT", "JOBBER_TLS_DIR"];
    known.extend(clients.map(str::to_owned));
    let files = ["compose.yaml", COMPOSE_TLS, "Dockerfile", ".env.example", "deploy/jobber.env", UNITS[0], UNITS[1]];
    for name in files.into_iter().chain(KUBERNETES) {
        let text = if UNITS.contains(&name) { unit(name).1 } else { file(name) };
        let unknown: Vec<_> = words(&text, "JOBBER_").difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

#[test]
fn the_example_of_the_secrets_names_all_that_compose_asks_for() {
    let mut asked = interpolated(&file("compose.yaml"));
    asked.extend(interpolated(&file(COMPOSE_TLS)));
    // What names the second file to compose.
    asked.insert("COMPOSE_FILE".to_owned());
    let example = file(".env.example");
    let given: BTreeSet<_> = example
        .lines()
        .filter_map(|line| Some(line.trim_start_matches('#').split_once('=')?.0.to_owned()))
        .filter(|name| !name.contains(' '))
        .collect();
    assert_eq!(asked, given);
    for line in example.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.is_empty() || line.ends_with('='), "a secret is filled in: {line}");
    }
    for ignored in [".gitignore", ".dockerignore"] {
        assert!(file(ignored).lines().any(|line| line.trim_start_matches('/') == ".env"), "{ignored}");
    }
}

#[test]
fn every_service_is_watched_over_and_out_of_reach_of_others() {
    let services = services();
    for (name, text) in &services {
        let ends_by_itself = services
            .values()
            .any(|s| s.contains(&format!("{name}:\n        condition: service_completed_successfully")));
        assert!(text.contains("healthcheck:") || ends_by_itself, "{name} has no health check");
        for line in text.split("ports:\n").skip(1).flat_map(|rest| rest.lines().take_while(|l| l.contains("- "))) {
            assert!(line.trim().starts_with("- 127.0.0.1:"), "{name} is open to others: {line}");
        }
        for depends in text.split("depends_on:\n").skip(1) {
            assert!(depends.lines().nth(1).unwrap().contains("condition:"), "{name}");
        }
        assert!(!text.contains("privileged: true") && !text.contains("network_mode"), "{name}");
    }
    for needed in ["--appendonly yes", "--maxmemory-policy noeviction", "--requirepass"] {
        assert!(services["redis"].contains(needed), "{needed}");
    }
}

#[test]
fn containers_are_given_the_time_that_units_are() {
    for (service, name) in [("serve", UNITS[0]), ("work", UNITS[1])] {
        let seconds = seconds(&unit(name).1, "TimeoutStopSec").as_secs();
        assert!(services()[service].contains(&format!("stop_grace_period: {seconds}s\n")), "{service}: {seconds}");
    }
}

#[test]
fn pods_are_given_the_time_that_units_are_and_the_user_of_the_image() {
    let dockerfile = file("Dockerfile");
    let user = dockerfile.lines().find_map(|line| line.strip_prefix("USER ")?.split(':').next()).unwrap();
    for (name, unit_name, command) in [(KUBERNETES[1], UNITS[0], "serve"), (KUBERNETES[2], UNITS[1], "work")] {
        let text = file(name);
        let seconds = seconds(&unit(unit_name).1, "TimeoutStopSec").as_secs();
        let needed = [
            format!("terminationGracePeriodSeconds: {seconds}"),
            format!("runAsUser: {user}"),
            format!("args: [{command}]"),
            "runAsNonRoot: true".to_owned(),
            "readOnlyRootFilesystem: true".to_owned(),
            "allowPrivilegeEscalation: false".to_owned(),
            // A service named redis would be REDIS_PORT=tcp://... else.
            "enableServiceLinks: false".to_owned(),
            "readinessProbe:".to_owned(),
        ];
        for line in needed {
            assert!(text.lines().any(|l| l.trim() == line), "{name}: {line}");
        }
        for path in text.lines().filter_map(|line| line.trim().strip_prefix("path: ")) {
            assert!(["/healthz", "/readyz"].contains(&path), "{name}: {path}");
        }
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("command: [")) {
            let words = line.trim_end_matches(']').split(", ").map(Into::into);
            assert!(jobber::cli::parse(words).is_ok(), "{name}: {line}");
        }
    }
}

#[test]
fn the_image_is_small_not_roots_and_starts_what_there_is() {
    let text = file("Dockerfile");
    let last = text.rsplit("\nFROM ").next().unwrap();
    assert!(last.starts_with("scratch\n"), "{last}");
    let user = last.lines().find_map(|line| line.strip_prefix("USER ")).expect("it names a user");
    assert!(user.split(':').all(|id| id.parse::<u32>().unwrap() > 0), "{user}");
    // Commands in exec form: there is no shell.
    let mut commands = Vec::new();
    for line in last.lines().chain(services()["serve"].lines()).chain(services()["work"].lines()) {
        let Some(at) = line.find('[') else { continue };
        let words: Vec<String> = serde_json::from_str(&line[at..]).unwrap();
        commands.push(words.into_iter().filter(|w| w != "CMD" && w != "/usr/local/bin/jobber").collect::<Vec<_>>());
    }
    commands.retain(|words| !words.is_empty());
    assert!(commands.len() >= 6, "{commands:?}");
    for words in commands {
        let parsed = jobber::cli::parse(std::iter::once("jobber".to_owned()).chain(words.clone()).map(Into::into));
        assert!(parsed.is_ok(), "{words:?}");
    }
}

#[test]
fn compose_accepts_its_file() {
    let mut command = match ["docker compose", "docker-compose"].into_iter().find(|words| {
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("version").output().is_ok_and(|output| output.status.success())
    }) {
        Some("docker compose") => {
            let mut command = Command::new("docker");
            command.arg("compose");
            command
        }
        Some(name) => Command::new(name),
        None => {
            eprintln!("SKIPPED: no docker compose here; install it to check compose.yaml");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let secrets: String = interpolated(&file("compose.yaml"))
        .iter()
        .filter(|name| name.ends_with("PASSWORD") || name.ends_with("TOKEN"))
        .map(|name| format!("{name}=secret12\n"))
        .collect();
    std::fs::write(dir.path().join("env"), secrets).unwrap();
    // Its first generation knows no `name`.
    let text = file("compose.yaml").replace("\nname: jobber\n", "\n");
    std::fs::write(dir.path().join("compose.yaml"), text).unwrap();
    let output = command
        .args(["--env-file", "env", "--file", "compose.yaml", "config", "--quiet"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_guide_installs_what_the_units_name_before_it_starts_them() {
    let guide = file("docs/operations/systemd.md");
    let lines: Vec<_> = guide.split("```").nth(1).unwrap().lines().collect();
    let at =
        |text: &str| lines.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {lines:?}"));
    let start = at("systemctl enable --now");
    for (name, text) in UNITS.map(|name| (name, unit(name).1)) {
        let documented = text.lines().find_map(|line| line.strip_prefix("Documentation=file://")).expect(name);
        assert!(at(documented) < start, "{name}");
        assert!(at("install -m 644 deploy/*.service") < start);
    }
    assert!(at("/var/lib/jobber/jobs ") < at("/var/lib/jobber/jobs/") && at("/var/lib/jobber/jobs/") < start);
    assert!(at("make -C cpp-jobs") < at("cpp-jobs/build/hello"));
}

#[test]
fn compose_gives_passwords_by_themselves_and_never_within_urls() {
    for (name, text) in services() {
        let urls = text.lines().filter(|line| line.contains("://"));
        assert!(!urls.into_iter().any(|line| line.contains("PASSWORD")), "{name}: {text}");
    }
    assert!(!file("compose.yaml").contains("@redis") && !file("compose.yaml").contains("@couchbase"));
}
