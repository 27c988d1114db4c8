//! Guesses who called a function that has no unwind information.
//!
//! A return address is a word on the stack that points behind a call instruction in code. The first such word need not be
//! the right one: those of calls that have returned lie around, too. So a call that leads to the function counts most;
//! then the frame pointer, if it points to a return address; then the first word that may be one.

use super::frame::Frame;
use super::maps::Maps;
use super::source::Window;

/// What is looked at.
#[derive(Clone, Copy)]
struct Stack<'a> {
    /// All of the process's memory, by address.
    words: &'a Window,
    maps: &'a Maps,
}

/// How many words of the stack are looked at.
const WORDS: u64 = 512;
/// How far behind its beginning a thread may be in a function.
const LONGEST_FUNCTION: u64 = 64 * 1024;

/// The caller's frame, and whether there is no doubt.
pub(super) fn caller(words: &Window, maps: &Maps, frame: &Frame, instruction: u64) -> Option<(Frame, bool)> {
    let stack = Stack { words, maps };
    let top = frame.stack();
    let in_code = stack.maps.is_code(instruction);
    // After a jump to where no code is, the return address is on top.
    if !in_code
        && let Some(address) = stack.words.word_at(top)
        && call_before(stack, address).is_some()
    {
        return Some((Frame::caller(address, top, frame.frame_pointer()), true));
    }
    let mut first = None;
    for at in (0..WORDS).map(|word| top.wrapping_add(8 * word)) {
        let Some(address) = stack.words.word_at(at) else { break };
        let found = || Frame::caller(address, at, frame.frame_pointer());
        let Some(call) = call_before(stack, address) else {
            if is_signal_return(words, maps, address) {
                first.get_or_insert_with(found);
            }
            continue;
        };
        let leads_here = |target: u64| target <= instruction && instruction - target < LONGEST_FUNCTION;
        if in_code && call.target.is_some_and(|target| leads_here(beyond_stub(stack, target))) {
            return Some((found(), false));
        }
        first.get_or_insert_with(found);
    }
    by_frame_pointer(stack, frame).or(first).map(|frame| (frame, false))
}

/// Whether the code there is what a signal's handler returns to: it asks the kernel to put back the interrupted registers.
pub(super) fn is_signal_return(words: &Window, maps: &Maps, address: u64) -> bool {
    const CODE: [&[u8]; 2] = [&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05], &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]];
    let code = maps.is_code(address).then(|| words.bytes_at::<9>(address)).flatten();
    code.is_some_and(|code| CODE.iter().any(|bytes| code.starts_with(bytes)))
}

fn by_frame_pointer(stack: Stack<'_>, frame: &Frame) -> Option<Frame> {
    let pointer = frame.frame_pointer().filter(|pointer| *pointer >= frame.stack() && pointer.is_multiple_of(8))?;
    let saved = stack.words.word_at(pointer)?;
    let at = pointer.checked_add(8)?;
    let address = stack.words.word_at(at)?;
    let further = saved > pointer || saved == 0;
    let returns = call_before(stack, address).is_some() || is_signal_return(stack.words, stack.maps, address);
    (further && returns).then(|| Frame::caller(address, at, Some(saved)))
}

/// A call instruction.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    /// Where it leads to, if its code says that.
    target: Option<u64>,
}

/// The call instruction that ends at this address of code.
fn call_before(stack: Stack<'_>, address: u64) -> Option<Call> {
    let start = address.checked_sub(7)?;
    if !stack.maps.is_code(address) || !stack.maps.is_code(start) {
        return None;
    }
    let (call, slot) = call_at_end(&stack.words.bytes_at::<7>(start)?, address)?;
    Some(slot.map_or(call, |slot| Call { target: stack.words.word_at(slot) }))
}

/// The call instruction at the end of this code, and the place of the pointer that it goes by, if that is known.
fn call_at_end(code: &[u8; 7], end: u64) -> Option<(Call, Option<u64>)> {
    let number = |at: usize| i64::from(i32::from_le_bytes([code[at], code[at + 1], code[at + 2], code[at + 3]]));
    if code[2] == 0xe8 {
        return Some((Call { target: Some(end.wrapping_add_signed(number(3))) }, None));
    }
    // `call [rip + number]`
    if code[1..3] == [0xff, 0x15] {
        return Some((Call { target: None }, Some(end.wrapping_add_signed(number(3)))));
    }
    // `call` by a register or by memory: the length follows from the bits that say how the place is given.
    let is_call = |length: usize| {
        let at = 7 - length;
        let (how, register, place) = (code[at + 1] >> 6, code[at + 1] >> 3 & 7, code[at + 1] & 7);
        let by_index = usize::from(place == 4 && how != 3);
        let offset = match how {
            0 if place == 5 || (by_index == 1 && length > 3 && code[at + 2] & 7 == 5) => 4,
            1 => 1,
            2 => 4,
            _ => 0,
        };
        code[at] == 0xff && register == 2 && length == 2 + by_index + offset
    };
    [2, 3, 4, 6, 7].into_iter().any(is_call).then_some((Call { target: None }, None))
}

/// Where the stub leads by which a program calls a library's function.
fn beyond_stub(stack: Stack<'_>, target: u64) -> u64 {
    const BRANCH_TARGET: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let Some(code) = stack.words.bytes_at::<11>(target).filter(|_| stack.maps.is_code(target)) else { return target };
    let skipped = if code.starts_with(&BRANCH_TARGET) { 4 } else { 0 };
    let skipped = skipped + usize::from(code[skipped] == 0xf2);
    if code[skipped..skipped + 2] != [0xff, 0x25] {
        return target;
    }
    let end = target + skipped as u64 + 6;
    let Some(bytes) = stack.words.bytes_at::<4>(end - 4) else { return target };
    stack.words.word_at(end.wrapping_add_signed(i64::from(i32::from_le_bytes(bytes)))).unwrap_or(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_its_end() {
        let found = |code: [u8; 7]| call_at_end(&code, 0x1000);
        let to = |target| Some((Call { target: Some(target) }, None));
        let somewhere = || Some((Call { target: None }, None));
        assert_eq!(found([0x90, 0x90, 0xe8, 0xf0, 0xff, 0xff, 0xff]), to(0xff0));
        let by_slot = Some((Call { target: None }, Some(0x1010)));
        assert_eq!(found([0x90, 0xff, 0x15, 0x10, 0, 0, 0]), by_slot);
        // call rax; call r12; call [rax]; call [rax+8]; call [rsp+8]; call [rax+0x100]; call [rax*8+0x100]; call [rax+rbx].
        for code in [
            [0, 0, 0, 0, 0, 0xff, 0xd0],
            [0, 0, 0, 0, 0x41, 0xff, 0xd4],
            [0, 0, 0, 0, 0, 0xff, 0x10],
            [0, 0, 0, 0, 0xff, 0x50, 8],
            [0, 0, 0, 0xff, 0x54, 0x24, 8],
            [0, 0xff, 0x90, 0, 1, 0, 0],
            [0xff, 0x14, 0xc5, 0, 1, 0, 0],
            [0, 0, 0, 0, 0xff, 0x14, 0x18],
        ] {
            assert_eq!(found(code), somewhere(), "{code:x?}");
        }
        // jmp rax; push rax; nop; inc [rax].
        for code in [[0, 0, 0, 0, 0, 0xff, 0xe0], [0x50; 7], [0x90; 7], [0, 0, 0, 0, 0, 0xff, 0x00]] {
            assert_eq!(found(code), None, "{code:x?}");
        }
    }
}
