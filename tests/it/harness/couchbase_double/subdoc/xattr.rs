//! Extended attributes: the rules for their names, the virtual ones, the macros.

use serde_json::{Value, json};

use super::super::documents::{Document, Place};
use super::super::wire::status;
use super::edit::Spec;

/// The attribute that a path begins with.
pub fn name(path: &[u8]) -> Result<String, u16> {
    let text = std::str::from_utf8(path).map_err(|_| status::PATH_INVALID)?;
    let name = text.split(['.', '[']).next().unwrap_or_default();
    let reserved = |c: char| c.is_ascii_punctuation() && c != '_' && c != '$' || c.is_control();
    if name.is_empty() || name.len() > 16 || name.starts_with(reserved) {
        return Err(status::PATH_INVALID);
    }
    Ok(name.to_owned())
}

/// Whether an attribute is only shown, not stored.
pub fn is_virtual(name: &str) -> bool {
    name.starts_with('$')
}

/// The virtual attributes of a document, as the one object that paths look into.
pub fn virtual_attributes(place: &Place, document: &Document) -> Value {
    let mut datatype = vec![if document.json { "json" } else { "raw" }];
    if document.compressed {
        datatype.push("snappy");
    }
    if !document.xattrs.is_empty() {
        datatype.push("xattr");
    }
    json!({
        "$document": {
            "CAS": hexadecimal(document.cas),
            "vbucket_uuid": hexadecimal(0xb0c4_0000_0000 + u64::from(place.vbucket)),
            "seqno": hexadecimal(document.seqno),
            "revid": document.revision.to_string(),
            "exptime": document.expiry,
            "flags": document.flags,
            "value_bytes": document.value.len(),
            "value_crc32c": format!("0x{:08x}", crc32c(&document.value)),
            "datatype": datatype,
            "deleted": document.deleted,
            "last_modified": (document.cas / 1_000_000_000).to_string(),
        },
        "$vbucket": { "HLC": { "now": (document.cas / 1_000_000_000).to_string(), "mode": "real" } },
        "$XTOC": document.xattrs.keys().collect::<Vec<_>>(),
    })
}

/// What a macro in the value of a spec stands for, once the version is known.
pub fn expand(spec: &Spec, cas: u64, seqno: u64, body: &[u8]) -> Result<Vec<u8>, u16> {
    if !spec.expand {
        return Ok(spec.value.clone());
    }
    let expanded = match spec.value.as_slice() {
        // The bytes of this one stand in the order of a little machine, since its first user wrote it so.
        br#""${Mutation.CAS}""# => hexadecimal(cas.swap_bytes()),
        br#""${Mutation.seqno}""# => hexadecimal(seqno),
        br#""${Mutation.value_crc32c}""# => format!("0x{:08x}", crc32c(body)),
        _ => return Err(status::XATTR_UNKNOWN_MACRO),
    };
    Ok(json!(expanded).to_string().into_bytes())
}

fn hexadecimal(number: u64) -> String {
    format!("0x{number:016x}")
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
