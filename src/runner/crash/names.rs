//! Turns names as linkers know them into those of the source. Pure.

use std::fmt::{self, Write};

/// The longest name that is kept, in bytes. Some short names unfold to gigabytes.
const LONGEST: usize = 1024;
/// How deep the parts of a name may be nested.
const DEEPEST: u32 = 96;

/// The name in the source, without parameters and result type; the name itself, where it is not mangled.
pub(super) fn demangled(name: &str) -> String {
    // Versions of symbols: `memcpy@@GLIBC_2.14`.
    let name = name.split('@').next().unwrap_or(name);
    let mut text = Bounded(String::new());
    let is_rust = name.starts_with("_R") || has_rust_hash(name);
    if is_rust && let Ok(symbol) = rustc_demangle::try_demangle(name) {
        // The alternate form leaves the hash out.
        let _ = write!(text, "{symbol:#}");
    } else if name.starts_with("_Z") {
        let parse = cpp_demangle::ParseOptions::default().recursion_limit(DEEPEST);
        let options = cpp_demangle::DemangleOptions::new()
            .no_params()
            .no_return_type()
            .hide_expression_literal_types()
            .recursion_limit(DEEPEST);
        if let Ok(symbol) = cpp_demangle::Symbol::new_with_options(name, &parse) {
            let _ = symbol.structured_demangle(&mut text, &options);
            let length = text.0.trim_end_matches(" const").len();
            text.0.truncate(length);
        }
    }
    if text.0.is_empty() {
        let _ = text.write_str(name);
    }
    text.0
}

/// Whether a name ends as older Rust compilers end them: `17h`, sixteen digits, `E`.
fn has_rust_hash(name: &str) -> bool {
    let name = name.split(".llvm.").next().unwrap_or(name);
    let end = name.len().checked_sub(20).and_then(|start| name.get(start..));
    end.is_some_and(|end| end.starts_with("17h") && end.ends_with('E')) && name.starts_with("_ZN")
}

/// A text that takes no more than [`LONGEST`] bytes.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let left = LONGEST - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(left)]);
        if text.len() > left { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_source() {
        for (mangled, name) in [
            ("main", "main"),
            ("_ZN5Image6resizeEi", "Image::resize"),
            ("_ZN5ImageIiE6resizeILi4EEEvRKSt6vectorIiSaIiEE", "Image<int>::resize<4>"),
            ("_ZN12_GLOBAL__N_14workEv", "(anonymous namespace)::work"),
            ("_ZL4workv.part.0", "work"),
            ("_ZlsRSoRK5Image", "operator<<"),
            ("_ZZ4mainENKUlvE_clEv", "main::{lambda()#1}::operator()"),
            ("_ZN4core9panicking5panic17h0123456789abcdefE", "core::panicking::panic"),
            (
                "_ZN68_$LT$alloc..vec..Vec$LT$T$GT$$u20$as$u20$core..ops..index..Index$GT$5index17h0123456789abcdefE.llvm.7",
                "<alloc::vec::Vec<T> as core::ops::index::Index>::index",
            ),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("_Znot a name", "_Znot a name"),
            ("", ""),
        ] {
            assert_eq!(demangled(mangled), name);
        }
    }

    #[test]
    fn a_name_that_unfolds_without_end_is_cut() {
        let mut bomb = "_Z1fI1A".to_owned();
        (0..60).for_each(|_| bomb.insert_str(6, "1BIS0_S0_S0_S0_E"));
        for name in [bomb, "_Z".to_owned() + &"N".repeat(100_000), "x".repeat(5000)] {
            assert!(demangled(&name).len() <= LONGEST);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_taken(name in "(_Z|_R|_ZN)?[A-Z0-9a-zé_.]{0,60}") {
            demangled(&name);
        }
    }
}
