//! Bytes that are mostly text, as JSON carries them: text for all to read and, where that is not the whole truth, base64.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The text of these bytes, with U+FFFD for what is no UTF-8, and in that case the bytes themselves as base64.
pub fn to_text(bytes: &[u8]) -> (String, Option<String>) {
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => (text.to_owned(), None),
        Cow::Owned(replaced) => (replaced, Some(STANDARD.encode(bytes))),
    }
}

/// The bytes that [`to_text`] was given.
pub fn from_text<'t>(text: &'t str, base64: Option<&str>) -> Cow<'t, [u8]> {
    match base64.and_then(|base64| STANDARD.decode(base64).ok()) {
        Some(bytes) => Cow::Owned(bytes),
        None => Cow::Borrowed(text.as_bytes()),
    }
}

/// How many bytes at the end begin a character of UTF-8 that is not all there.
pub fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.iter().rev().take(3).enumerate();
    for (behind, byte) in tail {
        let length = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return 0,
        };
        return if behind + 1 < length { behind + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_text_and_the_rest_is_base64() {
        assert_eq!(to_text("grün".as_bytes()), ("grün".to_owned(), None));
        assert_eq!(to_text(b"a\xff"), ("a\u{fffd}".to_owned(), Some("Yf8=".to_owned())));
        assert_eq!(from_text("a", Some("no base64")), b"a".as_slice());
    }

    #[test]
    fn a_character_that_is_not_all_there_is_unfinished() {
        assert_eq!(unfinished(b"gr\xc3"), 1);
        assert_eq!(unfinished("grü".as_bytes()), 0);
        assert_eq!(unfinished(b"\xf0\x9f\x9a"), 3);
        assert_eq!(unfinished(b"\xff\x80\x80\x80\x80"), 0);
        assert_eq!(unfinished(b""), 0);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let (text, base64) = to_text(&bytes);
            prop_assert_eq!(from_text(&text, base64.as_deref()).into_owned(), bytes);
        }
    }
}
