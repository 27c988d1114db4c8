//! Sizes in bytes as people write them.

use crate::domain::notation;

/// Reads `512M`, `1GiB`, `64k`, `1048576`: a whole number and a binary unit (K, M, G, T; `KiB`, `KB` and `K` are all
/// 1024 bytes, in any case, as `B` alone is one).
///
/// # Errors
/// A message for people.
pub fn parse_size(text: &str) -> Result<u64, String> {
    notation::size(text).map_err(|allowed| format!("{text:?} is not {allowed}"))
}

/// A size in the largest binary unit that leaves at least 1 in front of it, with one digit behind the point.
pub(super) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("7B", 7),
            ("64k", 64 << 10),
            ("512M", 512 << 20),
            ("1GiB", 1 << 30),
            ("2gb", 2 << 30),
            ("3T", 3 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "M", "-1", "1.5G", "1 G", "1X", "1GG", "+1", "99999999999999999999", "999999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(5 << 30), "5.0 GiB");
    }
}
