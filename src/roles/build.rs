//! Builds the C++ jobs for `jobber dev`.

use std::path::Path;

use anyhow::{Context, bail};

/// Runs `make` in `sources`, which puts every job into `jobs_dir`. The compiler's output goes to stderr.
///
/// # Errors
/// When there is no `make` or no compiler, or a job does not compile.
pub(super) async fn jobs(sources: &Path, jobs_dir: &Path) -> anyhow::Result<()> {
    let jobs_dir = std::path::absolute(jobs_dir)?;
    fs_err::create_dir_all(&jobs_dir)?;
    let (sources, jobs_dir) = (sources.to_owned(), jobs_dir);
    tracing::info!(from = %sources.display(), to = %jobs_dir.display(), "building the C++ jobs");
    let status = tokio::task::spawn_blocking(move || {
        #[expect(clippy::disallowed_methods, reason = "this is make, not a job")]
        std::process::Command::new("make")
            .args(["--no-print-directory", "--silent", "-j2", "-C"])
            .arg(&sources)
            .arg(format!("JOBS_DIR={}", jobs_dir.display()))
            .stdout(std::io::stderr())
            .status()
    })
    .await?
    .context("make can't be started; install make and a C++ compiler (Debian: apt-get install make g++)")?;
    if !status.success() {
        bail!("the C++ jobs could not be built ({status}); see the compiler's messages above");
    }
    Ok(())
}
