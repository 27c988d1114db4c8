//! The API's description against a real server: is it valid, does the server keep it, and do clients that are made from
//! it work? The tools come from `tools/install-test-tools`, the scripts from `tests/contract`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{Jobber, run, succeed};

/// How long a tool may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// For how many seconds answers are compared; `JOBBER_CONTRACT_SECONDS` makes it longer, by hand.
const SECONDS: &str = "15";
const HELLO: &str = "#!/bin/sh\necho \"Hello $1\"\n";

fn contract() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract")
}

/// A program of the Python environment.
fn python_tool(name: &str) -> Command {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/bin").join(name);
    assert!(tool.exists(), "run tools/install-test-tools: {} is missing", tool.display());
    Command::new(tool)
}

/// A program of the Node packages.
fn node_tool(name: &str) -> Command {
    let tool = contract().join("node_modules/.bin").join(name);
    assert!(tool.exists(), "run tools/install-test-tools: {} is missing", tool.display());
    Command::new(tool)
}

/// Writes the description into a file of this directory.
async fn description(dir: &Path) -> PathBuf {
    let printed = run(&["openapi"], &[], dir, "").await;
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let path = dir.join("openapi.json");
    std::fs::write(&path, printed.stdout).unwrap();
    path
}

/// A server with the job `hello`, which knows this token if there is one.
async fn server(token: Option<&str>) -> Jobber {
    let mut start = Jobber::dev();
    if let Some(token) = token {
        start = start.env("JOBBER_TOKEN", token);
    }
    let jobber = start.start().await;
    jobber.job("hello", HELLO);
    jobber
}

/// What each generated client prints when it has submitted a job, read it back, and asked for one that is not there.
fn read_back(word: &str) -> Value {
    json!({"state": "completed", "arguments": [word], "unknown": "unknown_job"})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_valid_openapi_and_so_are_its_examples() {
    let dir = tempfile::tempdir().unwrap();
    let path = description(dir.path()).await;
    let mut validator = python_tool("openapi-spec-validator");
    validator.arg(&path);
    succeed(validator, PATIENCE).await;
    let mut examples = python_tool("python");
    examples.arg(contract().join("examples.py")).arg(&path);
    let checked: u32 = succeed(examples, PATIENCE).await.trim().parse().unwrap();
    assert!(checked > 50, "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typescript_client_made_from_the_description_submits_a_job() {
    let dir = tempfile::tempdir().unwrap();
    let path = description(dir.path()).await;
    for file in ["client.ts", "package.json", "tsconfig.json"] {
        std::fs::copy(contract().join(file), dir.path().join(file)).unwrap();
    }
    std::os::unix::fs::symlink(contract().join("node_modules"), dir.path().join("node_modules")).unwrap();
    let mut generator = node_tool("openapi-typescript");
    generator.arg(path).arg("--output").arg(dir.path().join("schema.d.ts"));
    succeed(generator, PATIENCE).await;
    let mut compiler = node_tool("tsc");
    compiler.arg("--project").arg(dir.path());
    succeed(compiler, PATIENCE).await;
    let jobber = server(None).await;
    let mut client = Command::new("node");
    client.arg(dir.path().join("client.js")).arg(jobber.base());
    let printed: Value = serde_json::from_str(&succeed(client, PATIENCE).await).unwrap();
    assert_eq!(printed, read_back("typescript"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_made_from_the_description_submits_a_job() {
    let dir = tempfile::tempdir().unwrap();
    let path = description(dir.path()).await;
    let mut generator = python_tool("openapi-python-client");
    generator.args(["generate", "--meta", "none", "--fail-on-warning", "--path"]).arg(path);
    generator.arg("--output-path").arg(dir.path().join("jobber_client"));
    generator.arg("--config").arg(contract().join("python-client.yaml"));
    succeed(generator, PATIENCE).await;
    let jobber = server(None).await;
    let mut client = python_tool("python");
    client.arg(contract().join("client.py")).arg(jobber.base()).env("PYTHONPATH", dir.path());
    let printed: Value = serde_json::from_str(&succeed(client, PATIENCE).await).unwrap();
    assert_eq!(printed, read_back("python"));
}

/// Sends requests that the description allows, and some that it does not, and compares each answer with it.
async fn explore(token: Option<&str>, phases: &str) {
    let jobber = server(token).await;
    let dir = tempfile::tempdir().unwrap();
    let mut explorer = python_tool("schemathesis");
    explorer.arg("--config-file").arg(contract().join("schemathesis.toml"));
    explorer.arg("run").arg(description(dir.path()).await).args(["--url", jobber.base(), "--phases", phases]);
    explorer.arg("--max-time").arg(std::env::var("JOBBER_CONTRACT_SECONDS").unwrap_or_else(|_| SECONDS.to_owned()));
    explorer.current_dir(dir.path()).env("PYTHONPATH", contract()).env("SCHEMATHESIS_HOOKS", "hooks");
    match token {
        Some(token) => {
            explorer.env("JOBBER_TOKEN", token);
            explorer.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        None => {
            explorer.env_remove("JOBBER_TOKEN");
        }
    }
    succeed(explorer, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_answers_as_the_description_says() {
    explore(None, "examples,coverage,fuzzing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_answer_leads_to_is_answered_as_the_description_says() {
    explore(None, "stateful").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_token_answers_as_the_description_says() {
    explore(Some("a-token-of-sixteen-characters-or-more"), "examples,fuzzing").await;
}
