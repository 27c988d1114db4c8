//! The part of a server that tells people and programs of what happens.

use std::sync::Arc;

use anyhow::{Context, anyhow};

use super::runner;
use crate::config::Config;
use crate::domain::{Clock, HostRulesByName, JobName, WorkerId};
use crate::lifecycle::Lifecycle;
use crate::notices::{
    Announcer, Channel, CommandRunner, CommandTarget, Destination, HealthWatch, HealthWatchPorts, NoticeEvent,
    NoticeTarget, Notices, Sender, Webhook,
};
use crate::runner::{Divided, Guard, Runner, RunningGauge, Slots};
use crate::wiring::ServerPorts;

/// How many programs of one target run at the same time.
const PROGRAMS: u32 = 4;
/// How much of what a program writes is kept, in bytes of each stream.
const OUTPUT: usize = 4096;

/// Starts the senders of all targets, and the watch over the server's health if any target wants to hear of that. Answers
/// what the API shows, and what the projector announces by, if there is a target.
///
/// # Errors
/// When a target's address or the system's certificates can't be used, or a program can't be supervised.
pub(super) fn start(
    config: &Config,
    environment: &[(String, String)],
    ports: &ServerPorts,
    clock: &Clock,
    life: &Lifecycle,
) -> anyhow::Result<(Arc<Notices>, Option<Announcer>)> {
    let mut senders = Vec::new();
    for target in &config.notify {
        let channel = channel(config, environment, target, clock)
            .with_context(|| format!("notices can't go to {} ([[notify]])", target.name))?;
        let (outbox, history) = (ports.outbox.clone(), ports.history.clone());
        senders.push(Arc::new(Sender::new(target.clone(), channel, outbox, history, clock.clone())));
    }
    let targets: Arc<[NoticeTarget]> = config.notify.clone().into();
    let (outbox, stop) = (ports.outbox.clone(), life.stop.clone());
    let sending = senders.clone();
    life.tasks.spawn(async move {
        // Not before the letters of targets that are gone are out of the way. It is only tidying up.
        let names = sending.iter().map(|sender| sender.target().name.clone()).collect();
        if let Err(error) = outbox.give_up_others(names).await {
            tracing::warn!(%error, "notices for targets that are not configured any more stay where they are");
        }
        futures_util::future::join_all(sending.into_iter().map(|sender| sender.run(stop.clone()))).await;
    });
    let notices = Arc::new(Notices::new(senders, ports.outbox.clone(), clock.clone()));
    if targets.is_empty() {
        return Ok((notices, None));
    }
    life.tasks.spawn(notices.clone().keep_metrics(life.stop.clone()));
    let announcer = Announcer::new(targets, ports.outbox.clone(), config.queue.name.clone(), clock.clone());
    if announcer.wants(NoticeEvent::Unhealthy) {
        let watched = HealthWatchPorts {
            queue: ports.queue.clone(),
            history: ports.history.clone(),
            source: ports.source.clone(),
        };
        let watch = HealthWatch::new(watched, announcer.clone(), clock.clone(), runner::host_name());
        life.tasks.spawn(watch.run(life.stop.clone()));
    }
    Ok((notices, Some(announcer)))
}

fn channel(
    config: &Config,
    environment: &[(String, String)],
    target: &NoticeTarget,
    clock: &Clock,
) -> anyhow::Result<Channel> {
    match &target.destination {
        Destination::Webhook(webhook) => {
            let webhook = Webhook::new(webhook.clone(), target.timeout, clock.clone());
            Ok(Channel::Webhook(Box::new(webhook.map_err(|problem| anyhow!(problem))?)))
        }
        Destination::Command(command) => {
            let runner = command_runner(config, environment, command, target, clock)?;
            Ok(Channel::Command(Box::new(runner)))
        }
    }
}

/// Makes what runs a program as a job is run, but on any core and without a sandbox: it is the operator's own.
fn command_runner(
    config: &Config,
    environment: &[(String, String)],
    command: &CommandTarget,
    target: &NoticeTarget,
    clock: &Clock,
) -> anyhow::Result<CommandRunner> {
    // A runner does not follow links out of the folder. A program that is not there now may come.
    let program = std::fs::canonicalize(&command.program).unwrap_or_else(|_| command.program.clone());
    let (folder, name) = program.parent().zip(program.file_name()).context("it has no program")?;
    let name = JobName::parse(&name.to_string_lossy())?;
    let id = WorkerId::generate(&runner::host_name());
    let mut settings = runner::runner_settings(config, &id)?;
    settings.jobs_dir = folder.to_owned();
    settings.output_bytes = OUTPUT;
    settings.pin = false;
    settings.host_rules = HostRulesByName::default();
    let guard = Guard::start(&id, &settings.scratch_dir)
        .context("the guard, which ends programs if this process is killed, can't be started")?;
    let runner = Runner::new(settings, environment.to_vec(), clock.clone(), Some(&guard), RunningGauge::new())?;
    let slots = Slots::dividing(Divided {
        // Nothing is pinned: these only count.
        cpus: (0..PROGRAMS).collect(),
        nodes: Vec::new(),
        cores_per_process: 1,
        memory_bytes: None,
        resources: config.worker.resources.clone(),
    });
    Ok(CommandRunner::new((runner, guard), slots, command.clone(), name, target.timeout, clock.clone()))
}
