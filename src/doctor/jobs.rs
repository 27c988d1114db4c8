//! The jobs directory: whether it is there, and which of its files can be run.

use std::path::Path;

use super::Finding;
use crate::config::Config;
use crate::domain::JobName;
use crate::runner::binary;

/// How many files that can't be run are named.
const NAMED: usize = 3;

/// Counts the jobs that can be run, and tells why the other files can't.
pub(super) fn check(config: &Config) -> Finding {
    const CHECK: &str = "jobs directory";
    let dir = &config.worker.jobs_dir;
    let shown = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    let shown = shown.display();
    let (good, bad) = match survey(dir) {
        Ok(found) => found,
        Err(error) if !config.serve.check_binaries => {
            return Finding::warning(CHECK, error.to_string(), "no matter, if this machine runs no worker");
        }
        Err(error) => {
            return Finding::failed(
                CHECK,
                error.to_string(),
                "make it, or choose another with --jobs-dir or worker.jobs_dir",
            );
        }
    };
    let count = if good == 1 { "1 job".to_owned() } else { format!("{good} jobs") };
    if good == 0 && bad.is_empty() {
        return Finding::warning(CHECK, format!("{shown} is empty"), "put executable files there, one for each job");
    }
    if bad.is_empty() {
        return Finding::ok(CHECK, format!("{count} in {shown}"));
    }
    let rest = bad.len().saturating_sub(NAMED);
    let mut why = bad.into_iter().take(NAMED).collect::<Vec<_>>().join("; ");
    if rest > 0 {
        why.push_str(&format!("; and {rest} more"));
    }
    Finding::warning(CHECK, format!("{count} in {shown}, besides files that can't be run"), why)
}

/// Answers how many files can be run, and the reasons why others can't, by name. Hidden files are
/// not taken for jobs.
fn survey(dir: &Path) -> std::io::Result<(usize, Vec<String>)> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let (mut good, mut bad) = (0, Vec::new());
    for name in names.iter().filter(|name| !name.starts_with('.')) {
        let result = JobName::parse(name)
            .map_err(|error| error.to_string())
            .and_then(|name| binary::resolve(dir, &name).map_err(|error| error.to_string()));
        match result {
            Ok(_) => good += 1,
            Err(why) => bad.push(why),
        }
    }
    Ok((good, bad))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_can_be_run_is_counted_and_the_rest_explained() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("good", 0o755), ("plain", 0o644), (".hidden", 0o644), ("a b", 0o755)] {
            let path = dir.path().join(name);
            fs_err::write(&path, "").unwrap();
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let (good, bad) = survey(dir.path()).unwrap();
        assert_eq!((good, bad.len()), (1, 2), "{bad:?}");
        assert!(bad[0].contains("\"a b\" is not valid") && bad[1].contains("chmod +x"), "{bad:?}");
        assert!(survey(&dir.path().join("none")).is_err());
    }
}
