//! A stand-in for a Couchbase cluster that speaks the wire protocol to the real SDK, inside the test's process.
//!
//! It follows the public description of the protocol: key-value over the memcached binary protocol, and the HTTP services
//! for management, query and search as far as tests need them. It keeps documents in memory, over times of being
//! [away](CouchbaseDouble::away) too, and goes wrong [on demand](CouchbaseDouble::fault).
//!
//! ```text
//! let double = CouchbaseDouble::start();              // a bucket `jobber`, a user `jobber` with the password `secret`
//! let url = double.url();                             // couchbase://jobber:secret@127.0.0.1:PORT/jobber
//! double.fault(Fault::Refuse(status::TEMPORARY_FAILURE).times(3));
//! double.away(); double.back();
//! ```

pub mod cluster;
pub mod collections;
mod connection;
pub mod documents;
pub mod faults;
mod http;
mod kv;
mod listen;
mod scram;
mod subdoc;
pub mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::cluster::{Ports, Version};
use self::documents::Bucket;
pub use self::faults::{Fault, Hits, Rule, Service};

/// How a double is to be started.
#[derive(Debug, Clone)]
pub struct Options {
    pub bucket: String,
    pub user: String,
    pub password: String,
    pub rights: Rights,
    /// How many vbuckets the bucket has; real clusters have 1024 or 64.
    pub vbuckets: usize,
    /// Nodes; each has a key-value and a management service.
    pub nodes: usize,
    /// Whether the first node has a query service.
    pub query: bool,
    /// Whether the first node has a search service.
    pub search: bool,
    /// Whether it has TLS listeners too, with a certificate that a private authority signed.
    pub tls: bool,
    /// Features that it refuses in HELLO.
    pub without: Vec<u16>,
    /// How many statements about a collection that was just made the query service answers as if there was none.
    pub query_lag: u64,
    /// How the index service stores indexes; without it refuses all.
    pub storage_mode: String,
    /// Whether it is the enterprise edition: only that one knows vectors and more than one copy of an index.
    pub enterprise: bool,
}

/// What the user may do besides reading and writing documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Make and drop scopes and collections.
    pub collections: bool,
    /// Make and drop indexes of the query service.
    pub indexes: bool,
    /// Make and drop search indexes.
    pub search: bool,
}

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    pub password: String,
    pub rights: Rights,
    bucket: String,
}

/// All that the double knows.
pub struct State {
    pub users: BTreeMap<String, User>,
    pub buckets: BTreeMap<String, Bucket>,
    pub nodes: Vec<Ports>,
    pub version: Version,
    pub faults: faults::Faults,
    pub without: Vec<u16>,
    pub storage_mode: String,
    pub enterprise: bool,
    pub query_lag: u64,
    /// By collection, how many statements about it were answered as if there was none.
    unknown: BTreeMap<u32, u64>,
    /// Queries that no index had in the order asked for.
    sorts: AtomicU64,
    indexes: Vec<http::QueryIndex>,
    searches: Vec<http::SearchIndex>,
    /// How many documents search indexes have got to; all of them without one.
    searched: Option<usize>,
    seen: BTreeMap<(Service, Option<u8>), u64>,
}

/// What the tasks of the double share.
pub struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<Version>,
}

/// A running double. Gone when dropped.
pub struct CouchbaseDouble {
    options: Options,
    shared: Arc<Shared>,
    /// Whether it is to be reachable.
    reachable: watch::Sender<bool>,
    listening: watch::Receiver<bool>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    certificates: Option<tempfile::TempDir>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bucket: "jobber".into(),
            user: "jobber".into(),
            password: "secret".into(),
            rights: Rights { collections: true, indexes: true, search: true },
            vbuckets: 64,
            nodes: 1,
            query: true,
            search: true,
            tls: false,
            without: Vec::new(),
            query_lag: 1,
            storage_mode: "plasma".into(),
            enterprise: true,
        }
    }
}

impl User {
    /// Whether the bucket is open to this user.
    pub fn may_use(&self, bucket: &str) -> bool {
        self.bucket == bucket
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    fn changes(&self) -> watch::Receiver<Version> {
        self.changed.subscribe()
    }

    /// Takes note of a change of the configuration, and tells the clients that want to hear of it.
    fn reconfigured(&self, state: &mut State) {
        state.version.revision += 1;
        self.changed.send_replace(state.version);
    }
}

impl State {
    fn count(&mut self, service: Service, opcode: Option<u8>) {
        *self.seen.entry((service, opcode)).or_default() += 1;
    }
}

#[allow(dead_code, reason = "what a test can do with it; no single test does all")]
impl CouchbaseDouble {
    /// One node with all services, without TLS.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// One node that has the key-value and the management service only.
    pub fn key_value_only() -> Self {
        Self::with(Options { query: false, search: false, ..Options::default() })
    }

    pub fn with(options: Options) -> Self {
        let user = User { password: options.password.clone(), rights: options.rights, bucket: options.bucket.clone() };
        let version = Version { epoch: 1, revision: 1 };
        let certificates = options.tls.then(listen::certificates);
        let bound = listen::bind(&options);
        let mut bucket = Bucket::new(&options.bucket, options.vbuckets);
        for (vbucket, node) in bucket.vbuckets.iter_mut().enumerate() {
            *node = vbucket % options.nodes;
        }
        let state = State {
            users: BTreeMap::from([(options.user.clone(), user)]),
            buckets: BTreeMap::from([(options.bucket.clone(), bucket)]),
            nodes: bound.ports(),
            version,
            faults: faults::Faults::default(),
            without: options.without.clone(),
            storage_mode: options.storage_mode.clone(),
            enterprise: options.enterprise,
            query_lag: options.query_lag,
            unknown: BTreeMap::new(),
            sorts: AtomicU64::new(0),
            indexes: Vec::new(),
            searches: Vec::new(),
            searched: None,
            seen: BTreeMap::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(version) });
        let (reachable, wanted) = watch::channel(true);
        let (now, mut listening) = watch::channel(false);
        let stop = CancellationToken::new();
        let tls = certificates.as_ref().map(|dir| listen::tls(dir.path()));
        let run = listen::run(Arc::clone(&shared), bound, tls, wanted, now, stop.clone());
        // A thread of its own: it goes on whatever the test's runtime does, and with paused time.
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(run);
        });
        wait_for(&mut listening, true);
        Self { options, shared, reachable, listening, stop, thread: Some(thread), certificates }
    }

    /// The URL with user, password and bucket, as Jobber's configuration wants it.
    pub fn url(&self) -> String {
        let Options { user, password, bucket, .. } = &self.options;
        let (scheme, at) =
            self.connection_string().split_once("://").map(|(s, a)| (s.to_owned(), a.to_owned())).unwrap();
        format!("{scheme}://{user}:{password}@{at}/{bucket}")
    }

    /// The connection string as the SDK wants it: `couchbase://127.0.0.1:PORT`.
    pub fn connection_string(&self) -> String {
        let ports = self.shared.state().nodes[0];
        if self.options.tls {
            format!("couchbases://127.0.0.1:{}", ports.kv_tls)
        } else {
            format!("couchbase://127.0.0.1:{}", ports.kv)
        }
    }

    /// The address of a service of the first node over HTTP.
    pub fn http(&self, service: Service) -> String {
        let ports = self.shared.state().nodes[0];
        let port = match service {
            Service::KeyValue => ports.kv,
            Service::Management => ports.management,
            Service::Query => ports.query,
            Service::Search => ports.search,
        };
        format!("http://127.0.0.1:{port}")
    }

    /// The port of the first node's key-value service.
    pub fn port(&self) -> u16 {
        self.shared.state().nodes[0].kv
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The certificate of the authority that a client must trust.
    pub fn ca(&self) -> PathBuf {
        self.certificates.as_ref().expect("it was started with TLS").path().join("ca.crt")
    }

    /// Lets something go wrong from now on.
    pub fn fault(&self, rule: impl Into<Rule>) -> Hits {
        let rule = rule.into();
        let hits = rule.hits();
        self.shared.state().faults.add(rule);
        hits
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.shared.state().faults.clear();
    }

    /// Stops accepting and cuts all connections. The documents stay, and so do the ports.
    pub fn away(&self) {
        self.reachable.send_replace(false);
        wait_for(&mut self.listening.clone(), false);
    }

    /// Is reachable again.
    pub fn back(&self) {
        self.reachable.send_replace(true);
        wait_for(&mut self.listening.clone(), true);
    }

    /// Makes another node the active one of all vbuckets, as a failover does.
    pub fn move_all_to(&self, node: usize) {
        assert!(node < self.options.nodes, "there is no such node");
        let mut state = self.shared.state();
        for bucket in state.buckets.values_mut() {
            bucket.vbuckets.fill(node);
        }
        self.shared.reconfigured(&mut state);
    }

    /// Lets its clock run ahead, so that documents expire without waiting.
    pub fn advance(&self, by: Duration) {
        for bucket in self.shared.state().buckets.values_mut() {
            bucket.advance(by);
        }
    }

    /// Changes the user's password.
    pub fn set_password(&self, password: &str) {
        for user in self.shared.state().users.values_mut() {
            user.password = password.to_owned();
        }
    }

    /// Lets search indexes fall behind, at so many documents, or catch up with `None`. As on a real service, nothing in an
    /// answer tells.
    pub fn let_search_lag(&self, at: impl Into<Option<usize>>) {
        self.shared.state().searched = at.into();
    }

    /// Takes the query service out of the cluster, and answers what [`Self::with_services`] brings it back with.
    pub fn without_query(&self) -> cluster::Ports {
        let mut state = self.shared.state();
        let before = state.nodes[0];
        state.nodes[0] = cluster::Ports { query: 0, query_tls: 0, ..before };
        self.shared.reconfigured(&mut state);
        before
    }

    /// Brings services up that were not.
    pub fn with_services(&self, ports: cluster::Ports) {
        let mut state = self.shared.state();
        state.nodes[0] = ports;
        self.shared.reconfigured(&mut state);
    }

    /// Tells the index service how to store indexes.
    pub fn set_storage_mode(&self, mode: &str) {
        self.shared.state().storage_mode = mode.to_owned();
    }

    /// The names of the indexes that there are.
    pub fn indexes(&self) -> Vec<String> {
        self.shared.state().indexes.iter().map(|index| index.name.clone()).collect()
    }

    /// How many queries had to be sorted, as no index had them in order.
    pub fn sorts(&self) -> u64 {
        self.shared.state().sorts.load(Ordering::SeqCst)
    }

    /// How many requests a service has seen.
    pub fn seen(&self, service: Service) -> u64 {
        let state = self.shared.state();
        state.seen.iter().filter(|((of, _), _)| *of == service).map(|(_, count)| count).sum()
    }

    /// How many of a key-value command were seen.
    pub fn seen_of(&self, opcode: u8) -> u64 {
        self.shared.state().seen.get(&(Service::KeyValue, Some(opcode))).copied().unwrap_or(0)
    }

    /// Looks at the bucket from behind.
    pub fn bucket<T>(&self, look: impl FnOnce(&mut Bucket) -> T) -> T {
        look(self.shared.state().buckets.get_mut(&self.options.bucket).expect("the bucket is there"))
    }
}

/// Waits for a state of the listeners, from outside any runtime.
fn wait_for(listening: &mut watch::Receiver<bool>, wanted: bool) {
    let began = std::time::Instant::now();
    while *listening.borrow() != wanted {
        assert!(began.elapsed() < Duration::from_secs(60), "the double does not come or go");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for CouchbaseDouble {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
