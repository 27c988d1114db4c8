//! The spans of a request that submits jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::trace::SpanKind;

use super::span::{MOST_LINKS, Origin, Span};
use super::{Exporting, Traces};
use crate::domain::{AcceptedJob, Timestamp, TraceContext};

/// A request that submits jobs, and its place in a trace.
pub struct RequestTrace {
    span: Option<Span>,
    caller: Option<TraceContext>,
    began: (Timestamp, Instant),
}

impl RequestTrace {
    /// The context that the jobs of the request continue: its span's, or, with the export off, its caller's.
    pub fn context(&self) -> Option<&TraceContext> {
        self.span.as_ref().map(Span::context).or(self.caller.as_ref())
    }

    /// Ends the request with this HTTP status.
    pub fn end(self, status: u16) {
        let Some(mut span) = self.span else { return };
        span.set("http.response.status_code", i64::from(status));
        if status >= 500 {
            span.set("error.type", status.to_string());
            span.failed("");
        }
        let (from, instant) = self.began;
        span.end(from, instant.elapsed());
    }
}

/// The spans of jobs on their way to the queue.
pub struct Sending {
    spans: Vec<Span>,
    began: (Timestamp, Instant),
}

impl Sending {
    /// Ends the sending: the queue has the jobs, or has refused them for a reason.
    pub fn end(self, refused: Option<&str>) {
        let (from, instant) = self.began;
        let took: Duration = instant.elapsed();
        for mut span in self.spans {
            if let Some(why) = refused {
                span.set("error.type", "_OTHER");
                span.failed(why);
            }
            span.end(from, took);
        }
    }
}

impl Traces {
    /// Begins the span of an HTTP request with the method `POST` to this route and path.
    pub fn request(&self, route: &str, path: &str, caller: Option<TraceContext>, now: Timestamp) -> RequestTrace {
        let span = self.0.as_ref().and_then(|exporting| {
            let name = format!("POST {route}");
            let mut span = Span::begin(exporting, name, SpanKind::Server, Origin::below(caller.clone()))?;
            span.set("http.request.method", "POST");
            span.set("http.route", route.to_owned());
            span.set("url.path", path.to_owned());
            Some(span)
        });
        RequestTrace { span, caller, began: (now, Instant::now()) }
    }

    /// Begins to send jobs to the queue, and gives each the context that its attempts continue. The attempts of a job
    /// that comes in a batch link to it: thousands of jobs make no readable trace.
    pub fn send(
        &self,
        jobs: &mut [AcceptedJob],
        is_batch: bool,
        request: Option<&TraceContext>,
        now: Timestamp,
    ) -> Sending {
        let mut sending = Sending { spans: Vec::new(), began: (now, Instant::now()) };
        let Some(exporting) = &self.0 else {
            let context = request.map(|context| if is_batch { context.as_link() } else { context.clone() });
            if context.is_some() {
                jobs.iter_mut().for_each(|job| Arc::make_mut(&mut job.job).trace.clone_from(&context));
            }
            return sending;
        };
        let begin = |operation: &'static str, kind: SpanKind| begin(exporting, operation, kind, request);
        if is_batch && jobs.len() <= MOST_LINKS {
            for job in jobs.iter_mut() {
                let Some(mut span) = begin("create", SpanKind::Producer) else { continue };
                span.set("messaging.message.id", job.job.id.to_string());
                Arc::make_mut(&mut job.job).trace = Some(span.context().as_link());
                sending.spans.push(span);
            }
            let links: Vec<_> = sending.spans.iter().map(|span| span.context().clone()).collect();
            if let Some(mut span) = begin("send", SpanKind::Client) {
                span.link_to(&links);
                span.set("messaging.batch.message_count", i64::try_from(jobs.len()).unwrap_or(i64::MAX));
                sending.spans.push(span);
            }
        } else if let Some(mut span) = begin("send", SpanKind::Producer) {
            for job in jobs.iter_mut() {
                let context = if is_batch { span.context().as_link() } else { span.context().clone() };
                Arc::make_mut(&mut job.job).trace = Some(context);
            }
            match jobs {
                [job] if !is_batch => span.set("messaging.message.id", job.job.id.to_string()),
                jobs => span.set("messaging.batch.message_count", i64::try_from(jobs.len()).unwrap_or(i64::MAX)),
            }
            sending.spans.push(span);
        }
        sending
    }
}

fn begin(
    exporting: &Arc<Exporting>,
    operation: &'static str,
    kind: SpanKind,
    request: Option<&TraceContext>,
) -> Option<Span> {
    let name = format!("{operation} {}", exporting.queue.name);
    let mut span = Span::begin(exporting, name, kind, Origin::below(request.cloned()))?;
    span.about_queue(&exporting.queue, operation);
    Some(span)
}
