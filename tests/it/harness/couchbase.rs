//! A part of a bucket for one test: in the double, or in the bucket that `JOBBER_TEST_COUCHBASE` names.
//!
//! Tests that go by [`Bucket::to_test_on`] make up the live suite. Each has keys of its own in the live bucket and removes
//! what it has written there, by key-value requests alone. The collections and indexes stay: Jobber makes them once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use couchbase::authenticator::PasswordAuthenticator;
use couchbase::cluster::Cluster;
use couchbase::collection::Collection;
use couchbase::error::ErrorKind;
use couchbase::options::cluster_options::{ClusterOptions, TlsOptions};
use jobber::config::CouchbaseUrl;
use jobber::domain::{Clock, Fingerprint, JobId, JobName, PageRequest, Timestamp, WriteDurability};
use jobber::events::Cursor;
use jobber::stats::ShardKey;
use jobber::stats::builds::BuildHistory;
use jobber::store::couchbase::{CouchbaseSettings, CouchbaseStore};
use jobber::store::{
    Categories, Commit, DayRange, History, JobFilter, JobRecord, Learned, Loaded, Projection, Retention, StoreError,
    Term, Versioned,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use super::couchbase_double::CouchbaseDouble;
use super::eventually;

/// How long the vectors of tests are.
pub const DIMENSION: usize = 2;
/// How long one request of the cleaning may take.
const CLEANING: Duration = Duration::from_secs(5);

/// Keys that nobody else uses.
pub struct Bucket {
    url: String,
    key_prefix: String,
    ca_file: Option<PathBuf>,
    written: Arc<Mutex<Written>>,
    pub double: Option<CouchbaseDouble>,
    pub tasks: TaskTracker,
}

impl Bucket {
    /// Of this double.
    pub fn of(double: CouchbaseDouble) -> Self {
        let ca_file = double.options().tls.then(|| double.ca());
        Self::new(double.url(), ca_file, Some(double))
    }

    /// Of the live bucket if there is one, else of a new double.
    pub async fn to_test_on() -> Self {
        match std::env::var("JOBBER_TEST_COUCHBASE") {
            Ok(url) if !url.is_empty() => {
                let ca_file = std::env::var_os("JOBBER_TEST_COUCHBASE_CA").map(PathBuf::from);
                let here = || Self::new(url.clone(), ca_file.clone(), None);
                PREPARED.get_or_init(|| here().prepare()).await;
                here()
            }
            _ => Self::of(CouchbaseDouble::start()),
        }
    }

    fn new(url: String, ca_file: Option<PathBuf>, double: Option<CouchbaseDouble>) -> Self {
        Self {
            url,
            key_prefix: format!("test-{}:", &uuid::Uuid::new_v4().simple().to_string()[..16]),
            ca_file,
            written: Arc::default(),
            double,
            tasks: TaskTracker::new(),
        }
    }

    /// Makes what is missing in a live bucket. Building an index may take a while.
    async fn prepare(self) {
        let store = self.open().await;
        store.prepared().await;
        if store.has_query_service().await.unwrap() {
            eventually("the indexes to be built", async || {
                store.jobs(&JobFilter::default(), PageRequest::first(1)).await.ok()
            })
            .await;
        }
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
            log: None,
            replaces_log: None,
            durability: WriteDurability::None,
            num_replica: None,
        }
    }

    /// What a process is told to keep its history here.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let ca_file = self.settings().ca_file.map(|file| ("JOBBER_STORE_TLS_CA", file.display().to_string()));
        let place = [("JOBBER_STORE_URL", self.url.clone()), ("JOBBER_STORE_KEY_PREFIX", self.key_prefix.clone())];
        place.into_iter().chain(ca_file).collect()
    }

    pub async fn try_open(&self) -> Result<Arc<CouchbaseStore>, StoreError> {
        CouchbaseStore::open(self.settings(), &self.tasks).await
    }

    pub async fn open(&self) -> Arc<CouchbaseStore> {
        self.try_open().await.unwrap()
    }

    /// The store's writing side, which notes what has to be removed in the end.
    pub fn noted(&self, store: Arc<CouchbaseStore>) -> Arc<dyn Projection> {
        Arc::new(Noted { store, written: self.written.clone() })
    }
}

static PREPARED: OnceCell<()> = OnceCell::const_new();

/// Says, also when all goes well, that something is not tested here.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // Not by the macros, whose output is shown for failing tests only.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// What a history is made of.
#[derive(Default)]
struct Written {
    jobs: BTreeMap<JobId, JobName>,
    shards: BTreeSet<ShardKey>,
    errors: BTreeSet<Fingerprint>,
}

impl Written {
    /// Adds what the history tells of itself.
    async fn find(&mut self, history: &dyn History) -> Result<(), StoreError> {
        for name in history.job_names().await? {
            let ids = name.recent.into_iter().chain(name.running);
            self.jobs.extend(ids.map(|id| (id, name.name.clone())));
        }
        for shard in history.shards(DayRange::default(), None).await? {
            self.errors.extend(shard.counts.failures.keys());
            self.shards.insert(shard.key);
        }
        Ok(())
    }

    /// Collections and keys, as docs/architecture/couchbase.md has them.
    fn keys(&self) -> Vec<(&'static str, String)> {
        let mut keys = vec![
            ("aggregates", "names".to_owned()),
            ("aggregates", "projector".to_owned()),
            ("errorCategoriesVectors", "directory".to_owned()),
        ];
        keys.extend(self.jobs.keys().map(|id| ("jobs", id.to_string())));
        keys.extend(self.errors.iter().map(|error| ("errorMessageVectors", error.to_string())));
        let names = self.jobs.values().chain(self.shards.iter().map(|shard| &shard.name)).collect::<BTreeSet<_>>();
        for name in names {
            keys.extend(["name", "recent", "builds"].map(|kind| ("aggregates", format!("{kind}:{name}"))));
        }
        for ShardKey { day, name } in &self.shards {
            let year = day.to_string()[..4].to_owned();
            keys.push(("aggregates", format!("shard:{day}:{name}")));
            keys.push(("aggregates", format!("days:{year}:{name}")));
        }
        keys
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if self.double.is_some() {
            return;
        }
        let (settings, mut written) = (self.settings(), std::mem::take(&mut *self.written.lock().unwrap()));
        // A thread and a runtime of its own: nothing can be waited for within a drop.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                if let Ok(store) = CouchbaseStore::open(settings.clone(), &TaskTracker::new()).await {
                    let _ = written.find(&*store).await;
                }
                remove(&settings, written.keys()).await;
            });
            runtime.shutdown_background();
        });
        if cleaning.join().is_err() {
            skipped("what it has written could not be removed");
        }
    }
}

async fn remove(settings: &CouchbaseSettings, keys: Vec<(&'static str, String)>) {
    let who = PasswordAuthenticator::new(&settings.username, settings.password.reveal());
    let mut options = ClusterOptions::new(who.into());
    if let Some(file) = &settings.ca_file {
        let certificates = CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect();
        options = options.tls_options(TlsOptions::new().add_ca_certificates::<Vec<_>>(certificates));
    }
    let cluster = Cluster::connect(&settings.connection, options).await.unwrap();
    let bucket = cluster.bucket(&settings.bucket);
    let prefix = &settings.key_prefix;
    // Where there are no collections, all documents are in the default one.
    let aggregates = bucket.collection("aggregates");
    let looked = aggregates.exists(format!("{prefix}projector"), None);
    let has_collections = tokio::time::timeout(CLEANING, looked).await.is_ok_and(|answer| match answer {
        Ok(_) => true,
        Err(e) => *e.kind() == ErrorKind::DocumentNotFound,
    });
    for (collection, key) in keys {
        let (collection, key): (Collection, _) = if has_collections {
            (bucket.collection(collection), format!("{prefix}{key}"))
        } else {
            (bucket.default_collection(), format!("{prefix}jobber:{collection}:{key}"))
        };
        match tokio::time::timeout(CLEANING, collection.remove(&key, None)).await {
            Ok(Err(e)) if *e.kind() != ErrorKind::DocumentNotFound => skipped(&format!("{key} stays there: {e}")),
            Err(_) => skipped(&format!("{key} stays there: no answer")),
            _ => {}
        }
    }
}

/// Notes what is written.
struct Noted {
    store: Arc<CouchbaseStore>,
    written: Arc<Mutex<Written>>,
}

#[async_trait]
impl Projection for Noted {
    async fn lead(&self, holder: &str, ttl: Duration, clock: &Clock) -> Result<Option<Term>, StoreError> {
        self.store.lead(holder, ttl, clock).await
    }

    async fn resign(&self, term: &Term) -> Result<(), StoreError> {
        self.store.resign(term).await
    }

    async fn load(&self, jobs: &[JobId], shards: &[ShardKey]) -> Result<Loaded, StoreError> {
        self.store.load(jobs, shards).await
    }

    async fn load_builds(&self, names: &[JobName]) -> Result<Vec<Option<Versioned<BuildHistory>>>, StoreError> {
        self.store.load_builds(names).await
    }

    async fn build_names(&self) -> Result<Vec<JobName>, StoreError> {
        self.store.build_names().await
    }

    async fn load_categories(&self) -> Result<Option<Versioned<Categories>>, StoreError> {
        self.store.load_categories().await
    }

    async fn learn(&self, term: &Term, learned: &[Learned]) -> Result<(), StoreError> {
        self.store.learn(term, learned).await
    }

    async fn position(&self) -> Result<Cursor, StoreError> {
        self.store.position().await
    }

    async fn commit(&self, term: &Term, commit: Commit) -> Result<(), StoreError> {
        {
            let mut written = self.written.lock().unwrap();
            let jobs = commit.jobs.iter().map(|job| (job.document.id.clone(), job.document.name.clone()));
            written.jobs.extend(jobs);
            written.shards.extend(commit.shards.iter().map(|shard| shard.document.key.clone()));
            written.errors.extend(commit.sightings.iter().map(|seen| seen.fingerprint));
        }
        self.store.commit(term, commit).await
    }

    async fn expire(&self, term: &Term, retention: Retention, now: Timestamp, limit: usize) -> Result<u64, StoreError> {
        self.store.expire(term, retention, now, limit).await
    }

    async fn scan(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobRecord>, StoreError> {
        self.store.scan(after, limit).await
    }

    async fn shard_keys(&self) -> Result<Vec<ShardKey>, StoreError> {
        self.store.shard_keys().await
    }
}
