//! The Couchbase adapter beyond what every store must do.
