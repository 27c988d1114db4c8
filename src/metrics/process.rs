//! What the system tells of this process and its disk, read at each scrape.

use std::fmt::Error;
use std::path::PathBuf;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::snapshot::gauge;
use crate::domain::Clock;

/// Clock ticks of `/proc` in a second: fixed by Linux for all that it shows to programs.
const TICKS: f64 = 100.0;

/// Shows the metrics of the process under their usual names.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    /// In seconds since 1970; `None` when `/proc` does not tell.
    start_time: Option<f64>,
}

impl ProcessCollector {
    pub(super) fn new() -> Self {
        Self { start_time: start_time() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let cpu = seconds(ClockId::ProcessCPUTime);
        let help = "CPU time of the process itself, without its jobs.";
        let counter = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(cpu).encode(counter)?;
        let to = &mut encoder;
        if let Some(bytes) = resident_memory() {
            gauge(to, "process_resident_memory_bytes", "Memory of the process that is in RAM.", [(None, bytes)])?;
        }
        if let Some(open) = open_descriptors() {
            gauge(to, "process_open_fds", "Descriptors that the process has open.", [(None, open)])?;
        }
        let most = getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |most| most as f64);
        gauge(to, "process_max_fds", "Descriptors that the process may have open.", [(None, most)])?;
        if let Some(start) = self.start_time {
            let help = "When the process was started, in seconds since 1970.";
            gauge(to, "process_start_time_seconds", help, [(None, start)])?;
        }
        Ok(())
    }
}

/// Shows what is left of the disk, under the prefix of Jobber's metrics.
#[derive(Debug)]
pub(super) struct DiskCollector {
    pub(super) data_dir: PathBuf,
    /// SQLite's write-ahead log.
    pub(super) wal: PathBuf,
}

impl Collector for DiskCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        if let Ok(disk) = rustix::fs::statvfs(&self.data_dir) {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let help = "What is free on the disk of the data directory.";
            gauge(&mut encoder, "data_dir_free_bytes", help, [(None, free)])?;
        }
        if let Ok(wal) = fs_err::metadata(&self.wal) {
            gauge(&mut encoder, "sqlite_wal_bytes", "The size of SQLite's write-ahead log.", [(None, wal.len())])?;
        }
        Ok(())
    }
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn start_time() -> Option<f64> {
    let stat = fs_err::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in brackets, which may hold anything. The start is the 22nd.
    let (_, rest) = stat.rsplit_once(')')?;
    let started = rest.split_ascii_whitespace().nth(19)?.parse::<f64>().ok()? / TICKS;
    let age = Duration::try_from_secs_f64(seconds(ClockId::Boottime) - started).ok()?;
    Some((Clock::system().now() - age).as_millis() as f64 / 1e3)
}

/// The memory of this process that is in RAM, in bytes; `None` when `/proc` does not tell.
pub fn resident_memory() -> Option<u64> {
    resident_memory_of("self")
}

/// The memory of a process that is in RAM, in bytes. `process` is its id, or `self`.
pub fn resident_memory_of(process: &str) -> Option<u64> {
    let status = fs_err::read_to_string(format!("/proc/{process}/status")).ok()?;
    resident_bytes(&status)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn open_descriptors() -> Option<u64> {
    let open = fs_err::read_dir("/proc/self/fd").ok()?.count();
    // The one through which they are read is not counted.
    Some((open as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_size_is_read_from_the_status() {
        assert_eq!(resident_bytes("Name:\tjobber\nVmRSS:\t   33792 kB\nRssAnon: 1 kB\n"), Some(33_792 << 10));
        assert_eq!(resident_bytes("Name:\tjobber\n"), None);
        assert!(resident_memory().unwrap() > 100 << 10);
        assert!(resident_memory_of(&std::process::id().to_string()).unwrap() > 100 << 10);
    }
}
