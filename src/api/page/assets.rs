//! The files of the page, compiled in.

use std::io::Write;
use std::sync::{LazyLock, OnceLock};

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::entity_tag;

/// The table of the files below `ui/`, from their paths there.
macro_rules! files {
    ($($name:literal,)+) => {
        &[$(($name, include_bytes!(concat!("../../../ui/", $name)))),+]
    };
}

/// All files below `ui/`. A test checks that none is missing.
const FILES: &[(&str, &[u8])] = files! {
    "app.css",
    "app.js",
    "icon.svg",
    "index.html",
    "lib/act-on-jobs.js",
    "lib/ansi.js",
    "lib/api.js",
    "lib/charts.js",
    "lib/cronwords.js",
    "lib/figures.js",
    "lib/format.js",
    "lib/groups.js",
    "lib/keys.js",
    "lib/live.js",
    "lib/loglines.js",
    "lib/logrows.js",
    "lib/logstream.js",
    "lib/logview.js",
    "lib/notation.js",
    "lib/prefs.js",
    "lib/put-into.js",
    "lib/rates.js",
    "lib/router.js",
    "lib/scope.js",
    "lib/signals.js",
    "lib/span.js",
    "lib/table.js",
    "lib/view.js",
    "lib/widgets.js",
    "pages/api.js",
    "pages/categories.js",
    "pages/categories/calibrate.js",
    "pages/categories/form.js",
    "pages/categories/test.js",
    "pages/categories/threshold.js",
    "pages/failure.js",
    "pages/failures.js",
    "pages/group.js",
    "pages/job.js",
    "pages/job/actions.js",
    "pages/job/attempts.js",
    "pages/job/crash.js",
    "pages/job/details.js",
    "pages/job/files.js",
    "pages/job/timeline.js",
    "pages/jobs.js",
    "pages/jobs/filters.js",
    "pages/jobs/list.js",
    "pages/jobs/row.js",
    "pages/overview.js",
    "pages/queue.js",
    "pages/queue/queues.js",
    "pages/retries.js",
    "pages/schedules.js",
    "pages/schedules/form.js",
    "pages/stats.js",
    "pages/stats/builds.js",
    "pages/stats/concurrency.js",
    "pages/stats/cost.js",
    "pages/stats/durations.js",
    "pages/stats/sizes.js",
    "pages/submit.js",
    "pages/submit/draft.js",
    "pages/workers.js",
    "theme.js",
};

/// A file of the page.
pub(super) struct Asset {
    name: &'static str,
    /// What is in it.
    pub(super) bytes: &'static [u8],
    /// Its strong validator.
    pub(super) tag: String,
    /// The compressed file and its own validator, made when a client asks for it. `None` if that is no smaller.
    compressed: OnceLock<Option<(Bytes, String)>>,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let asset = |&(name, bytes): &(_, _)| Asset { name, bytes, tag: entity_tag(bytes), compressed: OnceLock::new() };
    FILES.iter().map(asset).collect()
});

impl Asset {
    /// The file with this path below `ui/`.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        ASSETS.iter().find(|asset| asset.name == name)
    }

    /// The file in gzip with its validator, unless that is no smaller.
    pub(super) fn gzip(&self) -> Option<&(Bytes, String)> {
        let pack = || {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            let packed = encoder.write_all(self.bytes).and_then(|()| encoder.finish());
            let packed = Bytes::from(packed.expect("a vector takes every byte"));
            (packed.len() < self.bytes.len()).then(|| (packed.clone(), entity_tag(&packed)))
        };
        self.compressed.get_or_init(pack).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::super::content_type;
    use super::*;

    fn files_below(folder: PathBuf) -> Vec<PathBuf> {
        let entries = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files_below(path) } else { vec![path] }).collect()
    }

    #[test]
    fn the_table_has_every_file_and_no_other() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
        let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let there: BTreeSet<_> = files_below(root.clone()).iter().map(name).collect();
        let listed: BTreeSet<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed, there, "list every file of ui/ in src/api/page/assets.rs");
        for (name, _) in FILES {
            assert!(content_type(name).is_some(), "{name} has no content type");
            assert!(super::super::is_plain(name), "{name} has characters that a path of the page must not have");
        }
    }

    #[test]
    fn what_is_packed_is_the_file() {
        let asset = Asset::find("index.html").unwrap();
        let (packed, tag) = asset.gzip().unwrap();
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
        assert_eq!(unpacked, asset.bytes);
        assert_ne!(*tag, asset.tag);
    }
}
