//! What must hold of every data directory when its processes have ended, however they ended: the aggregates equal a
//! recount of the documents.

use jobber::domain::Clock;
use jobber::projector::compare;
use jobber::sqlite::{Durability, Sqlite};
use jobber::store::embedded::EmbeddedStore;

use super::Place;

/// Recounts the documents of the place's store, if it has one, and compares.
pub fn check(place: &Place) {
    let file = place.data_dir().join("jobber.db");
    if !file.exists() {
        return;
    }
    // A runtime of its own, on a thread of its own: the caller's may be the one that is just being dropped.
    let (differing, builds) = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let db = Sqlite::open(&file, Durability::Process).unwrap();
            let store = EmbeddedStore::open(db).await.unwrap();
            let found = compare(&*store, Clock::system().now()).await.unwrap();
            (found.differing, found.builds)
        })
    })
    .join()
    .expect("the recount can be made");
    assert!(differing.is_empty(), "these aggregates differ from a recount: {differing:?}");
    assert!(builds.is_empty(), "these builds differ from a recount: {builds:?}");
}
