//! `jobber openapi`: prints the description of the HTTP API.

use std::process::ExitCode;

use super::{Console, Exit};

/// Prints the document, which does not depend on any configuration.
pub fn openapi(document: &str, mut console: Console) -> ExitCode {
    match console.data(document.as_bytes()).and_then(|()| console.data(b"\n")) {
        Ok(()) => Exit::OK.into(),
        Err(error) => {
            console.report(&error);
            Exit::of_error(&error).into()
        }
    }
}
