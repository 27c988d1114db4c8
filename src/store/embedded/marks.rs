//! What tells whether that which a reader has kept still holds.

use rusqlite::Connection;

use super::history;
use crate::domain::JobName;
use crate::store::{DayRange, LabelMarks, Marks, StoreError};

type Read<T> = rusqlite::Result<Result<T, StoreError>>;

/// The marks of one moment. A version stands before the document in its row, so that no document is read.
pub(super) fn marks(c: &Connection, days: DayRange, name: Option<&JobName>) -> Read<Marks> {
    let transaction = c.unchecked_transaction()?;
    let labels = c
        .prepare_cached("SELECT learned, relabelled, cleared FROM history_marks")?
        .query_row([], |row| Ok(LabelMarks { learned: row.get(0)?, relabelled: row.get(1)?, cleared: row.get(2)? }))?;
    let shards = history::shards_of(c, "day, name, version", days, name, |row, key| {
        Ok((key, row.get::<_, i64>(2)?.cast_unsigned()))
    })?;
    transaction.finish()?;
    Ok(shards.map(|shards| Marks { labels, shards }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{Durability, Sqlite};
    use crate::store::History;
    use crate::store::embedded::{EmbeddedStore, schema};

    /// The tables of this version's predecessor.
    const BEFORE: usize = 9;

    #[tokio::test]
    async fn whatever_changes_a_label_moves_a_mark_in_older_tables_too() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        db.migrate("history", &schema::STEPS[..BEFORE]).await.unwrap();
        let run = async |sql: &'static str| db.write(move |c| c.execute_batch(sql)).await.unwrap();
        run("INSERT INTO history_errors VALUES
                 (x'01', x'00', NULL, NULL, NULL, NULL, NULL), (x'02', x'00', '0-0', 'disk', 0.5, 'm', x'00');
             INSERT INTO history_categories VALUES (1, 1, x'00');
             INSERT INTO history_shards VALUES (0, 'a', 7, 0, 0, 2, 3, x'00'), (86400000, 'b', 1, 0, 4, 5, 0, x'00');")
        .await;
        let store = EmbeddedStore::open(db.clone()).await.unwrap();
        let marks = async || store.marks(DayRange::default(), None).await.unwrap().unwrap();
        let labels = async || {
            let LabelMarks { learned, relabelled, cleared } = marks().await.labels;
            (learned, relabelled, cleared)
        };
        assert_eq!(labels().await, (0, 0, 0));
        for (sql, expected) in [
            ("UPDATE history_errors SET category = 'disk', model = 'm' WHERE fingerprint = x'01'", (1, 0, 0)),
            ("UPDATE history_errors SET category = 'disk', model = 'n', similarity = 0.1", (1, 0, 0)),
            ("UPDATE history_errors SET seen = x'01'", (1, 0, 0)),
            ("UPDATE history_errors SET category = NULL WHERE fingerprint = x'02'", (1, 1, 0)),
            ("UPDATE history_errors SET model = NULL WHERE fingerprint = x'02'", (1, 2, 0)),
            ("INSERT INTO history_errors (fingerprint, seen) VALUES (x'03', x'00')", (1, 2, 0)),
            ("INSERT INTO history_errors (fingerprint, seen, model) VALUES (x'04', x'00', 'm')", (1, 3, 0)),
            ("UPDATE history_categories SET version = 2, document = x'01'", (1, 4, 0)),
            ("UPDATE history_shards SET version = version + 1, document = x'01'", (1, 4, 0)),
            ("UPDATE history_shards SET document = x'02' WHERE name = 'a'", (1, 4, 1)),
            ("DELETE FROM history_errors WHERE fingerprint = x'04'", (1, 4, 2)),
        ] {
            run(sql).await;
            assert_eq!(labels().await, expected, "{sql}");
        }
        let shards = marks().await.shards;
        let told: Vec<_> = shards.iter().map(|(key, version)| (key.name.as_str(), *version)).collect();
        assert_eq!(told, [("a", 8), ("b", 2)]);
        let name = "b".parse().unwrap();
        assert_eq!(store.marks(DayRange::default(), Some(&name)).await.unwrap().unwrap().shards, shards[1..]);
        run("DELETE FROM history_shards WHERE name = 'b'; DELETE FROM history_categories").await;
        assert_eq!((marks().await.shards.len(), labels().await), (1, (1, 5, 3)));
    }
}
