//! Finds the errors of a label, and whether a job has met one.

use rusqlite::types::ToSql;
use rusqlite::{Connection, Row};

use super::{corrupt, errors};
use crate::domain::{CategoryId, Fingerprint};
use crate::stats::Label;
use crate::store::{Categories, ErrorChoice, StoreError, WantedErrors};

type Read<T> = rusqlite::Result<Result<T, StoreError>>;

/// The most errors from which a list of jobs is merged: each is a range of its own, from which every page reads.
const MOST_MERGED: usize = 64;
/// The digits of a whole fingerprint.
const ALL_DIGITS: usize = 64;

/// Finds the errors that are asked for. All those of a label are named only while they are few: it reads no more.
pub(super) fn choose(c: &Connection, wanted: &WantedErrors) -> Read<ErrorChoice> {
    let transaction = c.unchecked_transaction()?;
    let categories = match self::categories(c)? {
        Ok(categories) => categories,
        Err(e) => return Ok(Err(e)),
    };
    let found = match (&wanted.digits, &wanted.label) {
        (Some(digits), label) => beginning_with(c, digits, label.as_ref(), &categories)?,
        (None, Some(label)) => labelled(c, label, &categories)?,
        (None, None) => Ok(Vec::new()),
    };
    transaction.finish()?;
    Ok(found.map(|errors| match (&wanted.digits, &wanted.label) {
        (None, Some(label)) if errors.len() > MOST_MERGED => ErrorChoice::AllOf(label.clone()),
        _ => ErrorChoice::These(errors),
    }))
}

/// The categories as they are now.
pub(super) fn categories(c: &Connection) -> Read<Categories> {
    Ok(errors::categories(c)?.map(|found| found.map(|found| found.document).unwrap_or_default()))
}

/// The errors whose fingerprint begins with these digits, from one range of their index.
fn beginning_with(
    c: &Connection,
    digits: &str,
    label: Option<&Label>,
    categories: &Categories,
) -> Read<Vec<Fingerprint>> {
    let end = |digit: char| {
        let rest = ALL_DIGITS.saturating_sub(digits.len());
        format!("{digits}{}", digit.to_string().repeat(rest)).parse::<Fingerprint>()
    };
    // No fingerprint begins with what is none.
    let (Ok(first), Ok(last)) = (end('0'), end('f')) else { return Ok(Ok(Vec::new())) };
    let mut select = c.prepare_cached(
        "SELECT fingerprint, category, model IS NOT NULL FROM history_errors WHERE fingerprint BETWEEN ?1 AND ?2",
    )?;
    let mut rows = select.query((first.as_bytes(), last.as_bytes()))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match read(row, categories)? {
            Ok((error, its)) => found.extend((label.is_none_or(|label| its == *label)).then_some(error)),
            Err(e) => return Ok(Err(e)),
        }
    }
    Ok(Ok(found))
}

/// The errors of a label, but for one more than [`MOST_MERGED`] at most.
fn labelled(c: &Connection, label: &Label, categories: &Categories) -> Read<Vec<Fingerprint>> {
    let mut found = Vec::new();
    let mut add = |condition: &str, values: &[&dyn ToSql]| -> Read<()> {
        // `OTHER` may be among them and count elsewhere.
        let limit = MOST_MERGED + 2;
        let sql = format!(
            "SELECT fingerprint, category, model IS NOT NULL FROM history_errors INDEXED BY history_errors_by_category
             WHERE {condition} LIMIT {limit}"
        );
        let mut select = c.prepare_cached(&sql)?;
        let mut rows = select.query(values)?;
        while let Some(row) = rows.next()? {
            match read(row, categories)? {
                Ok((error, its)) if its == *label && found.len() <= MOST_MERGED => found.push(error),
                Ok(_) => {}
                Err(e) => return Ok(Err(e)),
            }
        }
        Ok(Ok(()))
    };
    let done = match label {
        Label::Category(id) => add("category = ?1", &[&id.as_str()])?,
        Label::Pending => add("category IS NULL AND model IS NULL", &[])?,
        Label::Uncategorised => {
            let mut done = add("category IS NULL AND model IS NOT NULL", &[])?;
            // Those of a category that is no more are among them until the classifier has judged them anew.
            let mut next = c.prepare_cached("SELECT min(category) FROM history_errors WHERE category > ?1")?;
            let mut last = String::new();
            while done.is_ok()
                && let Some(category) = next.query_row([&last], |row| row.get::<_, Option<String>>(0))?
            {
                if category.parse::<CategoryId>().is_ok_and(|id| categories.get(&id).is_none()) {
                    done = add("category = ?1", &[&category])?;
                }
                last = category;
            }
            done
        }
    };
    if let Err(e) = done {
        return Ok(Err(e));
    }
    if *label == Label::Uncategorised && !found.contains(&Fingerprint::OTHER) {
        let is_there = c
            .prepare_cached("SELECT 1 FROM history_errors WHERE fingerprint = ?1")?
            .exists([Fingerprint::OTHER.as_bytes()])?;
        found.extend(is_there.then_some(Fingerprint::OTHER));
    }
    Ok(Ok(found))
}

/// Whether a job has met an error of this label.
pub(super) fn has_met(c: &Connection, job: &str, label: &Label, categories: &Categories) -> Read<bool> {
    let mut select = c.prepare_cached(
        "SELECT j.fingerprint, e.category, e.model IS NOT NULL FROM history_job_errors j INDEXED BY history_job_errors_by_job
         LEFT JOIN history_errors e ON e.fingerprint = j.fingerprint WHERE j.id = ?1",
    )?;
    let mut rows = select.query([job])?;
    while let Some(row) = rows.next()? {
        match read(row, categories)? {
            Ok((_, its)) if its == *label => return Ok(Ok(true)),
            Ok(_) => {}
            Err(e) => return Ok(Err(e)),
        }
    }
    Ok(Ok(false))
}

/// Reads a fingerprint, its category, and whether the classifier knows the error.
fn read(row: &Row<'_>, categories: &Categories) -> Read<(Fingerprint, Label)> {
    let bytes: [u8; 32] = row.get(0)?;
    let error = Fingerprint::from_bytes(bytes);
    let category: Option<String> = row.get(1)?;
    let is_known: bool = row.get(2)?;
    match category.map(|id| id.parse::<CategoryId>()).transpose() {
        Ok(category) => Ok(Ok((error, categories.label_of(&error, is_known.then_some(category.as_ref()))))),
        Err(e) => Ok(Err(corrupt("the category of an error", e))),
    }
}
