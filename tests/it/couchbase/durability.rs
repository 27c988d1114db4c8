//! What writes wait for, and what is done where the bucket can't give it.

use jobber::domain::WriteDurability;
use jobber::store::couchbase::{CouchbaseSettings, CouchbaseStore};
use jobber::store::{History, Projection};

use super::{events, fold, same_as_in_sqlite};
use crate::harness::couchbase::Bucket;
use crate::harness::couchbase_double::CouchbaseDouble;
use crate::harness::couchbase_double::documents::Durable;

async fn opened(bucket: &Bucket, durability: WriteDurability) -> std::sync::Arc<CouchbaseStore> {
    let settings = CouchbaseSettings { durability, ..bucket.settings() };
    CouchbaseStore::open(settings, &bucket.tasks).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_wait_for_what_the_setting_says() {
    for (_, durability) in WriteDurability::ALL {
        let bucket = Bucket::of(CouchbaseDouble::start());
        let store = opened(&bucket, durability).await;
        store.prepared().await;
        fold(&*store, &events(20), 10).await;
        let asked = bucket.double().bucket(|bucket| bucket.asked.clone());
        let level = WriteDurability::ALL.iter().position(|(_, level)| *level == durability).unwrap();
        let level = (level > 0).then_some(level as u8);
        assert_eq!(asked.into_iter().collect::<Vec<_>>(), [level], "{durability:?}");
        assert_eq!(store.lacks(), None);
    }
}

/// A bucket with replicas on a single node can do no durable write, one that is in memory no persistent ones.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_bucket_cant_do_is_not_asked_for() {
    let all = events(40);
    for (durable, wanted, instead) in [
        (Durable::Nothing, WriteDurability::Majority, "none"),
        (Durable::Nothing, WriteDurability::PersistToMajority, "none"),
        (Durable::InMemory, WriteDurability::MajorityAndPersistToActive, "majority"),
    ] {
        let bucket = Bucket::of(CouchbaseDouble::start());
        bucket.double().bucket(|bucket| bucket.durable = durable);
        let store = opened(&bucket, wanted).await;
        store.prepared().await;
        fold(&*store, &all, 10).await;
        let lack = store.lacks().unwrap_or_default();
        assert!(lack.contains(&format!("wait for {instead:?}")), "{lack}");
        assert_eq!(store.position().await.unwrap(), all.last().unwrap().0);
        same_as_in_sqlite(&bucket, &all).await;
    }
}
