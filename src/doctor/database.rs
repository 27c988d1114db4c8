//! The embedded database: opens, is whole, has tables that this Jobber knows.

use std::path::Path;

use super::{Finding, SchemaVersions, size};
use crate::sqlite::{Inspection, inspect};

const CHECK: &str = "database";

/// Judges the database file, if there is one.
pub(super) fn check(file: &Path, known: &SchemaVersions) -> Finding {
    if !file.exists() {
        return Finding::ok(CHECK, "there is none yet; the first start makes it");
    }
    match inspect(file) {
        Ok(inspection) => judge(file, &inspection, known),
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            Finding::failed(CHECK, format!("{error}{cause}"), "check the owner and the mode of the file and its folder")
        }
    }
}

fn judge(file: &Path, inspection: &Inspection, known: &SchemaVersions) -> Finding {
    if let Some(damage) = &inspection.damage {
        return Finding::failed(
            CHECK,
            format!("{} is damaged: {damage}", file.display()),
            format!(
                "stop every jobber on it, keep a copy, then save what can be read: sqlite3 {} .recover | sqlite3 new.db",
                file.display()
            ),
        );
    }
    let newer = inspection.versions.iter().find(|(adapter, version)| {
        known.iter().any(|(name, most)| name == adapter && usize::try_from(*version).is_ok_and(|v| v > *most))
    });
    if let Some((adapter, version)) = newer {
        return Finding::failed(
            CHECK,
            format!("its {adapter} tables have version {version}, made by a newer jobber"),
            "run that newer jobber, or restore the backup that was made before it was installed",
        );
    }
    let older = known.iter().any(|(name, most)| {
        inspection.versions.iter().any(|(a, v)| a == name && usize::try_from(*v).is_ok_and(|v| v < *most))
    });
    let note = if older { "; the next start brings its tables up to date" } else { "" };
    let log = if inspection.log_bytes > LARGE_LOG {
        let found = format!("whole, but its log has grown to {}", size(inspection.log_bytes));
        return Finding::warning(
            CHECK,
            found,
            "somebody reads for very long and keeps the log from being folded in: look for open sqlite3 shells",
        );
    } else {
        size(inspection.log_bytes)
    };
    Finding::ok(CHECK, format!("whole, {} and {log} of log{note}", size(inspection.bytes)))
}

/// The size in bytes of a log that is too large: one that is folded in as it should be stays far below it.
const LARGE_LOG: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    fn inspection(versions: &[(&str, i64)]) -> Inspection {
        let versions = versions.iter().map(|(a, v)| ((*a).to_owned(), *v)).collect();
        Inspection { damage: None, versions, bytes: 3 << 20, log_bytes: 1 << 20 }
    }

    #[test]
    fn tables_of_a_newer_jobber_fail_and_older_ones_do_not() {
        let judge = |found: &Inspection| judge(Path::new("x.db"), found, &vec![("queue", 2)]);
        assert_eq!(judge(&inspection(&[("queue", 2)])).found, "whole, 3072 KiB and 1024 KiB of log");
        assert!(judge(&inspection(&[("queue", 1)])).found.contains("up to date"));
        assert_eq!(judge(&inspection(&[("queue", 3)])).status, Health::Failed);
        assert_eq!(judge(&inspection(&[("plugin", 9)])).status, Health::Ok);
        assert_eq!(judge(&Inspection { log_bytes: 1 << 30, ..inspection(&[]) }).status, Health::Warning);
        assert_eq!(judge(&Inspection { damage: Some("row 7".into()), ..inspection(&[]) }).status, Health::Failed);
    }

    #[test]
    fn what_is_no_database_fails() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("jobber.db");
        assert_eq!(check(&file, &vec![]).status, Health::Ok);
        fs_err::write(&file, "this is certainly no database, but long enough to look like one".repeat(100)).unwrap();
        let finding = check(&file, &vec![]);
        assert_eq!(finding.status, Health::Failed, "{finding:?}");
    }
}
