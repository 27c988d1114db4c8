//! What a file seems to be, by its first bytes and its name.

/// How many of the first bytes are looked at.
pub const HEAD: usize = 512;

/// What files begin with.
const MAGIC: &[(&[u8], &str)] = &[
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x7fELF", "application/x-elf"),
];

/// What ends of names say, where the first bytes say nothing.
const BY_NAME: &[(&str, &str)] = &[
    ("csv", "text/csv"),
    ("css", "text/css"),
    ("html", "text/html"),
    ("htm", "text/html"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("jsonl", "application/jsonl"),
    ("log", "text/plain"),
    ("md", "text/markdown"),
    ("mp4", "video/mp4"),
    ("npy", "application/octet-stream"),
    ("parquet", "application/vnd.apache.parquet"),
    ("ppm", "image/x-portable-pixmap"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tsv", "text/tab-separated-values"),
    ("txt", "text/plain"),
    ("xml", "application/xml"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
];

/// What a file with this name and these first bytes seems to be. A name alone makes no picture of it.
pub fn content_type(name: &str, head: &[u8]) -> &'static str {
    if let Some((_, kind)) = MAGIC.iter().find(|(start, _)| head.starts_with(start)) {
        return kind;
    }
    if head.len() >= 12 && head.starts_with(b"RIFF") && &head[8..12] == b"WEBP" {
        return "image/webp";
    }
    let end = name.rsplit('/').next().and_then(|last| last.rsplit_once('.')).map(|(_, end)| end.to_ascii_lowercase());
    if let Some((_, kind)) = end.and_then(|end| BY_NAME.iter().find(|(known, _)| *known == end)) {
        return kind;
    }
    // The first bytes may end within a character.
    let is_text = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    if is_text && !head.contains(&0) { "text/plain" } else { "application/octet-stream" }
}

/// Whether browsers show files of this type as pictures that can do nothing but be seen.
pub fn is_picture(content_type: &str) -> bool {
    matches!(content_type, "image/png" | "image/jpeg" | "image/gif" | "image/webp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_counts_before_its_name() {
        assert_eq!(content_type("a.txt", b"\x89PNG\r\n\x1a\n..."), "image/png");
        assert_eq!(content_type("a.webp", b"RIFF\x10\0\0\0WEBPVP8 "), "image/webp");
        assert_eq!(content_type("a.png", b"<script>alert(1)</script>"), "text/plain");
        assert_eq!(content_type("plots/a.CSV", b"a,b\n"), "text/csv");
        assert_eq!(content_type("a", "grün".as_bytes().split_at(3).0), "text/plain");
        assert_eq!(content_type("a", b"\0\x01"), "application/octet-stream");
        assert_eq!(content_type("a.b/c", b""), "text/plain");
        assert!(is_picture("image/png") && !is_picture("image/svg+xml"));
    }
}
