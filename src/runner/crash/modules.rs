//! The files whose code a process has mapped.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::elf::{self, Segment};
use super::maps::{Mapping, Maps};
use super::source::Source;

/// A program's or library's file as it is mapped.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) path: String,
    pub(super) base: u64,
    pub(super) end: u64,
    /// What is added to the addresses in the file.
    pub(super) bias: u64,
    pub(super) build_id: Option<Vec<u8>>,
    pub(super) segments: Vec<Segment>,
    /// Whether it is the program that was executed.
    pub(super) is_program: bool,
    mapping: Mapping,
    file: Opened,
}

#[derive(Debug)]
enum Opened {
    NotYet,
    Source(Source),
    Not,
}

/// What the kernel appends to the path of a file that is there no more.
const DELETED: &str = " (deleted)";
/// More modules than any program has; each costs some reads while the process waits.
const MOST_MODULES: usize = 1024;

/// The modules of a process, in order of their addresses.
pub(super) fn find(process: i32, maps: &Maps, memory: &Source, goes_on: impl Fn() -> bool) -> Vec<Module> {
    let program = std::fs::metadata(format!("/proc/{process}/exe")).ok();
    let program_path = std::fs::read_link(format!("/proc/{process}/exe")).ok();
    let mut modules: Vec<Module> = Vec::new();
    for mapping in maps.iter().filter(|mapping| !mapping.path.is_empty() && mapping.offset == 0) {
        if modules.len() == MOST_MODULES || !goes_on() {
            break;
        }
        // A small module may have its file's beginning mapped twice, once as code.
        let within = modules.last().is_some_and(|module| mapping.start < module.end);
        let is_file_or_kernels = mapping.inode != 0 || mapping.path == "[vdso]";
        if within || !is_file_or_kernels {
            continue;
        }
        let Some(segments) = elf::segments(memory, mapping.start) else { continue };
        let Some(bias) = elf::first_address(&segments).map(|first| mapping.start.wrapping_sub(first)) else { continue };
        // A program may map its own file, or another's, to read it: then its code is not where its headers say.
        let is_loaded = elf::code_address(&segments).is_some_and(|code| {
            maps.at(code.wrapping_add(bias))
                .is_some_and(|m| m.execute && (&m.path, m.inode) == (&mapping.path, mapping.inode))
        });
        let Some(end) = elf::end_address(&segments).map(|end| end.wrapping_add(bias)).filter(|_| is_loaded) else {
            continue;
        };
        let is_program = program.as_ref().is_some_and(|program| is_file(mapping, program))
            || program_path.as_ref().is_some_and(|path| path.as_os_str() == mapping.path.as_str());
        modules.push(Module {
            path: mapping.path.trim_end_matches(DELETED).to_owned(),
            base: mapping.start,
            end,
            bias,
            build_id: elf::build_id_in_memory(memory, &segments, bias),
            segments,
            is_program,
            mapping: mapping.clone(),
            file: Opened::NotYet,
        });
    }
    modules
}

fn is_file(mapping: &Mapping, meta: &std::fs::Metadata) -> bool {
    let device = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    (mapping.inode, mapping.device) == (meta.ino(), device)
}

impl Module {
    /// The name of its file.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether it belongs to the system: its code is not the job's own.
    pub(super) fn is_of_system(&self) -> bool {
        const FOLDERS: [&str; 8] = [
            "/usr/lib/",
            "/usr/lib32/",
            "/usr/lib64/",
            "/usr/libexec/",
            "/lib/",
            "/lib64/",
            "/nix/store/",
            "/gnu/store/",
        ];
        !self.is_program && (self.path.starts_with('[') || FOLDERS.iter().any(|folder| self.path.starts_with(folder)))
    }

    /// The address that the file has for one of the process.
    pub(super) fn in_file(&self, address: u64) -> u64 {
        address.wrapping_sub(self.bias)
    }

    /// What is in the file, once it was opened.
    pub(super) fn file(&self) -> Option<&Source> {
        match &self.file {
            Opened::Source(source) => Some(source),
            Opened::NotYet | Opened::Not => None,
        }
    }

    /// Takes these bytes for the file.
    #[cfg(test)]
    pub(super) fn read_from(&mut self, source: Source) {
        self.file = Opened::Source(source);
    }

    /// Opens the file, if it is still to be had and is the one that is mapped.
    pub(super) fn open(&mut self, process: i32, memory: &Source) -> Option<&Source> {
        if matches!(self.file, Opened::NotYet) {
            self.file = self.find_file(process, memory).map_or(Opened::Not, Opened::Source);
        }
        self.file()
    }

    fn find_file(&self, process: i32, memory: &Source) -> Option<Source> {
        /// The kernel's own library has two pages.
        const LONGEST_COPY: u64 = 256 * 1024;
        if self.mapping.inode == 0 {
            let length = (self.end - self.base).min(LONGEST_COPY) as usize;
            return Some(Source::Bytes(Arc::new(memory.up_to(self.base, length))));
        }
        let links = [
            self.is_program.then(|| format!("/proc/{process}/exe")),
            // Only a privileged worker may open these.
            Some(format!("/proc/{process}/map_files/{:x}-{:x}", self.mapping.start, self.mapping.end)),
        ];
        let by_link = links.into_iter().flatten().find_map(|link| open(&link));
        let by_path = || open(&format!("/proc/{process}/root{}", self.path)).filter(|file| self.is_same(file, memory));
        by_link.or_else(by_path).map(|file| Source::File(Arc::new(file)))
    }

    /// Whether a file is the one that is mapped. On file systems in layers the numbers differ; then the beginning tells,
    /// which holds sizes and mostly the build id.
    fn is_same(&self, file: &File, memory: &Source) -> bool {
        if file.metadata().is_ok_and(|meta| is_file(&self.mapping, &meta)) {
            return true;
        }
        let mut beginning = [0; 4096];
        let length = memory.read_at(&mut beginning, self.base);
        length > 0 && {
            let mut other = [0; 4096];
            super::source::read_file(file, &mut other[..length], 0) == length && beginning == other
        }
    }
}

/// Opens a regular file. A job may have put anything else at the path, such as a pipe that nobody writes to, or a device
/// that does something when it is opened.
pub(super) fn open(path: &str) -> Option<File> {
    let only_named = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    if FileType::from_raw_mode(rustix::fs::fstat(&only_named).ok()?.st_mode) != FileType::RegularFile {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let again = format!("/proc/self/fd/{}", only_named.as_raw_fd());
    rustix::fs::openat(CWD, again, flags, Mode::empty()).ok().map(File::from)
}
