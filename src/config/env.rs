//! The only reader of the process's environment.

use std::collections::BTreeMap;

/// Reads every variable whose name and value are valid UTF-8.
#[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
pub fn read() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}
