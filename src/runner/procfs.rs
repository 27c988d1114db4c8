//! Reads what `/proc` tells of processes. A process that is gone gives `None`.

use rustix::fs::{CWD, Mode, OFlags};

use super::sys;

/// A line of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Whether it has ended and only waits to be reaped.
    pub(super) zombie: bool,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    /// When it was started, in milliseconds of the boot clock, to the tick (10 ms). With its id it names a process for
    /// good: ids are given again.
    pub(super) started: u64,
    /// Resident memory in bytes.
    pub(super) rss: u64,
    /// Page faults, its own and those of the descendants that it has waited for.
    pub(super) faults: u64,
}

/// How exact [`Stat::started`] is, in milliseconds, with some to spare.
pub(super) const TICK: u64 = 20;

/// The longest list of ids that is read, in bytes: more ids than there can be fit into it.
const LONGEST_LIST: usize = 64 * 1024 * 1024;

/// Reads a file of `/proc` up to `limit` bytes.
pub(super) fn read(path: &str, limit: usize) -> Option<Vec<u8>> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = vec![0; limit.min(4096)];
    let mut length = 0;
    loop {
        let n = rustix::io::read(&file, &mut bytes[length..]).ok()?;
        length += n;
        if n == 0 || length == limit {
            bytes.truncate(length);
            return Some(bytes);
        }
        if length == bytes.len() {
            bytes.resize((2 * length).min(limit), 0);
        }
    }
}

/// Reads a short file as text. The name of a thread, which `status` holds, may be no UTF-8.
fn read_text(path: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&read(path, 65_536)?).into_owned())
}

/// Reads the state of a process from `/proc/<pid>/stat`.
pub(super) fn stat(pid: i32) -> Option<Stat> {
    let bytes = read(&format!("/proc/{pid}/stat"), 4096)?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the name in brackets, which may hold anything, brackets and spaces included.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
    let id = |at: usize| i32::try_from(number(at)?).ok();
    let ticks = u64::try_from(number(19)?).ok()?;
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: id(1)?,
        group: id(2)?,
        session: id(3)?,
        started: ticks.saturating_mul(1000) / sys::ticks_per_second(),
        rss: u64::try_from(number(21)?).ok()? * sys::page_size(),
        faults: (7..=10).map(|at| number(at).map_or(0, i64::unsigned_abs)).fold(0, u64::saturating_add),
    })
}

/// The process ids in a list, such as a file of children.
pub(super) fn parse_ids(text: &str) -> Vec<i32> {
    text.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// The children of a process, of all its threads.
pub(super) fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        children_of_thread(&format!("/proc/{pid}/task/{}/children", thread.ok()?.file_name().to_str()?))
    };
    threads.filter_map(of_thread).flatten().collect()
}

/// The ids in a file of children, all of them: the kernel gives out a page of it at a time.
pub(super) fn children_of_thread(path: &str) -> Option<Vec<i32>> {
    Some(parse_ids(&String::from_utf8(read(path, LONGEST_LIST)?).ok()?))
}

/// The limit of file locks of a process. No Linux counts those any more: see [`super::orphans`] on
/// what the number is for. Unlike an environment, this can be read of every process.
pub(super) fn most_file_locks(pid: i32) -> Option<u64> {
    let text = read_text(&format!("/proc/{pid}/limits"))?;
    // The soft limit, then the hard one.
    text.lines().find_map(|line| line.strip_prefix("Max file locks"))?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Every process that `/proc` shows.
pub(super) fn all() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Whether the environment that a process was started with holds all of these `NAME=value`.
pub(super) fn environment_holds(pid: i32, all_of: &[Vec<u8>]) -> bool {
    /// Arguments and environment together can take 2 MiB by default, a string of them 128 KiB.
    const MOST: usize = 8 * 1024 * 1024;
    read(&format!("/proc/{pid}/environ"), MOST)
        .is_some_and(|bytes| all_of.iter().all(|wanted| bytes.split(|b| *b == 0).any(|entry| entry == &wanted[..])))
}

/// The working directory of a process.
pub(super) fn working_directory(pid: i32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The most memory that a process has had resident since it was executed, in bytes.
pub(super) fn peak_rss(pid: i32) -> Option<u64> {
    kib_after(&read_text(&format!("/proc/{pid}/status"))?, "VmHWM:")
}

/// The process that a thread belongs to.
pub(super) fn process_of(tid: i32) -> Option<i32> {
    let process = value_after(&read_text(&format!("/proc/{tid}/status"))?, "Tgid:")?;
    i32::try_from(process).ok()
}

/// The signals that a thread ignores, and those that it has handlers for: bit 0 is signal 1.
pub(super) fn dispositions(tid: i32) -> Option<(u64, u64)> {
    let status = read_text(&format!("/proc/{tid}/status"))?;
    Some((signals_after(&status, "SigIgn:")?, signals_after(&status, "SigCgt:")?))
}

/// Whether a signal waits to be delivered to a thread or to its process.
pub(super) fn has_pending(tid: i32, signal: i32) -> bool {
    let status = read_text(&format!("/proc/{tid}/status")).unwrap_or_default();
    let pending = ["SigPnd:", "ShdPnd:"].map(|label| signals_after(&status, label).unwrap_or(0));
    (pending[0] | pending[1]) & (1 << (signal - 1)) != 0
}

fn signals_after(status: &str, label: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix(label))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// The memory of a process in bytes, with each shared page divided among the processes that share
/// it. Slow: the kernel walks its page tables.
pub(super) fn proportional_memory(pid: i32) -> Option<u64> {
    kib_after(&read_text(&format!("/proc/{pid}/smaps_rollup"))?, "Pss:")
}

/// How many processes the kernel has killed for want of memory since it started.
pub(super) fn kernel_oom_kills() -> Option<u64> {
    value_after(&read_text("/proc/vmstat")?, "oom_kill ")
}

/// The number of bytes in a line `label N kB`.
pub(super) fn kib_after(text: &str, label: &str) -> Option<u64> {
    value_after(text, label).map(|kib| kib * 1024)
}

fn value_after(text: &str, label: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(label))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let line = "42 (a) b (c)) Z 7 8 9 0 -1 0 10 20 30 40 1 2 0 0 20 0 1 0 5 1000 3 0 0";
        let rss = 3 * sys::page_size();
        let stat = Stat { zombie: true, parent: 7, group: 8, session: 9, started: 50, rss, faults: 100 };
        assert_eq!(parse_stat(line), Some(stat));
        assert_eq!(parse_stat("42 (x) S 7"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let me = rustix::process::getpid();
        let stat = stat(me.as_raw_nonzero().get()).unwrap();
        assert!(!stat.zombie && stat.rss > 0);
        assert!(peak_rss(me.as_raw_nonzero().get()).unwrap() >= 1024 * 1024);
        assert!(all().contains(&me.as_raw_nonzero().get()));
        assert!(kernel_oom_kills().is_some());
        assert_eq!(read("/proc/no-such-file", 10), None);
        assert_eq!(read("/proc/self/stat", 3).unwrap().len(), 3);
    }

    #[test]
    fn a_thread_with_a_name_that_is_no_text_can_be_read() {
        let told = std::thread::spawn(|| {
            rustix::thread::set_name(c"\xff\xfe").unwrap();
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            (process_of(tid), dispositions(tid))
        });
        let (process, dispositions) = told.join().unwrap();
        assert_eq!(process, Some(rustix::process::getpid().as_raw_nonzero().get()));
        assert!(dispositions.is_some());
    }
}
