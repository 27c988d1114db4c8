//! What an attempt finds when its program starts: its directories, and the variables that are its own.

use std::path::{Path, PathBuf};

use super::environment::{self, Variable};
use super::order::{RunOrder, RunnerSettings};
use super::sandbox::Sandboxes;
use super::scratch::{Scratch, WorkDir};
use super::slots::Slot;
use super::spawn::SpawnError;
use crate::domain::SandboxLevel;

/// The name of the file in its scratch directory to which a job may write why it failed.
const ERROR_FILE: &str = ".jobber-error";
/// The file in its scratch directory in which a job finds the results of its parents.
const RESULTS_FILE: &str = ".jobber-results.json";

/// The directories and variables of one attempt. Dropping it removes the directories.
pub(super) struct Surroundings<'a> {
    scratch: &'a Scratch,
    work_dir: Option<WorkDir>,
    variables: Vec<Variable>,
    error_file: PathBuf,
}

impl<'a> Surroundings<'a> {
    /// Makes them for an attempt that has this slot.
    ///
    /// # Errors
    /// When this worker can't make a directory or a file now.
    pub(super) fn make(
        scratch: &'a Scratch,
        settings: &RunnerSettings,
        sandboxes: &Sandboxes,
        slot: &Slot,
        order: &RunOrder,
    ) -> Result<Self, SpawnError> {
        let work_dir = scratch.make().map_err(|error| SpawnError::of_worker(error.to_string()))?;
        let error_file = work_dir.path.join(ERROR_FILE);
        let mut variables = environment::of_attempt(
            order,
            settings.worker.as_str(),
            slot,
            settings.pin,
            [("JOBBER_ERROR_FILE", &error_file), ("JOBBER_OUTPUT_DIR", &work_dir.output_path)],
        );
        let mut set = |name: &'static str, path: &Path| {
            variables.push((name.into(), path.to_string_lossy().into_owned()));
        };
        if let Some(inputs) = &order.inputs {
            set("JOBBER_INPUT_DIR", inputs.path());
        }
        if let Some(sandbox) = sandboxes.of(&order.job.name)
            && sandbox.level() == SandboxLevel::Strict
        {
            // Compilers and libraries make their temporary files there; /tmp is shut to it.
            set("TMPDIR", &work_dir.path);
        }
        let results = (!order.results_before.is_empty()).then(|| work_dir.path.join(RESULTS_FILE));
        if let Some(results) = &results {
            set("JOBBER_RESULTS_FILE", results);
        }
        let surroundings = Self { scratch, work_dir: Some(work_dir), variables, error_file };
        if let Some(results) = results {
            let text = serde_json::to_vec(&order.results_before).unwrap_or_default();
            fs_err::write(results, text).map_err(|error| SpawnError::of_worker(error.to_string()))?;
        }
        Ok(surroundings)
    }

    /// The variables that only this attempt gets.
    pub(super) fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// The file to which the job may write why it failed.
    pub(super) fn error_file(&self) -> &Path {
        &self.error_file
    }

    /// The working directory, and the variables.
    pub(super) fn parts(&mut self) -> (&mut WorkDir, &[Variable]) {
        (self.work_dir.as_mut().expect("it is there until it is taken or dropped"), &self.variables)
    }

    /// Takes the working directory, if the job has left files that are kept. Who takes it removes it.
    pub(super) fn take_files(&mut self) -> Option<WorkDir> {
        self.work_dir.take_if(|work_dir| work_dir.output().is_some())
    }
}

impl Drop for Surroundings<'_> {
    fn drop(&mut self) {
        if let Some(work_dir) = self.work_dir.take() {
            self.scratch.remove(work_dir);
        }
    }
}
