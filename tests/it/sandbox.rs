//! What a job may touch under each level of sandbox, as this user and as one without rights, and what must go on.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Jobber, Place, Start, as_nobody, binary, eventually, run};

/// The levels, and whether the kernel can do them here.
const LEVELS: [&str; 3] = ["off", "basic", "strict"];

/// What came of each thing that a job has tried, by name.
type Said = BTreeMap<String, String>;

/// The program that tries what a job has no business to do, built once.
fn hostile() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/sandbox/hostile.cpp");
        let output = std::process::Command::new("g++")
            .args(["-std=c++20", "-O1", "-o"])
            .args([&target, &source])
            .output()
            .expect("g++ is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target
    };
    BUILT.get_or_init(build).clone()
}

fn copy_job(place: &Place, file: &Path, name: &str) {
    let status = std::process::Command::new("cp").arg(file).arg(place.jobs_dir().join(name)).status().unwrap();
    assert!(status.success());
}

/// A place with the hostile job, and a configuration file for its worker.
fn place(config: &str) -> Arc<Place> {
    let place = Place::new();
    copy_job(&place, &hostile(), "hostile");
    std::fs::write(place.path().join("jobber.toml"), config).unwrap();
    place
}

/// The two users as whom a worker is tested: the one that runs the tests, and one without rights, if that is another.
fn users() -> Vec<&'static str> {
    if rustix::process::geteuid().is_root() { vec!["root", "nobody"] } else { vec!["nobody"] }
}

fn start(place: &Arc<Place>, user: &str, start: Start) -> Start {
    if user == "root" { start.at(place) } else { as_nobody(place, start) }
}

async fn run_job(jobber: &Jobber, body: Value) -> Value {
    let id = jobber.submit(body).await;
    jobber.wait_final(&id).await
}

fn stdout(view: &Value) -> &str {
    view["attempts"].as_array().unwrap().last().unwrap()["report"]["stdout"]["text"].as_str().unwrap_or_default()
}

/// What the hostile job says of these attempts.
async fn tries(jobber: &Jobber, arguments: &[&str]) -> Said {
    let view = run_job(jobber, json!({"name": "hostile", "arguments": arguments, "attempts": 1})).await;
    assert_eq!(view["state"], "completed", "{arguments:?}: {view}\n{}", jobber.log());
    let pair = |line: &str| line.split_once(' ').map(|(name, said)| (name.to_owned(), said.to_owned()));
    stdout(&view).lines().filter_map(pair).collect()
}

/// The process whose command line holds this text, once there is one.
async fn process(text: &str) -> u32 {
    eventually(&format!("a process with {text:?}"), async || {
        std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            command.contains(text).then_some(pid)
        })
    })
    .await
}

fn assert_all(said: &Said, names: &[&str], expected: &[&str], about: &str) {
    for name in names {
        let said = said.get(*name).unwrap_or_else(|| panic!("{about}: nothing of {name}: {said:?}"));
        assert!(expected.contains(&said.as_str()), "{about}: {name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sandboxed_job_reaches_the_processes_of_others() {
    for user in users() {
        for level in LEVELS {
            let about = format!("{user}, {level}");
            let place = place(&format!("[defaults]\nsandbox = \"{level}\"\n"));
            // A number that no other process sleeps for.
            let length = format!("3{}.5", rand());
            place.job("victim", &format!("#!/bin/sh\nexec sleep {length}\n"));
            let jobber = start(&place, user, Jobber::dev().arg("--cores").arg("2")).start().await;
            let victim_job = jobber.submit(json!({"name": "victim", "attempts": 1})).await;
            let victim = process(&format!("sleep {length} ")).await.to_string();
            let worker = jobber.pid().to_string();
            let guard = process(&format!("guard --parent {worker} ")).await.to_string();
            for (whom, pid) in [("worker", &worker), ("guard", &guard), ("job", &victim)] {
                let said = tries(&jobber, &["process", whom, pid]).await;
                let of = |what: &[&str]| what.iter().map(|what| format!("{whom}-{what}")).collect::<Vec<_>>();
                let secrets = of(&["environment", "memory", "read-memory", "ptrace"]);
                let control = of(&["signal", "stop", "prlimit", "nice", "scheduler"]);
                let names = |list: &[String]| list.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
                let (secrets, control) = (names(&secrets), names(&control));
                let (secrets, control): (Vec<_>, Vec<_>) = (secrets.split(' ').collect(), control.split(' ').collect());
                if level != "off" {
                    assert_all(&said, &secrets, &["EPERM", "EACCES"], &about);
                    assert_all(&said, &control, &["EPERM"], &about);
                } else {
                    // The same attempts succeed where nothing but the sandbox is in the way.
                    assert_all(&said, &control, &["ok"], &about);
                    if user == "nobody" && whom != "job" {
                        assert_all(&said, &secrets, &["EPERM", "EACCES"], &about);
                    } else {
                        assert_all(&said, &secrets[..2], &["ok"], &about);
                    }
                }
            }
            let (status, _) = jobber.post(&format!("/api/v1/jobs/{victim_job}:cancel"), json!({})).await;
            assert_eq!(status, 202, "{about}: the worker and the other job are as before");
            assert_eq!(jobber.wait_final(&victim_job).await["outcome"]["kind"], "cancelled", "{about}");
        }
    }
}

/// Digits that differ from test to test.
fn rand() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.subsec_micros()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sandboxed_job_changes_the_machine_or_leaves_its_cores() {
    let system =
        ["unshare-user", "clone-user", "keyring", "kcmp", "io-uring", "bpf", "type-for-others", "mount", "perf"];
    for user in users() {
        for level in LEVELS {
            let about = format!("{user}, {level}");
            let place = place(&format!("[defaults]\nsandbox = \"{level}\"\n"));
            let jobber = start(&place, user, Jobber::dev().arg("--cores").arg("1")).start().await;
            let said = tries(&jobber, &["system"]).await;
            if level == "off" {
                assert_all(&said, &["kcmp", "io-uring", "bpf", "type-for-others"], &["ok"], &about);
            } else {
                assert_all(&said, &system, &["EPERM"], &about);
            }
            let said = tries(&jobber, &["pin"]).await;
            assert_eq!(said["pin"], "ok", "{about}: a thread pool goes on");
            let cpus: usize = said["cpus"].parse().unwrap();
            let all = std::thread::available_parallelism().unwrap().get();
            assert_eq!(cpus, if level == "off" { all } else { 1 }, "{about}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_and_the_abstract_sockets_of_others_are_shut_off() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port().to_string();
    let name = format!("jobber-sandbox-{}", rand());
    let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
    let _abstract = UnixListener::bind_addr(&address.unwrap()).unwrap();
    for user in users() {
        for (level, network) in [("off", true), ("basic", true), ("basic", false), ("strict", true), ("strict", false)]
        {
            let about = format!("{user}, {level}, network {network}");
            let place = place(&format!("[jobs.hostile]\nsandbox = \"{level}\"\nnetwork = {network}\n"));
            let jobber = start(&place, user, Jobber::dev()).start().await;
            let said = tries(&jobber, &["network", &port, &name]).await;
            let expected = if network { "ok" } else { "EAFNOSUPPORT" };
            assert_all(&said, &["tcp", "udp", "netlink"], &[expected], &about);
            assert_all(&said, &["pair"], &["ok"], &about);
            assert_all(&said, &["abstract"], &[if level == "off" { "ok" } else { "EPERM" }], &about);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_job_finds_no_file_but_the_systems_and_its_own() {
    for user in users() {
        for level in LEVELS {
            let about = format!("{user}, {level}");
            let place = place("");
            let at = |name: &str| place.path().join(name).display().to_string();
            std::fs::create_dir(at("models")).unwrap();
            std::fs::create_dir(at("results")).unwrap();
            std::fs::write(at("models/one"), "weights").unwrap();
            std::fs::write(at("token"), "a-secret-of-its-own").unwrap();
            std::fs::write(at("other"), "of somebody else").unwrap();
            place.job("later", "#!/bin/sh\ntouch mine; sleep 300\n");
            let lists = format!("sandbox_read = [\"{}\"]\nsandbox_write = [\"{}\"]\n", at("models"), at("results"));
            let config =
                format!("[serve]\ntoken_file = \"{}\"\n[defaults]\nsandbox = \"{level}\"\n{lists}", at("token"));
            std::fs::write(at("jobber.toml"), config).unwrap();
            let owner = if user == "nobody" { "chown -R 65534:65534 . 2> /dev/null; true" } else { "true" };
            let status = std::process::Command::new("sh").args(["-c", owner]).current_dir(place.path()).status();
            assert!(status.unwrap().success());
            let jobber = start(&place, user, Jobber::dev().arg("--cores").arg("2")).start().await;
            let jobber = WithToken { jobber, token: "a-secret-of-its-own" };
            jobber.submit(json!({"name": "later", "attempts": 1})).await;
            let scratch = eventually("the other job's file", async || {
                let root = place.data_dir().join("scratch");
                let found = walk(&root).into_iter().find(|path| path.ends_with("mine"));
                found.map(|path| path.display().to_string())
            })
            .await;
            let (database, later) = (at("data/jobber.db"), at("jobs/later"));
            let secrets =
                [&*database, &at("token"), &at("jobber.toml"), &at("other"), &later, &scratch].map(str::to_owned);
            let open = ["/etc/passwd", "/usr/bin/env", "/proc/self/status", "/dev/urandom", &at("jobs/hostile")]
                .map(str::to_owned)
                .into_iter()
                .chain([at("models/one")]);
            let open: Vec<String> = open.collect();
            let shadow = "/etc/shadow".to_owned();
            let words: Vec<&str> = ["read"]
                .into_iter()
                .chain(secrets.iter().map(String::as_str))
                .chain(open.iter().map(String::as_str))
                .chain([&*shadow])
                .collect();
            let said = jobber.tries(&words).await;
            let names = |list: &[String]| list.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
            let check = |list: &[String], expected: &str| {
                let list = names(list);
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                assert_all(&said, &list, &[expected], &about);
            };
            check(&open, "ok");
            check(&secrets, if level == "strict" { "EACCES" } else { "ok" });
            check(&[shadow], if level == "strict" || user == "nobody" { "EACCES" } else { "ok" });
            let (new_job, outside) = (at("jobs/new"), at("outside"));
            let writes =
                [&*at("results/new"), "here", "/dev/null", &*new_job, &*outside, &*at("models/new")].map(str::to_owned);
            let words: Vec<&str> = ["write"].into_iter().chain(writes.iter().map(String::as_str)).collect();
            let said = jobber.tries(&words).await;
            let list: Vec<&str> = writes.iter().map(String::as_str).collect();
            assert_all(&said, &list[..3], &["ok"], &about);
            assert_all(&said, &list[3..], &[if level == "strict" { "EACCES" } else { "ok" }], &about);
        }
    }
}

/// A server that asks for a token.
struct WithToken {
    jobber: Jobber,
    token: &'static str,
}

impl WithToken {
    async fn call(&self, request: reqwest::RequestBuilder) -> Value {
        request.bearer_auth(self.token).send().await.unwrap().json().await.unwrap()
    }

    async fn submit(&self, body: Value) -> String {
        let answer = self.call(self.jobber.http().post(self.jobber.url("/api/v1/jobs")).json(&body)).await;
        answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    async fn tries(&self, arguments: &[&str]) -> Said {
        let id = self.submit(json!({"name": "hostile", "arguments": arguments, "attempts": 1})).await;
        let view = eventually("the end of the job", async || {
            let view = self.call(self.jobber.http().get(self.jobber.url(&format!("/api/v1/jobs/{id}?wait=20")))).await;
            matches!(view["state"].as_str(), Some("completed" | "failed")).then_some(view)
        })
        .await;
        assert_eq!(view["state"], "completed", "{view}");
        let pair = |line: &str| line.rsplit_once(' ').map(|(name, said)| (name.to_owned(), said.to_owned()));
        stdout(&view).lines().filter_map(pair).collect()
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        found.extend(walk(&entry.path()));
    }
    found
}

/// Programs that a team runs as jobs: what each prints last, when all is well.
const GOES_ON: &[(&str, &str, &str)] = &[
    ("shell", "echo a | tr a b > file && cat file", "b"),
    (
        "its-own-processes",
        "sleep 100 & kill -TERM $!; wait $!; test $? = 143 && (trap 'echo heard; exit' USR1; kill -USR1 \
         $BASHPID; sleep 1) | cat",
        "heard",
    ),
    ("descriptors", "echo one > /dev/stderr; cat <(echo two) /dev/fd/0 < /dev/null", "two"),
    (
        "python",
        "PATH=/usr/bin:/bin python3 -c 'import ssl, json, tempfile, subprocess, socket; tempfile.mkstemp(); \
         print(subprocess.run([\"echo\", \"ran\"], capture_output=True).stdout.decode())' | grep ran",
        "ran",
    ),
    (
        "compiler",
        "printf '#include <iostream>\\nint main() { std::cout << \"compiled\\\\n\"; }' > x.cpp && g++ -O1 -o x \
         x.cpp && ./x",
        "compiled",
    ),
    (
        "threads",
        "printf '#include <thread>\\n#include <vector>\\n#include <pthread.h>\\n#include <sched.h>\\n#include \
         <cstdio>\\nint main() { std::vector<std::thread> all; for (int i = 0; i < 8; ++i) all.emplace_back([] \
         { cpu_set_t one; CPU_ZERO(&one); CPU_SET(0, &one); if (pthread_setaffinity_np(pthread_self(), sizeof \
         one, &one)) __builtin_trap(); }); for (auto& each : all) each.join(); std::puts(\"joined\"); \
         }' > x.cpp && g++ -pthread -o x x.cpp && ./x",
        "joined",
    ),
    (
        "openmp",
        "printf '#include <cstdio>\\nint main() { int sum = 0; _Pragma(\"omp parallel for reduction(+:sum)\") \
         for (int i = 0; i < 100; ++i) sum += i; std::printf(\"%%d\\\\n\", sum); }' > x.cpp && g++ -fopenmp -o \
         x x.cpp && OMP_PROC_BIND=true OMP_NUM_THREADS=4 ./x",
        "4950",
    ),
    (
        "address-sanitizer",
        "printf 'int main(int n, char**) { int* p = new int[n]; delete[] p; return p[0]; }' > x.cpp && g++ -g \
         -fsanitize=address -o x x.cpp && ./x 2>&1 | grep -o heap-use-after-free | head -1",
        "heap-use-after-free",
    ),
    (
        "leak-sanitizer",
        "printf 'int main() { new int[100]; }' > x.cpp && g++ -g -fsanitize=leak -o x x.cpp && ./x 2>&1 | grep \
         -o 'detected memory leaks'",
        "detected memory leaks",
    ),
    (
        "undefined-sanitizer",
        "printf 'int main(int n, char**) { return 0x7fffffff + n; }' > x.cpp && g++ -fsanitize=undefined -o x \
         x.cpp && ./x 2>&1 | grep -o 'signed integer overflow'",
        "signed integer overflow",
    ),
    (
        "thread-sanitizer",
        "printf '#include <thread>\\nint shared; int main() { std::thread other([] { ++shared; }); ++shared; \
         other.join(); }' > x.cpp && g++ -g -fsanitize=thread -o x x.cpp && ./x 2>&1 | grep -o 'data race' | \
         head -1",
        "data race",
    ),
    ("strace", "strace -f -o trace sh -c '(true)'; grep -c exited trace", "2"),
    (
        "gdb",
        "printf 'int main() { __builtin_trap(); }' > x.cpp && g++ -g -o x x.cpp && gdb -nx -batch -ex run -ex \
         bt ./x 2>&1 | grep -o 'main () at x.cpp:1' | head -1",
        "main () at x.cpp:1",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_batch_job_does_goes_on_under_every_level() {
    for user in users() {
        for level in LEVELS {
            let place = place(&format!("[defaults]\nsandbox = \"{level}\"\n"));
            for (name, script, _) in GOES_ON {
                place.job(name, &format!("#!/bin/bash\n{script}\n"));
            }
            let jobber = start(&place, user, Jobber::dev()).start().await;
            let mut ids = Vec::new();
            for (name, _, _) in GOES_ON {
                ids.push(jobber.submit(json!({"name": name, "attempts": 1, "timeout_ms": 100_000})).await);
            }
            let mut wrong = Vec::new();
            for ((name, _, expected), id) in GOES_ON.iter().zip(&ids) {
                let view = jobber.wait_final(id).await;
                let report = &view["attempts"][0]["report"];
                if view["state"] != "completed" || stdout(&view).lines().last() != Some(expected) {
                    wrong.push(format!("{name}: {:?}; {}", stdout(&view), report["stderr"]["text"]));
                }
            }
            assert!(wrong.is_empty(), "{user}, {level}: {wrong:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_jobs_end_alike_under_every_level() {
    let ways: &[&[&str]] = &[
        &["exit", "0"],
        &["exit", "7"],
        &["segfault"],
        &["abort"],
        &["fork-children", "3"],
        &["fork-children", "3", "--setsid"],
        &["flood", "1M"],
        &["exit-on-term", "0"],
        &["allocate"],
    ];
    for user in users() {
        let mut ends: Vec<Vec<String>> = Vec::new();
        for level in LEVELS {
            let place = place(&format!("[defaults]\nsandbox = \"{level}\"\n"));
            place.cpp_jobs();
            let jobber = start(&place, user, Jobber::dev()).start().await;
            let mut ids = Vec::new();
            for arguments in ways {
                let memory = if arguments[0] == "allocate" { json!(64 << 20) } else { Value::Null };
                let timeout = if arguments[0] == "exit-on-term" { json!(500) } else { Value::Null };
                let body = json!({"name": "faulty", "arguments": arguments, "attempts": 1});
                let Value::Object(mut body) = body else { unreachable!() };
                body.extend(
                    [("memory_bytes".to_owned(), memory), ("timeout_ms".to_owned(), timeout)]
                        .into_iter()
                        .filter(|(_, value)| !value.is_null()),
                );
                ids.push(jobber.submit(Value::Object(body)).await);
            }
            let image = json!({"width": 80, "height": 60, "iterations": 50, "output": "image.ppm"});
            ids.push(jobber.submit(json!({"name": "mandelbrot", "data": image, "attempts": 1})).await);
            ids.push(jobber.submit(json!({"name": "hello", "attempts": 1})).await);
            let mut its = Vec::new();
            for id in &ids {
                its.push(jobber.wait_final(id).await["outcome"].to_string());
            }
            ends.push(its);
        }
        assert!(ends[0].iter().filter(|end| end.contains("\"code\":0")).count() >= 5, "{user}: {:?}", ends[0]);
        assert_eq!(ends[1], ends[0], "{user}: basic");
        assert_eq!(ends[2], ends[0], "{user}: strict");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandboxed_job_does_not_outlive_its_worker() {
    for level in LEVELS {
        let place = place(&format!("[defaults]\nsandbox = \"{level}\"\n"));
        let length = format!("4{}.5", rand());
        place.job("stay", &format!("#!/bin/sh\ntrap '' TERM HUP INT\nsetsid sleep {length} &\nsleep {length}\n"));
        let mut jobber = Jobber::dev().at(&place).start().await;
        jobber.submit(json!({"name": "stay", "attempts": 1})).await;
        process(&format!("sleep {length} ")).await;
        jobber.kill().await;
        eventually(&format!("{level}: nothing of the job"), async || {
            let left = place.leftovers().into_iter().filter(|process| process.contains(&length)).count();
            (left == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_leads_to_secrets_is_refused_at_the_start() {
    let place = place("");
    let (data, jobs) = (place.data_dir(), place.jobs_dir());
    let refused = async |config: &str| {
        std::fs::write(place.path().join("jobber.toml"), config).unwrap();
        let args = ["exec", "hostile", "--jobs-dir", jobs.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
        run(&[&args[..], &["--", "system"]].concat(), &[], place.path(), "").await
    };
    let root = place.path().display();
    let parent = refused(&format!("[jobs.hostile]\nsandbox = \"strict\"\nsandbox_read = [\"{root}\"]\n")).await;
    assert!(parent.code == 125 && parent.stderr.contains("which holds secrets of Jobber's own"), "{parent:?}");
    // The same list is no matter for a level that grants no files.
    let basic = refused(&format!("[jobs.hostile]\nsandbox = \"basic\"\nsandbox_read = [\"{root}\"]\n")).await;
    assert!(basic.code == 0 && basic.stdout.contains("kcmp EPERM"), "{basic:?}");
    let off = refused("[jobs.other]\nsandbox = \"strict\"\n").await;
    assert!(off.code == 0 && off.stdout.contains("kcmp ok"), "{off:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_kernel_can_not_do_it_a_job_is_not_run_or_runs_in_what_can_be_had() {
    let sandboxed = |unsupported: &str| format!("[jobs.hostile]\nsandbox = \"basic\"\n{unsupported}");
    let place = place(&sandboxed(""));
    place.job("plain", "#!/bin/sh\necho ran\n");
    let hostile = hostile();
    let without = ["setpriv", "--no-new-privs", hostile.to_str().unwrap(), "without-landlock"];
    let serve = Jobber::serve().at(&place).start().await;
    let mut lacking = Jobber::work().at(&place).by(&without).start().await;
    let id = serve.submit(json!({"name": "hostile", "arguments": ["system"], "attempts": 1})).await;
    let view = serve.wait_final(&id).await;
    assert_eq!((&view["state"], &view["outcome"]["kind"]), (&json!("failed"), &json!("spawn_error")), "{view}");
    let said = view["error"].as_str().unwrap();
    assert!(said.contains("sandbox = \"basic\"") && said.contains("Landlock"), "{said}");
    assert_eq!(run_job(&serve, json!({"name": "plain"})).await["state"], "completed");
    let shown = serve.cli(&["worker", "ls", "-o", "json"]).await;
    let workers: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(workers["items"][0]["sandbox"], "off", "{workers}");
    // Another that can do it takes what this one leaves.
    let able = Jobber::work().at(&place).start().await;
    eventually("both workers", async || {
        let (_, workers) = serve.get("/api/v1/workers").await;
        let levels: Vec<_> = workers["items"].as_array()?.iter().map(|w| w["sandbox"].clone()).collect();
        levels.contains(&json!("strict")).then_some(())
    })
    .await;
    // The lacking one hears of it with its next heartbeat.
    let run = async || run_job(&serve, json!({"name": "hostile", "arguments": ["system"], "attempts": 1})).await;
    eventually("a job that the able worker runs", async || (run().await["state"] == "completed").then_some(())).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    for _ in 0..5 {
        let view = run().await;
        assert!(stdout(&view).contains("kcmp EPERM"), "{view}");
    }
    drop(able);
    assert_eq!(lacking.stop().await, 0);
    std::fs::write(place.path().join("jobber.toml"), sandboxed("sandbox_unsupported = \"best_effort\"\n")).unwrap();
    let lacking = Jobber::work().at(&place).by(&without).start().await;
    let view = run_job(&serve, json!({"name": "hostile", "arguments": ["system"], "attempts": 1})).await;
    assert!(stdout(&view).contains("kcmp EPERM"), "the filter is there: {view}");
    assert!(lacking.log().contains("less of a sandbox"), "{}", lacking.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_what_this_host_can_do() {
    let place = place("[defaults]\nsandbox = \"basic\"\n");
    let (data, jobs) = (place.data_dir(), place.jobs_dir());
    let args = ["doctor", "-o", "json", "--data-dir", data.to_str().unwrap(), "--jobs-dir", jobs.to_str().unwrap()];
    let finding = |text: &str| {
        let report: Value = serde_json::from_str(text).unwrap();
        let checks = report["findings"].as_array().cloned().unwrap_or_default();
        checks.into_iter().find(|finding| finding["check"] == "sandbox").unwrap_or_else(|| panic!("{report}"))
    };
    let here = run(&args, &[], place.path(), "").await;
    assert_eq!(finding(&here.stdout)["status"], "ok", "{here:?}");
    let lacking = tokio::process::Command::new(hostile())
        .args(["without-landlock", binary()])
        .args(args)
        .current_dir(place.path())
        .output()
        .await
        .unwrap();
    let lacking = finding(&String::from_utf8_lossy(&lacking.stdout));
    assert_eq!(lacking["status"], "failed", "{lacking}");
    assert!(lacking["found"].as_str().unwrap().contains("Landlock"), "{lacking}");
}
