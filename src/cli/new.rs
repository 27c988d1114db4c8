//! `jobber new`: begins a job, with its source, its build and its test.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::view::{Table, View};
use super::{CliError, Console, Exit};
use crate::domain::JobName;

/// `jobber new`.
#[derive(Debug, Clone, Args)]
pub struct NewArgs {
    /// What the job is called
    #[arg(value_name = "NAME", value_parser = JobName::parse)]
    pub name: JobName,
    /// What it is written in
    #[arg(long, short, value_enum, default_value_t = Language::Cpp)]
    pub language: Language,
    /// What builds it, if it is in C++ [default: make]
    #[arg(long, value_enum)]
    pub build: Option<BuildTool>,
    /// Directory for its source, which must be new or empty [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// Directory of the job binaries, into which it is built
    #[arg(long, value_name = "DIR")]
    pub jobs_dir: Option<PathBuf>,
    /// Only write the source
    #[arg(long)]
    pub no_build: bool,
}

/// What a job is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// C++17, with the header jobber.hpp
    Cpp,
    /// A script for the shell
    Shell,
    /// A script for Python 3
    Python,
}

/// What builds a job in C++.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BuildTool {
    /// A Makefile
    Make,
    /// A CMakeLists.txt
    Cmake,
}

/// A file of a job's source.
struct SourceFile {
    name: String,
    text: String,
    is_program: bool,
}

impl SourceFile {
    fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), is_program: false }
    }

    fn program(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { is_program: true, ..Self::new(name, text) }
    }
}

/// Where a new job is.
#[derive(Serialize)]
struct Begun<'a> {
    name: &'a JobName,
    source: &'a Path,
    /// `None` when it was not built.
    binary: Option<PathBuf>,
}

impl View for Begun<'_> {
    fn table(&self, out: &mut Table) {
        out.field("source", self.source.display().to_string());
        if let Some(binary) = &self.binary {
            out.field("binary", binary.display().to_string());
        }
    }
}

/// Writes the source, has `build` build it into `jobs_dir`, and says how to go on.
pub async fn new(
    args: &NewArgs,
    jobs_dir: &Path,
    mut console: Console,
    build: impl AsyncFnOnce(&Path, &Path) -> anyhow::Result<()>,
) -> ExitCode {
    match begin(args, jobs_dir, &mut console, build).await {
        Ok(()) => Exit::OK.into(),
        Err(error) => {
            console.report(&error);
            Exit::of_error(&error).into()
        }
    }
}

async fn begin(
    args: &NewArgs,
    jobs_dir: &Path,
    console: &mut Console,
    build: impl AsyncFnOnce(&Path, &Path) -> anyhow::Result<()>,
) -> Result<(), CliError> {
    if args.build.is_some() && args.language != Language::Cpp {
        return Err(CliError::Usage("--build is for jobs in C++; make only copies a script".to_owned()));
    }
    let (name, tool) = (&args.name, args.build.unwrap_or(BuildTool::Make));
    let directory = args.into.clone().unwrap_or_else(|| PathBuf::from(name.as_str()));
    write(&directory, &source(name, args.language, tool))?;
    let source = directory.display();
    if !args.no_build {
        build(&directory, jobs_dir).await.map_err(|e| {
            CliError::local(
                format!("{source} has the source, but could not be built (--no-build leaves that out): {e}"),
                e,
            )
        })?;
    }
    let binary = (!args.no_build).then(|| jobs_dir.join(name.as_str()));
    console.show(&Begun { name, source: &directory, binary })?;
    let test = match tool {
        BuildTool::Make => format!("make -C {source} test"),
        BuildTool::Cmake => format!(
            "cmake -S {source} -B {source}/build && cmake --build {source}/build && ctest --test-dir {source}/build"
        ),
    };
    let place = args.jobs_dir.as_ref().map_or(String::new(), |dir| format!(" --jobs-dir {}", dir.display()));
    console.hint(&format!("run it once, without a server: jobber exec {name}{place} -- Ada Grace"));
    console.hint(&format!("test it: {test}"));
    console
        .hint(&format!("serve it, and build it again when its source changes: jobber dev --sources {source}{place}"));
    Ok(())
}

/// Writes a new directory, or an empty one full.
fn write(directory: &Path, files: &[SourceFile]) -> Result<(), CliError> {
    let failed = |e: std::io::Error| CliError::local("the source can't be written", e);
    fs_err::create_dir_all(directory).map_err(failed)?;
    if fs_err::read_dir(directory).map_err(failed)?.next().is_some() {
        let why = format!("{} has files already; name another directory with --into", directory.display());
        return Err(CliError::Usage(why));
    }
    for file in files {
        let path = directory.join(&file.name);
        fs_err::write(&path, &file.text).map_err(failed)?;
        if file.is_program {
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
    }
    Ok(())
}

fn source(name: &JobName, language: Language, tool: BuildTool) -> Vec<SourceFile> {
    let named = |template: &str| template.replace("@JOB@", name.as_str());
    let mut files = vec![SourceFile::program("test.sh", named(include_str!("new/test.sh")))];
    match language {
        Language::Cpp => {
            files.push(SourceFile::new(format!("{name}.cpp"), named(include_str!("new/cpp.cpp"))));
            files.push(SourceFile::new("jobber.hpp", include_str!("../../cpp-jobs/include/jobber.hpp")));
            files.push(match tool {
                BuildTool::Make => SourceFile::new("Makefile", named(include_str!("new/cpp.mk"))),
                BuildTool::Cmake => SourceFile::new("CMakeLists.txt", named(include_str!("new/CMakeLists.txt"))),
            });
        }
        Language::Shell | Language::Python => {
            let (ending, script) = match language {
                Language::Python => ("py", include_str!("new/python.py")),
                _ => ("sh", include_str!("new/shell.sh")),
            };
            let script_name = format!("{name}.{ending}");
            let makefile = named(include_str!("new/script.mk")).replace("@SOURCE@", &script_name);
            files.push(SourceFile::program(script_name, named(script)));
            files.push(SourceFile::new("Makefile", makefile));
        }
    }
    files
}
