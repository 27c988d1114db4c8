use std::collections::BTreeSet;

use super::shape::BOUNDS;
use super::*;

/// The golden file: what `jobber openapi` prints.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/development/openapi.json");

#[expect(clippy::disallowed_methods, reason = "a switch of the run of tests, not a setting")]
#[test]
fn the_document_is_the_one_in_the_repository() {
    if std::env::var_os("JOBBER_BLESS").is_some() {
        fs_err::write(GOLDEN, format!("{}\n", openapi())).unwrap();
    }
    let golden = fs_err::read_to_string(GOLDEN).unwrap_or_default();
    assert!(
        golden.trim_end() == openapi(),
        "docs/development/openapi.json is old: JOBBER_BLESS=1 cargo test --lib openapi"
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_its_own_name() {
    let document = document();
    let mut references = Vec::new();
    collect(&document, &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let mut ids = BTreeSet::new();
    assert!(operations::all().iter().all(|operation| ids.insert(operation.id)));
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(|to| to.as_str()).map(str::to_owned));
            fields.values().for_each(|field| collect(field, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}

#[test]
fn bounds_are_those_that_a_job_is_checked_against() {
    // Those that are maps have bounds of their own.
    let is_map = |json: &str| ["require", "resources"].contains(&json);
    for option in crate::domain::RunOption::ALL.iter().filter(|option| !is_map(option.json)) {
        let Some((_, least, most)) = BOUNDS.iter().find(|(name, ..)| *name == option.json) else {
            panic!("{} has no bounds", option.json)
        };
        let accepted = |n: u64| {
            let value = if option.json == "no_retry_exit_codes" { json!([n]) } else { json!(n) };
            let mut options = serde_json::to_value(JobOptions::default()).unwrap();
            options[option.json] = value;
            serde_json::from_value::<JobOptions>(options).is_ok_and(|options| (option.is_allowed)(&options))
        };
        assert!(accepted(*least) && accepted(*most), "{}", option.json);
        assert!(!accepted(most + 1) && (*least == 0 || !accepted(least - 1)), "{}", option.json);
    }
}

#[test]
fn every_code_is_of_some_operation() {
    let used: BTreeSet<_> = operations::all().iter().flat_map(|o| o.codes().map(|code| code.code)).collect();
    // These come from the router, at paths and with methods that no operation has.
    let elsewhere = BTreeSet::from(["method_not_allowed", "unknown_verb"]);
    let unused: Vec<_> = problems::CODES
        .iter()
        .map(|code| code.code)
        .filter(|code| !used.contains(code) && !elsewhere.contains(code))
        .collect();
    assert!(unused.is_empty(), "{unused:?}");
}
