//! Lists of jobs: which index serves which, and what is said where none can.

use jobber::domain::{GroupName, JobState, PageRequest};
use jobber::store::{History, JobFilter};
use serde_json::{Value, json};

use super::{events, fold};
use crate::harness::couchbase::Bucket;
use crate::harness::couchbase_double::{CouchbaseDouble, Service};

/// Runs a statement as an operator would.
pub async fn query(double: &CouchbaseDouble, statement: &str) -> Vec<Value> {
    let url = format!("{}/query/service", double.http(Service::Query));
    let body = json!({ "statement": statement, "query_context": "default:jobber._default" });
    let asked = reqwest::Client::new().post(url).basic_auth("jobber", Some("secret")).json(&body).send().await.unwrap();
    let answer: Value = asked.json().await.unwrap();
    assert_eq!(answer["status"], json!("success"), "{statement}: {answer}");
    answer["results"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_its_own_serves_lists_by_error() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = bucket.open().await;
    store.prepared().await;
    let events = events(40);
    fold(&*store, &events, 50).await;
    let failed = &events[0].1.job().unwrap().job.id;
    let errors = store.job(failed).await.unwrap().unwrap().errors().as_slice().to_vec();
    assert!(!errors.is_empty(), "job 0 fails");
    let by_error = JobFilter { errors, states: vec![JobState::Failed], ..JobFilter::default() };
    let listed = async || store.jobs(&by_error, PageRequest::first(100)).await;
    let before = listed().await.unwrap();
    assert!(before.items.iter().any(|job| job.id == *failed));

    for index in query(bucket.double(), "SELECT RAW name FROM system:indexes").await {
        let name = index.as_str().unwrap();
        if name != "jobber_by_error" {
            query(bucket.double(), &format!("DROP INDEX `{name}` ON jobs")).await;
        }
    }
    assert_eq!(listed().await.unwrap(), before);
    assert_eq!(bucket.double().sorts(), 0);
    let all = store.jobs(&JobFilter::default(), PageRequest::first(100)).await.unwrap_err();
    assert!(all.to_string().contains("needs an index that is missing"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_served_by_indexes_of_their_own() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = bucket.open().await;
    store.prepared().await;
    for index in query(bucket.double(), "SELECT RAW name FROM system:indexes").await {
        let name = index.as_str().unwrap();
        if !["jobber_by_group", "jobber_by_index"].contains(&name) {
            query(bucket.double(), &format!("DROP INDEX `{name}` ON jobs")).await;
        }
    }
    let group: GroupName = "g".parse().unwrap();
    store.group(&group).await.unwrap();
    store.group_jobs(&group, PageRequest::first(5)).await.unwrap();
    let listed = JobFilter { group: Some(group), name: Some("n".parse().unwrap()), ..JobFilter::default() };
    store.jobs(&listed, PageRequest::first(5)).await.unwrap();
    assert_eq!(bucket.double().sorts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_query_service_a_list_says_so() {
    let bucket = Bucket::of(CouchbaseDouble::key_value_only());
    let store = bucket.open().await;
    let by_error = JobFilter { errors: vec![jobber::domain::Fingerprint::OTHER], ..JobFilter::default() };
    for (filter, what) in
        [(JobFilter::default(), "the list of jobs"), (by_error, "the list of jobs by error or category")]
    {
        let error = store.jobs(&filter, PageRequest::first(5)).await.unwrap_err();
        let expected = format!("{what} needs Couchbase's query service, which this cluster has not");
        assert_eq!(error.to_string(), expected);
    }
}

/// One range of the index for each error, merged: the service never sorts everything that failed with one of them, and the
/// pages of the list are those of one list.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_by_several_errors_is_merged_from_one_range_each() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = bucket.open().await;
    store.prepared().await;
    let events = events(120);
    fold(&*store, &events, 50).await;
    let everything = store.jobs(&JobFilter::default(), PageRequest::first(200)).await.unwrap();
    let mut errors = std::collections::BTreeSet::new();
    let mut expected = Vec::new();
    for line in &everything.items {
        let of_job = store.job(&line.id).await.unwrap().unwrap().errors();
        let is_failed = line.state == JobState::Failed;
        expected.extend((is_failed && !of_job.as_slice().is_empty()).then(|| line.id.clone()));
        errors.extend(of_job.as_slice().iter().copied());
    }
    let errors: Vec<_> = errors.into_iter().collect();
    assert!(expected.len() > 10);
    let states = vec![JobState::Failed, JobState::Active];
    let filter = JobFilter { errors: errors.clone(), states, ..JobFilter::default() };
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.jobs(&filter, PageRequest { limit: 4, cursor }).await.unwrap();
        found.extend(page.items.into_iter().map(|line| line.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, expected);
    assert_eq!(bucket.double().sorts(), 0, "{} errors", errors.len());
}
