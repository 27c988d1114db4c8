//! What a text looks like: its words and its runs of four characters, hashed into a vector of fixed length.

/// How many numbers a vector has.
pub(super) const DIMENSION: usize = 1024;

/// The features' counts, damped by the square root, as a vector of length 1; zeros for a text without letters.
pub(super) fn vector(text: &str) -> Vec<f32> {
    let text = normalised(text);
    let mut vector = vec![0.0_f32; DIMENSION];
    let mut count = |feature: u32| {
        let hash = finish(feature) as usize;
        vector[hash % DIMENSION] += if hash >> 12 & 1 == 1 { 1.0 } else { -1.0 };
    };
    text.windows(4).for_each(|run| count(u32::from_le_bytes([run[0], run[1], run[2], run[3]])));
    let words = text.split(|b| !(b.is_ascii_lowercase() || *b == b'_' || *b >= 0x80));
    words.filter(|word| word.len() >= 2).for_each(|word| count(fnv(word) ^ 0x5bd1_e995));
    vector.iter_mut().for_each(|sum| *sum = sum.signum() * sum.abs().sqrt());
    super::normalise(&mut vector);
    vector
}

/// In lower case, every number one `0`, every gap one space, a space at both ends.
fn normalised(text: &str) -> Vec<u8> {
    let mut normal = Vec::with_capacity(text.len() + 2);
    normal.push(b' ');
    for byte in text.bytes() {
        let byte = match byte {
            b'0'..=b'9' => b'0',
            0..=b' ' => b' ',
            other => other.to_ascii_lowercase(),
        };
        if !(matches!(byte, b'0' | b' ') && normal.last() == Some(&byte)) {
            normal.push(byte);
        }
    }
    if normal.last() != Some(&b' ') {
        normal.push(b' ');
    }
    normal
}

/// The hash of Fowler, Noll and Vo (FNV-1a, 32 bits).
pub(super) fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(FNV_START, |hash, byte| fnv_step(hash, *byte))
}

/// The hash of no bytes.
pub(super) const FNV_START: u32 = 0x811c_9dc5;

/// The hash of one byte more.
pub(super) fn fnv_step(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

/// Spreads the bits of a hash, so that each bit of the answer depends on many.
pub(super) fn finish(hash: u32) -> u32 {
    let hash = hash.wrapping_mul(0x9e37_79b1);
    let hash = (hash ^ hash >> 15).wrapping_mul(0x85eb_ca77);
    hash ^ hash >> 13
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_gaps_do_not_count() {
        assert_eq!(normalised(" Tile\t12\n of 1234 "), b" tile 0 of 0 ");
        assert_eq!(vector("tile 7 of 9"), vector("Tile  12 of\n1234"));
    }

    #[test]
    fn vectors_have_length_one_or_none() {
        let length = |text: &str| vector(text).iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length("segmentation fault") - 1.0).abs() < 1e-5);
        assert_eq!(length(""), 0.0);
    }
}
