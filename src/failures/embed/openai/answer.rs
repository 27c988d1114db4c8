//! What an endpoint answers, read and checked.

use serde::Deserialize;

use super::super::normalise;

/// Bytes that a number takes in an answer, generously.
const BYTES_A_NUMBER: usize = 32;
/// Bytes of an answer besides its numbers.
const BYTES_BESIDES: usize = 1 << 20;
/// How much of a complaint is passed on, in characters.
const LONGEST_COMPLAINT: usize = 300;

/// Why an answer could not be read to its end.
pub(super) enum Unread {
    Lost(reqwest::Error),
    Endless,
}

/// Reads the whole answer, as long as it is no longer than one with these vectors can be.
pub(super) async fn read(mut response: reqwest::Response, texts: usize, dimension: usize) -> Result<Vec<u8>, Unread> {
    let most = texts.saturating_mul(dimension).saturating_mul(BYTES_A_NUMBER).saturating_add(BYTES_BESIDES);
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(Unread::Lost)? {
        body.extend_from_slice(&piece);
        if body.len() > most {
            return Err(Unread::Endless);
        }
    }
    Ok(body)
}

#[derive(Deserialize)]
struct EmbeddingsResponse {
    data: Vec<EmbeddingEntry>,
}

#[derive(Deserialize)]
struct EmbeddingEntry {
    /// The place of the text that it belongs to, from 0; answers need not be in order.
    index: Option<usize>,
    embedding: Vec<f32>,
}

/// One vector of length 1 for each text, in the order of the texts.
pub(super) fn vectors(body: &[u8], texts: usize, dimension: usize) -> Result<Vec<Vec<f32>>, String> {
    let answer: EmbeddingsResponse = serde_json::from_slice(body).map_err(|e| format!("it can't be read: {e}"))?;
    if answer.data.len() != texts {
        return Err(format!("it has {} vectors for {texts} texts", answer.data.len()));
    }
    let mut vectors = vec![Vec::new(); texts];
    for (place, EmbeddingEntry { index, mut embedding }) in answer.data.into_iter().enumerate() {
        let index = index.unwrap_or(place);
        if embedding.len() != dimension {
            return Err(format!(
                "its vectors have {} numbers where embedder.dimension says {dimension}; set that to what the model gives",
                embedding.len()
            ));
        }
        normalise(&mut embedding);
        let length: f32 = embedding.iter().map(|x| x * x).sum();
        if (length - 1.0).abs() > 1e-3 || !length.is_finite() {
            return Err(format!("vector {index} has no direction"));
        }
        match vectors.get_mut(index) {
            Some(vector) if vector.is_empty() => *vector = embedding,
            _ => return Err(format!("it has text {index} twice, or was not asked for it")),
        }
    }
    Ok(vectors)
}

/// The complaint of an endpoint: the message in OpenAI's form, or the beginning of whatever it sent.
pub(super) fn complaint(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: Error,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Error {
        Object { message: String },
        Text(String),
    }
    let text = match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { error: Error::Object { message } | Error::Text(message) }) => message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| !c.is_control()).take(LONGEST_COMPLAINT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_put_in_order_and_scaled() {
        let body = br#"{"data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}], "model": "m"}"#;
        assert_eq!(vectors(body, 2, 2).unwrap(), [vec![0.6, 0.8], vec![0.0, 1.0]]);
        assert_eq!(vectors(br#"{"data": [{"embedding": [1, 0]}]}"#, 1, 2).unwrap(), [vec![1.0, 0.0]]);
    }

    #[test]
    fn nonsense_is_named() {
        for (body, texts, says) in [
            ("<html>", 1, "can't be read"),
            (r#"{"data": []}"#, 1, "0 vectors for 1"),
            (r#"{"data": [{"index": 0, "embedding": [1, 2, 3]}]}"#, 1, "3 numbers"),
            (r#"{"data": [{"index": 0, "embedding": [0, 0]}]}"#, 1, "no direction"),
            (r#"{"data": [{"index": 0, "embedding": [1e39, 0]}]}"#, 1, "no direction"),
            (r#"{"data": [{"index": 0, "embedding": [1, 0]}, {"index": 0, "embedding": [1, 0]}]}"#, 2, "twice"),
            (r#"{"data": [{"index": 7, "embedding": [1, 0]}]}"#, 1, "not asked"),
        ] {
            let problem = vectors(body.as_bytes(), texts, 2).unwrap_err();
            assert!(problem.contains(says), "{body}: {problem}");
        }
    }

    #[test]
    fn complaints_are_short_and_plain() {
        assert_eq!(complaint(br#"{"error": {"message": "no\n such model", "code": 1}}"#), "no such model");
        assert_eq!(complaint(br#"{"error": "no such model"}"#), "no such model");
        assert_eq!(complaint(b"<p>bad\x07 gateway</p>"), "<p>bad gateway</p>");
        assert_eq!(complaint(&[b'x'; 1000]).len(), LONGEST_COMPLAINT);
    }
}
