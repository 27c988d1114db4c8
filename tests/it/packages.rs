//! What packages are made of: scripts that a shell can read, and a list of files that leaves out none of those that
//! `tools/stage-package` lays out. `make test-packages` builds, installs and runs them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::binary;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder, by their paths within it.
fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn every_script_can_be_read() {
    let mut count = 0;
    for folder in ["deploy/debian", "deploy/rpm", "tools", "tests/packages"] {
        for file in files_below(&root().join(folder)) {
            let path = root().join(folder).join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            let is_script = text.starts_with("#!/bin/") || path.extension().is_none() || path.ends_with("lib.sh");
            if !is_script {
                continue;
            }
            let mut command = match text.lines().next() {
                Some("#!/usr/bin/env python3") => {
                    let mut python = Command::new("python3");
                    python.args(["-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())"]);
                    python
                }
                first => {
                    let mut shell = Command::new(if first == Some("#!/bin/bash") { "bash" } else { "sh" });
                    shell.arg("-n");
                    shell
                }
            };
            let read = command.arg(&path).output().unwrap();
            assert!(read.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&read.stderr));
            count += 1;
        }
    }
    assert!(count >= 20, "{count}");
}

/// What a package's list names below the tree that is laid out: the source, the place, the mode.
fn assets(kind: &str) -> Vec<[String; 3]> {
    let manifest: toml::Value = toml::from_str(&std::fs::read_to_string(root().join("Cargo.toml")).unwrap()).unwrap();
    let assets = manifest["package"]["metadata"][kind]["assets"].as_array().unwrap();
    let words = |asset: &toml::Value| match asset.as_array() {
        Some(words) => [0, 1, 2].map(|at| words[at].as_str().unwrap().to_owned()),
        None => ["source", "dest", "mode"].map(|key| asset[key].as_str().unwrap().to_owned()),
    };
    let all = assets.iter().map(words);
    all.filter_map(|[source, place, mode]| {
        Some([source.strip_prefix("target/package/root/")?.to_owned(), place.trim_start_matches('/').to_owned(), mode])
    })
    .collect()
}

#[test]
fn each_package_holds_all_that_is_laid_out_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("root");
    // As the Makefile does, by a path that is not absolute.
    let mut stage = Command::new(root().join("tools/stage-package"));
    let stage = stage.args([binary(), "root"]).current_dir(&dir).output().unwrap();
    assert!(stage.status.success(), "{}", String::from_utf8_lossy(&stage.stderr));
    let files = files_below(&tree);
    for needed in [
        "usr/bin/jobber",
        "usr/lib/systemd/system/jobber-serve.service",
        "usr/lib/systemd/system/jobber-work.service",
        "usr/lib/sysusers.d/jobber.conf",
        "usr/share/man/man1/jobber.1.gz",
        "usr/share/doc/jobber/config.example.toml",
        "etc/jobber/jobber.env",
        "etc/jobber/jobber.toml",
    ] {
        assert!(files.contains(Path::new(needed)), "{needed}: {files:#?}");
    }
    for unit in files.iter().filter(|path| path.extension().is_some_and(|end| end == "service")) {
        let text = std::fs::read_to_string(tree.join(unit)).unwrap();
        assert!(text.contains("ExecStart=/usr/bin/jobber ") && !text.contains("/usr/local"), "{}", unit.display());
        let documented = text.lines().find_map(|line| line.strip_prefix("Documentation=file:///")).unwrap();
        assert!(files.contains(Path::new(documented)), "{documented}");
    }
    for kind in ["deb", "generate-rpm"] {
        let assets = assets(kind);
        let mut left = files.clone();
        for [source, place, mode] in &assets {
            let before = left.len();
            match source.strip_suffix("**/*") {
                // Files keep their places below such a folder, so the folder must be the same.
                Some(folder) => {
                    assert_eq!(folder, place, "{kind}");
                    left.retain(|file| !file.starts_with(folder));
                }
                None => left.retain(|file| file != Path::new(source)),
            }
            assert!(left.len() < before, "{kind}: there is no {source}");
            let expected = if source.ends_with("jobber.env") { "600" } else { "644" };
            assert_eq!(mode, if source == "usr/bin/jobber" { "755" } else { expected }, "{kind}: {source}");
        }
        assert!(left.is_empty(), "the {kind} package lacks {left:#?}");
    }
}

#[test]
fn what_is_no_jobber_is_not_packaged() {
    let dir = tempfile::tempdir().unwrap();
    for (program, why) in [("/bin/true", "is not jobber"), ("/does/not/exist", "is not there")] {
        let stage = Command::new(root().join("tools/stage-package")).args([program, "root"]).current_dir(&dir).output();
        let stage = stage.unwrap();
        let said = String::from_utf8_lossy(&stage.stderr);
        assert!(!stage.status.success() && said.contains(why), "{said}");
    }
    assert!(files_below(dir.path()).is_empty());
}
