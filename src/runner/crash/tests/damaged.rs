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
