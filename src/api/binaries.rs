//! Lists the binaries that jobs can name: those that workers announce, and those in the server's own jobs directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;

use super::problem::ApiError;
use super::state::{Api, FoundBinary};
use crate::queue::WorkerInfo;
use crate::wire::{BinaryListing, BinaryView};

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
    let all_tell = workers.iter().all(|worker| worker.binaries.is_some());
    let items = by_name.into_iter().map(|(name, (count, trouble))| {
        let trouble = match trouble {
            // It runs elsewhere, whatever lies here.
            _ if count > 0 => None,
            None if all_tell && !workers.is_empty() => Some("no worker has it in its jobs directory".to_owned()),
            trouble => trouble,
        };
        BinaryView { name, workers: count, trouble }
    });
    BinaryListing { items: items.collect(), complete: all_tell && is_directory_known && has_source }
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
    fn a_list_that_may_lack_some_says_so() {
        let silent = [with(None), with(Some(&["there"]))];
        assert_eq!(listed(&silent, JobsDirectory::OutOfSight), (vec!["there 1 ".to_owned()], false));
        assert_eq!(listed(&silent[1..], JobsDirectory::Seen(None)), (vec!["there 1 ".to_owned()], false));
        assert_eq!(listed(&silent[1..], JobsDirectory::OutOfSight), (vec!["there 1 ".to_owned()], true));
        assert_eq!(listed(&[], JobsDirectory::OutOfSight), (Vec::new(), false));
    }
}
