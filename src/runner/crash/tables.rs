//! Unwind information: what a module says of how its functions can be left.
//!
//! `.eh_frame` is read from the process's memory and found by the table that the linker made of it; a static program has
//! none, and then all entries are looked through once. `.debug_frame` is read from the file, where the other has nothing.

use std::collections::HashMap;
use std::rc::Rc;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, EhFrame, EhFrameHdr, EhFrameOffset, Encoding, Expression,
    FrameDescriptionEntry, ParsedEhFrameHdr, RegisterRule, UnwindContext, UnwindOffset, UnwindSection,
};

use super::elf::{self, Elf};
use super::maps::Maps;
use super::modules::Module;
use super::source::{Budget, Source, Window};

/// How a function is left from one place in it.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) cfa: Cfa,
    /// How the caller's registers are found, by their numbers.
    pub(super) registers: Vec<(u16, Rule)>,
    /// The register that holds the return address.
    pub(super) return_address: u16,
    pub(super) is_signal_frame: bool,
    pub(super) encoding: Encoding,
    /// How many bytes of code the function has.
    pub(super) function_bytes: u64,
}

/// How the canonical frame address is found: where the caller's stack pointer was before the call.
#[derive(Debug, Clone)]
pub(super) enum Cfa {
    Offset { register: u16, offset: i64 },
    Expression(Expression<Window>),
}

#[derive(Debug, Clone)]
pub(super) enum Rule {
    Undefined,
    Same,
    /// In memory, so far from the frame address.
    At(i64),
    /// The frame address and so much.
    Is(i64),
    Register(u16),
    /// In memory, at the address that this gives.
    AtExpression(Expression<Window>),
    IsExpression(Expression<Window>),
}

/// The unwind information of one module.
pub(super) struct Tables {
    bias: u64,
    eh_frame: Option<ByTable>,
    listed: Option<Listed<EhFrame<Window>>>,
    debug_frame: Option<Listed<DebugFrame<Window>>>,
}

impl Tables {
    /// Those of a module whose file was opened, if it could be.
    pub(super) fn of(module: &Module, memory: &Source, maps: &Maps, budget: &Rc<Budget>) -> Self {
        let bias = module.bias;
        let window = |start: u64, length: u64| Window::new(memory.clone(), start, length, budget.clone());
        let table = elf::unwind_table(&module.segments)
            .and_then(|(address, length)| ByTable::new(address.wrapping_add(bias), length, maps, window));
        let elf = || module.file().and_then(|file| Elf::parse(file.clone()));
        let mut tables = Self { bias, eh_frame: table, listed: None, debug_frame: None };
        let Some(elf) = elf() else { return tables };
        if tables.eh_frame.is_none()
            && let Some(section) = elf.section(".eh_frame")
        {
            let start = section.address.wrapping_add(bias);
            let bases = BaseAddresses::default().set_eh_frame(start);
            tables.listed = Some(Listed::new(window(start, section.size).into(), bases));
        }
        if elf.section(".debug_frame").is_some()
            && let Ok(window) = elf.contents(".debug_frame", budget)
        {
            tables.debug_frame = Some(Listed::new(window.into(), BaseAddresses::default()));
        }
        tables
    }

    /// The rules of the function that holds this address of the process, there.
    pub(super) fn rules(&self, address: u64) -> Option<Rules> {
        let by_table = self.eh_frame.as_ref().and_then(|table| table.rules(address));
        let by_list = || self.listed.as_ref().and_then(|list| list.rules(address));
        let by_debug_frame = || self.debug_frame.as_ref()?.rules(address.wrapping_sub(self.bias));
        by_table.or_else(by_list).or_else(by_debug_frame)
    }
}

/// `.eh_frame` with the linker's table.
struct ByTable {
    section: EhFrame<Window>,
    start: u64,
    table: ParsedEhFrameHdr<Window>,
    bases: BaseAddresses,
}

impl ByTable {
    fn new(address: u64, length: u64, maps: &Maps, window: impl Fn(u64, u64) -> Window) -> Option<Self> {
        let bases = BaseAddresses::default().set_eh_frame_hdr(address);
        let table = EhFrameHdr::from(window(address, length)).parse(&bases, 8).ok()?;
        table.table()?;
        let start = table.eh_frame_ptr().direct().ok()?;
        let section = window(start, maps.at(start)?.end - start).into();
        Some(Self { section, start, table, bases: bases.set_eh_frame(start) })
    }

    fn rules(&self, address: u64) -> Option<Rules> {
        let entry = self.table.table()?.lookup(address, &self.bases).ok()?.direct().ok()?;
        let offset = EhFrameOffset(usize::try_from(entry.checked_sub(self.start)?).ok()?);
        let fde = self.section.fde_from_offset(&self.bases, offset, EhFrame::cie_from_offset).ok()?;
        if !fde.contains(address) {
            return None;
        }
        rules_of(&self.section, &self.bases, &fde, address)
    }
}

/// A section and the list of its entries.
struct Listed<S> {
    section: S,
    bases: BaseAddresses,
    /// Where functions begin and end, and the places of their entries.
    entries: Vec<(u64, u64, usize)>,
}

impl<S: UnwindSection<Window>> Listed<S> {
    fn new(section: S, bases: BaseAddresses) -> Self {
        let mut entries = Vec::new();
        let mut known = HashMap::new();
        let mut all = section.entries(&bases);
        // What is damaged ends the list.
        while let Ok(Some(entry)) = all.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let fde = partial.parse(|section, bases, offset| {
                let place: usize = UnwindOffset::into(offset);
                if let Some(cie) = known.get(&place) {
                    return Ok::<gimli::CommonInformationEntry<Window>, _>(Clone::clone(cie));
                }
                let cie = section.cie_from_offset(bases, offset)?;
                known.insert(place, cie.clone());
                Ok(cie)
            });
            let Ok(fde) = fde else { break };
            if !fde.is_empty_range() {
                entries.push((fde.initial_address(), fde.end_address(), fde.offset()));
            }
        }
        entries.sort_unstable();
        Self { section, bases: bases.clone(), entries }
    }

    fn rules(&self, address: u64) -> Option<Rules> {
        let behind = self.entries.partition_point(|(start, ..)| *start <= address);
        let (_, end, offset) = *self.entries.get(behind.checked_sub(1)?)?;
        if address >= end {
            return None;
        }
        let fde = self.section.fde_from_offset(&self.bases, offset.into(), S::cie_from_offset).ok()?;
        rules_of(&self.section, &self.bases, &fde, address)
    }
}

/// Whether an entry is of no code, such as of a function that the linker left out.
trait EmptyRange {
    fn is_empty_range(&self) -> bool;
}

impl EmptyRange for FrameDescriptionEntry<Window> {
    fn is_empty_range(&self) -> bool {
        self.len() == 0 || self.end_address() < self.initial_address()
    }
}

fn rules_of<S: UnwindSection<Window>>(
    section: &S,
    bases: &BaseAddresses,
    fde: &FrameDescriptionEntry<Window>,
    address: u64,
) -> Option<Rules> {
    let mut context = UnwindContext::new();
    let row = fde.unwind_info_for_address(section, bases, &mut context, address).ok()?;
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Cfa::Offset { register: register.0, offset: *offset },
        CfaRule::Expression(expression) => Cfa::Expression(expression.get(section).ok()?),
    };
    let rule = |rule: &RegisterRule<usize>| {
        Some(match rule {
            RegisterRule::SameValue => Rule::Same,
            RegisterRule::Offset(offset) => Rule::At(*offset),
            RegisterRule::ValOffset(offset) => Rule::Is(*offset),
            RegisterRule::Register(register) => Rule::Register(register.0),
            RegisterRule::Expression(expression) => Rule::AtExpression(expression.get(section).ok()?),
            RegisterRule::ValExpression(expression) => Rule::IsExpression(expression.get(section).ok()?),
            _ => Rule::Undefined,
        })
    };
    let registers = row.registers().map(|(register, how)| Some((register.0, rule(how)?))).collect::<Option<_>>()?;
    Some(Rules {
        cfa,
        registers,
        return_address: fde.cie().return_address_register().0,
        is_signal_frame: fde.is_signal_trampoline(),
        encoding: fde.cie().encoding(),
        function_bytes: fde.len(),
    })
}
