//! Bytes that are read as they are needed: of a file, of a process, or of a copy.
//!
//! Nothing is mapped: a file that is cut short while it is mapped kills its reader. Nothing is read whole either: of debug
//! information of hundreds of megabytes a stack needs some pages.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gimli::{LittleEndian, ReaderOffsetId};

/// Where bytes are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// In a file; of a process's memory, offsets are addresses.
    File(Arc<File>),
    /// Here.
    Bytes(Arc<Vec<u8>>),
}

impl Source {
    /// Reads until the buffer is full or nothing more can be had; how much was read.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64) -> usize {
        match self {
            Source::File(file) => read_file(file, buffer, at),
            Source::Bytes(bytes) => {
                let Some(rest) = usize::try_from(at).ok().and_then(|at| bytes.get(at..)) else { return 0 };
                let length = rest.len().min(buffer.len());
                buffer[..length].copy_from_slice(&rest[..length]);
                length
            }
        }
    }

    /// Exactly so many bytes.
    pub(super) fn bytes<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.read_at(&mut bytes, at) == N).then_some(bytes)
    }

    /// So many bytes, or as many as there are.
    pub(super) fn up_to(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let length = self.read_at(&mut bytes, at);
        bytes.truncate(length);
        bytes
    }
}

/// As [`Source::read_at`], of a file.
pub(super) fn read_file(file: &File, buffer: &mut [u8], at: u64) -> usize {
    let mut length = 0;
    while length < buffer.len() {
        // Addresses of the kernel's half are no offsets, and nothing that could be read.
        let Some(at) = at.checked_add(length as u64).filter(|at| i64::try_from(*at).is_ok()) else { break };
        match file.read_at(&mut buffer[length..], at) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    length
}

/// What reading may cost: a file chooses how much there is to read, this process how much of it is read.
#[derive(Debug)]
pub(super) struct Budget {
    deadline: Instant,
    reads: Cell<u32>,
    bytes: Cell<usize>,
    spent: Cell<bool>,
}

impl Budget {
    /// How often the clock is looked at.
    const READS_PER_LOOK: u32 = 256;

    /// Until then, and at most so many reads (of a number, or of a string) and bytes of files.
    pub(super) fn new(deadline: Instant, reads: u32, bytes: usize) -> Rc<Self> {
        Rc::new(Self { deadline, reads: Cell::new(reads), bytes: Cell::new(bytes), spent: Cell::new(false) })
    }

    /// Whether nothing is left.
    pub(super) fn is_spent(&self) -> bool {
        self.spent.get() || self.is_late()
    }

    fn is_late(&self) -> bool {
        let late = Instant::now() >= self.deadline;
        self.spent.set(self.spent.get() || late);
        late
    }

    /// Takes one read; `false` when nothing is left.
    pub(super) fn read(&self) -> bool {
        let left = self.reads.get();
        if left == 0 || self.spent.get() || (left.is_multiple_of(Self::READS_PER_LOOK) && self.is_late()) {
            self.spent.set(true);
            return false;
        }
        self.reads.set(left - 1);
        true
    }

    /// Does something that may take no more than `left` reads, and takes off what it took.
    pub(super) fn within<T>(&self, left: &mut u32, act: impl FnOnce() -> T) -> T {
        let all = self.reads.get();
        let allowed = all.min(*left);
        self.reads.set(allowed);
        let done = act();
        let taken = allowed - self.reads.get();
        *left -= taken;
        self.reads.set(all - taken);
        done
    }

    /// Takes so many bytes; `false` when they are not left.
    pub(super) fn take(&self, bytes: usize) -> bool {
        match self.bytes.get().checked_sub(bytes) {
            Some(left) => self.bytes.set(left),
            None => self.spent.set(true),
        }
        !self.spent.get()
    }
}

const PAGE: u64 = 4096;
type Page = Rc<[u8]>;

#[derive(Debug)]
struct Pages {
    source: Source,
    /// Where the section begins in the source.
    start: u64,
    length: u64,
    pages: RefCell<HashMap<u64, Page>>,
    budget: Rc<Budget>,
}

impl Pages {
    fn page(&self, number: u64) -> gimli::Result<Page> {
        let mut pages = self.pages.borrow_mut();
        if let Some(page) = pages.get(&number) {
            return Ok(page.clone());
        }
        let length = PAGE.min(self.length.saturating_sub(number * PAGE)) as usize;
        if !self.budget.take(length) {
            return Err(gimli::Error::Io);
        }
        let at = self.start.checked_add(number * PAGE).ok_or(gimli::Error::Io)?;
        let page: Page = self.source.up_to(at, length).into();
        pages.insert(number, page.clone());
        Ok(page)
    }
}

/// A part of a section, as the parser of debug information takes it.
#[derive(Debug, Clone)]
pub(super) struct Window {
    pages: Rc<Pages>,
    start: u64,
    end: u64,
    /// The page that was read last, and its number: most reads are of the next bytes.
    last: Option<(u64, Page)>,
}

impl Window {
    /// The longest piece that is copied at once: names and expressions are short.
    const LONGEST_COPY: u64 = 64 * 1024;

    /// The section of so many bytes that begins there.
    pub(super) fn new(source: Source, start: u64, length: u64, budget: Rc<Budget>) -> Self {
        let pages = Pages { source, start, length, pages: RefCell::default(), budget };
        Self { pages: Rc::new(pages), start: 0, end: length, last: None }
    }

    /// A section of nothing.
    pub(super) fn empty(budget: &Rc<Budget>) -> Self {
        Self::new(Source::Bytes(Arc::default()), 0, 0, budget.clone())
    }

    /// What reading it may cost.
    pub(super) fn budget(&self) -> &Rc<Budget> {
        &self.pages.budget
    }

    /// The word at this place of the section.
    pub(super) fn word_at(&self, at: u64) -> Option<u64> {
        self.bytes_at::<8>(at).map(u64::from_le_bytes)
    }

    /// The bytes at this place of the section, if all can be had.
    pub(super) fn bytes_at<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut window = Self { pages: self.pages.clone(), start: at, end: at.checked_add(N as u64)?, last: None };
        let mut bytes = [0; N];
        gimli::Reader::read_slice(&mut window, &mut bytes).ok().map(|()| bytes)
    }

    fn eof(&self) -> gimli::Error {
        gimli::Error::UnexpectedEof(ReaderOffsetId(self.start))
    }

    fn read(&self) -> gimli::Result<()> {
        if self.pages.budget.read() { Ok(()) } else { Err(gimli::Error::Io) }
    }

    /// The bytes of this page from this place of the section on.
    fn rest_of_page(&mut self, at: u64) -> gimli::Result<&[u8]> {
        let (number, within) = (at / PAGE, (at % PAGE) as usize);
        if self.last.as_ref().is_none_or(|(of, _)| *of != number) {
            self.last = Some((number, self.pages.page(number)?));
        }
        let page = self.last.as_ref().map_or(&[][..], |(_, page)| page);
        page.get(within..).filter(|rest| !rest.is_empty()).ok_or(gimli::Error::Io)
    }

    fn copy(&self) -> gimli::Result<Vec<u8>> {
        let length = self.end - self.start;
        if length > Self::LONGEST_COPY {
            return Err(gimli::Error::Io);
        }
        let mut bytes = vec![0; length as usize];
        gimli::Reader::read_slice(&mut self.clone(), &mut bytes)?;
        Ok(bytes)
    }
}

impl gimli::Reader for Window {
    type Endian = LittleEndian;
    type Offset = usize;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    fn empty(&mut self) {
        self.end = self.start;
    }

    fn truncate(&mut self, len: usize) -> gimli::Result<()> {
        if len > self.len() {
            return Err(self.eof());
        }
        self.end = self.start + len as u64;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.start.saturating_sub(base.start) as usize
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.start)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        (self.start..=self.end).contains(&id.0).then(|| (id.0 - self.start) as usize)
    }

    fn find(&self, byte: u8) -> gimli::Result<usize> {
        let mut reader = self.clone();
        let mut at = self.start;
        while at < self.end {
            self.read()?;
            let most = (self.end - at).min(PAGE) as usize;
            let page = reader.rest_of_page(at)?;
            let page = &page[..page.len().min(most)];
            if let Some(found) = memchr::memchr(byte, page) {
                return Ok((at - self.start) as usize + found);
            }
            at += page.len() as u64;
        }
        Err(self.eof())
    }

    fn skip(&mut self, len: usize) -> gimli::Result<()> {
        if len > self.len() {
            return Err(self.eof());
        }
        self.start += len as u64;
        Ok(())
    }

    fn split(&mut self, len: usize) -> gimli::Result<Self> {
        let mut front = self.clone();
        front.truncate(len)?;
        self.skip(len)?;
        Ok(front)
    }

    fn to_slice(&self) -> gimli::Result<Cow<'_, [u8]>> {
        self.copy().map(Cow::Owned)
    }

    fn to_string(&self) -> gimli::Result<Cow<'_, str>> {
        String::from_utf8(self.copy()?).map(Cow::Owned).map_err(|_| gimli::Error::BadUtf8)
    }

    fn to_string_lossy(&self) -> gimli::Result<Cow<'_, str>> {
        Ok(Cow::Owned(String::from_utf8_lossy(&self.copy()?).into_owned()))
    }

    fn read_slice(&mut self, buffer: &mut [u8]) -> gimli::Result<()> {
        if buffer.len() as u64 > self.end - self.start {
            return Err(self.eof());
        }
        self.read()?;
        let mut left = buffer;
        while !left.is_empty() {
            let page = self.rest_of_page(self.start)?;
            let count = page.len().min(left.len());
            let (now, later) = left.split_at_mut(count);
            now.copy_from_slice(&page[..count]);
            left = later;
            self.start += count as u64;
        }
        Ok(())
    }

    /// As any other read; of most of what is read.
    fn read_u8(&mut self) -> gimli::Result<u8> {
        if self.start == self.end {
            return Err(self.eof());
        }
        self.read()?;
        let byte = self.rest_of_page(self.start)?.first().copied().ok_or(gimli::Error::Io)?;
        self.start += 1;
        Ok(byte)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gimli::Reader;

    use super::*;

    fn budget(reads: u32, bytes: usize) -> Rc<Budget> {
        Budget::new(Instant::now() + Duration::from_secs(60), reads, bytes)
    }

    fn window(bytes: &[u8], budget: &Rc<Budget>) -> Window {
        Window::new(Source::Bytes(Arc::new(bytes.to_vec())), 0, bytes.len() as u64, budget.clone())
    }

    proptest::proptest! {
        /// Reading through a window is reading the bytes, wherever pages begin.
        #[test]
        fn a_window_shows_what_is_there(length in 0_usize..10_000, skip in 0_usize..10_000, count in 0_usize..6000, byte: u8) {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let mut window = window(&bytes, &budget(u32::MAX, usize::MAX));
            let skipped = window.skip(skip);
            proptest::prop_assert_eq!(skipped.is_ok(), skip <= length);
            let rest = if skip <= length { &bytes[skip..] } else { &bytes[..] };
            proptest::prop_assert_eq!(window.clone().read_u8().ok(), rest.first().copied());
            proptest::prop_assert_eq!(window.find(byte).ok(), rest.iter().position(|b| *b == byte));
            let mut buffer = vec![0; count];
            let read = window.read_slice(&mut buffer);
            proptest::prop_assert_eq!(read.is_ok(), count <= rest.len());
            if count <= rest.len() {
                proptest::prop_assert_eq!(&buffer[..], &rest[..count]);
                let left = window.to_slice().unwrap();
                proptest::prop_assert_eq!(&left[..], &rest[count..]);
            }
        }
    }

    #[test]
    fn nothing_is_read_beyond_the_budget() {
        let bytes = vec![1; 3 * PAGE as usize];
        let few = budget(2, usize::MAX);
        let mut reader = window(&bytes, &few);
        assert!(reader.read_u8().is_ok() && reader.read_u8().is_ok());
        assert!(reader.read_u8().is_err() && few.is_spent());
        let many = budget(1000, usize::MAX);
        let (mut reader, mut left) = (window(&bytes, &many), 10);
        assert!(many.within(&mut left, || (0..7).all(|_| reader.read_u8().is_ok())));
        assert_eq!((left, many.reads.get()), (3, 993));
        assert!(!many.within(&mut left, || (0..7).all(|_| reader.read_u8().is_ok())) && many.is_spent());
        let one_page = budget(100, PAGE as usize);
        let mut reader = window(&bytes, &one_page);
        assert!(reader.read_u8().is_ok());
        reader.skip(PAGE as usize).unwrap();
        assert!(reader.read_u8().is_err() && one_page.is_spent());
        let late = Budget::new(Instant::now(), Budget::READS_PER_LOOK, usize::MAX);
        assert!(window(&bytes, &late).read_u8().is_err() && late.is_spent());
    }

    #[test]
    fn a_section_may_promise_more_than_the_file_has() {
        let budget = budget(100, usize::MAX);
        let mut reader = Window::new(Source::Bytes(vec![7; 10].into()), 8, 1 << 40, budget);
        assert_eq!(reader.read_u16().unwrap(), 0x0707);
        assert!(reader.read_u8().is_err());
        assert!(reader.find(9).is_err());
        assert!(reader.to_slice().is_err(), "a terabyte is not copied");
    }
}
