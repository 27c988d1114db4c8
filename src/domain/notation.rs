//! Values as people write them, on the command line and in the configuration. Each reader says what is allowed.

use std::time::Duration;

use super::time::LONGEST;
use super::{Amounts, Labels};

/// Reads `90s`, `15m`, `1h 30m`, `250ms`.
///
/// # Errors
/// What is allowed, for people.
pub fn duration(text: &str) -> Result<Duration, String> {
    let allowed = || "a duration such as 250ms, 90s, 15m, 1h or 1d, at most ten years".to_owned();
    let value = humantime::parse_duration(text).map_err(|_| allowed())?;
    if value <= LONGEST { Ok(value) } else { Err(allowed()) }
}

/// Reads `512M`, `1GiB`, `65536`: binary units, with or without `B` or `iB`.
///
/// # Errors
/// What is allowed, for people.
pub fn size(text: &str) -> Result<u64, String> {
    let allowed = || "a size such as 65536, 64KiB, 512M or 2GiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| allowed())?;
    let unit = text[digits..].to_ascii_lowercase();
    let letter = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(allowed()),
    };
    number.checked_mul(1 << letter).filter(|n| *n <= 1 << 50).ok_or_else(allowed)
}

/// Reads a whole number.
///
/// # Errors
/// What is allowed, for people.
pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| "a whole number, not negative and not too large".to_owned())
}

/// Reads `2,3`: exit codes that mean a failure.
///
/// # Errors
/// What is allowed, for people.
pub fn exit_codes(text: &str) -> Result<Vec<u8>, String> {
    let codes = text.split(',').map(str::trim).filter(|code| !code.is_empty());
    let code = |text: &str| text.parse().ok().filter(|code| *code > 0);
    codes.map(|text| code(text).ok_or_else(|| "an exit code, 1 to 255".to_owned())).collect()
}

/// Reads `zone=eu,disk=ssd`: labels with their values.
///
/// # Errors
/// What is allowed, for people.
pub fn labels(text: &str) -> Result<Labels, String> {
    Labels::parse(text)
}

/// Reads `gpu=1,licence=2`: resources with their amounts.
///
/// # Errors
/// What is allowed, for people.
pub fn amounts(text: &str) -> Result<Amounts, String> {
    Amounts::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("65536"), Ok(65_536));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("2gb"), Ok(2 << 30));
        for bad in ["", "-1", "1.5G", "1X", "ib", "99999999999999999999", "10iB", "9999T", "2 gb"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "-1s", "100000000d"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_failures() {
        assert_eq!(exit_codes("2, 3"), Ok(vec![2, 3]));
        assert_eq!(exit_codes(""), Ok(vec![]));
        for bad in ["0", "256", "-1", "2;3", "x"] {
            assert!(exit_codes(bad).is_err(), "{bad:?}");
        }
    }
}
