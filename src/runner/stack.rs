//! The memory that a child stands on until it has become another program.
#![expect(unsafe_code, reason = "memory is mapped and unmapped by address")]

use std::ffi::c_void;
use std::io;

/// The memory that children stand on until they execute, one after the other.
pub(super) struct Stack {
    base: *mut c_void,
}

impl Stack {
    /// Its size in bytes.
    pub(super) const SIZE: usize = 64 * 1024;
    /// The size in bytes of the fence below the stack: a child that ran over would end there and
    /// not write into this process's memory.
    const FENCE: usize = 64 * 1024;

    pub(super) fn map() -> io::Result<Self> {
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory that is in use.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                Self::FENCE + Self::SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::STACK,
            )
        }?;
        let stack = Self { base };
        // SAFETY: the first pages of the mapping just made, which nothing points to.
        unsafe { rustix::mm::mprotect(base, Self::FENCE, MprotectFlags::empty()) }?;
        Ok(stack)
    }

    /// Its lowest byte that may be used.
    pub(super) fn bottom(&self) -> *mut c_void {
        self.base.wrapping_byte_add(Self::FENCE)
    }

    /// Where it begins: stacks grow down. Aligned as every ABI asks, being the end of a page.
    pub(super) fn top(&self) -> *mut c_void {
        self.bottom().wrapping_byte_add(Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no child stands on it: a launch waits for the exec.
        let _ = unsafe { rustix::mm::munmap(self.base, Self::FENCE + Self::SIZE) };
    }
}
