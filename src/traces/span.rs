//! Spans under construction: their ids, whether they are recorded, and what is known of them when they end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};

use super::{Exporting, TracedQueue};
use crate::domain::{Timestamp, TraceContext};

/// The most links of one span, as the standard's default has it.
pub(super) const MOST_LINKS: usize = 128;

/// Where a span stands.
pub(super) enum Origin {
    /// It continues the trace of another span.
    Parent(TraceContext),
    /// It begins a trace, and links to the spans that it goes back to.
    Root { trace_id: u128, links: Vec<TraceContext> },
}

impl Origin {
    /// The place below another span, or at the root of a new trace.
    pub(super) fn below(parent: Option<TraceContext>) -> Self {
        match parent {
            Some(parent) => Self::Parent(parent),
            None => Self::Root { trace_id: random_trace_id(), links: Vec::new() },
        }
    }
}

fn random_trace_id() -> u128 {
    u128::from_be_bytes(RandomIdGenerator::default().new_trace_id().to_bytes())
}

/// A span that has begun. It is exported when it ends; a span that is dropped before leaves no trace.
pub struct Span {
    context: TraceContext,
    recorded: Option<Recorded>,
}

/// A span that the sampler wants.
struct Recorded {
    data: SpanData,
    exporting: Arc<Exporting>,
}

impl Span {
    /// Begins a span, and decides whether it is recorded.
    pub(super) fn begin(exporting: &Arc<Exporting>, name: String, kind: SpanKind, origin: Origin) -> Option<Self> {
        let (trace_id, parent, links) = match origin {
            Origin::Parent(parent) => (parent.trace_id(), Some(parent), Vec::new()),
            Origin::Root { trace_id, links } => (trace_id, None, links),
        };
        let above = parent.as_ref().map(remote);
        let around = above.clone().map(|parent| Context::new().with_remote_span_context(parent));
        let links: Vec<_> = links.iter().take(MOST_LINKS).map(|to| Link::with_context(remote(to))).collect();
        let trace = TraceId::from_bytes(trace_id.to_be_bytes());
        let sampled = exporting.sampler.should_sample(around.as_ref(), trace, &name, &kind, &[], &links);
        let is_sampled = sampled.decision == SamplingDecision::RecordAndSample;
        let span_id = RandomIdGenerator::default().new_span_id();
        let state = sampled.trace_state.header();
        let context = TraceContext::new(trace_id, u64::from_be_bytes(span_id.to_bytes()), is_sampled, &state)?;
        let mut all_links = SpanLinks::default();
        all_links.links = links;
        let data = is_sampled.then(|| SpanData {
            span_context: SpanContext::new(trace, span_id, TraceFlags::SAMPLED, false, sampled.trace_state),
            parent_span_id: above.as_ref().map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: above.is_some(),
            span_kind: kind,
            name: name.into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: all_links,
            status: Status::Unset,
            instrumentation_scope: exporting.scope.clone(),
        });
        Some(Self { context, recorded: data.map(|data| Recorded { data, exporting: exporting.clone() }) })
    }

    /// The context by which others continue the span, or link to it.
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Whether the span will be exported.
    pub fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Notes an attribute.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(Recorded { data, .. }) = &mut self.recorded {
            data.attributes.push(KeyValue::new(key, value));
        }
    }

    /// Notes which queue the span is about, and what is done with its jobs.
    pub(super) fn about_queue(&mut self, queue: &TracedQueue, operation: &'static str) {
        self.set("messaging.system", queue.system);
        self.set("messaging.destination.name", queue.name.clone());
        self.set("messaging.operation.name", operation);
        self.set("messaging.operation.type", operation);
    }

    /// Adds links to other spans, as far as there is room.
    pub(super) fn link_to(&mut self, others: &[TraceContext]) {
        if let Some(Recorded { data, .. }) = &mut self.recorded {
            let room = MOST_LINKS.saturating_sub(data.links.links.len());
            data.links.links.extend(others.iter().take(room).map(|to| Link::with_context(remote(to))));
        }
    }

    /// Notes what happened at a moment of the span.
    pub(super) fn happened(&mut self, what: &'static str, at: Timestamp) {
        if let Some(Recorded { data, .. }) = &mut self.recorded {
            data.events.events.push(Event::new(what, moment(at), Vec::new(), 0));
        }
    }

    /// Notes that what the span stands for has failed.
    pub(super) fn failed(&mut self, why: &str) {
        if let Some(Recorded { data, .. }) = &mut self.recorded {
            data.status = Status::error(why.to_owned());
        }
    }

    /// Exports the span, which took from one moment to another. Never blocks: a span for which the queue has no room is
    /// dropped.
    pub(super) fn end(self, from: Timestamp, took: Duration) {
        if let Some(Recorded { mut data, exporting }) = self.recorded {
            data.start_time = moment(from);
            data.end_time = data.start_time + took;
            exporting.processor.on_end(data);
        }
    }
}

fn moment(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + at.since(Timestamp::EPOCH)
}

fn remote(context: &TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id().to_be_bytes()),
        SpanId::from_bytes(context.span_id().to_be_bytes()),
        if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() },
        true,
        context.tracestate().parse::<TraceState>().unwrap_or_default(),
    )
}
