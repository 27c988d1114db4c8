//! Makes a filter for system calls: a program in classic BPF that the kernel runs at each call of a job.
//!
//! Why not the crate `seccompiler`: its programs compare a call's number with every rule in turn. The kernel translates
//! a filter anew for each process that gets it, and tries it on every number there is, so that with some seventy rules
//! each job waited 84 µs for it; with the binary search made here it is 25. And that crate knows one answer to all
//! rules, and kills what makes calls by another architecture's numbers.
//!
//! Source: `Documentation/userspace-api/seccomp_filter.rst` and `linux/seccomp.h` of the kernel.

use libc::{c_long, sock_filter};

/// The kernel's number for this machine's way to call it; `None` where no filter can be made.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// Where `struct seccomp_data` has the number, the architecture, and the first of six arguments of eight bytes each, of
/// which a filter reads four at once: on these machines the lower half comes first.
const NUMBER: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS: u32 = 16;

/// From here on, numbers mean calls of the x32 way, which the rules do not name. No other machine has so many.
const X32: u32 = 0x4000_0000;

/// What the kernel answers to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It does what the call asks for.
    Allow,
    /// It does nothing, and the call fails with this `errno`; with 0 it seems to succeed.
    Errno(i32),
    /// It ends the process by SIGSYS.
    Kill,
}

impl Answer {
    fn code(self) -> u32 {
        match self {
            Answer::Allow => libc::SECCOMP_RET_ALLOW,
            Answer::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(),
            Answer::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// What the lower half of an argument may be, for the call to be answered by its rule.
#[derive(Debug, Clone, Copy)]
pub(super) enum Test {
    Is(u32),
    IsNot(u32),
    /// It has one of these bits.
    Has(u32),
}

/// The answer to a call: always, or when one of the tests of its arguments (by their number, from 0) is true.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) call: c_long,
    pub(super) tests: Vec<(u32, Test)>,
    pub(super) answer: Answer,
}

impl Rule {
    pub(super) fn always(call: c_long, answer: Answer) -> Self {
        Self { call, tests: Vec::new(), answer }
    }
}

/// A place in the program that its jumps name before it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The step of this number.
    Step(usize),
    /// The tests of the rule of this number.
    Tests(usize),
    /// The end with this answer.
    End(Answer),
}

enum Step {
    Load(u32),
    /// Compares by this operator, and goes on at one of two places.
    Jump(u32, u32, Place, Place),
    Return(Answer),
}

/// Makes the program: calls that no rule names are allowed. A later rule for the same call is ignored. `None` where the
/// kernel's way to filter is not known.
pub(super) fn compile(rules: &[Rule]) -> Option<Vec<sock_filter>> {
    let numbers = numbers(rules);
    let (architecture, mut steps) = (ARCHITECTURE?, vec![Step::Load(ARCHITECTURE_AT)]);
    // Calls by another architecture's numbers, such as those of 32-bit programs, mean something else.
    steps.push(Step::Jump(libc::BPF_JEQ, architecture, Place::Step(2), Place::End(Answer::Kill)));
    steps.push(Step::Load(NUMBER));
    search(&numbers, &mut steps);
    let mut places = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        if rule.tests.is_empty() {
            continue;
        }
        places.push((Place::Tests(at), steps.len()));
        for (nth, (argument, test)) in rule.tests.iter().enumerate() {
            let (yes, is_last) = (Place::End(rule.answer), nth + 1 == rule.tests.len());
            steps.push(Step::Load(ARGUMENTS + 8 * argument));
            let no = if is_last { Place::End(Answer::Allow) } else { Place::Step(steps.len() + 1) };
            steps.push(match test {
                Test::Is(value) => Step::Jump(libc::BPF_JEQ, *value, yes, no),
                Test::IsNot(value) => Step::Jump(libc::BPF_JEQ, *value, no, yes),
                Test::Has(bits) => Step::Jump(libc::BPF_JSET, *bits, yes, no),
            });
        }
    }
    let mut answers = vec![Answer::Allow, Answer::Kill, Answer::Errno(libc::ENOSYS)];
    answers.extend(rules.iter().map(|rule| rule.answer));
    for answer in answers {
        if !places.iter().any(|(place, _)| *place == Place::End(answer)) {
            places.push((Place::End(answer), steps.len()));
            steps.push(Step::Return(answer));
        }
    }
    let find = |place: Place| match place {
        Place::Step(at) => Some(at),
        named => places.iter().find(|(place, _)| *place == named).map(|(_, at)| *at),
    };
    steps.iter().enumerate().map(|(at, step)| encode(step, |place| find(place)?.checked_sub(at + 1))).collect()
}

/// From which number on which place is meant, ascending, beginning at 0.
fn numbers(rules: &[Rule]) -> Vec<(u32, Place)> {
    let mut named: Vec<(u32, Place)> = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let place = if rule.tests.is_empty() { Place::End(rule.answer) } else { Place::Tests(at) };
        if let Ok(number) = u32::try_from(rule.call)
            && !named.iter().any(|(known, _)| *known == number)
        {
            named.push((number, place));
        }
    }
    named.sort_unstable_by_key(|(number, _)| *number);
    let mut all = vec![(0, Place::End(Answer::Allow))];
    let mut add = |number: u32, place: Place| match all.last_mut() {
        Some((from, last)) if *from == number => *last = place,
        Some((_, last)) if *last == place => {}
        _ => all.push((number, place)),
    };
    for (at, (number, place)) in named.iter().enumerate() {
        add(*number, *place);
        if named.get(at + 1).is_none_or(|(next, _)| *next != number + 1) {
            add(number + 1, Place::End(Answer::Allow));
        }
    }
    add(X32, Place::End(Answer::Errno(libc::ENOSYS)));
    all
}

/// Adds the steps that find the place of a number; answers where they begin.
fn search(numbers: &[(u32, Place)], steps: &mut Vec<Step>) -> Place {
    if let [(_, place)] = numbers {
        return *place;
    }
    let (at, middle) = (steps.len(), numbers.len() / 2);
    steps.push(Step::Return(Answer::Kill));
    let lower = search(&numbers[..middle], steps);
    let upper = search(&numbers[middle..], steps);
    steps[at] = Step::Jump(libc::BPF_JGE, numbers[middle].0, upper, lower);
    Place::Step(at)
}

/// The instruction of a step. `None` when a jump would be too far, which takes some hundred rules.
fn encode(step: &Step, distance: impl Fn(Place) -> Option<usize>) -> Option<sock_filter> {
    let instruction = |code: u32, jt, jf, k| Some(sock_filter { code: u16::try_from(code).ok()?, jt, jf, k });
    match step {
        Step::Load(at) => instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, *at),
        Step::Jump(operator, value, yes, no) => {
            let far = |place: &Place| u8::try_from(distance(*place)?).ok();
            instruction(libc::BPF_JMP | operator | libc::BPF_K, far(yes)?, far(no)?, *value)
        }
        Step::Return(answer) => instruction(libc::BPF_RET | libc::BPF_K, 0, 0, answer.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers to a call.
    fn answer(program: &[sock_filter], architecture: u32, number: u32, arguments: [u32; 3]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let step = &program[at];
            let code = u32::from(step.code);
            at += 1;
            let is_true = match code & 0xf0 {
                _ if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    value = match step.k {
                        NUMBER => number,
                        ARCHITECTURE_AT => architecture,
                        argument => arguments[(argument - ARGUMENTS) as usize / 8],
                    };
                    continue;
                }
                _ if code == libc::BPF_RET | libc::BPF_K => return step.k,
                libc::BPF_JEQ => value == step.k,
                libc::BPF_JGE => value >= step.k,
                libc::BPF_JSET => value & step.k != 0,
                _ => panic!("{code:x}"),
            };
            at += usize::from(if is_true { step.jt } else { step.jf });
        }
    }

    #[test]
    fn a_call_is_answered_by_its_rule_and_every_other_is_allowed() {
        let (refused, ignored) = (Answer::Errno(libc::EPERM), Answer::Errno(0));
        let mut rules: Vec<Rule> = (10..14).chain([20, 300]).map(|call| Rule::always(call, refused)).collect();
        rules.push(Rule { call: 14, tests: vec![(0, Test::IsNot(0)), (1, Test::Is(7))], answer: ignored });
        rules.push(Rule { call: 0, tests: vec![(2, Test::Has(0b110))], answer: refused });
        rules.push(Rule::always(20, ignored));
        let (program, own) = (compile(&rules).unwrap(), ARCHITECTURE.unwrap());
        for number in 0..1000 {
            let expected = match number {
                10..=13 | 20 | 300 => refused,
                _ => Answer::Allow,
            };
            assert_eq!(answer(&program, own, number, [0; 3]), expected.code(), "{number}");
        }
        for (number, arguments, expected) in [
            (14, [1, 0, 0], ignored),
            (14, [0, 7, 0], ignored),
            (14, [0, 6, 0], Answer::Allow),
            (0, [0, 0, 2], refused),
            (0, [7, 7, 9], Answer::Allow),
            (X32, [0; 3], Answer::Errno(libc::ENOSYS)),
            (X32 + 20, [0; 3], Answer::Errno(libc::ENOSYS)),
        ] {
            assert_eq!(answer(&program, own, number, arguments), expected.code(), "{number} {arguments:?}");
        }
        assert_eq!(answer(&program, own ^ 1, 1, [0; 3]), Answer::Kill.code());
    }

    #[test]
    fn the_rules_of_sandboxes_make_programs() {
        let [open, shut] = [true, false].map(|network| compile(&super::super::calls::rules(network)).unwrap());
        let [call, inet, unix] = [libc::SYS_socket as u32, libc::AF_INET as u32, libc::AF_UNIX as u32];
        let answer = |program: &[_], domain| answer(program, ARCHITECTURE.unwrap(), call, [domain, 0, 0]);
        assert_eq!([answer(&open, inet), answer(&shut, unix)], [Answer::Allow.code(); 2]);
        assert_eq!(answer(&shut, inet), Answer::Errno(libc::EAFNOSUPPORT).code());
    }

    #[test]
    fn rules_beyond_the_reach_of_a_jump_make_no_program() {
        let rules: Vec<Rule> = (0..500).map(|call| Rule::always(call * 2, Answer::Kill)).collect();
        assert!(compile(&rules).is_none());
    }
}
