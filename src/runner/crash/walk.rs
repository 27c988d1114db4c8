//! Walks the stack of a stopped thread, from the innermost frame outwards.
//!
//! A frame is left by the module's unwind information. Where that is lacking, the return address is guessed (see
//! [`super::guess`]). Two things have no unwind information and are known by their looks: the code to which a signal handler
//! returns, whose caller's registers the kernel has put on the stack, and a jump to where no code is, which left the
//! return address of the call on top of the stack.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use gimli::{Encoding, EvaluationResult, Expression, Location, Value};

use super::frame::{COUNTER, Frame, REGISTERS, STACK_POINTER};
use super::guess;
use super::maps::Maps;
use super::modules::Module;
use super::source::{Budget, Source, Window};
use super::tables::{Cfa, Rule, Rules, Tables};

/// A frame as it was found.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// The address in the process.
    pub(super) address: u64,
    /// The address of the instruction that the thread was at: of a frame that called, within the call.
    pub(super) instruction: u64,
    /// Of which module it is: its place in the list.
    pub(super) module: Option<usize>,
    pub(super) function_bytes: Option<u64>,
    pub(super) guessed: bool,
}

/// A stack as it was found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The innermost frames.
    pub(super) inner: Vec<Step>,
    /// The outermost frames, of a stack with more than [`INNER`].
    pub(super) outer: VecDeque<Step>,
    /// How many there are in between.
    pub(super) omitted: u32,
    /// Why the walk ended before the outermost frame.
    pub(super) incomplete: Option<&'static str>,
}

/// How many of the innermost and of the outermost frames are kept.
pub(super) const INNER: usize = 96;
const OUTER: usize = 32;
/// How many frames are counted: a stack that has overflowed has hundreds of thousands.
const MOST_COUNTED: u32 = 50_000;

/// What a walk reads: the process as it stands still.
pub(super) struct Stack<'a> {
    process: i32,
    memory: &'a Source,
    /// All of the memory, by address.
    words: Window,
    maps: &'a Maps,
    modules: &'a mut [Module],
    tables: HashMap<usize, Tables>,
    rules: HashMap<u64, Option<Rc<Rules>>>,
    budget: Rc<Budget>,
}

/// Whether there is a caller.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once, some hundred thousand times a stack")]
enum Caller {
    Is(Frame),
    /// The unwind information says that this is the outermost frame.
    None,
    Unknown,
}

impl<'a> Stack<'a> {
    pub(super) fn new(
        process: i32,
        memory: &'a Source,
        maps: &'a Maps,
        modules: &'a mut [Module],
        budget: Rc<Budget>,
    ) -> Self {
        let words = Window::new(memory.clone(), 0, i64::MAX as u64, budget.clone());
        Self { process, memory, words, maps, modules, tables: HashMap::new(), rules: HashMap::new(), budget }
    }

    /// All frames from this one on, which is `at_instruction` or behind it.
    pub(super) fn walk(mut self, mut frame: Frame, mut at_instruction: bool) -> Walk {
        let mut walk = Walk::default();
        let mut guessed = false;
        loop {
            let counter = frame.counter();
            let interrupted = self.interrupted_by_signal(&frame);
            let instruction = if at_instruction || interrupted.is_some() { counter } else { counter.wrapping_sub(1) };
            let module = self.module_at(instruction);
            let rules = module.and_then(|module| self.rules(module, instruction));
            let function_bytes = rules.as_ref().map(|rules| rules.function_bytes);
            walk.push(Step { address: counter, instruction, module, function_bytes, guessed });
            if self.budget.is_spent() {
                walk.incomplete = Some("time was over before the stack was walked to its end");
                break;
            }
            if walk.inner.len() + walk.outer.len() + walk.omitted as usize >= MOST_COUNTED as usize {
                walk.incomplete = Some("the stack has more frames than are counted");
                break;
            }
            // A frame that a signal interrupted is at an instruction, one that called behind it.
            if let Some(interrupted) = interrupted {
                (frame, at_instruction, guessed) = (interrupted, true, false);
                continue;
            }
            let first = walk.inner.len() == 1;
            let caller = match rules {
                Some(rules) => (self.caller(&frame, &rules), rules.is_signal_frame),
                None => (Caller::Unknown, false),
            };
            (frame, at_instruction, guessed) = match caller {
                (Caller::None, _) => break,
                // Threads and programs begin with a return address of nothing.
                (Caller::Is(caller), _) if caller.counter() == 0 && caller.stack() > frame.stack() => break,
                (Caller::Is(caller), signal) if self.is_plausible(&caller, &frame, signal) => (caller, signal, false),
                _ if !self.maps.is_code(instruction) && !first => {
                    walk.incomplete = Some("the stack leads to where no code is: it may be damaged");
                    break;
                }
                (unlikely, _) => {
                    walk.incomplete = walk.incomplete.or(match unlikely {
                        Caller::Is(_) => Some("a return address leads to where no code is: the stack may be damaged"),
                        _ => None,
                    });
                    match guess::caller(&self.words, self.maps, &frame, instruction) {
                        Some((caller, sure)) => (caller, false, !sure),
                        None => {
                            walk.incomplete = walk.incomplete.or(Some("a function has no unwind information"));
                            break;
                        }
                    }
                }
            };
        }
        walk
    }

    /// Whether a caller can be the one that the unwind information says: stacks grow down, and code is where it leads to. A
    /// signal's handler may have had a stack of its own.
    fn is_plausible(&self, caller: &Frame, frame: &Frame, of_signal: bool) -> bool {
        of_signal || (caller.stack() > frame.stack() && self.maps.is_code(caller.counter().wrapping_sub(1)))
    }

    /// The place of the module that has code there.
    fn module_at(&self, address: u64) -> Option<usize> {
        let behind = self.modules.partition_point(|module| module.base <= address);
        let at = behind.checked_sub(1)?;
        (address < self.modules[at].end && self.maps.is_code(address)).then_some(at)
    }

    /// The rules at an address. A recursion comes by the same ones again and again.
    fn rules(&mut self, module: usize, address: u64) -> Option<Rc<Rules>> {
        if let Some(rules) = self.rules.get(&address) {
            return rules.clone();
        }
        let tables = self.tables.entry(module).or_insert_with(|| {
            self.modules[module].open(self.process, self.memory);
            Tables::of(&self.modules[module], self.memory, self.maps, &self.budget)
        });
        let rules = tables.rules(address).map(Rc::new);
        self.rules.insert(address, rules.clone());
        rules
    }

    fn caller(&self, frame: &Frame, rules: &Rules) -> Caller {
        let cfa = match &rules.cfa {
            Cfa::Offset { register, offset } => frame.get(*register).map(|value| value.wrapping_add_signed(*offset)),
            Cfa::Expression(expression) => self.evaluate(expression, rules.encoding, frame, None),
        };
        let Some(cfa) = cfa else { return Caller::Unknown };
        let mut caller = frame.clone();
        caller.0[STACK_POINTER] = Some(cfa);
        caller.0[COUNTER] = None;
        let mut return_address = None;
        for (register, rule) in &rules.registers {
            let value = match rule {
                Rule::Undefined => None,
                Rule::Same => frame.get(*register),
                Rule::At(offset) => self.words.word_at(cfa.wrapping_add_signed(*offset)),
                Rule::Is(offset) => Some(cfa.wrapping_add_signed(*offset)),
                Rule::Register(other) => frame.get(*other),
                Rule::AtExpression(expression) => self
                    .evaluate(expression, rules.encoding, frame, Some(cfa))
                    .and_then(|address| self.words.word_at(address)),
                Rule::IsExpression(expression) => self.evaluate(expression, rules.encoding, frame, Some(cfa)),
            };
            if *register == rules.return_address {
                return_address = Some((value, matches!(rule, Rule::Undefined)));
            }
            if let Some(known) = caller.0.get_mut(usize::from(*register)) {
                *known = value;
            }
        }
        match return_address {
            None | Some((_, true)) => Caller::None,
            Some((None, false)) => Caller::Unknown,
            Some((value, false)) => {
                caller.0[COUNTER] = value;
                Caller::Is(caller)
            }
        }
    }

    fn evaluate(
        &self,
        expression: &Expression<Window>,
        encoding: Encoding,
        frame: &Frame,
        cfa: Option<u64>,
    ) -> Option<u64> {
        /// No compiler writes an expression of more operations; a hostile one may go round in a circle.
        const MOST_OPERATIONS: u32 = 1000;
        let mut evaluation = expression.clone().evaluation(encoding);
        evaluation.set_max_iterations(MOST_OPERATIONS);
        if let Some(cfa) = cfa {
            evaluation.set_initial_value(cfa);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            let value = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory { address, size, .. } => {
                    let word = self.words.word_at(address)?;
                    let value = if size < 8 { word & ((1 << (8 * size)) - 1) } else { word };
                    evaluation.resume_with_memory(Value::Generic(value))
                }
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(frame.get(register.0)?))
                }
                _ => return None,
            };
            result = value.ok()?;
        }
        match evaluation.as_result().first()?.location {
            Location::Address { address } => Some(address),
            _ => None,
        }
    }

    /// The frame that a signal interrupted, if this is the code to which the signal's handler returns: it asks the kernel to
    /// put back the registers, which lie on the stack (`struct rt_sigframe`).
    fn interrupted_by_signal(&self, frame: &Frame) -> Option<Frame> {
        /// Where the registers begin in `ucontext_t`, and how they are numbered there.
        const REGISTERS_AT: u64 = 40;
        const ORDER: [usize; REGISTERS] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, STACK_POINTER, COUNTER];
        if !guess::is_signal_return(&self.words, self.maps, frame.counter()) {
            return None;
        }
        let mut registers = [None; REGISTERS];
        for (i, number) in ORDER.into_iter().enumerate() {
            registers[number] = Some(self.words.word_at(frame.stack().checked_add(REGISTERS_AT + 8 * i as u64)?)?);
        }
        Some(Frame(registers))
    }
}

impl Walk {
    /// The frames that were kept.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.inner.iter().chain(&self.outer)
    }

    fn push(&mut self, step: Step) {
        if self.inner.len() < INNER {
            self.inner.push(step);
            return;
        }
        if self.outer.len() == OUTER {
            self.outer.pop_front();
            self.omitted += 1;
        }
        self.outer.push_back(step);
    }
}
