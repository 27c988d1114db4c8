//! Says that a process is ready, in one line of JSON. So a parent need not search the log for a line.

use std::io::Write;

use anyhow::Context;

/// Writes `{"ready":true,"role":...,"address":...}` to the descriptor, if there is one.
///
/// # Errors
/// When the descriptor is not open for writing.
pub(super) fn announce(fd: Option<u32>, role: &str, address: Option<&str>) -> anyhow::Result<()> {
    let Some(fd) = fd else { return Ok(()) };
    let mut file = fs_err::OpenOptions::new()
        .append(true)
        .open(format!("/proc/self/fd/{fd}"))
        .with_context(|| format!("--ready-fd {fd}: no such open descriptor"))?;
    let line = serde_json::json!({ "ready": true, "role": role, "address": address });
    writeln!(file, "{line}").with_context(|| format!("--ready-fd {fd}"))
}
