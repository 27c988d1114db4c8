//! Tables, colours, progress and help on a terminal and in a pipe.

use std::time::Duration;

use serde_json::Value;

use super::parse;
use crate::harness::pty::{Terminal, plain};
use crate::harness::{Jobber, Output};

const FAIL: &str = "#!/bin/sh\necho \"couldn't read /srv/images/$1.png: the file is no image of a kind that can be read\" >&2\nexit 3\n";

async fn on(terminal: Terminal<'_>, j: &Jobber, words: &[&str]) -> Output {
    terminal.run(words, j.base(), j.place().path()).await
}

/// A server with failed and completed jobs of two names.
async fn busy() -> Jobber {
    let j = Jobber::dev().start().await;
    j.job("convert-images-of-a-day", FAIL);
    j.job("well", "#!/bin/sh\necho done\n");
    let submit = ["submit", "convert-images-of-a-day", "--count", "3", "--attempts", "1", "--wait", "-q", "--", "a"];
    assert_eq!(j.cli(&submit).await.code, 3);
    assert_eq!(j.cli(&["submit", "well", "--count", "2", "--wait", "-q"]).await.code, 0);
    j
}

#[tokio::test]
async fn tables_fit_the_terminal_and_are_whole_in_a_pipe() {
    let j = busy().await;
    let list = ["list"];
    let jobs = parse(&j.cli(&["list", "-o", "json"]).await.stdout);
    let ids: Vec<&str> = jobs["items"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    let piped = j.cli(&list).await.stdout;
    assert!(ids.iter().all(|id| piped.contains(id)) && (piped.contains(" ago") || piped.contains(" now ")), "{piped}");
    assert!(piped.contains("the file is no image of a kind that can be read") && !piped.contains('\x1b'), "{piped}");

    for columns in [40, 80, 200] {
        for words in [
            &list[..],
            &["failures"],
            &["worker", "ls"],
            &["queue", "ls"],
            &["stats", "categories"],
            &["top", "--once"],
        ] {
            let shown = plain(&on(Terminal::wide(columns), &j, words).await.stdout);
            let widest = shown.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(widest <= usize::from(columns), "{words:?} on {columns}: {widest}\n{shown}");
        }
    }
    let narrow = plain(&on(Terminal::wide(80), &j, &list).await.stdout);
    assert!(narrow.contains('…') && narrow.starts_with("ID "), "{narrow}");
    let wide = plain(&on(Terminal::wide(200), &j, &list).await.stdout);
    assert!(wide.contains("can be read") && wide.contains("ATTEMPTS"), "{wide}");
    // What is shown of an id leads to its job.
    for (line, id) in narrow.lines().skip(1).zip(&ids) {
        let shown = line.split(' ').next().unwrap();
        assert!(id.starts_with(shown) && shown.len() < id.len(), "{shown} of {id}");
        let found = parse(&j.cli(&["show", shown, "-o", "json"]).await.stdout);
        assert_eq!(found["id"].as_str(), Some(*id));
    }
    // The size that somebody asks for outweighs the terminal's.
    let asked = Terminal { env: &[("COLUMNS", "60")], ..Terminal::wide(200) };
    let shown = plain(&on(asked, &j, &list).await.stdout);
    assert!(shown.lines().all(|line| line.chars().count() <= 60), "{shown}");
}

#[tokio::test]
async fn times_are_exact_where_somebody_asks() {
    let j = busy().await;
    let jobs = parse(&j.cli(&["list", "-o", "json"]).await.stdout);
    let second = &jobs["items"][0]["submitted_at"].as_str().unwrap()[..19];
    for exact in [j.cli(&["list", "--utc"]).await, on(Terminal::wide(200), &j, &["--utc", "list"]).await] {
        assert!(exact.stdout.contains(second) && !exact.stdout.contains(" ago"), "{exact:?}");
    }
    let shown = j.cli(&["show", "@last"]).await.stdout;
    assert!(shown.contains(second) && (shown.contains(" ago)") || shown.contains("(now)")), "{shown}");
}

#[tokio::test]
async fn colours_are_for_terminals_and_for_those_who_ask() {
    let j = busy().await;
    let red = "\x1b[31mfailed";
    assert!(on(Terminal::wide(100), &j, &["list"]).await.stdout.contains(red));
    assert!(!on(Terminal::wide(100), &j, &["list", "--color", "never"]).await.stdout.contains('\x1b'));
    let quiet = Terminal { env: &[("NO_COLOR", "1")], ..Terminal::wide(100) };
    assert!(!on(quiet, &j, &["list"]).await.stdout.contains('\x1b'));
    assert!(on(quiet, &j, &["list", "--color=always"]).await.stdout.contains(red));
    assert!(j.cli(&["list", "--color", "always"]).await.stdout.contains(red));
    assert!(!j.cli(&["--help"]).await.stdout.contains('\x1b'));
    assert!(j.cli(&["--help", "--color=always"]).await.stdout.contains('\x1b'));
    let wrong = j.cli(&["list", "--color", "sometimes"]).await;
    assert!(wrong.code == 2 && wrong.stderr.contains("auto, always, never"), "{wrong:?}");
}

#[tokio::test]
async fn a_list_is_watched() {
    let j = busy().await;
    let watched = Terminal { interrupt: Some(Duration::from_millis(2500)), ..Terminal::wide(80) };
    let shown = on(watched, &j, &["list", "--watch", "--limit", "2"]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.stdout.matches("\x1b[H").count() >= 2 && shown.stdout.contains("SUBMITTED"), "{shown:?}");
    let wrong = j.cli(&["list", "--watch", "--all"]).await;
    assert_eq!(wrong.code, 2, "{wrong:?}");
}

#[tokio::test]
async fn who_waits_at_a_terminal_sees_how_far_it_is() {
    let j = Jobber::dev().start().await;
    j.job("steps", "#!/bin/sh\nfor i in 10 60; do echo \"::progress $i step\"; sleep 1.2; done\n");
    let many = ["submit", "steps", "--count", "3", "--wait"];
    let waited = on(Terminal::wide(80), &j, &many).await;
    assert!(waited.stdout.contains("█") && waited.stdout.contains("of 3 jobs done"), "{waited:?}");
    let ran = on(Terminal::wide(80), &j, &["run", "steps"]).await;
    assert!(ran.stdout.contains("[████████████········]  60% step"), "{ran:?}");
    assert_eq!(j.cli(&["submit", "steps", "--id", "one", "-q"]).await.code, 0);
    let waited = on(Terminal::wide(80), &j, &["wait", "one"]).await;
    assert!(waited.stdout.contains("% step"), "{waited:?}");
    assert!(!j.cli(&["submit", "steps", "--count", "2", "--wait"]).await.stderr.contains('█'));
}

#[tokio::test]
async fn history_moves_with_a_bar() {
    let mut j = busy().await;
    assert_eq!(j.stop().await, 0);
    let data = j.place().data_dir().display().to_string();
    let file = j.place().path().join("history.jsonl").display().to_string();
    let run = async |words: &[&str]| {
        let out = Terminal::wide(80).run(&[words, &["--data-dir", &data]].concat(), "", j.place().path()).await;
        assert_eq!(out.code, 0, "{out:?}");
        out.stdout
    };
    let exported = run(&["export", &file]).await;
    assert!(exported.contains("100% 5 jobs written") && exported.contains('█'), "{exported}");
    let checked = run(&["rebuild", "--check"]).await;
    assert!(checked.contains("100% 5 jobs added up"), "{checked}");
    let other = j.place().path().join("other").display().to_string();
    let imported = Terminal::wide(80).run(&["import", &file, "--data-dir", &other], "", j.place().path()).await;
    assert!(imported.code == 0 && imported.stdout.contains("100% 5 jobs read"), "{imported:?}");
}

#[tokio::test]
async fn help_is_in_groups_and_has_topics_and_manual_pages() {
    let j = Jobber::serve().start().await;
    for columns in [80, 200] {
        let help = plain(&on(Terminal::wide(columns), &j, &["--help"]).await.stdout);
        for group in ["Run jobs:", "Look:", "Act:", "Operate:", "Understand:"] {
            assert!(help.contains(&format!("\n{group}\n")), "{help}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= usize::from(columns)), "{help}");
    }
    assert_eq!(j.cli(&["help", "queue", "ls"]).await.stdout, j.cli(&["queue", "ls", "--help"]).await.stdout);
    assert!(j.cli(&["help", "exit-codes"]).await.stdout.contains("128 + n"));
    assert!(j.cli(&["help", "job-contract"]).await.stdout.contains("JOBBER_ERROR_FILE"));
    assert!(j.cli(&["help", "configuration"]).await.stdout.contains("[serve]"));
    let unknown = j.cli(&["help", "weather"]).await;
    assert!(unknown.code == 2 && unknown.stderr.contains("job-contract"), "{unknown:?}");
    let pages = j.place().path().join("man");
    assert_eq!(j.cli(&["man", pages.to_str().unwrap()]).await.code, 0);
    for page in ["jobber.1", "jobber-submit.1", "jobber-schedule-add.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
}

#[tokio::test]
async fn a_shell_is_offered_what_the_server_has() {
    let j = Jobber::serve().start().await;
    j.job("resize", "#!/bin/sh\n");
    let submitted = j.cli(&["submit", "resize", "--id", "order-42", "--print-id"]).await;
    assert_eq!(submitted.code, 0, "{submitted:?}");
    assert_eq!(j.cli(&["schedule", "add", "resize", "--id", "nightly", "--every", "9h"]).await.code, 0);
    let offered = async |server: &str, words: &[&str]| {
        let index = (words.len()).to_string();
        let env =
            [("COMPLETE", "bash"), ("_CLAP_COMPLETE_INDEX", &index), ("_CLAP_IFS", "\n"), ("JOBBER_SERVER", server)];
        let words = [&["--", "jobber"], words].concat();
        let out = crate::harness::run(&words, &env, j.place().path(), "").await;
        assert_eq!((out.code, out.stderr.as_str()), (0, ""), "{out:?}");
        out.stdout.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(offered(j.base(), &["show", "ord"]).await, ["order-42"]);
    assert_eq!(offered(j.base(), &["show", "@"]).await, ["@last", "@last-failed"]);
    assert!(offered(j.base(), &["cancel", ""]).await.contains(&"order-42".to_owned()));
    assert_eq!(offered(j.base(), &["wait", "order-42,ord"]).await, ["order-42,order-42"]);
    assert_eq!(offered(j.base(), &["submit", "res"]).await, ["resize"]);
    assert_eq!(offered(j.base(), &["list", "--name", "res"]).await, ["resize"]);
    assert_eq!(offered(j.base(), &["schedule", "pause", "ni"]).await, ["nightly"]);
    assert!(!offered(j.base(), &["list", "--category", ""]).await.is_empty());
    assert_eq!(offered(j.base(), &["help", "exit"]).await, ["exit-codes"]);
    assert_eq!(offered("http://127.0.0.1:1", &["show", "ord"]).await, [""; 0], "silent when the server is away");
    for shell in ["bash", "zsh", "fish"] {
        let script = j.cli(&["completions", shell]).await;
        assert!(script.code == 0 && script.stdout.contains("COMPLETE"), "{script:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let j = Jobber::serve().start().await;
    for (words, code, says) in [
        (&["show", "nothing"][..], 3, "@last"),
        (&["cancel", ","], 2, "commas"),
        (&["schedule", "show", "nothing"], 3, "schedule ls"),
        (&["worker", "show", "nothing"], 3, "worker ls"),
        (&["logs", "a/b"], 2, "a/b"),
        (&["completions", "tcsh"], 2, "tcsh"),
        (&["man", "/dev/null/x"], 1, "/dev/null/x"),
    ] {
        let out = j.cli(words).await;
        assert!(out.code == code && out.stderr.contains(says), "{words:?}: {out:?}");
    }
    let list: Value = parse(&j.cli(&["list", "-o", "json"]).await.stdout);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(0));
}
