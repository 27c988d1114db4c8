//! Finds out which build a binary is: by the build id (`NT_GNU_BUILD_ID`) that its linker wrote into a note, else by a
//! digest of the file. The note is found by the program headers, which a stripped file has too.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::domain::{Build, BuildDigest};

/// Of a larger file only the build id is read: reading it all would take seconds of the disk.
const LARGEST_DIGESTED: u64 = 1 << 30;
/// How much is digested before another look whether to go on.
const CHUNK: usize = 1 << 20;
/// Program headers and bytes of notes that are looked at in a file, at most. Compilers write some ten headers, and notes of
/// a few hundred bytes.
const MOST_HEADERS: u16 = 256;
const MOST_NOTES: u64 = 64 << 10;
/// A build id has 20 bytes by default (16 and 8 are common, too); this is as much as is told of one.
const LONGEST_ID: usize = 64;

const PT_NOTE: u64 = 4;
const NT_GNU_BUILD_ID: u64 = 3;

/// The build of a file. `None` when the file can't be read, is too large to be digested and has no build id, or when
/// `goes_on` said no meanwhile.
pub(super) fn identify(path: &Path, goes_on: &dyn Fn() -> bool) -> Option<Build> {
    identify_open(&File::open(path).ok()?, goes_on)
}

/// The same of an open file that was not read yet.
pub(super) fn identify_open(file: &File, goes_on: &dyn Fn() -> bool) -> Option<Build> {
    let bytes = file.metadata().ok()?.len();
    let digest = match build_id(file) {
        Some(id) => BuildDigest::of_build_id(&id),
        None if bytes <= LARGEST_DIGESTED => BuildDigest::of_contents(&digest(file, goes_on)?),
        None => return None,
    };
    Some(Build { bytes, digest })
}

/// The same, if that takes but a moment: of a file with a build id, and of one of at most `most` bytes.
pub(super) fn identify_quickly(file: &File, most: u64) -> Option<Build> {
    let bytes = file.metadata().ok()?.len();
    match build_id(file) {
        Some(id) => Some(Build { bytes, digest: BuildDigest::of_build_id(&id) }),
        None if bytes <= most => identify_open(file, &|| true),
        None => None,
    }
}

fn digest(mut file: &File, goes_on: &dyn Fn() -> bool) -> Option<[u8; 32]> {
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    while goes_on() {
        match file.read(&mut chunk) {
            Ok(0) => return Some(hash.finalize().into()),
            Ok(count) => hash.update(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    None
}

/// How the numbers of an ELF file are written.
#[derive(Clone, Copy)]
struct Layout {
    is_64: bool,
    is_little: bool,
}

impl Layout {
    /// The number of `size` bytes at this place; `None` beyond the end.
    fn number(self, bytes: &[u8], at: usize, size: usize) -> Option<u64> {
        let digits = bytes.get(at..at.checked_add(size)?)?;
        let add = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
        Some(if self.is_little { digits.iter().rev().fold(0, add) } else { digits.iter().fold(0, add) })
    }
}

/// The build id in the notes of an ELF file; `None` of any other file.
fn build_id(file: &File) -> Option<Vec<u8>> {
    let mut head = [0; 64];
    // A file of 32 bits may end before, and then has no headers to be read.
    let length = read_at(file, &mut head, 0)?;
    let head = &head[..length];
    let layout = match head.get(..6)? {
        [0x7f, b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2)] => {
            Layout { is_64: *class == 2, is_little: *order == 1 }
        }
        _ => return None,
    };
    let (table, entry_size, count) = if layout.is_64 {
        (layout.number(head, 32, 8)?, layout.number(head, 54, 2)?, layout.number(head, 56, 2)?)
    } else {
        (layout.number(head, 28, 4)?, layout.number(head, 42, 2)?, layout.number(head, 44, 2)?)
    };
    for i in 0..count.min(u64::from(MOST_HEADERS)) {
        let mut header = [0; 56];
        let used = if layout.is_64 { 56 } else { 32 };
        let length = read_at(file, &mut header[..used], table.checked_add(i * entry_size)?)?;
        let header = &header[..length];
        if layout.number(header, 0, 4)? != PT_NOTE {
            continue;
        }
        let (offset, size, alignment) = if layout.is_64 {
            (layout.number(header, 8, 8)?, layout.number(header, 32, 8)?, layout.number(header, 48, 8)?)
        } else {
            (layout.number(header, 4, 4)?, layout.number(header, 16, 4)?, layout.number(header, 28, 4)?)
        };
        let mut notes = vec![0; usize::try_from(size.min(MOST_NOTES)).ok()?];
        let length = read_at(file, &mut notes, offset)?;
        if let Some(id) = id_in_notes(&notes[..length], layout, if alignment == 8 { 8 } else { 4 }) {
            return Some(id);
        }
    }
    None
}

/// The build id among the notes of a program of 64 bits, little endian.
pub(super) fn id_among(notes: &[u8]) -> Option<Vec<u8>> {
    id_in_notes(notes, Layout { is_64: true, is_little: true }, 4)
}

/// The build id among notes, one behind the other. Of each, name and contents begin at a multiple of the alignment.
fn id_in_notes(notes: &[u8], layout: Layout, alignment: usize) -> Option<Vec<u8>> {
    let number = |at: usize| layout.number(notes, at, 4);
    let mut at = 0;
    loop {
        let (name_size, size, kind) = (number(at)?, number(at + 4)?, number(at + 8)?);
        let name_at = at + 12;
        let name_end = name_at.checked_add(usize::try_from(name_size).ok()?)?;
        let id_at = name_end.checked_next_multiple_of(alignment)?;
        let id_end = id_at.checked_add(usize::try_from(size).ok()?)?;
        let (name, id) = (notes.get(name_at..name_end)?, notes.get(id_at..id_end)?);
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && (1..=LONGEST_ID).contains(&id.len()) {
            return Some(id.to_vec());
        }
        at = id_end.checked_next_multiple_of(alignment)?;
    }
}

/// Reads at this place until the buffer is full or the file ends; how much was read.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Option<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], at.checked_add(length as u64)?) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_ON: &dyn Fn() -> bool = &|| true;

    fn note(layout: Layout, alignment: usize, kind: u64, name: &[u8], contents: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for value in [name.len() as u64, contents.len() as u64, kind] {
            put(&mut note, layout, value, 4);
        }
        for part in [name, contents] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(alignment), 0);
        }
        note
    }

    fn put(to: &mut Vec<u8>, layout: Layout, value: u64, size: usize) {
        let mut digits = value.to_le_bytes()[..size].to_vec();
        if !layout.is_little {
            digits.reverse();
        }
        to.extend(digits);
    }

    /// A file of headers, and behind them a segment with these notes.
    fn elf(layout: Layout, alignment: usize, notes: &[u8]) -> Vec<u8> {
        let Layout { is_64, is_little } = layout;
        let (head_size, entry_size, word) = if is_64 { (64, 56, 8) } else { (52, 32, 4) };
        let mut file = vec![0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, if is_little { 1 } else { 2 }];
        file.resize(if is_64 { 32 } else { 28 }, 0);
        put(&mut file, layout, head_size, word);
        file.resize(if is_64 { 54 } else { 42 }, 0);
        put(&mut file, layout, entry_size, 2);
        put(&mut file, layout, 2, 2);
        file.resize(head_size as usize, 0);
        let offset = (head_size + 2 * entry_size).next_multiple_of(8);
        for (kind, size) in [(1, 0), (PT_NOTE, notes.len() as u64)] {
            put(&mut file, layout, kind, 4);
            if is_64 {
                put(&mut file, layout, 0, 4);
            }
            for value in [offset, 0, 0, size, size] {
                put(&mut file, layout, value, word);
            }
            if !is_64 {
                put(&mut file, layout, 0, 4);
            }
            put(&mut file, layout, alignment as u64, word);
        }
        file.resize(offset as usize, 0);
        file.extend(notes);
        file
    }

    fn identified(contents: &[u8]) -> Option<Build> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), contents).unwrap();
        identify(file.path(), GO_ON)
    }

    fn digest_of(contents: &[u8]) -> String {
        identified(contents).unwrap().digest.to_string()
    }

    #[test]
    fn the_build_id_is_found_in_files_of_all_kinds() {
        let id: Vec<u8> = (0..20).collect();
        let shown: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        for (is_64, is_little, alignment) in
            [(true, true, 4), (true, true, 8), (true, false, 4), (false, true, 4), (false, false, 4)]
        {
            let layout = Layout { is_64, is_little };
            let note = |kind, name: &[u8], contents: &[u8]| note(layout, alignment, kind, name, contents);
            let notes = [
                note(1, b"GNU\0", &[7; 16]),
                note(NT_GNU_BUILD_ID, b"Other\0", &[8; 3]),
                note(NT_GNU_BUILD_ID, b"GNU\0", &id),
            ];
            let file = elf(layout, alignment, &notes.concat());
            assert_eq!(digest_of(&file), shown, "64: {is_64}, little: {is_little}, {alignment}");
            assert_eq!(identified(&file).unwrap().bytes, file.len() as u64);
            let without = elf(layout, alignment, &notes[..2].concat());
            assert!(digest_of(&without).starts_with("sha256:"));
        }
    }

    #[test]
    fn a_file_without_a_build_id_is_known_by_its_contents() {
        let sha256 = "sha256:e3b0c44298fc1c149afbf4c8996fb924";
        assert_eq!(digest_of(b""), sha256);
        let (one, two) = (digest_of(b"#!/bin/sh\necho one\n"), digest_of(b"#!/bin/sh\necho two\n"));
        assert!(one != two && one.len() == sha256.len(), "{one} {two}");
        assert!(identify(Path::new("/nowhere/at-all"), GO_ON).is_none());
    }

    #[test]
    fn digesting_ends_when_it_is_told_to() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(identify(file.path(), &|| false).is_none());
    }

    #[test]
    fn the_build_id_of_a_real_program_is_as_a_linker_wrote_it() {
        // This test was linked with one, or it was not: in both cases the answer is the same twice, and not of nothing.
        let me = std::env::current_exe().unwrap();
        let build = identify(&me, GO_ON).unwrap();
        assert_eq!(build, identify(&me, GO_ON).unwrap());
        assert_eq!(build.bytes, fs_err::metadata(&me).unwrap().len());
    }

    proptest::proptest! {
        /// Whatever is in a file, it is read without a panic and without an end.
        #[test]
        fn a_damaged_file_is_one_without_a_build_id(
            is_64: bool, is_little: bool, cut in 0..200_usize, at in 0..200_usize, byte: u8,
        ) {
            let layout = Layout { is_64, is_little };
            let mut file = elf(layout, 4, &note(layout, 4, NT_GNU_BUILD_ID, b"GNU\0", &[5; 20]));
            let at = at % file.len();
            file[at] = byte;
            file.truncate(file.len() - cut % file.len());
            proptest::prop_assert!(identified(&file).is_some());
        }
    }
}
