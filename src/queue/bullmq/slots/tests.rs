//! Who gets a slot, without Redis.

use super::*;
use crate::domain::{QueueOrder, QueueShare, WorkerId};

fn slots(shares: &[&str], concurrency: usize) -> (Arc<SharedSlots>, watch::Sender<usize>) {
    let queues = shares.iter().map(|share| QueueShare::parse(share).unwrap()).collect();
    let options = ClaimOptions::new(WorkerId::generate("host"), concurrency, 4);
    let options = ClaimOptions { queues, order: QueueOrder::Weighted, ..options };
    let (sender, receiver) = watch::channel(concurrency);
    (Arc::new(SharedSlots::new(&options, receiver)), sender)
}

fn ready(jobs: &[usize]) -> Ready {
    Ready { jobs: jobs.to_vec(), is_open: vec![true; jobs.len()] }
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_a_slot_costs_one_job_put_back() {
    let (slots, _concurrency) = slots(&["a", "b"], 1);
    assert_eq!((slots.fetches(0), slots.fetches(1)), (1, 1), "both look for jobs");
    assert_eq!(slots.deal(&ready(&[9, 9])), None);
    let held = slots.admit(0).await.unwrap();
    assert!(slots.admit(1).await.is_none());
    let mut blocked = Box::pin(slots.block(1));
    assert!(futures_util::poll!(&mut blocked).is_pending());
    // The one blocked fetch is all that BullMQ's worker may have out: it fetches nothing more.
    assert_eq!(slots.fetches(1), 1);
    assert!(!slots.needs_look());
    drop(held);
    tokio::time::sleep(FETCHING).await;
    assert_eq!(slots.deal(&ready(&[9, 9])), None);
    assert_eq!(slots.fetches(1), 2, "a slot, beside the blocked fetch");
    assert!(slots.admit(1).await.is_some());
    assert!(futures_util::poll!(&mut blocked).is_pending(), "it goes on when a slot is left over");
    tokio::time::sleep(FETCHING).await;
    assert_eq!(slots.deal(&ready(&[0, 0])), None);
    assert!(futures_util::poll!(&mut blocked).is_ready());
}

#[tokio::test(start_paused = true)]
async fn slots_that_a_queue_makes_nothing_of_go_to_others() {
    let (slots, _concurrency) = slots(&["a", "b"], 4);
    slots.started(0);
    slots.deal(&ready(&[9, 9]));
    assert_eq!((slots.fetches(0), slots.fetches(1)), (2, 2));
    slots.drained(0);
    slots.deal(&ready(&[0, 9]));
    assert_eq!((slots.fetches(0), slots.fetches(1)), (1, 4));
    slots.drained(1);
    // A queue that has jobs and gives none is limited by BullMQ.
    slots.deal(&ready(&[9, 0]));
    assert_eq!(slots.fetches(0), 4);
    tokio::time::sleep(WITHHELD).await;
    slots.deal(&ready(&[9, 9]));
    assert_eq!((slots.fetches(0), slots.fetches(1)), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn fewer_leases_than_were_dealt_are_out_when_fewer_are_wanted() {
    let (slots, concurrency) = slots(&["a", "b"], 4);
    slots.deal(&ready(&[9, 9]));
    let _held = slots.admit(0).await.unwrap();
    concurrency.send_replace(1);
    assert!(slots.admit(1).await.is_none());
    assert!(slots.admit(0).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_ends_lets_go_on_what_waits() {
    let (slots, _concurrency) = slots(&["a", "b"], 1);
    let mut waiting = Box::pin(slots.admit(0));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    slots.close();
    assert!(waiting.await.is_none());
    slots.block(0).await;
    assert!(slots.admit(1).await.is_none());
    slots.block(1).await;
}
