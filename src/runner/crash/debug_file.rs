//! Finds the file that holds the debug information of another one.

use std::sync::Arc;

use super::elf::Elf;
use super::modules;
use super::source::{Budget, Source};

/// Where distributions keep debug information.
const SYSTEM: &str = "/usr/lib/debug";
/// The largest file whose checksum is computed: that reads all of it.
const LARGEST_CHECKED: u64 = 256 << 20;

/// The file with the debug information of this one, which was mapped from `path`: named by its build id, or by a link, or
/// `<path>.debug`. The build id must be the same, or else the checksum that the link gives.
pub(super) fn find(elf: &Elf, path: &str, budget: &Budget) -> Option<Elf> {
    let build_id = elf.build_id();
    let (folder, _) = path.rsplit_once('/')?;
    let mut candidates = Vec::new();
    if let Some(id) = build_id.as_deref().filter(|id| id.len() > 1) {
        let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        candidates.push((format!("{SYSTEM}/.build-id/{}/{}.debug", &digits[..2], &digits[2..]), None));
    }
    candidates.push((format!("{path}.debug"), None));
    if let Some((name, checksum)) = elf.debug_link() {
        let places = [folder.to_owned(), format!("{folder}/.debug"), format!("{SYSTEM}{folder}")];
        candidates.extend(places.into_iter().map(|place| (format!("{place}/{name}"), Some(checksum))));
    }
    candidates.into_iter().find_map(|(candidate, checksum)| {
        let file = Source::File(Arc::new(modules::open(&candidate)?));
        let found = Elf::parse(file)?;
        let same = match (&build_id, found.build_id()) {
            (Some(id), Some(other)) => *id == other,
            _ => checksum.is_some_and(|checksum| self::checksum(&found.source, budget) == Some(checksum)),
        };
        (same && found.section(".debug_info").is_some()).then_some(found)
    })
}

/// The CRC-32 of a file; `None` of one that is too large, or when time is over.
fn checksum(source: &Source, budget: &Budget) -> Option<u32> {
    let mut crc = flate2::Crc::new();
    let mut chunk = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        let length = source.read_at(&mut chunk, at);
        crc.update(&chunk[..length]);
        at += length as u64;
        if at > LARGEST_CHECKED || budget.is_spent() {
            return None;
        }
        if length < chunk.len() {
            return Some(crc.sum());
        }
    }
}
