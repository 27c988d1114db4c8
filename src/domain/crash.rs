//! What is told of a crash: where a program was when a signal ended it.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::function_name::short_name;

/// What was found of a process when a fatal signal had stopped it. Addresses are hexadecimal text (`0x7ffd1c2a`): the
/// numbers of JSON lose digits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Crash {
    /// The signal's number.
    #[schema(example = 11)]
    pub signal: i32,
    /// What the kernel says of the signal (`si_code`), by the name that the C library has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "SEGV_MAPERR")]
    pub code: Option<String>,
    /// The process that sent the signal, if a process did, and another one than that which it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_by: Option<i32>,
    /// The address that the program could not use, of SIGSEGV and SIGBUS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0x0")]
    pub address: Option<String>,
    /// What is at that address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points_at: Option<PointsAt>,
    /// The id of the process: that of the job, or of a child.
    #[serde(default)]
    pub process: i32,
    /// Whether that is not the job's own process, but one that it had started.
    #[serde(default, skip_serializing_if = "is_false")]
    pub of_child: bool,
    /// The name that the kernel has for the process.
    #[serde(default)]
    #[schema(example = "resize")]
    pub command: String,
    /// The id of the thread that crashed: that of the process, if it is its first.
    #[serde(default)]
    pub thread: i32,
    /// The name of that thread.
    #[serde(default)]
    pub thread_name: String,
    /// The stack of that thread, the innermost frame first; 128 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<Frame>,
    /// How many frames were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frames_omitted: u32,
    /// Before which of the frames (counted from 0) the others were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted_before: Option<u32>,
    /// The registers of that thread.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registers: Vec<Register>,
    /// The program and the libraries that the process had mapped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<Module>,
    /// How many modules were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub modules_omitted: u32,
    /// The names of the other threads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_threads: Vec<String>,
    /// How many names of threads were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub threads_omitted: u32,
    /// Why something is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "the process may not be read (it is not dumpable)")]
    pub incomplete: Option<String>,
    /// How long the process was kept waiting for this, in microseconds.
    #[serde(default)]
    #[schema(example = 900)]
    pub took_us: u64,
}

/// One call on the stack.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Frame {
    /// The name of the function, without its parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Image::resize")]
    pub function: Option<String>,
    /// The source file, as the compiler knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/src/resize.cpp")]
    pub file: Option<String>,
    /// The line in it, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 42)]
    pub line: Option<u32>,
    /// The column in it, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// The name of the program's or library's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "resize")]
    pub module: Option<String>,
    /// The address as the module's file has it, which `addr2line` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0x1234")]
    pub offset: Option<String>,
    /// The address in the process. Of a frame that called another, it is the one to which the call returns.
    #[serde(default)]
    #[schema(example = "0x55d0c8a01234")]
    pub address: String,
    /// The size of the function's code in bytes, where its name is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_bytes: Option<u64>,
    /// Whether the compiler put this function into the one of the next frame, so that there was no call.
    #[serde(default, skip_serializing_if = "is_false")]
    pub inlined: bool,
    /// Whether it is of the job's own code: not of the C or C++ library, the loader or another language's runtime.
    #[serde(default, skip_serializing_if = "is_false")]
    pub own: bool,
    /// Whether the frame was found by what looks like a return address on the stack: for want of unwind information.
    #[serde(default, skip_serializing_if = "is_false")]
    pub guessed: bool,
}

/// A register and what was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Register {
    /// Its name.
    #[schema(example = "rip")]
    pub name: String,
    /// What was in it, in hexadecimal.
    #[schema(example = "0x55d0c8a01234")]
    pub value: String,
}

/// A file whose code a process has mapped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Module {
    /// Its path when it was mapped.
    #[schema(example = "/usr/lib/x86_64-linux-gnu/libc.so.6")]
    pub path: String,
    /// Where it begins in the process.
    #[serde(default)]
    #[schema(example = "0x7f2a10000000")]
    pub base: String,
    /// How much of the address space it takes, in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// Its build id in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "8f2a1c9d3b7e60415a2c8d9e0f1b2a3c4d5e6f70")]
    pub build_id: Option<String>,
}

/// What is at an address that could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PointsAt {
    /// The first 64 KiB, which are never mapped: a null pointer, or a member or an element of nothing.
    NullPage,
    /// What lies below the thread's stack: the stack has overflowed.
    StackGuard,
    /// Nothing. Memory that was given back to the system can't be told from memory that never was.
    Unmapped,
    /// Memory that may be read but not written.
    ReadOnly,
    /// Code, which was to be written.
    Code,
    /// Memory that may not be executed.
    NotExecutable,
    /// Memory that may not be used at all, such as a guard page.
    NoAccess,
    /// A page of a mapped file beyond the file's end.
    BeyondFile,
    /// An address that is no multiple of what the instruction asks for.
    Misaligned,
    /// The processor does not tell (a general protection fault): it is no address at all, its upper bits being neither all
    /// zeros nor all ones, or the instruction wants aligned memory, or is not allowed.
    GeneralProtection,
    /// Memory that seems to be usable: the mapping has changed since, or the reason is another one.
    Mapped,
}

impl fmt::Display for PointsAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PointsAt::NullPage => "a null pointer, or a member of nothing",
            PointsAt::StackGuard => "below the stack, which has overflowed",
            PointsAt::Unmapped => "nothing is there",
            PointsAt::ReadOnly => "memory that may not be written",
            PointsAt::Code => "code, which may not be written",
            PointsAt::NotExecutable => "memory that may not be executed",
            PointsAt::NoAccess => "memory that may not be used at all",
            PointsAt::BeyondFile => "beyond the end of a mapped file",
            PointsAt::Misaligned => "not aligned as the instruction asks",
            PointsAt::GeneralProtection => "no address that could be used",
            PointsAt::Mapped => "memory that seems to be usable",
        })
    }
}

/// The longest report, in bytes of JSON.
pub const LONGEST_CRASH: usize = 64 * 1024;
/// The most frames of a report.
pub const MOST_FRAMES: usize = 128;
/// How many functions of the job's own tell crashes apart.
const TELLING_FRAMES: usize = 3;
/// How many when a program without symbols was aborted: those of the C library that lead to it can't be told apart.
const TELLING_WITHOUT_NAMES: usize = 10;

const SIGILL: i32 = 4;
const SIGTRAP: i32 = 5;
const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
const SIGSEGV: i32 = 11;
const SIGSYS: i32 = 31;

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What the first line begins with that only says where a crash was.
pub(crate) const PLACE: &str = "[crashed in] ";
/// What stands before the place of a crash behind what Jobber says of a signal.
pub(crate) const IN: &str = " in ";
/// What stands between the functions of a place, the inner one first.
pub(crate) const CALLED_FROM: &str = " < ";

/// Splits a failure's text into what it says and where it crashed, as its first line tells.
pub(crate) fn split_place(text: &str) -> (Cow<'_, str>, Option<&str>) {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    if let Some(place) = first.strip_prefix(PLACE) {
        return (rest.into(), Some(place));
    }
    let behind = first.starts_with("killed by signal ").then(|| first.find(&[")", IN].concat())).flatten();
    match behind {
        Some(at) => ([&text[..=at], &text[first.len()..]].concat().into(), Some(&first[at + 1 + IN.len()..])),
        None => (text.into(), None),
    }
}

/// The innermost function of the crash that a failure's text tells of in its first line.
pub(crate) fn crashed_in(text: &str) -> Option<&str> {
    split_place(text).1?.split(CALLED_FROM).next()
}

impl Frame {
    /// The name of the function as people say it: without parameters, template arguments and namespaces without name;
    /// without symbols the place in the module.
    pub fn name(&self) -> String {
        match (&self.function, &self.module, &self.offset) {
            (Some(function), _, _) => short_name(function),
            (None, Some(module), Some(offset)) => format!("{module}+{offset}"),
            _ => self.address.clone(),
        }
    }

    /// The name and, where it is known, the line: `Image::resize at resize.cpp:42`.
    pub fn place(&self) -> String {
        let mut place = self.name();
        if let Some(file) = &self.file {
            place += " at ";
            place += file.rsplit('/').next().unwrap_or(file);
            if let Some(line) = self.line {
                place += &format!(":{line}");
            }
        }
        place
    }

    /// What stays the same of it in another build.
    fn lasting_name(&self) -> String {
        match (&self.function, &self.module, self.function_bytes) {
            (Some(function), _, _) => short_name(function),
            (None, Some(module), Some(bytes)) => format!("{module} function of {bytes} bytes"),
            _ => self.name(),
        }
    }
}

impl Crash {
    /// The frame to look at first: the innermost of the job's own code. Of a stack that has overflowed, the innermost
    /// that is on it more than once.
    pub fn place(&self) -> Option<&Frame> {
        let mut own = self.frames.iter().filter(|frame| frame.own);
        if self.points_at == Some(PointsAt::StackGuard) {
            let recurs = |name: &str| self.frames.iter().filter(|frame| frame.lasting_name() == name).count() > 1;
            if let Some(frame) = own.clone().find(|frame| recurs(&frame.lasting_name())) {
                return Some(frame);
            }
        }
        own.next()
    }

    /// One line that says it: `segmentation fault in Image::resize at resize.cpp:42, called from main at main.cpp:17;
    /// address 0x0`.
    pub fn headline(&self) -> String {
        let mut line = self.what().into_owned();
        if let Some(sender) = self.sent_by {
            line += &format!(" sent by process {sender},");
        }
        // With no frame of the job's own, the innermost that can be named: better than nothing.
        let place = self.place().or_else(|| self.frames.iter().find(|f| f.function.is_some() || f.module.is_some()));
        if let Some(place) = place {
            line += " in ";
            line += &place.place();
            if let Some(caller) = self.caller_of(place) {
                line += ", called from ";
                line += &caller.place();
            }
        }
        match (self.points_at, &self.address) {
            (Some(PointsAt::StackGuard), _) => {}
            (Some(PointsAt::GeneralProtection), _) => line += "; the address is not valid, or misaligned",
            (_, Some(address)) if matches!(self.signal, SIGSEGV | SIGBUS) => line += &format!("; address {address}"),
            _ => {}
        }
        line
    }

    /// [`Crash::headline`] as an error text begins with it: of a child, it names the child.
    pub fn sentence(&self) -> String {
        if self.of_child { format!("{} crashed: {}", self.command, self.headline()) } else { self.headline() }
    }

    /// What became of the program, in words.
    fn what(&self) -> Cow<'static, str> {
        let code = self.code.as_deref();
        match self.signal {
            SIGSEGV if self.points_at == Some(PointsAt::StackGuard) => "stack overflow".into(),
            SIGSEGV => "segmentation fault".into(),
            SIGBUS => "bus error".into(),
            SIGILL => "illegal instruction".into(),
            SIGFPE if code == Some("FPE_INTDIV") => "division by zero or overflow".into(),
            SIGFPE => "arithmetic exception".into(),
            SIGABRT => "aborted".into(),
            SIGTRAP => "trap".into(),
            SIGSYS => "forbidden system call".into(),
            signal => match super::outcome::signal_name(signal) {
                Some(name) => format!("SIG{name}").into(),
                None => format!("signal {signal}").into(),
            },
        }
    }

    /// The next frame of the job's own that is of another function.
    fn caller_of(&self, place: &Frame) -> Option<&Frame> {
        let at = self.frames.iter().position(|frame| std::ptr::eq(frame, place))?;
        let name = place.lasting_name();
        // Who began a recursion is far away, and says little.
        let overflow = self.points_at == Some(PointsAt::StackGuard);
        self.frames[at + 1..].iter().find(|frame| frame.own && frame.lasting_name() != name).filter(|_| !overflow)
    }

    /// The functions that tell this crash from others: the innermost of the job's own, each once, without addresses and
    /// lines, so that they are the same in the next build. Of a stack that has overflowed those that recur, in order of
    /// their names: which of them met the end of the stack is chance.
    pub fn fingerprint_frames(&self) -> Vec<String> {
        let any_own = self.frames.iter().any(|frame| frame.own);
        let telling = self.frames.iter().filter(|frame| if any_own { frame.own } else { frame.function.is_some() });
        let names: Vec<String> = telling.map(Frame::lasting_name).collect();
        let mut distinct: Vec<String> = Vec::new();
        for name in &names {
            if !distinct.contains(name) {
                distinct.push(name.clone());
            }
        }
        if self.points_at == Some(PointsAt::StackGuard) {
            let recurs = |name: &String| names.iter().filter(|other| *other == name).count() > 1;
            if distinct.iter().any(recurs) {
                distinct.retain(recurs);
                distinct.sort_unstable();
            }
        }
        let nameless = self.signal == SIGABRT && self.place().is_some_and(|place| place.function.is_none());
        distinct.truncate(if nameless { TELLING_WITHOUT_NAMES } else { TELLING_FRAMES });
        distinct
    }

    /// Adds a reason why something is missing.
    pub fn lacks(&mut self, why: &str) {
        match &mut self.incomplete {
            Some(before) if before.split("; ").any(|reason| reason == why) => {}
            Some(before) => {
                before.push_str("; ");
                before.push_str(why);
            }
            none => *none = Some(why.to_owned()),
        }
    }

    /// Leaves out frames in the middle until no more than `most` are left. The innermost ones say where it happened,
    /// the outermost ones how it came there.
    pub fn keep_frames(&mut self, most: usize) {
        let excess = self.frames.len().saturating_sub(most);
        if excess == 0 {
            return;
        }
        // Next to those that are missing already, if any are.
        let middle = (most - most / 4).min(self.frames.len() - excess);
        let from = self.omitted_before.map_or(middle, |at| (at as usize).min(middle));
        self.frames.drain(from..from + excess);
        self.frames_omitted += excess as u32;
        self.omitted_before = Some(from as u32);
    }

    /// Leaves out what matters least until the report as JSON has no more than [`LONGEST_CRASH`] bytes.
    pub fn fit(&mut self) {
        const WHY: &str = "the report would have been too long";
        self.keep_frames(MOST_FRAMES);
        while self.json_bytes() > LONGEST_CRASH {
            self.lacks(WHY);
            if self.frames.len() > 32 {
                self.keep_frames(self.frames.len() - 8);
            } else if !self.modules.is_empty() {
                let kept = self.modules.len() / 2;
                self.modules_omitted += (self.modules.len() - kept) as u32;
                self.modules.truncate(kept);
            } else if !self.other_threads.is_empty() {
                self.threads_omitted += self.other_threads.len() as u32;
                self.other_threads.clear();
            } else if self.frames.len() > 1 {
                self.keep_frames(self.frames.len() / 2);
            } else {
                // What is left has names of absurd length.
                *self = Self { signal: self.signal, process: self.process, thread: self.thread, ..Self::default() };
                self.lacks(WHY);
            }
        }
    }

    fn json_bytes(&self) -> usize {
        serde_json::to_string(self).map_or(usize::MAX, |text| text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, file: &str, line: u32, own: bool) -> Frame {
        Frame {
            function: Some(function.to_owned()),
            file: Some(format!("/src/{file}")).filter(|_| !file.is_empty()),
            line: Some(line).filter(|line| *line > 0),
            module: Some("resize".to_owned()),
            offset: Some("0x1234".to_owned()),
            address: "0x401234".to_owned(),
            own,
            ..Frame::default()
        }
    }

    fn crash(signal: i32, frames: Vec<Frame>) -> Crash {
        Crash { signal, frames, ..Crash::default() }
    }

    #[test]
    fn the_headline_says_what_happened_where() {
        let mut null = crash(
            SIGSEGV,
            vec![
                frame("memcpy", "", 0, false),
                frame("Image<int>::resize(int)", "resize.cpp", 42, true),
                frame("Image<int>::resize(int)", "resize.cpp", 40, true),
                frame("main", "main.cpp", 17, true),
            ],
        );
        null.address = Some("0x0".to_owned());
        let said = "segmentation fault in Image::resize at resize.cpp:42, called from main at main.cpp:17; address 0x0";
        assert_eq!(null.headline(), said);
        null.points_at = Some(PointsAt::GeneralProtection);
        assert!(
            null.headline().ends_with("main.cpp:17; the address is not valid, or misaligned"),
            "{}",
            null.headline()
        );

        let aborted = crash(SIGABRT, vec![frame("raise", "", 0, false), frame("main", "main.cpp", 3, true)]);
        assert_eq!(aborted.headline(), "aborted in main at main.cpp:3");
        let sent = Crash { sent_by: Some(7), ..crash(SIGSEGV, vec![frame("main", "main.cpp", 3, true)]) };
        assert_eq!(sent.headline(), "segmentation fault sent by process 7, in main at main.cpp:3");
        let stripped = Frame { function: None, ..frame("", "", 0, true) };
        assert_eq!(crash(SIGILL, vec![stripped]).headline(), "illegal instruction in resize+0x1234");
        assert_eq!(crash(SIGSEGV, Vec::new()).headline(), "segmentation fault");
        let divided = Crash { code: Some("FPE_INTDIV".to_owned()), ..crash(SIGFPE, Vec::new()) };
        assert_eq!(divided.headline(), "division by zero or overflow");
        assert_eq!(crash(3, Vec::new()).headline(), "SIGQUIT");
        let foreign = crash(SIGSEGV, vec![frame("strlen", "", 0, false)]);
        assert_eq!(foreign.headline(), "segmentation fault in strlen");
    }

    #[test]
    fn a_recursion_is_named_once_whichever_of_it_met_the_end() {
        let visit = || frame("Tree::visit", "tree.cpp", 3, true);
        let enter = || frame("Tree::enter", "tree.cpp", 9, true);
        let mut overflow = crash(SIGSEGV, vec![frame("hash", "hash.cpp", 5, true)]);
        overflow.frames.extend([visit(), enter(), visit(), enter(), visit(), enter()]);
        overflow.frames.push(frame("main", "main.cpp", 1, true));
        overflow.points_at = Some(PointsAt::StackGuard);
        assert_eq!(overflow.headline(), "stack overflow in Tree::visit at tree.cpp:3");
        assert_eq!(overflow.fingerprint_frames(), ["Tree::enter", "Tree::visit"]);
        overflow.frames.drain(..2);
        assert_eq!(overflow.fingerprint_frames(), ["Tree::enter", "Tree::visit"]);
        // A single frame may be too large for the stack, too.
        let large = Crash { points_at: Some(PointsAt::StackGuard), ..crash(SIGSEGV, vec![visit(), enter()]) };
        assert_eq!(large.headline(), "stack overflow in Tree::visit at tree.cpp:3");
        assert_eq!(large.fingerprint_frames(), ["Tree::visit", "Tree::enter"]);
    }

    #[test]
    fn a_new_build_tells_crashes_apart_in_the_same_way() {
        let old = crash(SIGSEGV, vec![frame("abort", "", 0, false), frame("f<int>(int)", "a.cpp", 4, true)]);
        let mut new = old.clone();
        new.frames[1].line = Some(90);
        new.frames[1].offset = Some("0x9999".to_owned());
        new.frames[1].function = Some("f<long>(long) [clone .part.0]".to_owned());
        assert_eq!(old.fingerprint_frames(), ["f"]);
        assert_eq!(new.fingerprint_frames(), ["f"]);
        let stripped = |offset: &str, bytes| Frame {
            function: None,
            offset: Some(offset.to_owned()),
            function_bytes: bytes,
            ..frame("", "", 0, true)
        };
        let of = |frame: Frame| crash(SIGSEGV, vec![frame]).fingerprint_frames();
        assert_eq!(of(stripped("0x10", Some(291))), of(stripped("0x20", Some(291))));
        assert_ne!(of(stripped("0x10", Some(291))), of(stripped("0x10", Some(17))));
        assert_eq!(of(stripped("0x10", None)), ["resize+0x10"]);
        let aborted = (1..20).map(|bytes| stripped("0x10", Some(bytes))).collect();
        assert_eq!(crash(SIGABRT, aborted).fingerprint_frames().len(), 10);
        // Of a program without code of its own, such as an interpreter, what can be named.
        let deep = ["a", "b", "c", "d"].map(|name| frame(name, "", 0, false)).to_vec();
        assert_eq!(crash(SIGSEGV, deep).fingerprint_frames(), ["a", "b", "c"]);
    }

    #[test]
    fn a_report_is_never_longer_than_it_may_be() {
        let name = "n".repeat(1000);
        let frames = (0..200).map(|i| frame(&name, "a.cpp", i + 1, true)).collect();
        let mut long = crash(SIGSEGV, frames);
        long.modules = vec![Module { path: name.clone(), ..Module::default() }; 90];
        long.other_threads = vec!["worker".to_owned(); 300];
        long.fit();
        assert!(long.json_bytes() <= LONGEST_CRASH);
        assert_eq!(long.incomplete.as_deref(), Some("the report would have been too long"));
        assert_eq!((long.frames[0].line, long.frames.last().unwrap().line), (Some(1), Some(200)));
        assert_eq!(long.frames.len() as u32 + long.frames_omitted, 200);
        let before = long.omitted_before.unwrap() as usize;
        assert_eq!(long.frames[before].line, long.frames[before - 1].line.map(|line| line + 1 + long.frames_omitted));
        assert!(!long.modules.is_empty() && long.modules_omitted > 0);

        let mut many = crash(SIGSEGV, (0..200).map(|i| frame("f", "a.cpp", i + 1, true)).collect());
        many.fit();
        assert_eq!((many.frames.len(), many.frames_omitted, many.incomplete), (MOST_FRAMES, 72, None));
        let mut absurd = crash(SIGSEGV, vec![frame(&"x".repeat(LONGEST_CRASH), "", 0, true)]);
        absurd.fit();
        assert!(absurd.frames.is_empty() && absurd.signal == SIGSEGV && absurd.incomplete.is_some());
    }

    #[test]
    fn what_is_not_known_is_left_out_and_reads_back() {
        let text = serde_json::to_string(&crash(SIGSEGV, vec![frame("f", "", 0, true)])).unwrap();
        assert!(!text.contains("null") && !text.contains("registers") && !text.contains("inlined"), "{text}");
        assert_eq!(serde_json::from_str::<Crash>(&text).unwrap().frames[0].name(), "f");
        assert_eq!(serde_json::from_str::<Crash>("{\"signal\":11}").unwrap(), crash(SIGSEGV, Vec::new()));
    }
}
