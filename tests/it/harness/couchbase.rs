//! A part of a bucket for one test: in the double, or in the bucket that `JOBBER_TEST_COUCHBASE` names.

use std::path::PathBuf;
use std::sync::Arc;

use jobber::config::CouchbaseUrl;
use jobber::store::StoreError;
use jobber::store::couchbase::{CouchbaseSettings, CouchbaseStore};
use tokio_util::task::TaskTracker;

use super::couchbase_double::CouchbaseDouble;

/// How long the vectors of tests are.
pub const DIMENSION: usize = 2;

/// Keys that nobody else uses.
pub struct Bucket {
    url: String,
    key_prefix: String,
    ca_file: Option<PathBuf>,
    pub double: Option<CouchbaseDouble>,
    pub tasks: TaskTracker,
}

impl Bucket {
    /// Of this double.
    pub fn of(double: CouchbaseDouble) -> Self {
        let ca_file = double.options().tls.then(|| double.ca());
        Self { double: Some(double), ca_file, ..Self::at(String::new()) }.with_doubles_url()
    }

    /// Of the live bucket if there is one, else of a new double. A live bucket keeps the documents, under keys that begin
    /// with `test-`.
    pub fn to_test_on() -> Self {
        match std::env::var("JOBBER_TEST_COUCHBASE") {
            Ok(url) if !url.is_empty() => Self::at(url),
            _ => Self::of(CouchbaseDouble::start()),
        }
    }

    fn at(url: String) -> Self {
        let key_prefix = format!("test-{}:", &uuid::Uuid::new_v4().simple().to_string()[..16]);
        let ca_file = std::env::var_os("JOBBER_TEST_COUCHBASE_CA").map(PathBuf::from);
        Self { url, key_prefix, ca_file, double: None, tasks: TaskTracker::new() }
    }

    fn with_doubles_url(mut self) -> Self {
        self.url = self.double().url();
        self
    }

    /// The double, in a test that needs one.
    pub fn double(&self) -> &CouchbaseDouble {
        self.double.as_ref().expect("the test made it of a double")
    }

    pub fn settings(&self) -> CouchbaseSettings {
        let url =
            CouchbaseUrl::parse(&self.url).expect("JOBBER_TEST_COUCHBASE is couchbase://user:password@host/bucket");
        CouchbaseSettings {
            connection: url.connection(),
            username: url.username,
            password: url.password,
            bucket: url.bucket,
            scope: "_default".to_owned(),
            key_prefix: self.key_prefix.clone(),
            ca_file: self.ca_file.clone().filter(|_| url.tls),
            dimension: Some(DIMENSION),
        }
    }

    pub async fn try_open(&self) -> Result<Arc<CouchbaseStore>, StoreError> {
        CouchbaseStore::open(self.settings(), &self.tasks).await
    }

    pub async fn open(&self) -> Arc<CouchbaseStore> {
        self.try_open().await.unwrap()
    }
}
