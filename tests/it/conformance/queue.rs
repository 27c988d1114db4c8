//! What every queue must do.

async fn embedded() {}

async fn a_case(_fixture: ()) {}

conformance! {
    suite queue { a_case } for embedded
}
