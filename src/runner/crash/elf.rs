//! Reads what a stack trace needs of an ELF file, or of one in memory: segments, sections, notes and symbols. The job
//! chooses what is in it, so all counts are bounded.

use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;

use super::source::{Budget, Source, Window};
use crate::runner::builds;

/// The sizes of a segment's and of a section's header.
const SEGMENT: usize = 56;
const SECTION: usize = 64;
const MOST_SEGMENTS: usize = 256;
const MOST_SECTIONS: usize = 16 * 1024;
const LONGEST_NAME_TABLE: usize = 1 << 20;
const LONGEST_SECTION_NAME: usize = 64;
const LONGEST_FILE_NAME: usize = 255;
const LONGEST_NOTES: usize = 64 * 1024;
/// Names of templates may have thousands of characters.
const LONGEST_SYMBOL: usize = 4096;
/// The longest compressed section that is unpacked, in bytes when unpacked: those of all together are bounded by the budget.
const LONGEST_UNPACKED: u64 = 192 << 20;

const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
const SHF_COMPRESSED: u64 = 1 << 11;
const ELFCOMPRESS_ZLIB: u32 = 1;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;

/// So many bytes; zeros beyond the end.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

/// A number of four or eight bytes; 0 beyond the end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

/// The first bytes of an ELF file of 64 bits, little endian: of every other there is nothing to tell.
fn head(source: &Source, at: u64) -> Option<[u8; 64]> {
    source.bytes::<64>(at).filter(|head| head.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]))
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    kind: u32,
    is_code: bool,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

/// The segments of the ELF file that begins there.
pub(super) fn segments(source: &Source, at: u64) -> Option<Vec<Segment>> {
    let head = head(source, at)?;
    let (table, size, count) = (u64_at(&head, 32), usize::from(u16_at(&head, 54)), usize::from(u16_at(&head, 56)));
    if size != SEGMENT {
        return None;
    }
    let bytes = source.up_to(at.checked_add(table)?, size * count.min(MOST_SEGMENTS));
    let segment = |entry: &[u8]| Segment {
        kind: u32_at(entry, 0),
        is_code: u32_at(entry, 4) & PF_X != 0,
        offset: u64_at(entry, 8),
        address: u64_at(entry, 16),
        file_size: u64_at(entry, 32),
        memory_size: u64_at(entry, 40),
    };
    Some(bytes.chunks_exact(size).map(segment).collect())
}

/// The address of the first segment that is loaded, to the page.
pub(super) fn first_address(segments: &[Segment]) -> Option<u64> {
    segments
        .iter()
        .find(|segment| segment.kind == PT_LOAD)
        .map(|segment| segment.address.wrapping_sub(segment.offset) & !0xfff)
}

/// An address of code.
pub(super) fn code_address(segments: &[Segment]) -> Option<u64> {
    segments.iter().find(|segment| segment.kind == PT_LOAD && segment.is_code).map(|segment| segment.address)
}

/// The address behind all that is loaded, to the page.
pub(super) fn end_address(segments: &[Segment]) -> Option<u64> {
    let loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD);
    loaded.filter_map(|s| s.address.checked_add(s.memory_size)?.checked_next_multiple_of(0x1000)).max()
}

/// Where the table is by which unwind information is found.
pub(super) fn unwind_table(segments: &[Segment]) -> Option<(u64, u64)> {
    segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME).map(|s| (s.address, s.file_size))
}

/// The build id of a program in memory, whose addresses are `bias` away from those of its file.
pub(super) fn build_id_in_memory(memory: &Source, segments: &[Segment], bias: u64) -> Option<Vec<u8>> {
    build_id(segments, |segment, length| memory.up_to(segment.address.wrapping_add(bias), length))
}

fn build_id(segments: &[Segment], read: impl Fn(&Segment, usize) -> Vec<u8>) -> Option<Vec<u8>> {
    let notes = segments.iter().filter(|segment| segment.kind == PT_NOTE);
    notes.map(|s| read(s, (s.file_size as usize).min(LONGEST_NOTES))).find_map(|bytes| builds::id_among(&bytes))
}

#[derive(Debug, Clone)]
pub(super) struct Section {
    name: String,
    kind: u32,
    flags: u64,
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    link: u32,
}

/// An ELF file.
#[derive(Debug)]
pub(super) struct Elf {
    pub(super) source: Source,
    sections: Vec<Section>,
    segments: Vec<Segment>,
}

/// A name for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Symbol {
    /// As the linker knows it.
    pub(super) name: String,
    /// How many bytes of code it has; 0 when the file does not say.
    pub(super) size: u64,
}

impl Elf {
    /// Reads the headers. `None` of what is no ELF file of 64 bits.
    pub(super) fn parse(source: Source) -> Option<Self> {
        let head = head(&source, 0)?;
        let segments = segments(&source, 0).unwrap_or_default();
        let (table, size, count) = (u64_at(&head, 40), usize::from(u16_at(&head, 58)), usize::from(u16_at(&head, 60)));
        let mut sections = Vec::new();
        if size == SECTION && table > 0 {
            let bytes = source.up_to(table, size * count.min(MOST_SECTIONS));
            let names = bytes.chunks_exact(size).nth(usize::from(u16_at(&head, 62)));
            let names = names.map(|entry| {
                let length = usize::try_from(u64_at(entry, 32)).unwrap_or(usize::MAX).min(LONGEST_NAME_TABLE);
                source.up_to(u64_at(entry, 24), length)
            });
            let names = names.unwrap_or_default();
            sections.extend(bytes.chunks_exact(size).map(|entry| Section {
                name: text_at(&names, u32_at(entry, 0) as usize, LONGEST_SECTION_NAME),
                kind: u32_at(entry, 4),
                flags: u64_at(entry, 8),
                address: u64_at(entry, 16),
                offset: u64_at(entry, 24),
                size: u64_at(entry, 32),
                link: u32_at(entry, 40),
            }));
        }
        Some(Self { source, sections, segments })
    }

    /// The section of this name that has contents in the file.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && section.kind != SHT_NOBITS)
    }

    pub(super) fn build_id(&self) -> Option<Vec<u8>> {
        build_id(&self.segments, |segment, length| self.source.up_to(segment.offset, length)).or_else(|| {
            let notes = self.section(".note.gnu.build-id")?;
            builds::id_among(&self.source.up_to(notes.offset, (notes.size as usize).min(LONGEST_NOTES)))
        })
    }

    /// The name and the checksum of the file that holds the debug information of this one.
    pub(super) fn debug_link(&self) -> Option<(String, u32)> {
        let section = self.section(".gnu_debuglink")?;
        let bytes = self.source.up_to(section.offset, (section.size as usize).min(LONGEST_FILE_NAME + 8));
        let name = text_at(&bytes, 0, LONGEST_FILE_NAME);
        let checksum = (name.len() + 1).next_multiple_of(4);
        // A name, not a path: the file lies where such files lie.
        (!name.is_empty() && !name.contains('/') && bytes.len() >= checksum + 4)
            .then(|| (name, u32_at(&bytes, checksum)))
    }

    /// What is in a section, unpacked; nothing, if there is no such section or it is not to be had.
    pub(super) fn contents(&self, name: &str, budget: &Rc<Budget>) -> Result<Window, &'static str> {
        let Some(section) = self.section(name) else { return Ok(Window::empty(budget)) };
        if section.flags & SHF_COMPRESSED == 0 {
            return Ok(Window::new(self.source.clone(), section.offset, section.size, budget.clone()));
        }
        let header = self.source.bytes::<24>(section.offset).ok_or("a compressed section is cut short")?;
        if u32_at(&header, 0) != ELFCOMPRESS_ZLIB {
            return Err("debug information is compressed with zstd, which is not read");
        }
        let size = u64_at(&header, 8);
        if size > LONGEST_UNPACKED || !budget.take(size as usize) {
            return Err("compressed debug information is too large");
        }
        let packed = Packed {
            source: &self.source,
            at: section.offset.saturating_add(24),
            left: section.size.saturating_sub(24),
            budget,
        };
        let mut bytes = Vec::with_capacity(size as usize);
        // A damaged section gives as much as could be unpacked.
        let _ = flate2::read::ZlibDecoder::new(packed).take(size).read_to_end(&mut bytes);
        let length = bytes.len() as u64;
        Ok(Window::new(Source::Bytes(Arc::new(bytes)), 0, length, budget.clone()))
    }

    /// Whether the file has a table of all its symbols, not only of those that other files use.
    pub(super) fn has_symbols(&self) -> bool {
        self.sections.iter().any(|section| section.kind == SHT_SYMTAB)
    }

    /// The symbols of these addresses, in their order. The tables are read through once, in pieces.
    pub(super) fn symbols(&self, addresses: &[u64], budget: &Rc<Budget>) -> Vec<Option<Symbol>> {
        let mut best: Vec<Option<Candidate>> = vec![None; addresses.len()];
        let mut order: Vec<usize> = (0..addresses.len()).collect();
        order.sort_unstable_by_key(|i| addresses[*i]);
        let tables = self.sections.iter().filter(|section| matches!(section.kind, SHT_SYMTAB | SHT_DYNSYM));
        for table in tables {
            let Some(strings) = self.sections.get(table.link as usize) else { continue };
            let mut at = 0;
            while at < table.size && !budget.is_spent() {
                let chunk =
                    self.source.up_to(table.offset.saturating_add(at), (table.size - at).min(64 * 1024) as usize);
                for entry in chunk.chunks_exact(24) {
                    let Some(candidate) = Candidate::of(entry, strings, &self.sections) else { continue };
                    // Those addresses that lie behind where it begins.
                    let first = order.partition_point(|i| addresses[*i] < candidate.start);
                    let behind = order[first..].iter();
                    for i in behind.take_while(|i| addresses[**i] - candidate.start < candidate.reach) {
                        if best[*i].as_ref().is_none_or(|before| candidate.is_better_than(before)) {
                            best[*i] = Some(candidate.clone());
                        }
                    }
                }
                if chunk.len() < 24 {
                    break;
                }
                at += (chunk.len() / 24 * 24) as u64;
            }
        }
        best.into_iter().map(|found| found?.symbol(&self.source)).collect()
    }
}

#[derive(Debug, Clone)]
struct Candidate {
    start: u64,
    /// As the file says it; 0 of a label.
    size: u64,
    /// How many bytes it may name.
    reach: u64,
    is_function: bool,
    is_global: bool,
    name_at: u64,
}

impl Candidate {
    fn of(entry: &[u8], strings: &Section, sections: &[Section]) -> Option<Self> {
        /// A function in assembler that does not say how long it is.
        const LONGEST_LABELLED: u64 = 4096;
        let (name, info, section) = (u64::from(u32_at(entry, 0)), entry[4], u16_at(entry, 6));
        let kind = info & 0xf;
        let is_function = matches!(kind, STT_FUNC | STT_GNU_IFUNC);
        // Of assembler, labels may have no type.
        if section == 0 || !(is_function || kind == STT_NOTYPE) || name >= strings.size {
            return None;
        }
        let (start, size) = (u64_at(entry, 8), u64_at(entry, 16));
        let name_at = strings.offset.checked_add(name)?;
        // Of one without a size, as far as its section goes: labels mark the ends of sections, too.
        let section_end = sections.get(usize::from(section)).and_then(|s| s.address.checked_add(s.size));
        let reach = match size {
            0 => section_end.map_or(0, |end| end.saturating_sub(start)).min(LONGEST_LABELLED),
            size => size,
        };
        Some(Self { start, size, reach, is_function, is_global: info >> 4 == 1, name_at })
    }

    /// One that says how long it is counts for more than one that does not, and the nearer for more than the farther.
    fn is_better_than(&self, other: &Self) -> bool {
        let rank = |c: &Self| (c.size > 0, c.start, c.is_function, c.is_global);
        rank(self) > rank(other)
    }

    fn symbol(&self, source: &Source) -> Option<Symbol> {
        let name = text_at(&source.up_to(self.name_at, LONGEST_SYMBOL), 0, LONGEST_SYMBOL);
        (!name.is_empty()).then_some(Symbol { name, size: self.size })
    }
}

/// The text that ends with a NUL, or after so many bytes.
fn text_at(bytes: &[u8], at: usize, longest: usize) -> String {
    let rest = bytes.get(at..).unwrap_or_default();
    let rest = &rest[..rest.len().min(longest)];
    String::from_utf8_lossy(rest.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A compressed section, read in pieces.
struct Packed<'a> {
    source: &'a Source,
    at: u64,
    left: u64,
    budget: &'a Budget,
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if self.budget.is_spent() {
            return Ok(0);
        }
        let length = self.source.read_at(&mut buffer[..most], self.at);
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}
