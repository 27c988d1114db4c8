//! Builds the jobs of a team for `jobber dev`: at its start, and whenever their sources change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// How often sources are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The most files that are watched in a directory of sources, and how deep they may lie.
const MOST_FILES: usize = 10_000;
const DEPTH: usize = 16;

/// The files of sources, with what changes when they are written.
type Snapshot = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// Directories with sources of jobs, and where the jobs are put.
pub(super) struct JobSources {
    directories: Vec<SourceDirectory>,
    jobs_dir: PathBuf,
    data_dir: PathBuf,
}

/// A directory with sources, and its files as they were when its jobs were last built.
struct SourceDirectory {
    path: PathBuf,
    built: Snapshot,
}

impl JobSources {
    pub(super) fn new(directories: Vec<PathBuf>, config: &Config) -> Self {
        let directories = directories.into_iter().map(|path| SourceDirectory { path, built: Snapshot::new() });
        let (jobs_dir, data_dir) = (config.worker.jobs_dir.clone(), config.data_dir.clone());
        Self { directories: directories.collect(), jobs_dir, data_dir }
    }

    /// Builds all jobs.
    ///
    /// # Errors
    /// Those of [`build_jobs`].
    pub(super) async fn build(&mut self) -> anyhow::Result<()> {
        for at in 0..self.directories.len() {
            // Before they are built: what is written meanwhile is a change.
            self.directories[at].built = self.look(at);
            build_jobs(&self.directories[at].path, &self.jobs_dir).await?;
        }
        Ok(())
    }

    /// Builds the jobs of a directory anew when a file in it has changed, until `stop`. What does not compile leaves the
    /// jobs as they are.
    pub(super) async fn rebuild(mut self, stop: CancellationToken) {
        if self.directories.is_empty() {
            return;
        }
        let work = async {
            loop {
                tokio::time::sleep(LOOK).await;
                for at in 0..self.directories.len() {
                    let found = self.settled(at).await;
                    let SourceDirectory { path, built } = &mut self.directories[at];
                    if found != *built {
                        tracing::info!(files = changes(built, &found), "the source of jobs has changed");
                        *built = found;
                        build_again(path, &self.jobs_dir).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// The files of a directory. While they change, as editors and version control write several, waits for the last.
    async fn settled(&self, at: usize) -> Snapshot {
        let mut now = self.look(at);
        let mut before = self.directories[at].built.clone();
        while now != before {
            tokio::time::sleep(LOOK / 2).await;
            before = std::mem::replace(&mut now, self.look(at));
        }
        now
    }

    fn look(&self, at: usize) -> Snapshot {
        // Sources may lie above these, and Jobber itself writes there.
        let own = [&self.jobs_dir, &self.data_dir].map(|own| own.canonicalize().unwrap_or_default());
        tokio::task::block_in_place(|| files(&self.directories[at].path, &own))
    }
}

/// Builds the jobs of a directory, and says which of them are new.
async fn build_again(directory: &Path, jobs_dir: &Path) {
    let before = binaries(jobs_dir);
    if let Err(error) = build_jobs(directory, jobs_dir).await {
        let error = format!("{error:#}");
        return tracing::error!(error, "the jobs stay as they were built before");
    }
    let after = binaries(jobs_dir);
    let new = after.iter().filter(|(file, state)| before.get(*file) != Some(state));
    let names: Vec<_> = new.filter_map(|(file, _)| file.file_name()?.to_str()).collect();
    match names.is_empty() {
        true => tracing::info!("the jobs are as they were"),
        false => tracing::info!(jobs = names.join(", "), "built; attempts from now on run the new build"),
    }
}

/// Builds the jobs of a directory into `jobs_dir`: by its Makefile, else by its CMakeLists.txt. Both are told the place as
/// `JOBS_DIR`. What the compiler says goes to stderr.
///
/// # Errors
/// When there is neither file, `make`, `cmake` or the compiler is missing, or a job does not compile.
pub async fn build_jobs(directory: &Path, jobs_dir: &Path) -> anyhow::Result<()> {
    let jobs_dir = std::path::absolute(jobs_dir)?;
    fs_err::create_dir_all(&jobs_dir)?;
    let (directory, place) = (directory.to_owned(), format!("JOBS_DIR={}", jobs_dir.display()));
    tracing::info!(from = %directory.display(), to = %jobs_dir.display(), "building the jobs");
    tokio::task::spawn_blocking(move || {
        let shown = directory.display();
        if directory.join("Makefile").exists() {
            let make = program("make")
                .args(["--no-print-directory", "--silent", "-j2", "-C"])
                .arg(&directory)
                .arg(place)
                .status();
            return ended(make, "make", &directory);
        }
        if !directory.join("CMakeLists.txt").exists() {
            bail!("{shown} has no Makefile and no CMakeLists.txt, so there is nothing to build");
        }
        let build = directory.join("build");
        let configure = program("cmake")
            .args(["--log-level=WARNING", "-S"])
            .arg(&directory)
            .arg("-B")
            .arg(&build)
            .arg(format!("-D{place}"))
            .status();
        ended(configure, "cmake", &directory)?;
        ended(program("cmake").arg("--build").arg(&build).args(["--parallel", "2"]).status(), "cmake", &directory)
    })
    .await?
}

/// A command whose standard output is this process's stderr.
fn program(name: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is make, not a job")]
    let mut command = Command::new(name);
    command.stdout(std::io::stderr());
    command
}

fn ended(status: std::io::Result<ExitStatus>, name: &str, directory: &Path) -> anyhow::Result<()> {
    let status = status.with_context(|| {
        format!("{name} can't be started; install {name} and a C++ compiler (Debian: apt-get install {name} g++)")
    })?;
    if !status.success() {
        bail!("the jobs of {} could not be built ({status}); see the messages above", directory.display());
    }
    Ok(())
}

/// The files of a directory of sources and of those below it: none that are hidden, and none in `build` or in those of
/// Jobber's `own`.
fn files(directory: &Path, own: &[PathBuf]) -> Snapshot {
    let mut found = Snapshot::new();
    let mut left = vec![(directory.to_owned(), 0)];
    while let Some((directory, depth)) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_passed_over = name.as_encoded_bytes().starts_with(b".") || name == "build";
            // A link to a file is that file; a link to a directory may lead round in a circle.
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            if kind.is_dir() && !is_passed_over && depth < DEPTH {
                if path.canonicalize().is_ok_and(|path| !own.contains(&path)) {
                    left.push((path, depth + 1));
                }
            } else if !kind.is_dir() && !is_passed_over && found.len() < MOST_FILES {
                add(&mut found, path);
            }
        }
    }
    found
}

/// The files that lie in a jobs directory.
fn binaries(jobs_dir: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    for entry in std::fs::read_dir(jobs_dir).into_iter().flatten().flatten() {
        add(&mut found, entry.path());
    }
    found
}

fn add(found: &mut Snapshot, path: PathBuf) {
    if let Ok(metadata) = std::fs::metadata(&path)
        && metadata.is_file()
    {
        found.insert(path, (metadata.modified().ok(), metadata.len()));
    }
}

/// Names what differs: a few files.
fn changes(before: &Snapshot, after: &Snapshot) -> String {
    const NAMED: usize = 3;
    let written = after.iter().filter(|(file, state)| before.get(*file) != Some(state)).map(|(file, _)| file);
    let gone = before.keys().filter(|file| !after.contains_key(*file));
    let all: Vec<_> = written.chain(gone).map(|file| file.display().to_string()).collect();
    match all.len().checked_sub(NAMED) {
        None | Some(0) => all.join(", "),
        Some(more) => format!("{} and {more} more", all[..NAMED].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jobber_and_the_compiler_write_is_no_source() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in [
            "one.cpp",
            "deep/er/two.hpp",
            ".git/index",
            "build/one.o",
            "deep/build/two.o",
            "jobs/one",
            "data/jobber.db",
        ] {
            fs_err::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs_err::write(at(path), "x").unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), at("round")).unwrap();
        let own = ["jobs", "data"].map(|name| at(name).canonicalize().unwrap());
        let found: Vec<_> = files(dir.path(), &own).into_keys().collect();
        assert_eq!(found, [at("deep/er/two.hpp"), at("one.cpp")]);
        assert_eq!(files(&at("nowhere"), &own), Snapshot::new());
    }

    #[test]
    fn few_of_many_changes_are_named() {
        let state = |n| (None, n);
        let all: Snapshot = (0..5).map(|n| (PathBuf::from(format!("f{n}")), state(1))).collect();
        let mut one = all.clone();
        one.insert("f1".into(), state(2));
        one.remove(Path::new("f4"));
        assert_eq!(changes(&all, &one), "f1, f4");
        assert_eq!(changes(&Snapshot::new(), &all), "f0, f1, f2 and 2 more");
    }
}
