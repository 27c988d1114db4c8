//! `jobber top`: the overview, live.

use std::time::Duration;

use clap::Args;

use super::console::CLEAR;
use super::values::show_duration;
use super::view::{Column, Table, View, render_table};
use super::{CliError, Console, Exit, Format};
use crate::client::Client;
use crate::wire::{Component, ComponentStatus, Overview};

/// From one look to the next: the server makes no more than one overview a second.
const STEP: Duration = Duration::from_secs(1);
/// `jobber top`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// Print the overview once and end, as without a terminal
    #[arg(long)]
    once: bool,
}

impl View for Overview {
    fn table(&self, out: &mut Table) {
        out.field("server", format!("{}  {}", self.version, super::view::show_time(self.at)));
        out.field(
            "queue",
            known(self.queue.as_ref().map(|q| {
                let paused = if q.paused { "  (paused)" } else { "" };
                format!(
                    "{} waiting, {} prioritized, {} delayed, {} active, {} completed, {} failed{paused}",
                    q.waiting, q.prioritized, q.delayed, q.active, q.completed, q.failed
                )
            })),
        );
        out.field(
            "last minute",
            known(self.rates.as_ref().map(|rates| {
                let n = rates.counts;
                format!(
                    "{} submitted, {} started, {} completed, {} failed; {} attempts failed",
                    n.submitted, n.started, n.completed, n.failed, n.attempts_failed
                )
            })),
        );
        out.optional(
            "oldest waiting",
            self.oldest_waiting
                .as_ref()
                .map(|job| format!("{}  {} for {}", job.id, job.name, show_duration(self.at.since(job.since)))),
        );
        out.field(
            "workers",
            known(self.workers.as_ref().map(|w| {
                let mut text = format!("{} ({} taking jobs", w.total, w.taking);
                for (count, word) in [(w.draining, "draining"), (w.unhealthy, "unhealthy")] {
                    if count > 0 {
                        text += &format!(", {count} {word}");
                    }
                }
                text + &format!("), {} of {} slots, {} of {} cores", w.running, w.slots, w.cores_busy, w.cores)
            })),
        );
        out.field(
            "history",
            known(self.history.as_ref().map(|h| {
                let lag = match h.lag_ms {
                    _ if h.caught_up => "caught up".to_owned(),
                    Some(ms) => format!("{} behind", show_duration(Duration::from_millis(ms))),
                    None => "behind".to_owned(),
                };
                let parked = h.parked.filter(|n| *n > 0).map(|n| format!(", {n} parked")).unwrap_or_default();
                format!("{lag}, log {} of {}{parked}", h.log_length, h.log_cap)
            })),
        );
        let parts = &self.components;
        for (name, part) in [("queue", &parts.queue), ("store", &parts.store), ("events", &parts.events)] {
            if let Component { status, error: Some(error) } = part {
                let status = if *status == ComponentStatus::Degraded { "degraded" } else { "unavailable" };
                out.field("trouble", format!("{name} {status}: {error}"));
            }
        }
        if let Some(failing) = self.failing.as_ref().filter(|failing| !failing.is_empty()) {
            let row = |line: &crate::wire::FailingCategory| vec![line.count.to_string(), line.category_name.clone()];
            out.grid(
                &[Column::plain("FAILED").rank(0), Column::text("CATEGORY (TODAY AND YESTERDAY)")],
                failing.iter().map(row),
            );
        }
    }
}

fn known(text: Option<String>) -> String {
    text.unwrap_or_else(|| "not known".to_owned())
}

pub(super) async fn top(args: &TopArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let is_json = console.format != Format::Table;
    if args.once || (!is_json && !console.is_terminal()) {
        console.show(&client.overview().await?)?;
        return Ok(Exit::OK);
    }
    // A server that can't be reached at all ends the command; later it may be away for a while.
    let mut looked = Ok(client.overview().await?);
    if !is_json {
        console.data(CLEAR.as_bytes())?;
    }
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        match &looked {
            Ok(overview) if is_json => console.json_line(overview)?,
            Ok(overview) => {
                let text = render_table(overview, &console.look());
                console.redraw(&text)?;
            }
            Err(error) if is_json => console.note(&format!("warning: {error}")),
            Err(error) => console.redraw(&format!("{error}; asking again\n"))?,
        }
        tokio::select! {
            Ok(()) = tokio::signal::ctrl_c() => return Ok(Exit::OK),
            _ = ticks.tick() => {}
        }
        looked = client.overview().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;

    fn overview() -> Overview {
        serde_json::from_value(serde_json::json!({
            "at": "2026-11-24T08:00:00Z", "version": "0.1.0",
            "queue": {"waiting": 12, "delayed": 1, "prioritized": 0, "active": 4, "completed": 90, "failed": 2, "paused": true},
            "rates": {"window_s": 60, "submitted": 30, "started": 28, "completed": 25, "failed": 1, "attempts_failed": 3},
            "oldest_waiting": {"id": "order-42", "name": "resize", "since": "2026-11-24T07:58:30Z"},
            "workers": {"total": 3, "taking": 2, "draining": 1, "unhealthy": 0, "slots": 12, "running": 4, "cores": 24, "cores_busy": 8},
            "failing": [{"category": "disk-full", "category_name": "disk \u{1b}[31mfull", "count": 7}],
            "history": {"caught_up": false, "log_length": 150, "log_cap": 1000000, "parked": 1, "lag_ms": 1500},
            "components": {"queue": {"status": "ok"}, "store": {"status": "degraded", "error": "no index"}, "events": {"status": "ok"}}
        }))
        .unwrap()
    }

    #[test]
    fn the_overview_reads_well() {
        insta::assert_snapshot!(rendered(&overview(), Format::Table), @r"
        server          0.1.0  2026-11-24T08:00:00Z
        queue           12 waiting, 0 prioritized, 1 delayed, 4 active, 90 completed, 2 failed  (paused)
        last minute     30 submitted, 28 started, 25 completed, 1 failed; 3 attempts failed
        oldest waiting  order-42  resize for 1m 30s
        workers         3 (2 taking jobs, 1 draining), 4 of 12 slots, 8 of 24 cores
        history         1.5 s behind, log 150 of 1000000, 1 parked
        trouble         store degraded: no index

        FAILED  CATEGORY (TODAY AND YESTERDAY)
        7       disk \x1b[31mfull
        ");
        let away =
            Overview { queue: None, rates: None, oldest_waiting: None, workers: None, failing: None, ..overview() };
        let away = rendered(&Overview { history: None, ..away }, Format::Table);
        assert_eq!(away.matches("not known").count(), 4, "{away}");
    }
}
