//! Names of functions as people say them.

/// A demangled name without its parameters, template arguments, result type and namespaces without a name, and without
/// what compilers add to it: `void Image<int>::resize<4>(int) [clone .cold]` is `Image::resize`. Of a method that Rust
/// names by type and trait, the type's. A function without a name is `{lambda}`, or `{closure}` in Rust: compilers number
/// them, and the numbers change with the source.
pub fn short_name(demangled: &str) -> String {
    let name = demangled.split(" [clone").next().unwrap_or_default().trim();
    let name = name.replace("(anonymous namespace)::", "").replace("{anonymous}::", "");
    let short = without_arguments(&name);
    // Clang's lambdas have a number for a name.
    let parts = path_of(&short).split("::").map(|part| if part.starts_with("$_") { LAMBDA } else { part });
    let short = parts.collect::<Vec<_>>().join("::").replace("{lambda}::operator()", LAMBDA);
    if short.is_empty() { demangled.to_owned() } else { short }
}

const LAMBDA: &str = "{lambda}";

/// Without what stands in angle brackets, and without parameters.
fn without_arguments(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(operator) = operator_at(&out, rest) {
            out += operator;
            rest = &rest[operator.len()..];
            continue;
        }
        match c {
            '<' => {
                let (inner, after) = bracketed(rest, '<', '>');
                // Rust: `<Image as Draw>::draw` and `<impl Draw for Image>::draw` stand where a path begins.
                if after.starts_with("::") && (out.is_empty() || out.ends_with(' ')) {
                    let of_impl = inner.strip_prefix("impl ").map(|of| of.rsplit(" for ").next().unwrap_or(of));
                    let type_name = of_impl.unwrap_or_else(|| inner.split(" as ").next().unwrap_or(inner));
                    out += &without_arguments(type_name.trim_start_matches('&'));
                } else if out.ends_with("::") {
                    out.truncate(out.len() - 2);
                }
                rest = after;
            }
            // Go writes `main.(*Image).Resize`.
            '(' if out.ends_with('.') => {
                let (inner, after) = bracketed(rest, '(', ')');
                out += inner.trim_start_matches('*');
                rest = after;
            }
            '(' => {
                // A scope follows where a function is local to another.
                let (_, after) = bracketed(rest, '(', ')');
                let after = after.trim_start_matches(" const").trim_start_matches(" volatile");
                if !after.starts_with("::") {
                    break;
                }
                rest = after;
            }
            '{' | '[' => {
                let close = if c == '{' { '}' } else { ']' };
                let (inner, after) = bracketed(rest, c, close);
                out += match inner {
                    inner if c == '{' && inner.contains("lambda") => LAMBDA,
                    inner if c == '{' && inner.contains("closure") => "{closure}",
                    _ => &rest[..rest.len() - after.len()],
                };
                rest = after;
            }
            _ => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

/// The sign of a C++ operator, when that is what comes next.
fn operator_at<'a>(before: &str, rest: &'a str) -> Option<&'a str> {
    const SIGNS: [&str; 11] = ["<<=", "<=>", "<<", "<=", "<", ">>=", "->*", "->", ">>", ">=", ">"];
    let name = before.strip_suffix("operator")?;
    if name.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    if rest.starts_with("()") {
        return Some(&rest[..2]);
    }
    // In `operator<<int>` the second bracket opens template arguments.
    let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign))?;
    let sign = if sign == "<<" && rest.matches('>').count() == 1 && !rest.contains("->") { "<" } else { sign };
    Some(&rest[..sign.len()])
}

/// What stands in the brackets that `text` begins with, and what comes behind them.
fn bracketed(text: &str, open: char, close: char) -> (&str, &str) {
    let mut depth = 0_usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close && !(close == '>' && before == '-') {
            depth -= 1;
            if depth == 0 {
                return (&text[open.len_utf8()..at], &text[at + c.len_utf8()..]);
            }
        }
        before = c;
    }
    (text, "")
}

/// Without the result type before it, and without the suffix by which a compiler names a part of a function.
fn path_of(name: &str) -> &str {
    let name = name.trim_end_matches(" const").trim_end_matches(':').trim();
    let start = match name.find("operator") {
        Some(at) => name[..at].rfind(' '),
        None => name.rfind(' '),
    };
    let name = name[start.map_or(0, |space| space + 1)..].trim_start_matches(['*', '&']);
    let suffix = [".constprop.", ".isra.", ".part.", ".cold", ".llvm.", ".lto_priv.", ".localalias"];
    let end = suffix.iter().filter_map(|suffix| name.find(suffix)).min().unwrap_or(name.len());
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_as_people_say_it() {
        for (full, short) in [
            ("main", "main"),
            ("Image::resize(int, std::vector<int> const&) const", "Image::resize"),
            ("void ns::Image<int, Pair<a, b> >::resize<4>(int) [clone .cold]", "ns::Image::resize"),
            ("(anonymous namespace)::Image::resize()", "Image::resize"),
            ("resize.constprop.0", "resize"),
            ("work.part.0.cold", "work"),
            ("operator<<(std::ostream&, Image const&)", "operator<<"),
            ("bool operator< <int>(A<int>)", "operator<"),
            ("bool operator<<int>(A)", "operator<"),
            ("Image::operator()(int) const", "Image::operator()"),
            ("Image::operator->() const", "Image::operator->"),
            ("Image::operator bool() const", "Image::operator bool"),
            ("main::{lambda(int)#1}::operator()(int) const", "main::{lambda}"),
            ("main::$_1::operator()() const", "main::{lambda}"),
            ("{lambda()#1}::operator()", "{lambda}"),
            ("image::resize::{closure#0}::{closure#1}", "image::resize::{closure}::{closure}"),
            ("outer(int)::Local::method()", "outer::Local::method"),
            ("outer(int) const::Local::method()", "outer::Local::method"),
            ("std::vector<int, std::allocator<int> >::operator[](unsigned long)", "std::vector::operator[]"),
            ("Map<int (*)(long), 3>::find", "Map::find"),
            ("<image::Image as core::fmt::Debug>::fmt", "image::Image::fmt"),
            ("image::resize::<u8>", "image::resize"),
            ("image::resize::{{closure}}", "image::resize::{closure}"),
            ("<impl core::fmt::Debug for image::Image<T>>::fmt", "image::Image::fmt"),
            ("main.(*Image).Resize", "main.Image.Resize"),
            ("my_operator<int>", "my_operator"),
            ("a<b", "a"),
            ("<", "<"),
            ("", ""),
        ] {
            assert_eq!(short_name(full), short, "{full}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in "[a-z<>(){}\\[\\]: *&é.-]{0,40}", operator: bool) {
            short_name(&text);
            short_name(&if operator { format!("operator{text}") } else { format!("x operator {text}") });
        }
    }
}
