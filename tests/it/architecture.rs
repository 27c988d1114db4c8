//! The house rules that a compiler does not know: who may import whom, where third parties stop, how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Rooms and the rooms that each may import. A room is the first part of a module path; `queue::embedded` and the like
/// are adapters, named only by `wiring` (and by themselves).
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("reconnect", &[]),
    ("logging", &[]),
    ("outage", &["logging", "reconnect"]),
    ("background", &["outage", "reconnect"]),
    ("memory", &[]),
    ("allocations", &[]),
    ("interest", &[]),
    ("metrics", &["domain", "interest"]),
    ("process", &[]),
    ("lifecycle", &["descriptors"]),
    ("notify", &[]),
    ("descriptors", &[]),
    ("wake", &[]),
    ("sqlite", &["metrics", "wake"]),
    ("tls", &["domain"]),
    ("redis", &["domain", "reconnect"]),
    ("stats", &["domain", "events"]),
    ("config", &["domain", "notices", "redis", "sqlite", "tls"]),
    ("events", &["domain"]),
    ("failures", &["domain"]),
    ("artifacts", &["domain"]),
    ("queue", &["domain"]),
    ("store", &["domain", "events", "stats"]),
    ("queue::embedded", &["domain", "background", "metrics", "queue", "sqlite", "wake", "reconnect"]),
    ("queue::bullmq", &["domain", "background", "metrics", "queue", "reconnect", "redis"]),
    ("events::embedded", &["domain", "events", "sqlite", "wake"]),
    ("events::redis", &["domain", "metrics", "reconnect", "events", "redis"]),
    ("failures::embed", &["domain", "logging", "metrics", "reconnect", "failures"]),
    ("failures::cache", &["domain", "failures", "redis", "sqlite"]),
    ("store::embedded", &["domain", "events", "stats", "store", "sqlite"]),
    ("store::couchbase", &["domain", "metrics", "reconnect", "events", "stats", "store"]),
    ("traces", &["domain", "outage", "reconnect"]),
    ("runner", &["descriptors", "domain"]),
    (
        "notices",
        &[
            "domain",
            "background",
            "events",
            "logging",
            "metrics",
            "queue",
            "reconnect",
            "runner",
            "sqlite",
            "stats",
            "store",
        ],
    ),
    ("notices::outbox", &["domain", "sqlite"]),
    ("wire", &["domain", "notices", "queue", "stats", "store"]),
    (
        "worker",
        &[
            "domain",
            "artifacts",
            "background",
            "metrics",
            "reconnect",
            "queue",
            "events",
            "failures",
            "runner",
            "traces",
        ],
    ),
    (
        "projector",
        &[
            "domain",
            "logging",
            "metrics",
            "notices",
            "outage",
            "reconnect",
            "events",
            "failures",
            "sqlite",
            "store",
            "stats",
        ],
    ),
    ("classifier", &["domain", "logging", "metrics", "reconnect", "events", "failures", "projector", "store"]),
    (
        "reconciler",
        &[
            "domain",
            "artifacts",
            "background",
            "logging",
            "outage",
            "reconnect",
            "events",
            "projector",
            "queue",
            "store",
        ],
    ),
    ("archive", &["domain", "logging", "events", "store", "stats"]),
    (
        "api",
        &[
            "domain",
            "artifacts",
            "background",
            "interest",
            "logging",
            "metrics",
            "notices",
            "outage",
            "reconnect",
            "queue",
            "events",
            "failures",
            "sqlite",
            "store",
            "stats",
            "tls",
            "traces",
            "wire",
        ],
    ),
    ("client", &["domain", "reconnect", "wire", "store", "queue"]),
    ("doctor", &["domain", "config", "notices", "runner", "sqlite", "tls"]),
    (
        "cli",
        &[
            "domain",
            "reconnect",
            "config",
            "client",
            "doctor",
            "failures",
            "notices",
            "wire",
            "stats",
            "store",
            "queue",
            "runner",
        ],
    ),
    // Of tests alone.
    ("counting", &[]),
    ("wiring", &["*"]),
    ("roles", &["*"]),
    ("bench", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

/// Third parties that stop at these rooms.
const THIRD_PARTIES: &[(&str, &[&str])] = &[
    (
        "rusqlite",
        &["sqlite", "queue::embedded", "events::embedded", "failures::cache", "notices::outbox", "store::embedded"],
    ),
    ("fred", &["redis", "events::redis", "failures::cache"]),
    ("bullmq", &["queue::bullmq"]),
    ("couchbase_core", &["store::couchbase"]),
    ("couchbase_connstr", &["store::couchbase"]),
    ("redis", &["queue::bullmq", "redis", "events::redis", "failures::cache"]),
    ("aws_lc_rs", &["api", "notices"]),
    ("axum", &["api"]),
    ("csv", &["api"]),
    ("cpp_demangle", &["runner"]),
    ("flate2", &["api", "runner"]),
    ("gimli", &["runner"]),
    ("rustc_demangle", &["runner"]),
    ("prometheus_client", &["metrics"]),
    ("utoipa", &["api", "domain", "failures", "notices", "queue", "stats", "store", "wire"]),
    ("landlock", &["runner"]),
    ("hyper", &["api"]),
    ("hyper_util", &["api"]),
    ("tower", &["api"]),
    ("opentelemetry", &["traces"]),
    ("opentelemetry_http", &["traces"]),
    ("opentelemetry_otlp", &["traces"]),
    ("opentelemetry_sdk", &["traces"]),
    ("reqwest", &["client", "failures::embed", "notices", "traces"]),
    ("clap", &["cli", "main"]),
    ("clap_complete", &["cli", "main"]),
    ("clap_mangen", &["cli"]),
    ("unicode_width", &["cli"]),
    ("tokio_rustls", &["api"]),
    ("toml", &["config"]),
    ("chrono", &["domain"]),
    ("chrono_tz", &["domain"]),
    ("croner", &["domain"]),
    ("url", &["redis"]),
    ("rustls_native_certs", &["redis"]),
    ("object_store", &["artifacts"]),
    ("libc", &["runner", "memory", "process", "descriptors", "wake"]),
];

const LONGEST: usize = 500;

struct Source {
    room: String,
    path: PathBuf,
    /// Without the test module and without comments.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(&root).unwrap().with_extension("");
                let parts: Vec<_> = relative.iter().map(|p| p.to_str().unwrap()).filter(|p| *p != "mod").collect();
                if parts.last() == Some(&"tests") {
                    continue;
                }
                let adapter = parts.iter().take(2).copied().collect::<Vec<_>>().join("::");
                let room =
                    if MAY_IMPORT.iter().any(|(name, _)| *name == adapter) { adapter } else { parts[0].to_owned() };
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
                let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
                found.push(Source { room, path, code });
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// What follows `crate::`, grouped imports taken apart one level.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + 7..];
        let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
        let path = path.trim_end_matches(':').to_owned();
        if path.is_empty() {
            let group: String = rest.chars().skip(1).take_while(|c| *c != '}').collect();
            found.extend(group.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn rooms_import_only_what_lies_below_them() {
    let table: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let allowed =
            table.get(source.room.as_str()).unwrap_or_else(|| panic!("{} has no row in the table", source.room));
        if allowed.contains(&"*") {
            continue;
        }
        for import in imports(&source.code) {
            let first = import.split("::").next().unwrap();
            let own = source.room.split("::").next().unwrap();
            let adapter = import.split("::").take(2).collect::<Vec<_>>().join("::");
            let of_adapter = adapter.contains("::") && table.contains_key(adapter.as_str()) && adapter != source.room;
            if of_adapter || (first != own && !allowed.contains(&first)) {
                wrong.push(format!("{} imports crate::{import}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The modules below `super::`, `super::super::` and so on that code names, each with the number of `super::`. Groups are
/// taken apart one level.
fn named_above(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let supers = code[at..].split("super::").take_while(|part| part.is_empty()).count();
        let rest = &code[at + supers * "super::".len()..];
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => found.push((supers, word(rest))),
            Some(group) => {
                let mut depth = 0;
                let mut entry = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => entry = true,
                        c if depth == 0 && entry && !c.is_whitespace() => {
                            entry = false;
                            found.push((supers, word(&group[i..])));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

/// Files of one folder may use each other in one direction only. `mod.rs` stands above them: it hands out what they share.
#[test]
fn files_of_a_folder_form_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let module = |path: &Path| path.strip_prefix(&root).unwrap().with_extension("");
    let sources = sources();
    let files: BTreeSet<PathBuf> = sources.iter().map(|source| module(&source.path)).collect();
    let mut uses: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    for source in &sources {
        let own = module(&source.path);
        if own.ends_with("mod") || own.ends_with("main") || own.ends_with("lib") {
            continue;
        }
        for (supers, name) in named_above(&source.code) {
            let folder = own.ancestors().nth(supers).unwrap();
            let other = folder.join(name);
            if other != own && files.contains(&other) {
                uses.entry(own.clone()).or_default().insert(other);
            }
        }
    }
    assert!(uses.len() > 100, "the uses were not found: {}", uses.len());
    // What uses nothing that is left is in no circle.
    while let Some(free) =
        uses.iter().find(|(_, used)| used.iter().all(|u| !uses.contains_key(u))).map(|(f, _)| f.clone())
    {
        uses.remove(&free);
    }
    assert!(uses.is_empty(), "circles, and what leads to them: {uses:#?}");
}

#[test]
fn third_parties_stop_at_their_adapters() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, rooms) in THIRD_PARTIES {
            let used = source
                .code
                .match_indices(&format!("{name}::"))
                .any(|(at, _)| !source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
            if used && !rooms.contains(&source.room.as_str()) {
                wrong.push(format!("{} uses {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter_map(|s| {
            let text = std::fs::read_to_string(&s.path).unwrap();
            let lines = text.split("#[cfg(test)]\nmod ").next().unwrap().lines().count();
            (lines > LONGEST).then(|| format!("{}: {lines} lines", s.path.display()))
        })
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST} lines: {long:#?}");
}

#[test]
fn the_worker_holds_no_store_and_the_api_no_projection() {
    for source in sources() {
        let holds = |word: &str| source.code.contains(word);
        match source.room.as_str() {
            "worker" => assert!(!holds("History") && !holds("Projection") && !holds("dyn Queue")),
            "projector" => assert!(!holds("dyn Queue") && !holds("JobSource") && !holds("Operator")),
            "api" => assert!(!holds("Projection") && !holds("JobSource")),
            "reconciler" => assert!(!holds("Projection") && !holds("Operator") && !holds("JobSource")),
            _ => {}
        }
    }
}
