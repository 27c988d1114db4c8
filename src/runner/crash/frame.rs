//! The registers of a frame, as far as they are known.

const FRAME_POINTER: usize = 6;
pub(super) const STACK_POINTER: usize = 7;
pub(super) const COUNTER: usize = 16;
/// The general registers, the stack pointer among them, and the program counter.
pub(super) const REGISTERS: usize = 17;

/// What is known of a frame's registers, by their numbers in debug information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame(pub(super) [Option<u64>; REGISTERS]);

impl Frame {
    pub(super) fn of(numbered: &[u64]) -> Option<Self> {
        let mut registers = [None; REGISTERS];
        (numbered.len() == REGISTERS).then(|| {
            for (register, value) in registers.iter_mut().zip(numbered) {
                *register = Some(*value);
            }
            Self(registers)
        })
    }

    pub(super) fn get(&self, register: u16) -> Option<u64> {
        self.0.get(usize::from(register)).copied().flatten()
    }

    pub(super) fn counter(&self) -> u64 {
        self.0[COUNTER].unwrap_or(0)
    }

    pub(super) fn stack(&self) -> u64 {
        self.0[STACK_POINTER].unwrap_or(0)
    }

    pub(super) fn frame_pointer(&self) -> Option<u64> {
        self.0[FRAME_POINTER]
    }

    /// The caller's, when nothing but the return address, its place on the stack and the frame pointer is known.
    pub(super) fn caller(return_address: u64, at: u64, frame_pointer: Option<u64>) -> Self {
        let mut registers = [None; REGISTERS];
        registers[COUNTER] = Some(return_address);
        registers[STACK_POINTER] = Some(at.wrapping_add(8));
        registers[FRAME_POINTER] = frame_pointer;
        Self(registers)
    }
}
