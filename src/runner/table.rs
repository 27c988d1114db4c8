//! The memory that a worker shares with its guard: one cell for each attempt that runs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use rustix::process::Pid;

use crate::domain::validity::boot_ms;
use crate::domain::{Validity, WorkerId};

/// The length of the header in bytes. It begins with the worker's id, its scratch directory, and
/// the beginning of its attempts' numbers. The cgroup below which its attempts have theirs comes
/// next. Cells follow the header.
const HEADER: u64 = 8192;
/// The offset in bytes at which the cgroup is noted.
const CGROUP: u64 = 4096;
/// The length of a cell in bytes: five numbers of eight bytes. They are the process group; until
/// when it may run (0: no limit); after and before which moment its leader was started (0: not told
/// yet); the number of the attempt.
const CELL: u64 = 40;
/// The table in which the worker notes the running attempts.
#[derive(Debug, Clone)]
pub(super) struct SharedPidTable(Arc<File>);

impl SharedPidTable {
    /// A table of this worker; its attempts' numbers begin with `first_number`.
    pub(super) fn create(worker: &WorkerId, scratch_dir: &Path, first_number: u64) -> io::Result<Self> {
        // A relative path would mean another place to the guard.
        let scratch_dir = std::path::absolute(scratch_dir)?;
        let first_number = first_number.to_le_bytes();
        let mut header = Vec::new();
        for text in [worker.as_str().as_bytes(), scratch_dir.as_os_str().as_bytes(), &first_number[..]] {
            header.extend(part(text)?);
        }
        if header.len() as u64 > CGROUP {
            return Err(io::Error::other("the path of the scratch directory is too long"));
        }
        let file = File::from(rustix::fs::memfd_create("jobber-guard", MemfdFlags::CLOEXEC)?);
        rustix::fs::ftruncate(&file, HEADER)?;
        write_all_at(&file, &header, 0)?;
        Ok(Self(Arc::new(file)))
    }

    /// Notes the cgroup below which each attempt has its own.
    pub(super) fn note_cgroup(&self, path: &Path) {
        if let Ok(part) = part(path.as_os_str().as_bytes())
            && part.len() as u64 <= HEADER - CGROUP
        {
            let _ = write_all_at(&self.0, &part, CGROUP);
        }
    }

    /// Notes that the attempt with this number is about to be spawned. Each caller has a cell of its own.
    pub(super) fn expect(&self, cell: usize, number: u64) {
        self.write(cell, 0, &[0, 0, boot_ms(), 0, number]);
    }

    /// The file and the offset at which the process that will have this cell writes its id and the
    /// time until which it may run, before it executes its program: the guard knows of it before
    /// there is anything to guard.
    pub(super) fn place(&self, cell: usize) -> (BorrowedFd<'_>, u64) {
        (self.0.as_fd(), HEADER + CELL * cell as u64)
    }

    /// Notes that the attempt's process has been spawned by now.
    pub(super) fn born(&self, cell: usize) {
        self.write(cell, 3, &[boot_ms()]);
    }

    /// Notes the time until which the attempt may run, after its lease has been renewed.
    pub(super) fn extend(&self, cell: usize, validity: &Validity) {
        self.write(cell, 1, &[validity.until()]);
    }

    /// Notes that the attempt has ended, by zeros in its cell.
    pub(super) fn clear(&self, cell: usize) {
        self.write(cell, 0, &[0; 5]);
    }

    /// The memory file that the guard gets as its standard input.
    pub(super) fn file(&self) -> &File {
        &self.0
    }

    pub(super) fn write(&self, cell: usize, from: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // If there is no memory for it, the guard still finds the process by what it has from birth.
        let _ = write_all_at(&self.0, &bytes, HEADER + CELL * cell as u64 + 8 * from);
    }
}

/// A text of the header: its length, then itself.
fn part(text: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes(), text].concat())
}

fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// What the guard reads from the table.
#[derive(Debug, PartialEq)]
pub(super) struct GuardTable {
    pub(super) worker: Vec<u8>,
    pub(super) scratch_dir: PathBuf,
    pub(super) first_number: u64,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) attempts: Vec<Noted>,
}

/// One attempt in the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Noted {
    pub(super) group: Pid,
    pub(super) until: u64,
    pub(super) after: u64,
    pub(super) before: u64,
    pub(super) number: u64,
}

impl Noted {
    fn parse(cell: &[u8; 40]) -> Option<Self> {
        let (words, _) = cell.as_chunks::<8>();
        let [group, until, after, before, number] = words else { return None };
        // Never 1 or below: `kill` would take those for all processes or for the guard's own group.
        let group = i32::try_from(i64::from_le_bytes(*group)).ok().filter(|id| *id > 1)?;
        let [until, after, before, number] = [until, after, before, number].map(|word| u64::from_le_bytes(*word));
        Some(Self { group: Pid::from_raw(group)?, until, after, before, number })
    }

    /// Whether the attempt is past the time until which it may run.
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.until != 0 && self.until <= now
    }
}

impl GuardTable {
    pub(super) fn read(table: &File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let mut chunk = [0u8; 4096];
        loop {
            match rustix::io::pread(table, &mut chunk, bytes.len() as u64)? {
                0 => break,
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        }
        Self::parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the guard's table is malformed"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
            let (length, rest) = from.split_first_chunk::<4>()?;
            let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            *from = rest;
            Some(text)
        }
        let path = |text: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(text.to_vec()));
        let (header, cells) = bytes.split_at_checked(usize::try_from(HEADER).ok()?)?;
        let (mut texts, mut cgroup) = header.split_at_checked(usize::try_from(CGROUP).ok()?)?;
        let worker = take(&mut texts)?.to_vec();
        let scratch_dir = path(take(&mut texts)?);
        let first_number = u64::from_le_bytes(take(&mut texts)?.try_into().ok()?);
        let cgroup = Some(take(&mut cgroup)?).filter(|text| !text.is_empty()).map(path);
        let (cells, _) = cells.as_chunks::<40>();
        Some(Self {
            worker,
            scratch_dir,
            first_number,
            cgroup,
            attempts: cells.iter().filter_map(Noted::parse).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const FIRST: u64 = 3 << 32;

    fn pid(id: i32) -> Pid {
        Pid::from_raw(id).unwrap()
    }

    #[test]
    fn the_table_holds_what_runs() {
        let table = SharedPidTable::create(&WorkerId::parse("w-1").unwrap(), Path::new("/some/where"), FIRST).unwrap();
        let validity = Validity::lasting(Duration::from_secs(5));
        let noted = |id, until| Noted { group: pid(id), until, after: 5, before: 6, number: FIRST | 7 };
        let write = |cell, id| table.write(cell, 0, &[id, 0, 5, 6, FIRST | 7]);
        write(3, 77);
        table.extend(3, &validity);
        write(0, 1);
        write(1, 88);
        table.clear(1);
        write(2, 99);
        let mut expected = GuardTable {
            worker: b"w-1".to_vec(),
            scratch_dir: "/some/where".into(),
            first_number: FIRST,
            cgroup: None,
            attempts: vec![noted(99, 0), noted(77, validity.until())],
        };
        assert_eq!(GuardTable::read(&table.0).unwrap(), expected, "cleared cells, gaps and process 1 are left out");
        table.note_cgroup(Path::new("/sys/fs/cgroup/x"));
        expected.cgroup = Some("/sys/fs/cgroup/x".into());
        assert_eq!(GuardTable::read(&table.0).unwrap(), expected);
        assert_eq!(GuardTable::parse(b"too short"), None);
        assert_eq!(GuardTable::parse(&[0xff; 9000]), None);
    }

    #[test]
    fn an_attempt_that_is_about_to_be_spawned_is_none_yet() {
        let table = SharedPidTable::create(&WorkerId::parse("w-1").unwrap(), Path::new("/some/where"), FIRST).unwrap();
        table.expect(0, 7);
        assert_eq!(GuardTable::read(&table.0).unwrap().attempts, []);
        let (file, at) = table.place(0);
        rustix::io::pwrite(file, &[77u64.to_le_bytes(), 5u64.to_le_bytes()].concat(), at).unwrap();
        table.born(0);
        let attempts = GuardTable::read(&table.0).unwrap().attempts;
        let [noted] = attempts[..] else { panic!("{attempts:?}") };
        assert_eq!((noted.group, noted.until, noted.number), (pid(77), 5, 7));
        assert!(noted.after > 0 && noted.before >= noted.after);
    }
}
