//! Finds the functions and lines of a stack in the files that were opened while the process stood still.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use super::capture::hex;
use super::debug_info::{self, Place};
use super::elf::{Elf, Symbol};
use super::modules::Module;
use super::own::{Evidence, is_own};
use super::source::Budget;
use super::walk::Step;
use super::{Capture, debug_file, names};
use crate::domain::{Crash, Frame};

/// What may be read of all files together: numbers and names, and bytes (which are kept until the end).
const MOST_READS: u32 = 40_000_000;
const MOST_BYTES: usize = 256 << 20;

/// What was found of the addresses of one module.
struct Found {
    places: Vec<Place>,
    symbol: Option<Symbol>,
}

/// What a module's files have.
#[derive(Default)]
struct Of {
    found: HashMap<u64, Found>,
    has_lines: bool,
    has_symbols: bool,
}

/// Adds the frames to the report.
pub(super) fn frames(capture: &Capture, crash: &mut Crash, deadline: Instant) {
    let budget = Budget::new(deadline, MOST_READS, MOST_BYTES);
    // The module of the innermost frames first: time may be over before the last.
    let mut modules: HashMap<usize, Of> = HashMap::new();
    for step in capture.walk.steps() {
        let Some(at) = step.module.filter(|at| !modules.contains_key(at)) else { continue };
        let mut addresses: Vec<u64> =
            capture.walk.steps().filter(|s| s.module == Some(at)).map(|s| s.instruction).collect();
        addresses.sort_unstable();
        addresses.dedup();
        modules.insert(at, of_module(&capture.modules[at], &addresses, &budget, crash));
    }
    if budget.is_spent() {
        crash.lacks("time was over before all functions and lines were found");
    }
    let mut evidence = Vec::new();
    for (i, step) in capture.walk.steps().enumerate() {
        if i == capture.walk.inner.len() && capture.walk.omitted > 0 {
            crash.frames_omitted = capture.walk.omitted;
            crash.omitted_before = Some(crash.frames.len() as u32);
        }
        let module = step.module.map(|at| (&capture.modules[at], &modules[&at]));
        let frames = frames_of(step, module);
        evidence.extend(frames.iter().map(|_| module.map(|(m, of)| (m.is_of_system(), of.has_lines, of.has_symbols))));
        crash.frames.extend(frames);
    }
    mark_own(crash, &evidence);
    say_what_is_lacking(crash, &evidence);
}

fn of_module(module: &Module, addresses: &[u64], budget: &Rc<Budget>, crash: &mut Crash) -> Of {
    let Some(file) = module.file() else {
        crash.lacks(&format!("{} is not to be had as it was mapped", module.name()));
        return Of::default();
    };
    let Some(elf) = Elf::parse(file.clone()) else { return Of::default() };
    // Debug information of system libraries is large, and tells of code that the reader did not write.
    let separate = match module.is_of_system() || elf.section(".debug_info").is_some() {
        true => None,
        false => debug_file::find(&elf, &module.path, budget),
    };
    let with_symbols = separate.as_ref().filter(|other| other.has_symbols() && !elf.has_symbols()).unwrap_or(&elf);
    let in_file: Vec<u64> = addresses.iter().map(|address| module.in_file(*address)).collect();
    let symbols = with_symbols.symbols(&in_file, budget);
    let with_lines = separate.as_ref().unwrap_or(&elf);
    let has_lines = !module.is_of_system() && with_lines.section(".debug_info").is_some();
    let places = match has_lines {
        true => {
            let (places, problem) = debug_info::places(with_lines, &in_file, budget);
            if let Some(problem) = problem {
                crash.lacks(&format!("{}: {problem}", module.name()));
            }
            places
        }
        false => vec![Vec::new(); addresses.len()],
    };
    let found = addresses.iter().zip(places.into_iter().zip(symbols));
    Of {
        found: found.map(|(address, (places, symbol))| (*address, Found { places, symbol })).collect(),
        has_lines,
        has_symbols: with_symbols.has_symbols(),
    }
}

/// The frames of one step: several, where functions are inlined.
fn frames_of(step: &Step, module: Option<(&Module, &Of)>) -> Vec<Frame> {
    let base = Frame {
        module: module.map(|(module, _)| module.name().chars().take(255).collect()),
        offset: module.map(|(module, _)| hex(module.in_file(step.address))),
        address: hex(step.address),
        guessed: step.guessed,
        ..Frame::default()
    };
    let found = module.and_then(|(_, of)| of.found.get(&step.instruction));
    let symbol = found.and_then(|found| found.symbol.as_ref());
    let mut frames: Vec<Frame> =
        found.map_or(&[][..], |found| &found.places).iter().map(|place| with(&base, place)).collect();
    if frames.is_empty() {
        frames.push(base);
    }
    // The linker's name says of which namespace a function is, which debug information may not.
    if let Some(outermost) = frames.last_mut()
        && let Some(symbol) = symbol
        && (outermost.function.is_none() || symbol.name.starts_with("_Z") || symbol.name.starts_with("_R"))
    {
        outermost.function = Some(names::demangled(&symbol.name));
    }
    if let Some(outermost) = frames.last_mut()
        && outermost.function.is_none()
    {
        outermost.function_bytes = step.function_bytes;
    }
    frames
}

fn with(base: &Frame, place: &Place) -> Frame {
    Frame {
        function: place.function.clone(),
        file: place.file.clone(),
        line: place.line,
        column: place.column,
        inlined: place.inlined,
        ..base.clone()
    }
}

/// Of a frame's module: whether it is of the system, has lines, has symbols.
type OfModule = Option<(bool, bool, bool)>;

fn mark_own(crash: &mut Crash, modules: &[OfModule]) {
    for strict in [true, false] {
        for (frame, module) in crash.frames.iter_mut().zip(modules) {
            frame.own = is_own(
                Evidence {
                    of_system: module.is_some_and(|(of_system, ..)| of_system),
                    has_module: module.is_some(),
                    function: frame.function.as_deref(),
                    file: frame.file.as_deref(),
                    module_has_lines: module.is_some_and(|(_, has_lines, _)| has_lines),
                },
                strict,
            );
        }
        if crash.frames.iter().any(|frame| frame.own) {
            break;
        }
    }
}

/// Says how the next report would tell more.
fn say_what_is_lacking(crash: &mut Crash, modules: &[OfModule]) {
    let own = crash.frames.iter().zip(modules).find(|(frame, _)| frame.own);
    let Some((Frame { module: Some(name), .. }, Some((_, has_lines, has_symbols)))) = own else { return };
    let name = name.clone();
    match (has_lines, has_symbols) {
        (true, _) => {}
        (false, true) => crash.lacks(&format!("{name} has no debug information: compile it with -g")),
        (false, false) => crash.lacks(&format!("{name} is stripped: keep its symbols, or its .debug file beside it")),
    }
}
