//! Files and stacks that are damaged, or made to do harm: whatever is in them, reading ends, and nothing panics.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::debug_info;
use super::super::elf::{self, Elf};
use super::super::frame::Frame;
use super::super::maps::Maps;
use super::super::modules;
use super::super::source::{Budget, Source};
use super::super::walk::Stack;
use super::{GCC, compile};

/// How long reading a damaged file may take here, where nothing else has a say: the budget's time and some more.
const TIME: Duration = Duration::from_secs(2);

/// Reads everything that a report reads of a file, as if it lay in memory as it lies in the file, and walks a stack that
/// lies in it, too.
fn read_all(bytes: &[u8], addresses: &[u64], registers: &[u64]) {
    let started = Instant::now();
    let source = Source::Bytes(bytes.to_vec().into());
    let budget = || Budget::new(started + TIME, 3_000_000, 64 << 20);
    if let Some(elf) = Elf::parse(source.clone()) {
        elf.symbols(addresses, &budget());
        elf.build_id();
        elf.debug_link();
        debug_info::places(&elf, addresses, &budget());
    }
    let segments = elf::segments(&source, 0).unwrap_or_default();
    elf::build_id_in_memory(&source, &segments, 0);
    let maps = Maps::parse(&format!("0-{:x} r-xp 0 00:00 1 /program\n", bytes.len()));
    let mut all = modules::find(0, &maps, &source, || true);
    all.iter_mut().for_each(|module| module.read_from(source.clone()));
    if let Some(frame) = Frame::of(registers) {
        Stack::new(0, &source, &maps, &mut all, budget()).walk(frame, true);
    }
    let most = 20 * TIME;
    assert!(started.elapsed() < most, "{:?}", started.elapsed());
}

/// The names of the sections that are looked at.
const SECTIONS: [&str; 12] = [
    ".eh_frame",
    ".eh_frame_hdr",
    ".debug_info",
    ".debug_abbrev",
    ".debug_line",
    ".debug_line_str",
    ".debug_aranges",
    ".debug_rnglists",
    ".debug_str",
    ".symtab",
    ".strtab",
    ".shstrtab",
];

#[test]
fn no_damage_to_a_file_keeps_a_report_from_ending() {
    let folder = tempfile::tempdir().unwrap();
    for build in [&GCC[1], &GCC[7]] {
        let (program, _) = compile(folder.path(), build);
        let whole = fs_err::read(program).unwrap();
        let elf = Elf::parse(Source::Bytes(whole.clone().into())).unwrap();
        let areas: Vec<(usize, usize)> = SECTIONS
            .iter()
            .filter_map(|name| elf.section(name))
            .map(|section| (section.offset as usize, section.size as usize))
            .chain([(0, 1024), (whole.len() - 2048, 2048)])
            .collect();
        let code = elf.section(".text").map(|section| section.address..section.address + section.size).unwrap();
        let address = code.start..code.end;
        let damage = (0..areas.len(), any::<prop::sample::Index>(), any::<u8>());
        let strategy = (
            prop::collection::vec(damage, 1..12),
            prop::collection::vec(address, 1..20),
            prop::collection::vec(0..whole.len() as u64, 17),
            prop::option::of(0..whole.len()),
        );
        let mut runner = TestRunner::new(Config { cases: 250, failure_persistence: None, ..Config::default() });
        let result = runner.run(&strategy, |(damages, addresses, mut registers, cut)| {
            let mut bytes = whole.clone();
            for (area, at, byte) in damages {
                let (start, length) = areas[area];
                bytes[start + at.index(length.max(1)).min(length.saturating_sub(1))] = byte;
            }
            bytes.truncate(cut.unwrap_or(bytes.len()));
            registers[16] = addresses[0];
            read_all(&bytes, &addresses, &registers);
            Ok(())
        });
        result.unwrap();
    }
}

/// A file of these sections: name, flags, contents. The names' own section comes last.
fn file_of(sections: &[(&str, u64, &[u8])], names_end: bool) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    let mut names = Vec::new();
    let mut headers = Vec::new();
    let mut add = |file: &mut Vec<u8>, name: usize, flags: u64, contents: &[u8]| {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&(name as u32).to_le_bytes());
        header[4] = 1;
        header[8..16].copy_from_slice(&flags.to_le_bytes());
        header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(contents.len() as u64).to_le_bytes());
        file.extend_from_slice(contents);
        headers.extend_from_slice(&header);
    };
    for (name, flags, contents) in sections {
        add(&mut file, names.len(), *flags, contents);
        names.extend_from_slice(name.as_bytes());
        names.extend(names_end.then_some(0));
    }
    add(&mut file, 0, 0, &names);
    let table = file.len() as u64;
    file.extend(headers);
    file[40..48].copy_from_slice(&table.to_le_bytes());
    file[58..60].copy_from_slice(&64_u16.to_le_bytes());
    file[60..62].copy_from_slice(&(sections.len() as u16 + 1).to_le_bytes());
    file[62..64].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    file
}

#[test]
fn names_that_never_end_are_not_copied_for_each_section() {
    let long = "x".repeat(1 << 20);
    let mut sections = vec![("", 0, &[][..]); 16_000];
    sections.push((&long, 0, &[]));
    let file = file_of(&sections, false);
    let elf = Elf::parse(Source::Bytes(file.into())).unwrap();
    assert!(elf.section(&long).is_none(), "16,000 names of a megabyte each");
    assert!(elf.section(&long[..64]).is_some());
}

#[test]
fn a_section_unpacks_to_no_more_than_it_says_and_may() {
    const COMPRESSED: u64 = 1 << 11;
    let packed = |kind: u32, said: u64, contents: &[u8]| {
        let mut section = vec![0; 24];
        section[..4].copy_from_slice(&kind.to_le_bytes());
        section[8..16].copy_from_slice(&said.to_le_bytes());
        let mut zlib = flate2::write::ZlibEncoder::new(section, flate2::Compression::best());
        std::io::Write::write_all(&mut zlib, contents).unwrap();
        zlib.finish().unwrap()
    };
    let contents = vec![7; 8 << 20];
    let length = |section: &[u8], bytes: usize| {
        let file = file_of(&[(".debug_info", COMPRESSED, section)], true);
        let elf = Elf::parse(Source::Bytes(file.into())).unwrap();
        let budget = Budget::new(Instant::now() + TIME, 1000, bytes);
        elf.contents(".debug_info", &budget).map(|window| gimli::Reader::len(&window))
    };
    let plenty = 64 << 20;
    assert_eq!(length(&packed(1, 8 << 20, &contents), plenty), Ok(8 << 20));
    assert_eq!(length(&packed(1, 100, &contents), plenty), Ok(100), "the rest is left packed");
    assert_eq!(length(&packed(1, 16 << 20, &contents), plenty), Ok(8 << 20), "there is no more");
    let too_large = Err("compressed debug information is too large");
    assert_eq!(length(&packed(1, 1 << 40, &contents), plenty), too_large);
    assert_eq!(length(&packed(1, 8 << 20, &contents), 1 << 20), too_large);
    let damaged = [&packed(1, 8 << 20, &contents)[..30], &[9; 30]].concat();
    assert!(length(&damaged, plenty).is_ok_and(|length| length < 8 << 20));
    assert!(length(&packed(2, 8, &contents), plenty).is_err_and(|why| why.contains("zstd")));
    assert!(length(&[1; 10], plenty).is_err());
}

#[test]
fn a_header_may_promise_anything() {
    let mut file = vec![0; 4096];
    file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    let strategy = prop::collection::vec((16..4096_usize, any::<u8>()), 0..300);
    let mut runner = TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() });
    let result = runner.run(&strategy, |bytes| {
        let mut file = file.clone();
        bytes.into_iter().for_each(|(at, byte)| file[at] = byte);
        read_all(&file, &[0, 64, u64::MAX], &[64; 17]);
        Ok(())
    });
    result.unwrap();
    read_all(&[], &[0], &[0; 17]);
}
