//! The targets of notices: whether the programs among them are there. Everything else a configuration tells when it is read.

use std::path::Path;

use rustix::fs::{Access, access};

use super::Finding;
use crate::config::Config;
use crate::notices::{Destination, NoticeTarget};

/// Judges all targets. Nothing is found where there are none.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    const CHECK: &str = "notices";
    if config.notify.is_empty() {
        return Vec::new();
    }
    let missing: Vec<Finding> = config.notify.iter().filter_map(|target| trouble(CHECK, target)).collect();
    if missing.is_empty() {
        let names: Vec<_> = config.notify.iter().map(|target| target.name.as_str()).collect();
        return vec![Finding::ok(CHECK, format!("go to {}; `jobber notify test` tries them", names.join(", ")))];
    }
    missing
}

fn trouble(check: &str, target: &NoticeTarget) -> Option<Finding> {
    let Destination::Command(command) = &target.destination else { return None };
    let found = program_trouble(&command.program)?;
    let fix = format!("correct the command of [[notify]] {}, or install it: chmod +x", target.name);
    Some(Finding::warning(check, found, fix))
}

/// Why the program can't be run. `None` if it can.
fn program_trouble(program: &Path) -> Option<String> {
    match fs_err::metadata(program) {
        Err(error) => Some(error.to_string()),
        Ok(meta) if !meta.is_file() => Some(format!("{} is no file", program.display())),
        Ok(_) if access(program, Access::EXEC_OK).is_err() => {
            Some(format!("{} may not be executed", program.display()))
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_or_may_not_be_executed_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tell");
        assert!(program_trouble(&file).is_some_and(|text| text.contains("No such file")));
        fs_err::write(&file, "#!/bin/sh\n").unwrap();
        assert!(program_trouble(&file).is_some_and(|text| text.contains("may not be executed")));
        assert!(program_trouble(dir.path()).is_some_and(|text| text.contains("is no file")));
        assert_eq!(program_trouble(Path::new("/bin/sh")), None);
    }
}
