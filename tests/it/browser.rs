//! The dashboard in a real browser: Debian's Chromium, driven by the scripts of tests/browser, which fail by themselves
//! and print figures. And what needs no browser: the page's types, and the tests of its modules.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{Jobber, Place, Start, succeed};

const OPERATOR: &str = "the-token-of-operators";
const VIEWER: &str = "the-token-of-viewers";

/// How long a script may take. With `JOBBER_TEST_LONG=1` some take minutes.
const PATIENCE: Duration = Duration::from_secs(500);
const LONG_PATIENCE: Duration = Duration::from_secs(900);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A package of tests/browser.
fn package(name: &str) -> PathBuf {
    let package = root().join("tests/browser/node_modules").join(name);
    assert!(package.exists(), "run tools/install-test-tools: npm's {name} is missing");
    package
}

fn chromium() -> PathBuf {
    ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .expect("run tools/install-test-tools: chromium is missing")
}

/// Runs node to its end, and gives what it printed.
async fn node(args: &[&str]) -> String {
    let is_long = std::env::var("JOBBER_TEST_LONG").is_ok_and(|value| value == "1");
    let mut command = Command::new("node");
    command.current_dir(root()).args(args);
    succeed(command, if is_long { LONG_PATIENCE } else { PATIENCE }).await
}

/// Runs a script of tests/browser against a server. What it measured is shown also when all is well.
async fn script(name: &str, jobber: &Jobber, more: Value) {
    package("playwright-core");
    package("axe-core");
    let mut given = json!({"base": jobber.base(), "chromium": chromium()});
    given.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let said = node(&[&format!("tests/browser/{name}.mjs"), &given.to_string()]).await;
    // Not by the macros, whose output is shown for failing tests only.
    for line in said.lines() {
        std::io::Write::write_all(&mut std::io::stderr(), format!("{name}: {line}\n").as_bytes()).unwrap();
    }
}

/// The jobs that the scripts submit.
fn jobs() -> Arc<Place> {
    let place = Place::new();
    place.job("hello", "#!/bin/sh\necho \"hello $1\"\necho ::result done\n");
    place.job("fails", "#!/bin/sh\necho reading\necho 'connection refused by the database' >&2\nexit 1\n");
    place.job(
        "second-fails",
        "#!/bin/sh\n[ \"$JOBBER_ARRAY_INDEX\" != 1 ] || exit 4\necho ::result $JOBBER_ARRAY_INDEX\n",
    );
    place.job("hostile", "#!/bin/sh\nprintf '%s\\n' \"$@\"\nprintf '%s\\n' \"$@\" >&2\nexit 3\n");
    place.job("waits", "#!/bin/sh\necho ::progress 40 rows\nexec sleep 600\n");
    place.job("fails-once", "#!/bin/sh\n[ $JOBBER_ATTEMPT -ge 2 ] || { echo 'bad once' >&2; exit 1; }\n");
    place.job(
        "colours",
        "#!/bin/sh\ni=0\nwhile [ $i -lt $1 ]; do\nawk -v a=$i 'BEGIN { for (i = a; i < a + 1000; i++) \
         printf \"line %d \\033[3%dmcolour %d\\033[0m\\n\", i, 1 + i % 6, i % 6 }'\n\
         i=$((i + 1000))\nsleep 0.15\ndone\n",
    );
    place
}

/// A server with room for a job that does not end.
fn server() -> Start {
    Jobber::dev().at(&jobs()).env("JOBBER_CORES", "4")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_accessible_and_shows_hostile_texts_as_texts() {
    script("every-page", &server().start().await, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_is_enough() {
    script("keyboard", &server().start().await, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_holds_what_was_chosen() {
    script("address", &server().start().await, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_and_an_operator_acts() {
    let start = server().env("JOBBER_TOKEN", OPERATOR).env("JOBBER_VIEW_TOKEN", VIEWER);
    let jobber = start.env("JOBBER_VIEW_HIDES_DATA", "true").start().await;
    script("roles", &jobber, json!({"token": OPERATOR, "viewToken": VIEWER})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_groups_are_told_of_and_acted_on() {
    script("fleet", &server().start().await, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_events_leaves_the_page_quick() {
    script("storm", &server().start().await, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_comes_whole_over_a_connection_that_breaks() {
    script("log", &server().start().await, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_visit_is_small() {
    script("first-visit", &server().start().await, json!({})).await;
}

/// With `JOBBER_BLESS=1` the pictures are those of the docs.
#[tokio::test(flavor = "multi_thread")]
async fn twelve_views_are_pictured() {
    let place = Place::new();
    place.job(
        "resize-images",
        "#!/bin/sh\necho \"resizing $1\"\nprintf '\\033[32mok\\033[0m 48 images\\n'\nsleep 0.1\n",
    );
    place.job(
        "import-orders",
        "#!/bin/sh\necho \"reading orders of $1\"\nprintf '\\033[32mconnected\\033[0m to the warehouse\\n'\n\
         printf '\\033[33mwarning\\033[0m: 3 orders have no address\\n' >&2\nsleep 0.15\n\
         case $1-$JOBBER_ATTEMPT in *8-[12]|*5-1|*3-?)\n\
         printf '\\033[31merror\\033[0m: connect to warehouse-db:5432: connection refused\\n' >&2; exit 2;; esac\n\
         echo \"imported 1284 orders\"\necho '::result {\"orders\": 1284}'\n",
    );
    place.job("render-frame", "#!/bin/sh\ni=0\nwhile [ $i -lt 60000 ]; do i=$((i + 1)); done\necho frame done\n");
    place.job("convert-video", "#!/bin/sh\necho \"converting $1\"\nsleep 0.05\nkill -SEGV $$\n");
    place.job("nightly-report", "#!/bin/sh\necho \"collecting $1\"\necho ::progress 62 tables\nexec sleep 600\n");
    let jobber = Jobber::dev().at(&place).start().await;
    let is_blessed = std::env::var_os("JOBBER_BLESS").is_some();
    let folder = if is_blessed { "docs/getting-started/images" } else { "target/screenshots" };
    script("screenshots", &jobber, json!({"folder": root().join(folder)})).await;
}

#[tokio::test]
async fn the_modules_of_the_page_pass_their_own_tests() {
    let mut tests: Vec<_> = std::fs::read_dir(root().join("tests/ui"))
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| path.ends_with(".test.mjs"))
        .collect();
    tests.sort();
    assert!(!tests.is_empty());
    let args: Vec<_> = ["--test"].into_iter().chain(tests.iter().map(String::as_str)).collect();
    node(&args).await;
}

#[tokio::test]
async fn the_types_of_the_page_are_sound() {
    let compiler = package("typescript").join("bin/tsc");
    let said = node(&[compiler.to_str().unwrap(), "--project", "tests/browser/tsconfig.json"]).await;
    assert_eq!(said, "");
}
