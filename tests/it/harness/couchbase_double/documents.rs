//! Documents and the rules of changing them: CAS, locks, expiry, tombstones, sequence numbers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::collections::Manifest;
use super::wire::status;

/// Expiry times up to this are seconds from now, later ones are moments.
const LONGEST_RELATIVE: u32 = 30 * 24 * 60 * 60;
/// The largest document.
pub const LARGEST: usize = 20 << 20;

/// Where a document lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub collection: u32,
    pub vbucket: u16,
    pub key: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub struct Document {
    pub value: Vec<u8>,
    pub flags: u32,
    /// Whether the value is JSON; the server finds that out itself.
    pub json: bool,
    /// Whether it came compressed, and so is given out compressed to who can read that.
    pub compressed: bool,
    pub cas: u64,
    pub seqno: u64,
    /// How often it was changed.
    pub revision: u64,
    /// Seconds since 1970; 0: never.
    pub expiry: u64,
    pub xattrs: Map<String, Value>,
    /// Until when it is locked, in nanoseconds since 1970.
    pub locked_until: u64,
    /// A tombstone: only its system attributes are left.
    pub deleted: bool,
}

/// What a change gives back.
#[derive(Debug, Clone, Copy)]
pub struct Changed {
    pub cas: u64,
    pub vbucket_uuid: u64,
    pub seqno: u64,
}

/// How a document that may exist is to be met by a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Semantics {
    Upsert,
    Insert,
    Replace,
}

/// What a bucket held at some moment.
#[derive(Debug, Clone)]
pub struct Saved {
    documents: BTreeMap<Place, Document>,
    seqnos: Vec<u64>,
}

/// Which durable writes a bucket can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    All,
    /// Those that ask for no disk.
    InMemory,
    /// None: too few nodes are left.
    Nothing,
}

pub struct Bucket {
    pub durable: Durable,
    /// What writes of documents have asked for: a level of durability, or none.
    pub asked: std::collections::BTreeSet<Option<u8>>,
    pub name: String,
    pub uuid: String,
    pub manifest: Manifest,
    /// The node that each vbucket is active on.
    pub vbuckets: Vec<usize>,
    documents: BTreeMap<Place, Document>,
    seqnos: Vec<u64>,
    /// How often each vbucket went on from an earlier state.
    branches: Vec<u64>,
    last_cas: u64,
    /// How far its clock is ahead of the machine's.
    ahead: Duration,
}

impl Document {
    /// Whether this is JSON of whatever kind.
    pub fn is_json(value: &[u8]) -> bool {
        serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok()
    }

    /// The value as JSON, for the services that only know JSON.
    pub fn as_json(&self) -> Option<Value> {
        if self.json { serde_json::from_slice(&self.value).ok() } else { None }
    }
}

impl Bucket {
    pub fn new(name: &str, vbuckets: usize) -> Self {
        Self {
            durable: Durable::All,
            asked: Default::default(),
            name: name.to_owned(),
            uuid: uuid::Uuid::new_v4().simple().to_string(),
            manifest: Manifest::new(),
            vbuckets: vec![0; vbuckets],
            documents: BTreeMap::new(),
            seqnos: vec![0; vbuckets],
            branches: vec![0; vbuckets],
            last_cas: 0,
            ahead: Duration::ZERO,
        }
    }

    /// Lets its clock run ahead, so that documents expire without waiting.
    pub fn advance(&mut self, by: Duration) {
        self.ahead += by;
    }

    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + self.ahead
    }

    /// The document, if it is there and has not expired.
    pub fn get(&mut self, place: &Place) -> Option<&Document> {
        self.with_tombstone(place).filter(|document| !document.deleted)
    }

    /// The document or what is left of it.
    pub fn with_tombstone(&mut self, place: &Place) -> Option<&Document> {
        let now = self.now().as_secs();
        let expired = self.documents.get(place).is_some_and(|d| !d.deleted && d.expiry != 0 && d.expiry <= now);
        if expired {
            self.bury(place);
        }
        self.documents.get(place)
    }

    /// Whether it is locked at this moment.
    pub fn is_locked(&self, document: &Document) -> bool {
        u128::from(document.locked_until) > self.now().as_nanos()
    }

    /// All living documents of a collection, in the order of vbuckets and keys.
    pub fn collection(&self, id: u32) -> impl Iterator<Item = (&Place, &Document)> {
        let now = self.now().as_secs();
        let from = Place { collection: id, vbucket: 0, key: Vec::new() };
        self.documents
            .range(from..)
            .take_while(move |(place, _)| place.collection == id)
            .filter(move |(_, d)| !d.deleted && (d.expiry == 0 || d.expiry > now))
    }

    /// The keys of all living documents.
    pub fn keys(&self) -> Vec<String> {
        let living = self.documents.iter().filter(|(_, document)| !document.deleted);
        living.map(|(place, _)| String::from_utf8_lossy(&place.key).into_owned()).collect()
    }

    /// The moment that an expiry of the protocol means, with the collection's own limit.
    pub fn expiry(&self, collection: u32, asked: u32) -> u64 {
        let now = self.now().as_secs();
        let moment = match asked {
            0 => 0,
            1..=LONGEST_RELATIVE => now + u64::from(asked),
            later => u64::from(later),
        };
        match self.manifest.by_id(collection).map_or(0, |c| u64::from(c.max_ttl)) {
            0 => moment,
            limit if moment == 0 => now + limit,
            limit => moment.min(now + limit),
        }
    }

    /// Checks what stands before a write: whether the document is there, locked, and of the version asked for.
    pub fn may_write(&mut self, place: &Place, semantics: Semantics, cas: u64) -> Result<(), u16> {
        match self.get(place).cloned() {
            None if semantics == Semantics::Replace || cas != 0 => Err(status::KEY_NOT_FOUND),
            None => Ok(()),
            Some(_) if semantics == Semantics::Insert => Err(status::KEY_EXISTS),
            Some(found) if self.is_locked(&found) && found.cas != cas => Err(status::LOCKED),
            Some(found) if cas != 0 && found.cas != cas => Err(status::KEY_EXISTS),
            Some(_) => Ok(()),
        }
    }

    /// Writes a document with a new version; `make` gets it, so that macros can be expanded.
    pub fn write(&mut self, place: &Place, make: impl FnOnce(u64, u64) -> Document) -> Changed {
        let changed = self.next(place.vbucket);
        let revision = self.documents.get(place).map_or(0, |d| d.revision) + 1;
        let document = make(changed.cas, changed.seqno);
        let document =
            Document { cas: changed.cas, seqno: changed.seqno, revision, locked_until: 0, deleted: false, ..document };
        self.documents.insert(place.clone(), document);
        changed
    }

    /// Removes a document and keeps its system attributes.
    pub fn remove(&mut self, place: &Place) -> Changed {
        self.bury(place)
    }

    /// Sets a new moment of expiry.
    pub fn touch(&mut self, place: &Place, expiry: u64) -> Changed {
        let changed = self.next(place.vbucket);
        if let Some(found) = self.documents.get_mut(place) {
            (found.expiry, found.cas, found.seqno) = (expiry, changed.cas, changed.seqno);
            found.revision += 1;
        }
        changed
    }

    /// Locks a document under a version that only the locker learns.
    pub fn lock(&mut self, place: &Place, how_long: Duration) -> u64 {
        let until = (self.now() + how_long).as_nanos() as u64;
        let cas = self.next_cas();
        if let Some(found) = self.documents.get_mut(place) {
            (found.locked_until, found.cas) = (until, cas);
        }
        cas
    }

    pub fn unlock(&mut self, place: &Place) {
        if let Some(found) = self.documents.get_mut(place) {
            found.locked_until = 0;
        }
    }

    /// Forgets the documents of a collection that was dropped.
    pub fn forget(&mut self, collection: u32) {
        self.documents.retain(|place, _| place.collection != collection);
    }

    /// What it holds now.
    pub fn save(&self) -> Saved {
        Saved { documents: self.documents.clone(), seqnos: self.seqnos.clone() }
    }

    /// The vbuckets of the documents whose keys end in this.
    pub fn vbuckets_of(&self, end_of_key: &str) -> Vec<u16> {
        let found = self.documents.keys().filter(|place| place.key.ends_with(end_of_key.as_bytes()));
        found.map(|place| place.vbucket).collect()
    }

    /// Lets these vbuckets go on from what they held then, as a failover to a replica does that had got no further.
    pub fn roll_back(&mut self, to: &Saved, which: impl Fn(u16) -> bool) {
        self.documents.retain(|place, _| !which(place.vbucket));
        let old = to.documents.iter().filter(|(place, _)| which(place.vbucket));
        self.documents.extend(old.map(|(place, document)| (place.clone(), document.clone())));
        for vbucket in (0..self.branches.len()).filter(|vbucket| which(*vbucket as u16)) {
            self.branches[vbucket] += 1;
            self.seqnos[vbucket] = to.seqnos[vbucket];
        }
    }

    /// Removes all documents, as a flush does.
    pub fn empty(&mut self) {
        let nothing = Saved { documents: BTreeMap::new(), seqnos: vec![0; self.seqnos.len()] };
        self.roll_back(&nothing, |_| true);
    }

    /// The same where clients see no other vbucket UUID than before.
    pub fn empty_unnoticed(&mut self) {
        self.documents.clear();
    }

    fn bury(&mut self, place: &Place) -> Changed {
        let changed = self.next(place.vbucket);
        if let Some(found) = self.documents.get_mut(place) {
            let mut xattrs = std::mem::take(&mut found.xattrs);
            xattrs.retain(|name, _| name.starts_with('_'));
            *found = Document {
                cas: changed.cas,
                seqno: changed.seqno,
                revision: found.revision + 1,
                xattrs,
                deleted: true,
                ..Document::default()
            };
        }
        changed
    }

    fn next(&mut self, vbucket: u16) -> Changed {
        let seqno = &mut self.seqnos[usize::from(vbucket)];
        *seqno += 1;
        let seqno = *seqno;
        // Any number but zero identifies the history of a vbucket, as long as it stays the same.
        let branch = self.branches[usize::from(vbucket)];
        Changed { cas: self.next_cas(), vbucket_uuid: 0xb0c4_0000_0000 + (branch << 16) + u64::from(vbucket), seqno }
    }

    /// A hybrid clock: nanoseconds whose lowest 16 bits count.
    fn next_cas(&mut self) -> u64 {
        let clock = self.now().as_nanos() as u64 & !0xffff;
        self.last_cas = clock.max(self.last_cas + 1);
        self.last_cas
    }
}
