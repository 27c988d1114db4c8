//! A cache in the shared SQLite file, for all processes of one data directory.
//!
//! Rows are numbered as they are put, and the first rows make room for new ones. A value that this
//! version can't read counts as forgotten.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};

use super::{CacheError, ErrorCache, PublishedCategories};
use crate::domain::{Day, Fingerprint, JobId, KnownError, LimitScale};
use crate::sqlite::Sqlite;

const SCHEMA: &[&str] = &[
    "
    CREATE TABLE known_errors (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        fingerprint BLOB NOT NULL UNIQUE,
        category TEXT,
        model TEXT NOT NULL,
        vector BLOB NOT NULL
    ) STRICT;
    CREATE TABLE known_categories (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        document BLOB NOT NULL
    ) STRICT;
    CREATE TABLE stretched_jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL UNIQUE,
        timeout REAL NOT NULL,
        memory REAL NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE embedded_texts (
        day TEXT NOT NULL PRIMARY KEY,
        texts INTEGER NOT NULL
    ) STRICT;
",
];

/// Remembers errors in the shared SQLite file.
pub struct EmbeddedCache {
    db: Sqlite,
    /// How many errors the cache remembers at most.
    cap: i64,
}

impl EmbeddedCache {
    /// The name under which versions of its tables are kept, and the version that this Jobber brings them to.
    pub const SCHEMA_VERSION: (&str, usize) = ("known errors", SCHEMA.len());

    /// Opens or makes the tables of a cache of at most `cap` errors in `db`.
    ///
    /// # Errors
    /// When the tables can't be made, or were made by a newer Jobber.
    pub async fn open(db: Sqlite, cap: u32) -> Result<Arc<Self>, CacheError> {
        db.migrate(Self::SCHEMA_VERSION.0, SCHEMA).await.map_err(CacheError::unavailable)?;
        Ok(Arc::new(Self { db, cap: cap.max(1).into() }))
    }
}

#[async_trait]
impl ErrorCache for EmbeddedCache {
    async fn get(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<KnownError>>, CacheError> {
        let fingerprints = fingerprints.to_vec();
        let read = move |c: &Connection| fingerprints.iter().map(|f| select(c, *f)).collect();
        self.db.read(read).await.map_err(CacheError::unavailable)
    }

    async fn put(&self, errors: &[KnownError]) -> Result<(), CacheError> {
        if errors.is_empty() {
            return Ok(());
        }
        let (errors, cap) = (errors.to_vec(), self.cap);
        self.db.write(move |c| insert(c, &errors, cap)).await.map_err(CacheError::unavailable)
    }

    async fn published(&self) -> Result<Option<PublishedCategories>, CacheError> {
        let read = |c: &Connection| {
            c.prepare_cached("SELECT document FROM known_categories")?
                .query_row([], |row| row.get::<_, Vec<u8>>(0))
                .optional()
        };
        let found = self.db.read(read).await.map_err(CacheError::unavailable)?;
        Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    async fn publish(&self, categories: &PublishedCategories) -> Result<(), CacheError> {
        let document = serde_json::to_vec(categories).map_err(CacheError::unavailable)?;
        let write = move |c: &Connection| {
            c.prepare_cached(
                "INSERT INTO known_categories VALUES (1, ?1) ON CONFLICT DO UPDATE SET document = excluded.document",
            )?
            .execute([&document])
            .map(|_| ())
        };
        self.db.write(write).await.map_err(CacheError::unavailable)
    }

    async fn limit_scale(&self, job: &JobId) -> Result<Option<LimitScale>, CacheError> {
        let job = job.clone();
        let read = move |c: &Connection| {
            c.prepare_cached("SELECT timeout, memory FROM stretched_jobs WHERE job = ?1")?
                .query_row([job.as_str()], |row| Ok(LimitScale { timeout: row.get(0)?, memory: row.get(1)? }))
                .optional()
        };
        self.db.read(read).await.map_err(CacheError::unavailable)
    }

    async fn put_limit_scale(&self, job: &JobId, scale: LimitScale) -> Result<(), CacheError> {
        let (job, cap) = (job.clone(), self.cap);
        let write = move |c: &Connection| {
            let last = c
                .prepare_cached("INSERT OR REPLACE INTO stretched_jobs (job, timeout, memory) VALUES (?1, ?2, ?3)")?
                .insert((job.as_str(), scale.timeout, scale.memory))?;
            c.prepare_cached("DELETE FROM stretched_jobs WHERE number <= ?1")?.execute([last - cap]).map(|_| ())
        };
        self.db.write(write).await.map_err(CacheError::unavailable)
    }

    async fn spend(&self, day: Day, texts: u64, budget: u64) -> Result<Option<u64>, CacheError> {
        let (day, number) = (day.to_string(), |n: u64| i64::try_from(n).unwrap_or(i64::MAX / 2));
        let (texts, budget) = (number(texts), number(budget));
        let write = move |c: &Connection| {
            c.prepare_cached("DELETE FROM embedded_texts WHERE day < ?1")?.execute([&day])?;
            c.prepare_cached("INSERT INTO embedded_texts VALUES (?1, 0) ON CONFLICT DO NOTHING")?.execute([&day])?;
            let spend = "UPDATE embedded_texts SET texts = texts + ?2 WHERE day = ?1 AND texts + ?2 <= ?3
                RETURNING ?3 - texts";
            c.prepare_cached(spend)?.query_row((&day, texts, budget), |row| row.get::<_, i64>(0)).optional()
        };
        let left = self.db.write(write).await.map_err(CacheError::unavailable)?;
        Ok(left.map(i64::unsigned_abs))
    }
}

fn select(c: &Connection, fingerprint: Fingerprint) -> rusqlite::Result<Option<KnownError>> {
    c.prepare_cached("SELECT category, model, vector FROM known_errors WHERE fingerprint = ?1")?
        .query_row([fingerprint.as_bytes()], |row| {
            let vector = row.get_ref(2)?.as_blob()?.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Ok(KnownError { fingerprint, category: row.get(0)?, vector, model: row.get(1)? })
        })
        .optional()
}

fn insert(c: &Connection, errors: &[KnownError], cap: i64) -> rusqlite::Result<()> {
    let mut insert = c.prepare_cached(
        "INSERT OR REPLACE INTO known_errors (fingerprint, category, model, vector) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let mut last = 0;
    for KnownError { fingerprint, category, vector, model } in errors {
        let vector: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        last = insert.insert((fingerprint.as_bytes(), category, model, vector))?;
    }
    c.prepare_cached("DELETE FROM known_errors WHERE number <= ?1")?.execute([last - cap]).map(|_| ())
}
