//! Flows: trees of jobs. Each job runs when its children have completed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::body::Json;
use super::problem::ApiError;
use super::state::Api;
use super::submit;
use super::traced::RequestContext;
use crate::domain::{AcceptedJob, JobId};
use crate::queue::Submission;
use crate::wire::{FieldProblem, FlowJob, SubmitJob, SubmittedFlow};

/// The most jobs in one flow.
const MOST: usize = 1000;

/// A node of the tree. `at` is the place of its job in the list.
struct Node {
    at: usize,
    children: Vec<Node>,
}

/// `POST /api/v1/flows`: submits a flow, as a whole or not at all.
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    trace: RequestContext,
    body: Json<FlowJob>,
) -> Result<Response, ApiError> {
    let idempotency = submit::idempotency(&api, &headers, "flow", &body.bytes)?;
    let (mut jobs, mut pointers) = (Vec::new(), Vec::new());
    let tree = take_apart(body.value, "", &mut jobs, &mut pointers)?;
    if jobs.len() > MOST {
        return Err(wrong("/children", format!("a flow must hold at most {MOST} jobs, not {}", jobs.len())));
    }
    let mut jobs = submit::check(&api, jobs, |i| pointers[i].clone()).await?;
    link(&tree, &mut jobs);
    if let Some(twice) = first_repeated(&jobs) {
        return Err(wrong(&format!("{}/id", pointers[twice]), "another job of the flow has this id".to_owned()));
    }
    let submissions = submit::submit(&api, jobs, idempotency, &trace, true).await?;
    let answer = put_together(&tree, &submissions);
    let location = format!("/api/v1/jobs/{}", answer.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], axum::Json(answer)).into_response())
}

fn wrong(pointer: &str, detail: String) -> ApiError {
    ApiError::invalid_fields("invalid_flow", vec![FieldProblem { pointer: pointer.to_owned(), detail }])
}

/// Lists the jobs of a tree in the order in which they may be submitted: children first. Notes for
/// each its place in the request.
fn take_apart(
    flow: FlowJob,
    pointer: &str,
    jobs: &mut Vec<SubmitJob>,
    pointers: &mut Vec<String>,
) -> Result<Node, ApiError> {
    let mut children = Vec::with_capacity(flow.children.len());
    for (i, child) in flow.children.into_iter().enumerate() {
        children.push(take_apart(child, &format!("{pointer}/children/{i}"), jobs, pointers)?);
    }
    let pointer = format!("{pointer}/job");
    if flow.job.deduplication.is_some() {
        let why = "has no place in a flow: another job could not take the place of one that is waited for";
        return Err(wrong(&format!("{pointer}/deduplication"), why.to_owned()));
    }
    jobs.push(flow.job);
    pointers.push(pointer);
    Ok(Node { at: jobs.len() - 1, children })
}

/// Lets each job come after its children.
fn link(node: &Node, jobs: &mut [AcceptedJob]) {
    let children: Vec<JobId> = node.children.iter().map(|child| jobs[child.at].job.id.clone()).collect();
    let after = &mut Arc::make_mut(&mut jobs[node.at].job).options.after;
    for child in children {
        if !after.contains(&child) {
            after.push(child);
        }
    }
    node.children.iter().for_each(|child| link(child, jobs));
}

/// The first job with the id of one before it.
fn first_repeated(jobs: &[AcceptedJob]) -> Option<usize> {
    let mut seen = std::collections::HashSet::new();
    jobs.iter().position(|job| !seen.insert(&job.job.id))
}

fn put_together(node: &Node, submissions: &[Submission]) -> SubmittedFlow {
    let Submission { id, duplicate, .. } = submissions[node.at].clone();
    let children = node.children.iter().map(|child| put_together(child, submissions)).collect();
    SubmittedFlow { id, status: "queued".to_owned(), duplicate, children }
}
