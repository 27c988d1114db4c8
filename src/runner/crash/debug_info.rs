//! Finds functions and source lines in debug information (DWARF).
//!
//! Only what belongs to the addresses asked for is parsed: of each compilation unit the first entry, which says where its
//! code is, and of the units found all entries once.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use gimli::{
    Abbreviations, Attribute, AttributeValue, DebugAbbrev, DebugAbbrevOffset, DebugAddrBase, DebugInfoOffset,
    DebugLocListsBase, DebugRngListsBase, DebugStrOffsetsBase, DwTag, Dwarf, Reader, SectionId, Unit, UnitHeader,
    UnitOffset,
};

use super::elf::Elf;
use super::names;
use super::source::{Budget, Source, Window};

/// A place in the source, of one address or of the call by which an inlined function stands there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// With the namespaces and classes around it.
    pub(super) function: Option<String>,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
    pub(super) column: Option<u32>,
    pub(super) inlined: bool,
}

/// Functions that are inlined into each other, at most, and references from entry to entry that are followed.
const DEEPEST: usize = 64;
const MOST_REFERENCES: usize = 16;
/// How many reads the abbreviations and lists of files of units may take, which are kept: an entry takes more memory than
/// the file. A unit of a large program takes some ten thousand.
const MOST_KEPT: u32 = 2_000_000;
/// The longest name or path that is kept.
const LONGEST: usize = 1024;

/// The sections that are looked at: others may be compressed, and unpacking costs.
const NEEDED: [SectionId; 10] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugAranges,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
];

type Found = Vec<Vec<Place>>;

/// The places of these addresses of the file, innermost first: none, one, or several where functions are inlined. With a
/// word on what is lacking.
pub(super) fn places(elf: &Elf, addresses: &[u64], budget: &Rc<Budget>) -> (Found, Option<&'static str>) {
    let (mut problem, mut abbreviations) = (None, Window::empty(budget));
    let dwarf = Dwarf::load(|id| {
        if !NEEDED.contains(&id) {
            return Ok::<_, ()>(Window::empty(budget));
        }
        let contents = elf.contents(id.name(), budget).unwrap_or_else(|why| {
            problem = Some(why);
            Window::empty(budget)
        });
        if id == SectionId::DebugAbbrev {
            abbreviations = contents.clone();
        }
        Ok(contents)
    });
    let Ok(dwarf) = dwarf else { return (vec![Vec::new(); addresses.len()], problem) };
    let mut lookup = Lookup { dwarf, abbreviations, budget: budget.clone(), kept: MOST_KEPT, units: HashMap::new() };
    let mut found = vec![Vec::new(); addresses.len()];
    for (unit, wanted) in lookup.units_of(addresses, budget) {
        if budget.is_spent() {
            break;
        }
        let Some(unit) = lookup.unit(unit) else { continue };
        let of_unit: Vec<u64> = wanted.iter().map(|i| addresses[*i]).collect();
        for (i, places) in wanted.into_iter().zip(lookup.places(&unit, &of_unit)) {
            found[i] = places;
        }
        if unit.dwo_id.is_some() {
            problem = problem.or(Some("inlined functions are in .dwo files, which are not read"));
        }
    }
    (found, problem)
}

struct Lookup {
    dwarf: Dwarf<Window>,
    abbreviations: Window,
    budget: Rc<Budget>,
    /// How many reads are left for what is kept of units.
    kept: u32,
    units: HashMap<usize, Option<Rc<Unit<Window>>>>,
}

/// A function's or an inlined function's entry, whose code holds an address.
#[derive(Debug, Clone)]
struct Entry {
    offset: UnitOffset<usize>,
    depth: isize,
    inlined: bool,
    call_file: Option<u64>,
    call_line: Option<u32>,
    call_column: Option<u32>,
}

/// A row of the line table.
#[derive(Debug, Clone, Copy)]
struct Line {
    file: u64,
    line: Option<u32>,
    column: Option<u32>,
}

impl Lookup {
    /// Where the units begin that hold these addresses, each with the places of its addresses in the list.
    fn units_of(&self, addresses: &[u64], budget: &Budget) -> Vec<(usize, Vec<usize>)> {
        let mut units: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut missing: Vec<usize> = (0..addresses.len()).collect();
        let mut assign = |unit: usize, missing: &mut Vec<usize>, holds: &dyn Fn(u64) -> bool| {
            if !missing.iter().any(|i| holds(addresses[*i])) {
                return;
            }
            let (found, left): (Vec<_>, Vec<_>) = missing.drain(..).partition(|i| holds(addresses[*i]));
            *missing = left;
            match units.iter_mut().find(|(known, _)| *known == unit) {
                Some((_, of_unit)) => of_unit.extend(found),
                None => units.push((unit, found)),
            }
        };
        // Some compilers write a table; not all, and it need not hold all units.
        let mut headers = self.dwarf.debug_aranges.headers();
        while let (false, Ok(Some(header))) = (missing.is_empty(), headers.next()) {
            let mut entries = header.entries();
            while let Ok(Some(entry)) = entries.next() {
                let range = entry.range();
                assign(header.debug_info_offset().0, &mut missing, &|a| range.begin <= a && a < range.end);
            }
        }
        let mut headers = self.dwarf.units();
        while let (false, Ok(Some(header))) = (missing.is_empty() || budget.is_spent(), headers.next()) {
            let Some(DebugInfoOffset(offset)) = header.debug_info_offset() else { continue };
            let Some(mut ranges) = self.ranges_of(header) else { continue };
            while let Ok(Some(range)) = ranges.next() {
                assign(offset, &mut missing, &|a| range.begin <= a && a < range.end);
            }
        }
        units
    }

    /// Where the code of a unit is, by its first entry alone.
    fn ranges_of(&self, header: UnitHeader<Window>) -> Option<gimli::RangeIter<Window>> {
        let abbreviations = first_abbreviation(&self.abbreviations, header.debug_abbrev_offset())?;
        let mut unit = Unit {
            header,
            abbreviations: Arc::new(abbreviations),
            name: None,
            comp_dir: None,
            low_pc: 0,
            str_offsets_base: DebugStrOffsetsBase(0),
            addr_base: DebugAddrBase(0),
            loclists_base: DebugLocListsBase(0),
            rnglists_base: DebugRngListsBase(0),
            line_program: None,
            dwo_id: None,
        };
        let entry = {
            let mut entries = unit.header.entries(&unit.abbreviations);
            entries.next_dfs().ok()??.clone()
        };
        if let Some(AttributeValue::DebugAddrBase(base)) =
            entry.attr_value(gimli::DW_AT_addr_base).or_else(|| entry.attr_value(gimli::DW_AT_GNU_addr_base))
        {
            unit.addr_base = base;
        }
        if let Some(AttributeValue::DebugRngListsBase(base)) = entry.attr_value(gimli::DW_AT_rnglists_base) {
            unit.rnglists_base = base;
        }
        if let Some(low) = entry.attr_value(gimli::DW_AT_low_pc) {
            unit.low_pc = self.dwarf.attr_address(&unit, low).ok()?.unwrap_or(0);
        }
        self.dwarf.die_ranges(&unit, &entry).ok()
    }

    fn unit(&mut self, offset: usize) -> Option<Rc<Unit<Window>>> {
        let Self { dwarf, budget, kept, units, .. } = self;
        let parse = || {
            let header = dwarf.unit_header(DebugInfoOffset(offset)).ok()?;
            dwarf.unit(header).ok().map(Rc::new)
        };
        units.entry(offset).or_insert_with(|| budget.within(kept, parse)).clone()
    }

    /// The unit that holds an entry of another unit.
    fn unit_around(&mut self, entry: usize) -> Option<(Rc<Unit<Window>>, UnitOffset<usize>)> {
        let mut headers = self.dwarf.units();
        while let Ok(Some(header)) = headers.next() {
            let DebugInfoOffset(offset) = header.debug_info_offset()?;
            if let Some(within) = DebugInfoOffset(entry).to_unit_offset(&header) {
                return Some((self.unit(offset)?, within));
            }
        }
        None
    }

    fn places(&mut self, unit: &Rc<Unit<Window>>, addresses: &[u64]) -> Found {
        let lines = self.lines(unit, addresses);
        let entries = self.entries(unit, addresses);
        let mut files = HashMap::new();
        let mut found = Vec::new();
        for (line, entries) in lines.into_iter().zip(entries) {
            // Where the code of the next frame is: first the line itself, then the calls that were inlined.
            let mut at = line;
            let mut places = Vec::new();
            for entry in entries.iter().rev() {
                let file = at.and_then(|at| files.entry(at.file).or_insert_with(|| self.file(unit, at.file)).clone());
                places.push(Place {
                    function: self.name(unit, entry.offset, 0),
                    file,
                    line: at.and_then(|at| at.line),
                    column: at.and_then(|at| at.column),
                    inlined: entry.inlined,
                });
                at = entry.call_file.map(|file| Line { file, line: entry.call_line, column: entry.call_column });
            }
            if places.is_empty()
                && let Some(line) = line
            {
                let file = self.file(unit, line.file);
                places.push(Place { file, line: line.line, column: line.column, ..Place::default() });
            }
            found.push(places);
        }
        found
    }

    /// The rows of the line table that hold these addresses.
    fn lines(&self, unit: &Unit<Window>, addresses: &[u64]) -> Vec<Option<Line>> {
        let mut found = vec![None; addresses.len()];
        let Some(program) = unit.line_program.clone() else { return found };
        let mut rows = program.rows();
        let mut before: Option<(u64, Line)> = None;
        while let Ok(Some((_, row))) = rows.next_row() {
            if let Some((start, line)) = before {
                let holds = start..row.address();
                for (found, _) in found.iter_mut().zip(addresses).filter(|(_, address)| holds.contains(address)) {
                    found.get_or_insert(line);
                }
            }
            let line = Line {
                file: row.file_index(),
                line: row.line().and_then(|line| u32::try_from(line.get()).ok()),
                column: match row.column() {
                    gimli::ColumnType::LeftEdge => None,
                    gimli::ColumnType::Column(column) => u32::try_from(column.get()).ok(),
                },
            };
            before = (!row.end_sequence()).then_some((row.address(), line));
        }
        found
    }

    /// The path of a file in the unit's list.
    fn file(&self, unit: &Unit<Window>, index: u64) -> Option<String> {
        let header = unit.line_program.as_ref()?.header();
        let file = header.file(index)?;
        let text = |value| {
            let text = self.dwarf.attr_string(unit, value).ok()?;
            Some(text.to_string_lossy().ok()?.into_owned())
        };
        let mut path = text(file.path_name())?;
        let add = |path: &mut String, folder: Option<String>| {
            if !path.starts_with('/')
                && let Some(folder) = folder.filter(|folder| !folder.is_empty())
            {
                *path = format!("{}/{path}", folder.trim_end_matches('/'));
            }
        };
        // Before version 5 the first folder is the one in which the compiler was run.
        if header.version() >= 5 || file.directory_index() > 0 {
            add(&mut path, file.directory(header).and_then(text));
        }
        add(&mut path, unit.comp_dir.as_ref().and_then(|folder| Some(folder.to_string_lossy().ok()?.into_owned())));
        Some(shortened(path))
    }

    /// For each address the entries whose code holds it, the outermost first.
    fn entries(&self, unit: &Unit<Window>, addresses: &[u64]) -> Vec<Vec<Entry>> {
        let mut found: Vec<Vec<Entry>> = vec![Vec::new(); addresses.len()];
        // What is damaged ends the walk.
        let _ = self.walk_entries(unit, addresses, &mut found);
        found
    }

    fn walk_entries(&self, unit: &Unit<Window>, addresses: &[u64], found: &mut [Vec<Entry>]) -> gimli::Result<()> {
        let mut raw = unit.header.entries_raw(&unit.abbreviations, None)?;
        while !raw.is_empty() {
            let (offset, depth) = (raw.next_offset(), raw.next_depth());
            let Some(abbreviation) = raw.read_abbreviation()? else { continue };
            let inlined = abbreviation.tag() == gimli::DW_TAG_inlined_subroutine;
            if !inlined && abbreviation.tag() != gimli::DW_TAG_subprogram {
                raw.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let mut entry = Entry { offset, depth, inlined, call_file: None, call_line: None, call_column: None };
            let (mut low, mut high, mut size, mut ranges) = (None, None, None, None);
            for specification in abbreviation.attributes() {
                let attribute = raw.read_attribute(*specification)?;
                let number = |attribute: &Attribute<Window>| attribute.udata_value();
                match attribute.name() {
                    gimli::DW_AT_low_pc => low = self.dwarf.attr_address(unit, attribute.value())?,
                    gimli::DW_AT_high_pc => match number(&attribute) {
                        Some(length) => size = Some(length),
                        None => high = self.dwarf.attr_address(unit, attribute.value())?,
                    },
                    gimli::DW_AT_ranges => ranges = self.dwarf.attr_ranges_offset(unit, attribute.value())?,
                    gimli::DW_AT_call_file => {
                        entry.call_file = match attribute.value() {
                            AttributeValue::FileIndex(index) => Some(index),
                            _ => number(&attribute),
                        }
                    }
                    gimli::DW_AT_call_line => entry.call_line = number(&attribute).and_then(|n| n.try_into().ok()),
                    gimli::DW_AT_call_column => entry.call_column = number(&attribute).and_then(|n| n.try_into().ok()),
                    _ => {}
                }
            }
            let mut holds = |range: std::ops::Range<u64>| {
                for (found, _) in found.iter_mut().zip(addresses).filter(|(_, address)| range.contains(address)) {
                    found.retain(|around| inlined && around.depth < depth);
                    if found.len() < DEEPEST {
                        found.push(entry.clone());
                    }
                }
            };
            match (low, high.or_else(|| low?.checked_add(size?)), ranges) {
                (_, _, Some(ranges)) => {
                    let mut ranges = self.dwarf.ranges(unit, ranges)?;
                    while let Some(range) = ranges.next()? {
                        holds(range.begin..range.end);
                    }
                }
                (Some(low), Some(high), _) => holds(low..high),
                _ => {}
            }
        }
        Ok(())
    }

    /// The name of a function's entry, or of the one that it stands for. `depth` counts the functions that it is local to.
    fn name(&mut self, unit: &Rc<Unit<Window>>, offset: UnitOffset<usize>, depth: usize) -> Option<String> {
        let (mut unit, mut offset) = (unit.clone(), offset);
        let mut plain = None;
        for _ in 0..MOST_REFERENCES {
            let entry = unit.header.entry(&unit.abbreviations, offset).ok()?;
            let text = |value: Option<AttributeValue<Window>>| {
                let text = self.dwarf.attr_string(&unit, value?).ok()?;
                Some(text.to_string_lossy().ok()?.into_owned())
            };
            let linkage = entry.attr_value(gimli::DW_AT_linkage_name);
            if let Some(name) = text(linkage.or_else(|| entry.attr_value(gimli::DW_AT_MIPS_linkage_name))) {
                return Some(names::demangled(&name));
            }
            plain = text(entry.attr_value(gimli::DW_AT_name)).or(plain);
            let other =
                entry.attr_value(gimli::DW_AT_abstract_origin).or_else(|| entry.attr_value(gimli::DW_AT_specification));
            match other {
                Some(AttributeValue::UnitRef(other)) => offset = other,
                Some(AttributeValue::DebugInfoRef(DebugInfoOffset(other))) => {
                    (unit, offset) = self.unit_around(other)?
                }
                _ => break,
            }
        }
        let plain = plain?;
        let scope = (depth < MOST_REFERENCES).then(|| self.scope(&unit, offset, depth)).flatten();
        Some(shortened(scope.map_or(plain.clone(), |scope| format!("{scope}::{plain}"))))
    }

    /// The namespaces, classes and functions around an entry.
    fn scope(&mut self, unit: &Rc<Unit<Window>>, offset: UnitOffset<usize>, depth: usize) -> Option<String> {
        let mut around: Vec<Around> = Vec::new();
        let mut raw = unit.header.entries_raw(&unit.abbreviations, None).ok()?;
        while !raw.is_empty() && raw.next_offset() <= offset {
            let (at, depth) = (raw.next_offset(), raw.next_depth());
            let Some(abbreviation) = raw.read_abbreviation().ok()? else { continue };
            around.retain(|outer| outer.depth < depth);
            if at == offset {
                break;
            }
            let mut name = None;
            for specification in abbreviation.attributes() {
                let attribute = raw.read_attribute(*specification).ok()?;
                if attribute.name() == gimli::DW_AT_name && SCOPES.contains(&abbreviation.tag()) {
                    name = Some(attribute.value());
                }
            }
            if SCOPES.contains(&abbreviation.tag()) && around.len() < DEEPEST {
                around.push(Around { depth, tag: abbreviation.tag(), offset: at, name });
            }
        }
        // What is around a function is known to it.
        let function = around.iter().rposition(|outer| outer.tag == gimli::DW_TAG_subprogram);
        let mut names: Vec<String> = Vec::new();
        if let Some(at) = function {
            names.extend(self.name(unit, around[at].offset, depth + 1));
        }
        for outer in &around[function.map_or(0, |at| at + 1)..] {
            let name = outer.name.clone().and_then(|name| {
                let name = self.dwarf.attr_string(unit, name).ok()?;
                Some(name.to_string_lossy().ok()?.into_owned())
            });
            let is_lambda = function.is_some() && outer.tag != gimli::DW_TAG_namespace;
            names.extend(name.or_else(|| is_lambda.then(|| "{lambda}".to_owned())));
        }
        (!names.is_empty()).then(|| names.join("::"))
    }
}

/// What has names inside.
const SCOPES: [DwTag; 5] = [
    gimli::DW_TAG_namespace,
    gimli::DW_TAG_class_type,
    gimli::DW_TAG_structure_type,
    gimli::DW_TAG_union_type,
    gimli::DW_TAG_subprogram,
];

/// An entry around another one.
struct Around {
    depth: isize,
    tag: DwTag,
    offset: UnitOffset<usize>,
    name: Option<AttributeValue<Window>>,
}

/// The first of a unit's abbreviations, which is that of its first entry: there may be thousands.
fn first_abbreviation(section: &Window, offset: DebugAbbrevOffset<usize>) -> Option<Abbreviations> {
    const LONGEST: usize = 1024;
    let mut rest = section.clone();
    rest.skip(offset.0).ok()?;
    let start = rest.clone();
    let (_code, _tag, _children) = (rest.read_uleb128().ok()?, rest.read_uleb128().ok()?, rest.read_u8().ok()?);
    loop {
        let (name, form) = (rest.read_uleb128().ok()?, rest.read_uleb128().ok()?);
        if form == u64::from(gimli::DW_FORM_implicit_const.0) {
            rest.read_sleb128().ok()?;
        }
        if (name, form) == (0, 0) || rest.offset_from(&start) > LONGEST {
            break;
        }
    }
    let mut bytes = start;
    bytes.truncate(rest.offset_from(&bytes)).ok()?;
    let mut bytes = bytes.to_slice().ok()?.into_owned();
    bytes.push(0);
    let length = bytes.len() as u64;
    let alone = Window::new(Source::Bytes(Arc::new(bytes)), 0, length, rest.budget().clone());
    DebugAbbrev::from(alone).abbreviations(DebugAbbrevOffset(0)).ok()
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
    }
    text
}
