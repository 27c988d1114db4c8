//! Lists the binaries that jobs can name: those that workers announce, and those in the server's own jobs directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;

use super::problem::ApiError;
use super::state::{Api, FoundBinary};
use crate::domain::{Build, BuildDigest, JobName, WorkerId};
use crate::queue::WorkerInfo;
use crate::wire::{BinaryListing, BinaryView, BuildView};

/// `GET /api/v1/binaries`: by name.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<axum::Json<BinaryListing>, ApiError> {
    let workers = api.queue.workers().await?;
    let found = match api.settings.list_binaries.clone() {
        // Reads the directory on another thread, because it may be on a slow network.
        Some(list) => {
            let listed = tokio::task::spawn_blocking(move || list()).await;
            JobsDirectory::Seen(listed.map_err(|error| ApiError::internal(error.to_string()))?)
        }
        None => JobsDirectory::OutOfSight,
    };
    Ok(axum::Json(merge(&workers, found)))
}

/// What the server sees of a jobs directory.
enum JobsDirectory {
    /// It is not told to look at one.
    OutOfSight,
    /// The files in it; `None` when it can't be read, or holds too many.
    Seen(Option<Vec<FoundBinary>>),
}

fn merge(workers: &[WorkerInfo], directory: JobsDirectory) -> BinaryListing {
    let mut by_name = BTreeMap::new();
    let is_directory_known = !matches!(directory, JobsDirectory::Seen(None));
    let has_source = !workers.is_empty() || matches!(directory, JobsDirectory::Seen(Some(_)));
    if let JobsDirectory::Seen(Some(found)) = directory {
        by_name.extend(found.into_iter().map(|found| (found.name, (0, found.trouble))));
    }
    for name in workers.iter().flat_map(|worker| worker.binaries.iter().flatten()) {
        by_name.entry(name.clone()).or_insert((0, None)).0 += 1;
    }
    let mut builds = builds(workers);
    let all_tell = workers.iter().all(|worker| worker.binaries.is_some());
    let items = by_name.into_iter().map(|(name, (count, trouble))| {
        let trouble = match trouble {
            // It runs elsewhere, whatever lies here.
            _ if count > 0 => None,
            None if all_tell && !workers.is_empty() => Some("no worker has it in its jobs directory".to_owned()),
            trouble => trouble,
        };
        BinaryView { builds: builds.remove(&name).unwrap_or_default(), name, workers: count, trouble }
    });
    BinaryListing { items: items.collect(), complete: all_tell && is_directory_known && has_source }
}

/// Who has which builds, by the name of the binary.
fn builds(workers: &[WorkerInfo]) -> BTreeMap<JobName, Vec<BuildView>> {
    let mut by_digest: BTreeMap<(&JobName, &BuildDigest), (&Build, Vec<&WorkerId>)> = BTreeMap::new();
    for worker in workers {
        for (name, build) in worker.builds.iter().flatten() {
            by_digest.entry((name, &build.digest)).or_insert((build, Vec::new())).1.push(&worker.id);
        }
    }
    let mut found: BTreeMap<JobName, Vec<BuildView>> = BTreeMap::new();
    for ((name, _), (build, mut ids)) in by_digest {
        ids.sort_unstable();
        let worker_ids = ids.iter().take(BuildView::MOST_WORKERS).map(|id| (*id).clone()).collect();
        let view = BuildView { build: build.clone(), workers: ids.len(), worker_ids };
        found.entry(name.clone()).or_default().push(view);
    }
    for builds in found.values_mut() {
        builds.sort_by_key(|view| std::cmp::Reverse(view.workers));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fakes::worker;

    fn with(binaries: Option<&[&str]>) -> WorkerInfo {
        let binaries = binaries.map(|names| names.iter().map(|name| name.parse().unwrap()).collect());
        WorkerInfo { binaries, ..worker() }
    }

    fn files() -> JobsDirectory {
        let file = |name: &str, trouble: Option<&str>| FoundBinary {
            name: name.parse().unwrap(),
            trouble: trouble.map(str::to_owned),
        };
        JobsDirectory::Seen(Some(vec![file("here", None), file("notes.txt", Some("not executable"))]))
    }

    fn listed(workers: &[WorkerInfo], directory: JobsDirectory) -> (Vec<String>, bool) {
        let listing = merge(workers, directory);
        let show = |item: BinaryView| format!("{} {} {}", item.name, item.workers, item.trouble.unwrap_or_default());
        (listing.items.into_iter().map(show).collect(), listing.complete)
    }

    #[test]
    fn binaries_of_workers_and_of_the_server_are_one_list() {
        let two = [with(Some(&["there"])), with(Some(&["there", "notes.txt"]))];
        let expected = ["here 0 no worker has it in its jobs directory", "notes.txt 1 ", "there 2 "];
        assert_eq!(listed(&two, files()), (expected.map(str::to_owned).to_vec(), true));
        let alone = ["here 0 ", "notes.txt 0 not executable"];
        assert_eq!(listed(&[], files()), (alone.map(str::to_owned).to_vec(), true), "a worker may come yet");
    }

    #[test]
    fn builds_that_differ_are_told_apart_with_who_has_them() {
        let having = |id: &str, build: u8| {
            let build = Build { bytes: 7, digest: BuildDigest::of_build_id(&[build]) };
            let id = id.parse().unwrap();
            WorkerInfo { id, builds: Some([("there".parse().unwrap(), build)].into()), ..with(Some(&["there", "x"])) }
        };
        let workers = [having("b", 1), having("c", 2), having("a", 2), with(Some(&["there"]))];
        let listing = merge(&workers, JobsDirectory::OutOfSight);
        let told: Vec<_> =
            listing.items.iter().map(|item| (item.name.as_str(), item.workers, item.builds.len())).collect();
        assert_eq!(told, [("there", 4, 2), ("x", 3, 0)]);
        let show = |view: &BuildView| format!("{} {} {:?}", view.build.digest, view.workers, view.worker_ids);
        let shown: Vec<_> = listing.items[0].builds.iter().map(show).collect();
        assert_eq!(shown, [r#"02 2 [WorkerId("a"), WorkerId("c")]"#, r#"01 1 [WorkerId("b")]"#]);
    }

    #[test]
    fn a_list_that_may_lack_some_says_so() {
        let silent = [with(None), with(Some(&["there"]))];
        assert_eq!(listed(&silent, JobsDirectory::OutOfSight), (vec!["there 1 ".to_owned()], false));
        assert_eq!(listed(&silent[1..], JobsDirectory::Seen(None)), (vec!["there 1 ".to_owned()], false));
        assert_eq!(listed(&silent[1..], JobsDirectory::OutOfSight), (vec!["there 1 ".to_owned()], true));
        assert_eq!(listed(&[], JobsDirectory::OutOfSight), (Vec::new(), false));
    }
}
