//! Takes what there is to know of a stopped thread, in the order of its worth: time may be over at any moment.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::frame::Frame;
use super::maps::Maps;
use super::modules::{self, Module};
use super::source::{Budget, Source};
use super::stopped::{self, Registers, SignalInfo};
use super::walk::{Stack, Step, Walk};
use super::{Capture, walk};
use crate::domain::{self, BuildDigest, Crash, PointsAt, Register};
use crate::runner::procfs;

/// The longest list of mappings that is read, in bytes: some 65,000 mappings are allowed, of 100 bytes each.
const LONGEST_MAPS: usize = 8 << 20;
/// How many names of other threads are told, and how many modules.
const MOST_NAMES: usize = 64;
const MOST_MODULES: usize = 256;
/// What a walk may read: of the stack each page once, of unwind information some pages, of a static program all.
const MOST_READS: u32 = 10_000_000;
const MOST_BYTES: usize = 64 << 20;

/// What the kernel says of the thread and its signal.
pub(super) fn head(thread: i32) -> Option<(Crash, SignalInfo)> {
    let info = stopped::signal_info(thread).ok()?;
    let process = procfs::process_of(thread)?;
    let mut crash = Crash {
        signal: info.signal,
        code: stopped::code_name(info.signal, info.code).map(str::to_owned),
        process,
        command: name_of(&format!("/proc/{process}/comm")),
        thread,
        thread_name: name_of(&format!("/proc/{thread}/comm")),
        ..Crash::default()
    };
    // Of these codes the value is the sender's id; 0 stands for one that this process can't see.
    let sender = i32::try_from(info.value & 0xffff_ffff).unwrap_or(0);
    if matches!(info.code, 0 | -1 | -6) && sender != process && sender != 0 {
        crash.sent_by = Some(sender);
    }
    Some((crash, info))
}

pub(super) fn capture(thread: i32, deadline: Instant) -> Option<Capture> {
    let (mut crash, info) = head(thread)?;
    let process = crash.process;
    let nothing = |crash| Some(Capture { crash, walk: Walk::default(), modules: Vec::new() });
    let Some(registers) = stopped::registers(thread).ok()? else {
        crash.lacks("stacks of programs of 32 bits are not walked");
        return nothing(crash);
    };
    let register = |(name, value): &(&str, u64)| Register { name: (*name).to_owned(), value: hex(*value) };
    crash.registers = registers.named.iter().map(register).collect();

    let text = procfs::read(&format!("/proc/{process}/maps"), LONGEST_MAPS).unwrap_or_default();
    let maps = Maps::parse(&String::from_utf8_lossy(&text));
    describe_address(&mut crash, info, &registers, &maps);
    let memory = File::open(format!("/proc/{process}/mem")).ok().filter(|_| !maps.is_empty());
    let Some(memory) = memory else {
        crash.lacks("the process may not be read: its file is not readable, or it has made itself not dumpable");
        return nothing(crash);
    };
    let memory = Source::File(Arc::new(memory));

    let mut modules = modules::find(process, &maps, &memory, || Instant::now() < deadline);
    let walk = match Frame::of(&registers.numbered) {
        Some(frame) => {
            let budget = Budget::new(deadline, MOST_READS, MOST_BYTES);
            // These two tell of an instruction that has been executed.
            let at_instruction = !matches!(info.signal, libc::SIGTRAP | libc::SIGSYS);
            Stack::new(process, &memory, &maps, &mut modules, budget).walk(frame, at_instruction)
        }
        None => where_it_is(&registers, &maps, &mut modules, process, &memory),
    };
    if let Some(why) = walk.incomplete {
        crash.lacks(why);
    }
    (crash.modules, crash.modules_omitted) = listed(&modules, &walk);
    add_threads(&mut crash, deadline);
    Some(Capture { crash, walk, modules })
}

/// The one frame that the program counter names, where stacks are not walked.
fn where_it_is(registers: &Registers, maps: &Maps, modules: &mut [Module], process: i32, memory: &Source) -> Walk {
    let address = registers.counter;
    let module = modules.iter().position(|m| (m.base..m.end).contains(&address)).filter(|_| maps.is_code(address));
    if let Some(module) = module {
        modules[module].open(process, memory);
    }
    let step = Step { address, instruction: address, module, function_bytes: None, guessed: false };
    let incomplete = Some("stacks are walked on x86-64 only");
    Walk { inner: vec![step], incomplete, ..Walk::default() }
}

/// Adds the address that could not be used, and what is there.
fn describe_address(crash: &mut Crash, info: SignalInfo, registers: &Registers, maps: &Maps) {
    const SI_KERNEL: i32 = 0x80;
    let overflow = || maps.has_left_stack(registers.stack).then_some(PointsAt::StackGuard);
    match (info.signal, info.code) {
        // The kernel says so when it could not even put a signal's frame on the stack, too.
        (libc::SIGSEGV, SI_KERNEL) => crash.points_at = overflow().or(Some(PointsAt::GeneralProtection)),
        (libc::SIGSEGV, 1..) => {
            crash.address = Some(hex(info.value));
            crash.points_at = Some(maps.points_at(info.value, registers.stack, registers.counter));
        }
        (libc::SIGBUS, 1..) => {
            crash.address = Some(hex(info.value));
            crash.points_at = match stopped::code_name(info.signal, info.code) {
                Some("BUS_ADRALN") => Some(PointsAt::Misaligned),
                Some("BUS_ADRERR") => {
                    maps.at(info.value).filter(|mapping| mapping.inode != 0).map(|_| PointsAt::BeyondFile)
                }
                _ => None,
            };
        }
        _ => {}
    }
}

/// The modules as they are told: those first that frames are of.
fn listed(modules: &[Module], walk: &Walk) -> (Vec<domain::Module>, u32) {
    let is_used = |at: &usize| walk.steps().any(|step| step.module == Some(*at));
    let (mut order, others): (Vec<_>, Vec<_>) = (0..modules.len()).partition(is_used);
    order.extend(others);
    let omitted = order.len().saturating_sub(MOST_MODULES);
    let told = order.into_iter().take(MOST_MODULES).map(|at| {
        let module = &modules[at];
        domain::Module {
            path: module.path.chars().take(512).collect(),
            base: hex(module.base),
            bytes: module.end.saturating_sub(module.base),
            build_id: module.build_id.as_ref().map(|id| BuildDigest::of_build_id(id).to_string()),
        }
    });
    (told.collect(), omitted as u32)
}

fn add_threads(crash: &mut Crash, deadline: Instant) {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", crash.process)) else { return };
    for entry in threads.flatten() {
        if entry.file_name().to_str() == Some(&crash.thread.to_string()) {
            continue;
        }
        if crash.other_threads.len() == MOST_NAMES || Instant::now() >= deadline {
            crash.threads_omitted += 1;
        } else {
            let path = entry.path().join("comm");
            crash.other_threads.push(path.to_str().map(name_of).unwrap_or_default());
        }
    }
    crash.other_threads.sort_unstable();
}

fn name_of(path: &str) -> String {
    let name = procfs::read(path, 256).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned()
}

pub(super) fn hex(number: u64) -> String {
    format!("{number:#x}")
}

const _: () = assert!(walk::INNER < domain::MOST_FRAMES);
