//! `jobber doctor`: shows the findings as a table, with the advice below it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::view::{Column, Table, View, json_line};
use super::{CliError, Console, Exit, Globals, WorkerArgs, connect, with_hint};
use crate::client::Client;
use crate::doctor::{Finding, Health, server};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `jobber doctor`.
#[derive(Debug, Clone, Default, Args)]
pub struct DoctorArgs {
    /// How a worker here would work.
    #[command(flatten)]
    pub worker: WorkerArgs,
}

#[derive(Serialize)]
struct Report {
    /// The worst of the findings.
    status: Health,
    findings: Vec<Finding>,
}

impl View for Report {
    fn table(&self, out: &mut Table) {
        let row = |finding: &Finding| vec![finding.check.clone(), finding.status.to_string(), finding.found.clone()];
        out.grid(
            &[Column::plain("CHECK"), Column::state("STATUS").rank(0), Column::text("FOUND")],
            self.findings.iter().map(row),
        );
        let fixes: Vec<_> = self
            .findings
            .iter()
            .filter_map(|finding| finding.fix.as_ref().map(|fix| format!("{}: {fix}", finding.check)))
            .collect();
        if !fixes.is_empty() {
            out.text("What to do:", &fixes.join("\n"));
        }
    }

    fn lines(&self) -> Vec<String> {
        self.findings.iter().map(json_line).collect()
    }
}

/// Prints the findings about this host, together with the server's answers. The code is 1 when a
/// check has failed, else 0.
pub async fn doctor(globals: &Globals, mut console: Console, mut findings: Vec<Finding>) -> ExitCode {
    findings.extend(ask_server(globals).await);
    let status = findings.iter().map(|finding| finding.status).max().unwrap_or(Health::Ok);
    let exit = match console.show(&Report { status, findings }) {
        Ok(()) if status == Health::Failed => Exit::ERROR,
        Ok(()) => Exit::OK,
        Err(error) => {
            console.report(&error);
            Exit::of_error(&error)
        }
    };
    exit.into()
}

async fn ask_server(globals: &Globals) -> Vec<Finding> {
    let asked_for = globals.server.as_ref().is_some_and(|server| !server.is_empty());
    let client = match connect(globals) {
        Ok(client) => client,
        Err(CliError::Usage(why)) => return vec![Finding::failed("server", why, "correct --server or JOBBER_SERVER")],
        Err(error) => {
            return vec![Finding::failed("server", error.to_string(), "correct --server, --token or --token-file")];
        }
    };
    let answer = match tokio::time::timeout(PATIENCE, client.version()).await {
        Ok(answer) => answer.map_err(|error| with_hint(&error)),
        Err(_) => Err(format!("{} does not answer within {} s", client.server(), PATIENCE.as_secs())),
    };
    let answers = answer.is_ok();
    let mut findings = vec![server::judge(client.server(), answer, asked_for)];
    if answers {
        findings.extend(ask_what_stands_still(&client).await);
    }
    findings
}

/// Asks for schedules that bring no jobs and for parked events. Finds nothing where the server does
/// not answer, since it may want a token.
async fn ask_what_stands_still(client: &Client) -> Vec<Finding> {
    let asked = async { tokio::join!(client.schedules(), client.parked_events()) };
    let Ok((schedules, parked)) = tokio::time::timeout(PATIENCE, asked).await else { return Vec::new() };
    let mut findings = Vec::new();
    if let Ok(schedules) = schedules {
        let stopped: Vec<_> = schedules.iter().filter_map(|s| Some((s.id.to_string(), s.trouble.clone()?))).collect();
        findings.push(server::judge_schedules(schedules.len(), &stopped));
    }
    if let Ok(Some(parked)) = parked {
        findings.push(server::judge_parked(parked));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tests::{captured, rendered, text};
    use super::*;
    use crate::cli::Format;
    use crate::client::fake::{FakeServer, json as answer};

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("configuration", "jobber.toml and the environment"),
            Finding::warning("disk space", "512 MiB free", "free some"),
            Finding::failed("jobs directory", "couldn't open \u{1b}jobs", "make it"),
        ]
    }

    #[test]
    fn findings_read_well() {
        let report = Report { status: Health::Failed, findings: findings() };
        insta::assert_snapshot!(rendered(&report, Format::Table), @r"
        CHECK           STATUS   FOUND
        configuration   ok       jobber.toml and the environment
        disk space      warning  512 MiB free
        jobs directory  FAILED   couldn't open \x1bjobs

        What to do:
          disk space: free some
          jobs directory: make it
        ");
        insta::assert_snapshot!(rendered(&report, Format::Json), @r#"
        {
          "status": "failed",
          "findings": [
            {
              "check": "configuration",
              "status": "ok",
              "found": "jobber.toml and the environment",
              "fix": null
            },
            {
              "check": "disk space",
              "status": "warning",
              "found": "512 MiB free",
              "fix": "free some"
            },
            {
              "check": "jobs directory",
              "status": "failed",
              "found": "couldn't open \u001bjobs",
              "fix": "make it"
            }
          ]
        }
        "#);
        insta::assert_snapshot!(rendered(&report, Format::Jsonl), @r#"
        {"check":"configuration","status":"ok","found":"jobber.toml and the environment","fix":null}
        {"check":"disk space","status":"warning","found":"512 MiB free","fix":"free some"}
        {"check":"jobs directory","status":"failed","found":"couldn't open \u001bjobs","fix":"make it"}
        "#);
        let report = Report { status: Health::Ok, findings: findings()[..1].to_vec() };
        insta::assert_snapshot!(rendered(&report, Format::Table), @r"
        CHECK          STATUS  FOUND
        configuration  ok      jobber.toml and the environment
        ");
    }

    #[tokio::test]
    async fn only_a_failure_is_an_error() {
        let version = serde_json::json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")});
        for (count, code) in [(1, 0), (2, 0), (3, 1)] {
            let server = FakeServer::start(vec![answer(200, &version)]).await;
            let globals = Globals { server: Some(server.address().to_owned()), ..Globals::default() };
            let (console, out, _) = captured(&globals);
            let exit = doctor(&globals, console, findings()[..count].to_vec()).await;
            assert_eq!(exit, ExitCode::from(code));
            assert!(text(&out).contains(&format!("{} answers, version", server.address())), "{}", text(&out));
        }
    }
}
