//! The HTTP API: the original's three routes, `/api/v1`, health, and the page that people see.
//!
//! A request meets, in this order: [`request`] (its id, its log line, and errors turned into answers),
//! [`auth`] (access), the router below, and one handler. A handler parses the request, calls a port,
//! and makes the answer. The API writes to the queue and to the event log, never to history.

mod arrays;
mod attempt_means;
mod auth;
mod backlog;
mod binaries;
mod body;
mod body_room;
mod caller;
mod category_preview;
mod connection_limit;
mod events;
mod explain;
mod failures;
mod feed;
mod files;
mod flows;
mod groups;
mod handshake;
mod health;
mod host;
mod inputs;
mod jobs;
mod logs;
mod metrics;
mod notices;
mod openapi;
mod original;
mod overview;
mod page;
mod problem;
mod query;
mod queues;
mod repeats;
mod request;
mod schedules;
mod server;
mod session;
mod session_cookie;
mod snapshots;
mod sse;
mod state;
mod submit;
mod throughput;
mod timeouts;
mod traced;
mod workers;
mod wrong_sign_ins;

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, get, post, put};

pub use auth::check_bind;
pub use category_preview::CategoryPreview;
pub use metrics::WorkerMetricsSettings;
pub use openapi::openapi;
pub use server::{serve, serve_worker_metrics};
pub use state::{Api, ApiPorts, ApiSettings, BinaryProblem, CheckBinary, FoundBinary, ListBinaries, Token};

/// All routes. `loopback` says whether only this machine can reach the listener.
fn router(api: Arc<Api>, loopback: bool) -> Router {
    let guard = auth::AuthState { api: api.clone(), loopback };
    Router::new()
        // The routes of the original program, for its clients.
        .route("/jobs", get(original::list).post(original::submit))
        .route("/stats", get(original::stats))
        // Single jobs.
        .route("/api/v1/jobs", get(jobs::list).post(arrays::one_or_array))
        .route("/api/v1/jobs:count", get(jobs::count))
        .route("/api/v1/jobs:resolve", get(jobs::resolve))
        .route("/api/v1/jobs:bulk", post(submit::many))
        .route("/api/v1/jobs/{id}", get(jobs::show).post(jobs::act).delete(jobs::remove))
        .route("/api/v1/jobs/{id}/logs", get(logs::stream))
        .route("/api/v1/jobs/{id}/attempts/{n}/stdout", get(logs::stdout))
        .route("/api/v1/jobs/{id}/attempts/{n}/stderr", get(logs::stderr))
        .route("/api/v1/jobs/{id}/files", get(files::list))
        .route("/api/v1/jobs/{id}/files/{*path}", get(files::download))
        .route("/api/v1/jobs/{id}/attempts/{n}/files/{*path}", get(files::download))
        .route("/api/v1/jobs/{id}/inputs/{*path}", get(files::download_input))
        .route("/api/v1/inputs/{sha256}", get(inputs::show).put(inputs::put))
        .route("/api/v1/jobs/{id}/explain", get(explain::explain))
        .route("/api/v1/jobs:cancel", post(jobs::cancel_many))
        .route("/api/v1/jobs:retry", post(jobs::retry_many))
        .route("/api/v1/jobs:promote", post(jobs::promote_many))
        .route("/api/v1/jobs:remove", post(jobs::remove_many))
        .route("/api/v1/flows", post(flows::submit))
        .route("/api/v1/groups/{group}", get(groups::show))
        .route("/api/v1/groups/{group}/results", get(groups::results))
        .route("/api/v1/events", get(events::stream))
        // Failures, categories and statistics.
        .route("/api/v1/failures", get(failures::groups))
        .route("/api/v1/failures/similar", get(failures::similar))
        .route("/api/v1/stats/throughput", get(failures::throughput))
        .route("/api/v1/failures/new", get(failures::new))
        .route("/api/v1/stats/builds", get(failures::builds))
        .route("/api/v1/stats/regressions", get(failures::regressions))
        .route("/api/v1/stats/{what}", get(failures::stats))
        .route("/api/v1/categories", get(failures::list).post(failures::add))
        .route("/api/v1/categories/{id}", put(failures::edit).delete(failures::remove))
        .route("/api/v1/categories:presets", get(failures::presets))
        .route("/api/v1/categories:test", post(failures::test))
        .route("/api/v1/categories:calibrate", post(failures::measure))
        .route("/api/v1/categories:threshold", post(failures::set_threshold))
        // Schedules.
        .route("/api/v1/schedules", get(schedules::list).post(schedules::create))
        .route(
            "/api/v1/schedules/{id}",
            get(schedules::show).put(schedules::put).post(schedules::act).delete(schedules::remove),
        )
        // Operation of the queue and the workers.
        .route("/api/v1/overview", get(overview::overview))
        .route("/api/v1/queue", get(queues::counts))
        .route("/api/v1/queue:pause", post(queues::pause_all))
        .route("/api/v1/queue:resume", post(queues::resume_all))
        .route("/api/v1/queue:clean", post(queues::clean_all))
        .route("/api/v1/queues", get(queues::list))
        .route("/api/v1/queues/{name}", get(queues::show).post(queues::act))
        .route("/api/v1/workers", get(workers::list))
        .route("/api/v1/workers/{id}", post(workers::act))
        .route("/api/v1/binaries", get(binaries::list))
        // Who is told of what happens.
        .route("/api/v1/notices", get(notices::list))
        .route("/api/v1/notices/targets", get(notices::targets))
        .route("/api/v1/notices:retry", post(notices::retry))
        .route("/api/v1/notices:drop", post(notices::forget))
        .route("/api/v1/notices:test", post(notices::test))
        // Who is signed in.
        .route(session::PATH, get(session::show).post(session::sign_in).delete(session::sign_out))
        // The description of all this.
        .route(openapi::PATH, get(openapi::show))
        // Probes for programs that watch the server.
        .route(health::LIVE, get(health::live))
        .route(health::READY, get(health::ready))
        // The page.
        .route("/", any(page::root))
        .route("/ui", get(page::start))
        .route("/ui/", get(page::asset))
        .route("/ui/{*path}", get(page::asset))
        .route(metrics::PATH, get(metrics::show))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(from_fn_with_state(api.clone(), traced::trace))
        .layer(from_fn_with_state(guard, auth::guard))
        .layer(from_fn(request::observe))
        .with_state(api)
}
