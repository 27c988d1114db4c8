//! Tells which programs must not be traced: LeakSanitizer, which AddressSanitizer brings along, looks for leaks as a
//! tracer itself, and turns the verdict of a program that it can't trace into a failure.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::build_cache::Version;

/// Names of its runtime, of which every program that has it holds one: functions that instrumented code calls, and shared
/// libraries that hold them.
const TRACES: [&[u8]; 5] = [b"__asan_init", b"__lsan_init", b"__hwasan_init", b"libasan.so", b"liblsan.so"];
const LONGEST_TRACE: usize = 13;
/// How much is read at once, and how much of a file at most: the names of functions stand at its end or its beginning.
const CHUNK: usize = 256 << 10;
const MOST_READ: u64 = 1 << 30;
/// So many files are remembered.
const MOST_KNOWN: usize = 1024;

/// Whether the program at this path must not be traced. A file that can't be read may be.
pub(super) fn forbids_tracing(path: impl AsRef<Path>) -> bool {
    fs_err::metadata(path.as_ref()).is_ok_and(|meta| version_forbids_tracing(Version::of(&meta), path.as_ref()))
}

/// The same of a file that has been looked at: each version is read once.
pub(super) fn version_forbids_tracing(version: Version, path: &Path) -> bool {
    static KNOWN: LazyLock<Mutex<HashMap<Version, bool>>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(answer) = known().get(&version) {
        return *answer;
    }
    let answer = File::open(path).is_ok_and(|file| is_sanitized(&file));
    let mut known = known();
    if known.len() >= MOST_KNOWN {
        known.clear();
    }
    known.insert(version, answer);
    answer
}

/// Whether a file holds one of the names.
fn is_sanitized(file: &File) -> bool {
    let mut rest = file.take(MOST_READ);
    // What was read last stays before what is read next, as far as a name may have been cut.
    let mut buffer = vec![0; LONGEST_TRACE + CHUNK];
    let mut kept = 0;
    loop {
        let read = match rest.read(&mut buffer[kept..]) {
            Ok(0) => return false,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return false,
        };
        let end = kept + read;
        if TRACES.iter().any(|trace| memchr::memmem::find(&buffer[..end], trace).is_some()) {
            return true;
        }
        kept = end.min(LONGEST_TRACE);
        buffer.copy_within(end - kept..end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_name_is_found_wherever_it_is_cut() {
        for before in [0, 1, CHUNK - 5, CHUNK, CHUNK + LONGEST_TRACE - 3, 3 * CHUNK + 7] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&vec![b'x'; before]).unwrap();
            assert!(!forbids_tracing(file.path()), "{before}");
            file.write_all(b"__lsan_init\0and more").unwrap();
            assert!(forbids_tracing(file.path()), "{before}");
        }
        assert!(!forbids_tracing("/nowhere"));
    }
}
