//! The double as a process of its own, for the live suite and for trying things out.

use std::io::Read;

use crate::harness::couchbase_double::{CouchbaseDouble, Options};

/// Prints its URL and serves until its input ends. `JOBBER_DOUBLE=key-value` leaves the other services out.
///
/// `cargo test --test it double::alone -- --ignored --nocapture`
#[test]
#[ignore = "a server, not a check"]
fn serves_until_its_input_ends() {
    let services = std::env::var("JOBBER_DOUBLE").unwrap_or_default() != "key-value";
    let double = CouchbaseDouble::with(Options { query: services, search: services, ..Options::default() });
    println!("{}", double.url());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let left = double.bucket(|bucket| bucket.keys());
    println!("{} documents are left: {left:?}", left.len());
}
