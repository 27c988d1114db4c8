//! What a process has mapped, and what is at an address.

use crate::domain::PointsAt;

/// A line of `/proc/<pid>/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) execute: bool,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// The device, major and minor, and the file's number on it; zeros of memory that is of no file.
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    /// The path, or a name in square brackets; empty of memory without a name.
    pub(super) path: String,
}

/// The mappings, in order of their addresses.
#[derive(Debug, Default)]
pub(super) struct Maps(Vec<Mapping>);

impl Maps {
    /// Reads the text of `/proc/<pid>/maps`. A line that is not whole is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut maps: Vec<_> = text.split_inclusive('\n').filter_map(parse_line).collect();
        maps.sort_unstable_by_key(|mapping| mapping.start);
        Self(maps)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mapping that holds this address.
    pub(super) fn at(&self, address: u64) -> Option<&Mapping> {
        self.from(address).filter(|mapping| mapping.start <= address)
    }

    /// The mapping that holds this address, or else the next above it.
    fn from(&self, address: u64) -> Option<&Mapping> {
        self.0.get(self.0.partition_point(|mapping| mapping.end <= address))
    }

    pub(super) fn is_code(&self, address: u64) -> bool {
        self.at(address).is_some_and(|mapping| mapping.execute)
    }

    /// What is at an address that a SIGSEGV names, while the stack pointer and the program counter were there.
    pub(super) fn points_at(&self, address: u64, stack: u64, counter: u64) -> PointsAt {
        /// What the kernel keeps free at the lower end (`vm.mmap_min_addr`).
        const NULL_PAGES: u64 = 64 * 1024;
        let at = self.at(address);
        let usable = at.is_some_and(|mapping| mapping.read || mapping.write || mapping.execute);
        if !usable && self.is_below_stack(address, stack) {
            return PointsAt::StackGuard;
        }
        match at {
            None if address < NULL_PAGES => PointsAt::NullPage,
            None => PointsAt::Unmapped,
            Some(_) if !usable => PointsAt::NoAccess,
            Some(mapping) if address == counter && !mapping.execute => PointsAt::NotExecutable,
            Some(mapping) if !mapping.write && mapping.execute => PointsAt::Code,
            Some(mapping) if !mapping.write => PointsAt::ReadOnly,
            Some(_) => PointsAt::Mapped,
        }
    }

    /// Whether the stack pointer itself has left the stack.
    pub(super) fn has_left_stack(&self, stack: u64) -> bool {
        !self.at(stack).is_some_and(|mapping| mapping.write) && self.is_below_stack(stack, stack)
    }

    /// Whether the address lies below the stack and near to where the stack pointer is: the stack has grown until there.
    fn is_below_stack(&self, address: u64, stack: u64) -> bool {
        /// How far from the stack pointer a function reaches at once. A larger frame moves the stack pointer first.
        const REACH: u64 = 64 * 1024;
        /// How far above the address the stack may begin: guards and frames may be large.
        const GUARD: u64 = 64 << 20;
        // The first memory above the address that may be written is the stack, or what is left of it.
        let start = self.0.partition_point(|mapping| mapping.end <= address);
        let Some(above) = self.0[start..].iter().find(|mapping| mapping.write) else { return false };
        let near_end = above.start > address && above.start - address <= GUARD;
        let stack_is_there = (above.start..above.end).contains(&stack) && stack - above.start <= REACH;
        let stack_is_beyond = stack < above.start && stack.abs_diff(address) <= REACH;
        let of_no_file = above.inode == 0;
        near_end && of_no_file && address.abs_diff(stack) <= GUARD && (stack_is_there || stack_is_beyond)
    }
}

fn parse_line(line: &str) -> Option<Mapping> {
    let mut rest = line.strip_suffix('\n')?;
    let mut field = || {
        let (field, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after;
        field
    };
    let (start, end) = field().split_once('-')?;
    let (rights, offset, device, inode) = (field(), field(), field(), field());
    let (major, minor) = device.split_once(':')?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        read: rights.starts_with('r'),
        write: rights.get(1..2)? == "w",
        execute: rights.get(2..3)? == "x",
        offset: u64::from_str_radix(offset, 16).ok()?,
        device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
        inode: inode.parse().ok()?,
        // Of the characters of a path the kernel writes only a line's end otherwise.
        path: rest.trim_start_matches(' ').replace("\\012", "\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
00400000-00401000 r--p 00000000 08:01 42                                 /jobs/a b
00401000-00402000 r-xp 00001000 08:01 42                                 /jobs/a b
00402000-00403000 rw-p 00002000 08:01 42                                 /jobs/a b
7f0000000000-7f0000001000 ---p 00000000 00:00 0 
7f0000001000-7f0000801000 rw-p 00000000 00:00 0 
7f1000000000-7f1000001000 ---p 00000000 00:00 0 
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
7ffe00000000-7ffe";

    #[test]
    fn a_line_says_what_is_mapped() {
        let maps = Maps::parse(TEXT);
        assert_eq!(maps.0.len(), 8, "the last line is not whole");
        let code = maps.at(0x0040_1fff).unwrap();
        assert_eq!((code.path.as_str(), code.inode, code.device, code.offset), ("/jobs/a b", 42, (8, 1), 0x1000));
        assert!(code.execute && code.read && !code.write && maps.is_code(0x0040_1000));
        assert!(maps.at(0x0040_3000).is_none() && maps.at(0).is_none() && maps.at(u64::MAX).is_none());
        assert_eq!(maps.0[6].path, "[stack]");
        for damaged in ["", "\n", "1-2\n", "x-y r-xp 0 0:0 0 a\n", "1-2 é-xp 0 0:0 0 a\n", "1-2 r--p 0 00 0\n"] {
            assert!(Maps::parse(damaged).is_empty(), "{damaged:?}");
        }
    }

    #[test]
    fn what_is_at_an_address_is_told_by_maps_and_stack() {
        let maps = Maps::parse(TEXT);
        let (main, thread) = (0x7ffc_0000_0100, 0x7f00_0000_1100);
        for (address, stack, counter, expected) in [
            (0, main, 0x0040_1000, PointsAt::NullPage),
            (0x1008, main, 0x0040_1000, PointsAt::NullPage),
            (0x5555_0000, main, 0x0040_1000, PointsAt::Unmapped),
            (0x0040_0010, main, 0x0040_1000, PointsAt::ReadOnly),
            (0x0040_1010, main, 0x0040_1000, PointsAt::Code),
            (0x0040_2010, main, 0x0040_2010, PointsAt::NotExecutable),
            (0x0040_2010, main, 0x0040_1000, PointsAt::Mapped),
            (0x7f10_0000_0010, main, 0x0040_1000, PointsAt::NoAccess),
            // The first thread: what is pushed lies below its mapping.
            (0x7ffb_ffff_fff8, 0x7ffc_0000_0000, 0x0040_1000, PointsAt::StackGuard),
            // Its frame was so large that the stack pointer has left the stack.
            (0x7ffb_ff00_0000, 0x7ffb_ff00_0010, 0x0040_1000, PointsAt::StackGuard),
            // Another thread: there is a guard page.
            (0x7f00_0000_0ff8, thread, 0x0040_1000, PointsAt::StackGuard),
            // Its stack is nowhere near its end.
            (0x7f00_0000_0ff8, 0x7f00_0070_0000, 0x0040_1000, PointsAt::NoAccess),
            (0x7ffb_ffff_0000, 0x7ffc_0002_0000, 0x0040_1000, PointsAt::Unmapped),
        ] {
            assert_eq!(maps.points_at(address, stack, counter), expected, "{address:#x} {stack:#x}");
        }
        assert!(maps.has_left_stack(0x7ffb_ffff_fff8) && maps.has_left_stack(0x7f00_0000_0800));
        assert!(!maps.has_left_stack(main) && !maps.has_left_stack(thread) && !maps.has_left_stack(0));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text: String, address: u64, stack: u64) {
            let maps = Maps::parse(&text);
            maps.points_at(address, stack, 0);
            Maps::parse(TEXT).points_at(address, stack, address);
        }
    }
}
