//! The commands in the docs: each is run as it stands, or marked as not run with a reason; all of `jobber`'s parse.
//!
//! The info string of a fence says how:
//!
//! | fence | what is done with it |
//! |---|---|
//! | `sh` | run line by line at a server with jobs of all names that the docs use |
//! | `sh stopped` | the same in a directory whose server has been stopped |
//! | `sh job` | a job's script: made one, and run |
//! | `sh script` | a script as a whole, run by a test of its own |
//! | `console` | lines behind `$` are run, the others are what they print |
//! | `sh no-test` | not run; a comment `<!-- not run: why -->` stands above it |
//!
//! `ID` and `01a2…` stand for a job that has ended, `localhost:3000` for the server. A comment that begins with a number is
//! the exit code, or what `echo $?` prints.

use std::path::Path;
use std::sync::Arc;

use jobber::domain::CategoryId;
use jobber::failures::categories::{library, named};
use serde_json::{Value, json};

use crate::harness::{Jobber, Place, binary, eventually};

const RUN: [&str; 16] = [
    "README.md",
    "docs/development/api-reference.md",
    "docs/development/cli-reference.md",
    "docs/development/job-development.md",
    "docs/getting-started/quick-start.md",
    "docs/operations/deployment.md",
    "docs/operations/schedules-and-flows.md",
    "docs/operations/queues.md",
    "docs/operations/placement.md",
    "docs/operations/elastic-workers.md",
    "docs/operations/arrays.md",
    "docs/operations/crash-reports.md",
    "docs/operations/builds.md",
    "docs/operations/notices.md",
    "docs/operations/files.md",
    "docs/development/debugging.md",
];

/// The page with the script that [`the_script_for_slurm_starts_as_many_workers_as_there_is_work_for`] runs.
const ELASTIC: &str = "docs/operations/elastic-workers.md";

macro_rules! runs {
    ($($name:ident: $at:literal,)+) => {
        $(#[tokio::test]
        async fn $name() {
            run_commands(RUN[$at]).await;
        })+
    };
}
runs! {
    the_commands_of_the_readme_work: 0,
    the_commands_of_the_api_reference_work: 1,
    the_commands_of_the_cli_reference_work: 2,
    the_commands_of_the_guide_to_jobs_work: 3,
    the_commands_of_the_quick_start_work: 4,
    the_commands_of_the_guide_to_deployment_work: 5,
    the_commands_of_the_guide_to_schedules_work: 6,
    the_commands_of_the_guide_to_queues_work: 7,
    the_commands_of_the_guide_to_placement_work: 8,
    the_commands_of_the_guide_to_elastic_workers_work: 9,
    the_commands_of_the_guide_to_arrays_work: 10,
    the_commands_of_the_guide_to_crash_reports_work: 11,
    the_commands_of_the_guide_to_builds_work: 12,
    the_commands_of_the_guide_to_notices_work: 13,
    the_commands_of_the_guide_to_files_work: 14,
    the_commands_of_the_guide_to_debugging_work: 15,
}

/// A fenced block.
#[derive(Debug)]
struct Fence {
    info: String,
    /// The line above it.
    before: String,
    text: String,
}

impl Fence {
    /// Its commands, each in one line.
    fn commands(&self) -> Vec<String> {
        let joined = self.text.replace("\\\n", " ");
        let lines = joined.lines().map(str::trim_end);
        if self.info == "console" {
            return lines.filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect();
        }
        lines.filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// All pages.
fn pages() -> Vec<String> {
    let mut found = vec!["README.md".to_owned()];
    for folder in std::fs::read_dir(root().join("docs")).unwrap() {
        for page in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = page.unwrap().path();
            // The images of pages lie beside them.
            if path.is_dir() {
                continue;
            }
            found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}

fn fences(page: &str) -> Vec<Fence> {
    let text = read(page);
    let mut lines = text.lines();
    let (mut found, mut before) = (Vec::new(), String::new());
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let body: Vec<_> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            let info = info.split_whitespace().collect::<Vec<_>>().join(" ");
            found.push(Fence { info, before: before.clone(), text: body.join("\n") });
        } else if !line.trim().is_empty() {
            line.clone_into(&mut before);
        }
    }
    found
}

const RUNNABLE: [&str; 5] = ["sh", "sh stopped", "sh job", "sh script", "console"];

#[test]
fn every_command_is_run_or_says_why_not() {
    for page in pages() {
        let fences = fences(&page);
        for fence in fences.iter().filter(|fence| fence.info.starts_with("sh") || fence.info == "console") {
            if fence.info == "sh no-test" {
                assert!(fence.before.starts_with("<!-- not run: "), "{page}: no reason above\n{}", fence.text);
            } else {
                assert!(RUNNABLE.contains(&fence.info.as_str()), "{page}: {}", fence.info);
            }
        }
        assert!(!fences.iter().any(|f| ["bash", "shell"].contains(&f.info.as_str())), "{page}: write sh");
        // Each script has a test, which knows what it needs and what comes of it.
        let scripts = fences.iter().filter(|fence| fence.info == "sh script").count();
        assert_eq!(scripts, usize::from(page == ELASTIC), "{page}");
        let is_run = fences.iter().any(|fence| RUNNABLE.contains(&fence.info.as_str()));
        assert_eq!(is_run, RUN.contains(&page.as_str()), "{page} belongs into the list of this test, or does not");
    }
}

/// The words of a command as a shell splits them, up to what ends it; simple enough for the docs.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ';' | '|' | '&' | '>' | '<' | ')') => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// All command lines of `jobber` in the docs: in fences, and in the text where they have no placeholder.
fn command_lines() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for page in pages() {
        let shell = fences(&page).into_iter().filter(|f| f.info.starts_with("sh") || f.info == "console");
        let lines: Vec<String> = shell.flat_map(|fence| fence.commands()).collect();
        let text = read(&page);
        let prose: String = text.split("```").step_by(2).collect();
        let inline = prose.split('`').skip(1).step_by(2).filter(|code| {
            !code.contains(['|', '[', '…', '\n', '<'])
                && !["...", "NAME", "COMMAND"].iter().any(|placeholder| code.contains(placeholder))
        });
        let code = |line: &str| {
            let starts = line.match_indices("jobber ").map(|(at, _)| at);
            // For root `jobber` is a user and a file to install, too.
            let by_root = line.starts_with("sudo");
            let own = starts.filter(|at| match &line[..*at] {
                before if by_root => before.ends_with("/bin/"),
                before => before.is_empty() || before.ends_with([' ', '(', '/'].as_slice()),
            });
            own.map(|at| words(&line[at..])).collect::<Vec<_>>()
        };
        // Two words may be no more than the name of a command.
        let inline = inline.filter(|code| code.starts_with("jobber ")).map(words).filter(|words| words.len() > 2);
        found.extend(lines.iter().flat_map(|line| code(line)).chain(inline).map(|words| (page.clone(), words)));
    }
    assert!(found.len() > 50, "{}", found.len());
    found
}

#[test]
fn every_command_line_of_jobber_parses() {
    let mut wrong = Vec::new();
    for (page, words) in command_lines() {
        if jobber::cli::parse(words.iter().map(Into::into)).is_err() {
            wrong.push((page, words.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn presets_and_categories_that_the_docs_name_exist() {
    let mut seen = 0;
    for (page, words) in command_lines() {
        for pair in words.windows(2) {
            let is_known = match pair[0].as_str() {
                "--preset" => named(&pair[1]).is_some(),
                "--category" => named(&pair[1]).is_some(),
                _ => continue,
            };
            seen += 1;
            assert!(is_known, "{page}: {} {}", pair[0], pair[1]);
        }
        for label in words.iter().filter_map(|word| word.split("\"category\": \"").nth(1)) {
            let id = label.split('"').next().unwrap();
            assert!(named(id).is_some(), "{page}: {id}");
        }
    }
    assert!(seen >= 4);
    let text = read("docs/development/cli-reference.md");
    for label in text.split("\"category\": \"").skip(1) {
        let id = label.split('"').next().unwrap();
        let ids = library().into_iter().map(|(category, _)| category.id);
        assert!(ids.into_iter().any(|known| CategoryId::parse(id).is_ok_and(|id| id == known)), "{id}");
    }
}

/// Everything that commands of the docs expect to find.
async fn prepared(needs_library: bool) -> (Jobber, String) {
    let place = Place::new();
    place.cpp_jobs();
    for name in ["resize", "report", "cleanup", "fetch"] {
        place.job(name, "#!/bin/sh\ncat > /dev/null\necho done\n");
    }
    place.job("late", "#!/bin/sh\necho operation timed out: no answer within 30 s >&2\nexit 1\n");
    place.job("slow", "#!/bin/sh\nexec sleep 60\n");
    let bin = place.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(binary(), bin.join("jobber")).unwrap();
    let curl = "#!/bin/sh\nPATH=${PATH#*:} exec curl --fail-with-body -sS --max-time 90 \"$@\"\n";
    std::fs::write(bin.join("curl"), curl).unwrap();
    std::process::Command::new("chmod").arg("755").arg(bin.join("curl")).status().unwrap();
    let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
    ["a.png", "b.png"].iter().for_each(|name| write(name, "x"));
    write("job.json", r#"{"file": "a.png"}"#);
    write("jobs.jsonl", "{\"name\": \"resize\"}\n{\"name\": \"report\", \"attempts\": 2}\n");
    let labelled = [
        ("No space left on device", "disk-or-filesystem-error"),
        ("disk quota exceeded", "disk-or-filesystem-error"),
        ("operation timed out", "timeout"),
        ("deadline exceeded", "timeout"),
    ];
    let lines = labelled.map(|(text, category)| json!({"text": text, "category": category}).to_string() + "\n");
    write("labelled.jsonl", &lines.concat());
    let seed = if needs_library { "library" } else { "original" };
    let j = Jobber::dev().at(&place).env("JOBBER_FAILURES_SEED", seed).start().await;
    let id = j.submit(json!({"name": "resize"})).await;
    j.wait_final(&id).await;
    (j, id)
}

/// Runs all of a page's commands, in order.
async fn run_commands(page: &str) {
    let (mut j, id) = prepared(read(page).contains("jobber category")).await;
    let fences = fences(page);
    if let Some(program) = fences.iter().find(|fence| fence.info == "cpp") {
        let sources = j.place().path().join("cpp-jobs");
        std::fs::create_dir(&sources).unwrap();
        std::fs::write(sources.join("sum.cpp"), &program.text).unwrap();
        for part in ["Makefile", "include"] {
            std::os::unix::fs::symlink(root().join("cpp-jobs").join(part), sources.join(part)).unwrap();
        }
    }
    for fence in fences.iter().filter(|fence| ["sh", "console"].contains(&fence.info.as_str())) {
        let text = told_apart(&j, &id, fence).await;
        let base = j.base().to_owned();
        run_fence(page, j.place(), fence, &text, &[("JOBBER_SERVER", &base)]).await;
    }
    for fence in fences.iter().filter(|fence| fence.info == "sh job") {
        j.job("scripted", &fence.text);
        let out = j.cli(&["run", "scripted", "--attempts", "1", "--", j.place().jobs_dir().to_str().unwrap()]).await;
        assert_eq!(out.code, 0, "{page}: {out:?}");
        let made: Value = serde_json::from_str(out.stdout.lines().last().unwrap()).unwrap_or_default();
        made["archive"].as_str().into_iter().for_each(|file| drop(std::fs::remove_file(file)));
    }
    let stopped: Vec<_> = fences.iter().filter(|fence| fence.info == "sh stopped").collect();
    if !stopped.is_empty() {
        j.stop().await;
        if page.ends_with("deployment.md") {
            crate::harness::run(&["export", "history.jsonl"], &[], j.place().path(), "").await;
        }
        for fence in stopped {
            run_fence(page, j.place(), fence, &fence.commands(), &[("JOBBER_LISTEN", "127.0.0.1:0")]).await;
        }
    }
}

/// The commands with what they stand for: this server, a job that has ended, one that runs, an error that is known.
async fn told_apart(j: &Jobber, id: &str, fence: &Fence) -> Vec<String> {
    let mut commands = fence.commands();
    let address = j.base().trim_start_matches("http://").to_owned();
    for command in &mut commands {
        if command.contains(":cancel") {
            let running = j.submit(json!({"name": "slow"})).await;
            *command = command.replace("01a2…", &running);
        }
        if command.contains("--category Timeout") {
            let late = j.submit(json!({"name": "late", "attempts": 1})).await;
            j.wait_final(&late).await;
            eventually("the error to have its category", async || {
                let (_, failures) = j.get("/api/v1/failures").await;
                failures["items"].as_array()?.iter().any(|group| group["category"] == "timeout").then_some(())
            })
            .await;
        }
        if command.contains("--fingerprint") {
            let failing = j.submit(json!({"name": "faulty", "arguments": ["exit", "9"], "attempts": 1})).await;
            j.wait_final(&failing).await;
            let known = eventually("the error to be known", async || {
                let (_, failures) = j.get("/api/v1/failures").await;
                failures["items"][0]["fingerprint"].as_str().map(|text| text[..12].to_owned())
            })
            .await;
            let old = command.split("--fingerprint ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
            *command = command.replace(&old, &known);
        }
        let placed =
            command.replace("01a2…", id).replace("localhost:3000", &address).replace("127.0.0.1:3000", &address);
        let is_id = |word: &str| word.trim_end_matches(';') == "ID";
        *command = placed
            .split(' ')
            .map(|word| if is_id(word) { word.replace("ID", id) } else { word.to_owned() })
            .collect::<Vec<_>>()
            .join(" ");
    }
    commands
}

/// Runs them in one shell, and looks at what each came to.
async fn run_fence(page: &str, place: &Arc<Place>, fence: &Fence, commands: &[String], environment: &[(&str, &str)]) {
    let mut script = String::new();
    for (at, command) in commands.iter().enumerate() {
        script += &format!(
            "{command}\ncode=$?; own=\"$own $!\"; printf '\\n@@%s %s\\n' {at} $code; printf '\\n@@%s\\n' {at} >&2\n"
        );
    }
    // What it has put into the background ends with it.
    script += "for pid in $own; do kill $pid 2> /dev/null; done; wait\n";
    let path = format!("{}:{}", place.path().join("bin").display(), std::env::var("PATH").unwrap());
    let mut shell = tokio::process::Command::new("sh");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JOBBER_") {
            shell.env_remove(name);
        }
    }
    shell.arg("-c").arg(&script).current_dir(place.path()).envs(environment.iter().copied()).env("PATH", path);
    let running = shell.kill_on_drop(true).stdin(std::process::Stdio::null()).output();
    let ran = tokio::time::timeout(std::time::Duration::from_secs(240), running).await.expect("it ends").unwrap();
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let mut rest = &*out;
    for (at, command) in commands.iter().enumerate() {
        let Some((said, after)) = rest.split_once(&format!("\n@@{at} ")) else {
            panic!("{page}: the shell did not come to {command:?}\n{out}\n{errors}");
        };
        let code = after.lines().next().unwrap();
        rest = after.split_once('\n').map_or("", |(_, rest)| rest);
        let comment = command.rsplit_once('#').map_or("", |(_, comment)| comment.trim());
        let expected: String = comment.chars().take_while(char::is_ascii_digit).collect();
        let context = || format!("{page}: {command}\n{said}\n--- errors of all\n{errors}");
        if command.contains("echo $?") {
            assert_eq!(code, "0", "{}", context());
            let printed = said.trim_end().lines().last().unwrap_or_default();
            assert!(expected.is_empty() || printed == expected, "{printed}: {}", context());
        } else {
            assert_eq!(code, if expected.is_empty() { "0" } else { &expected }, "{}", context());
        }
    }
    if fence.info == "console" {
        let printed = fence.text.lines().filter(|line| !line.starts_with("$ "));
        for line in printed {
            assert!(out.contains(line), "{page}: {line:?} is not in\n{out}");
        }
    }
}

#[tokio::test]
async fn the_script_for_slurm_starts_as_many_workers_as_there_is_work_for() {
    let place = Place::new();
    let bin = place.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let command = |name: &str, script: &str| {
        place.job(name, script);
        std::fs::rename(place.jobs_dir().join(name), bin.join(name)).unwrap();
    };
    command("sbatch", "#!/bin/sh\necho \"$1\" >> allocations\n");
    command("squeue", "#!/bin/sh\ncat allocations\n");
    let allocations = || std::fs::read_to_string(place.path().join("allocations")).unwrap().lines().count();
    std::fs::write(place.path().join("allocations"), "").unwrap();
    place.job("short", "#!/bin/sh\nexec sleep 1\n");
    let mut dev = Jobber::dev().at(&place).start().await;
    let measured = dev.submit(json!({"name": "short"})).await;
    dev.wait_final(&measured).await;
    assert_eq!(dev.stop().await, 0);

    let j = Jobber::serve().at(&place).start().await;
    let fences = fences(ELASTIC);
    let text = &fences.iter().find(|fence| fence.info == "sh script").unwrap().text;
    let scale = async |text: String| {
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut shell = tokio::process::Command::new("sh");
        shell.arg("-c").arg(text).current_dir(place.path()).env("PATH", path).env("JOBBER_SERVER", j.base());
        crate::harness::succeed(shell, crate::harness::PATIENCE).await;
        allocations()
    };
    assert_eq!(scale(text.clone()).await, 0, "nothing waits");
    for _ in 0..3 {
        j.submit(json!({"name": "short", "cores": 2})).await;
    }
    assert_eq!([scale(text.clone()).await, scale(text.clone()).await], [1, 1], "one is enough for some seconds");
    // Six core-seconds and some more, which starting a process takes.
    let small = text.replace("share=28800", "share=1");
    assert_ne!(small, *text);
    let many = eventually("history to tell how long they take", async || {
        let started = scale(small.clone()).await;
        (started > 1).then_some(started)
    })
    .await;
    assert!((6..=12).contains(&many), "{many}");
    let most = small.replace("most=20", "most=4");
    std::fs::write(place.path().join("allocations"), "").unwrap();
    assert_eq!(scale(most).await, 4);
}
