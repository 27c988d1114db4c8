//! The server's half of SCRAM (RFC 5802), for the three hashes that Couchbase offers.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// How often the password is hashed: as few as a client may accept, since every connection of every test pays for it.
const ITERATIONS: u32 = 4096;

/// A mechanism by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha1,
    Sha256,
    Sha512,
}

/// A conversation that waits for the client's proof.
#[derive(Debug)]
pub struct Scram {
    hash: Hash,
    user: String,
    /// What is derived of the password; for a user that is not known, of none that could fit.
    salted: Vec<u8>,
    nonce: String,
    /// The messages so far, as the proof covers them.
    messages: String,
}

impl Hash {
    /// By the name of the mechanism.
    pub fn of(mechanism: &[u8]) -> Option<Self> {
        match mechanism {
            b"SCRAM-SHA1" => Some(Self::Sha1),
            b"SCRAM-SHA256" => Some(Self::Sha256),
            b"SCRAM-SHA512" => Some(Self::Sha512),
            _ => None,
        }
    }

    fn hmac(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), message).as_ref().to_vec()
    }

    fn digest(self, message: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, message).as_ref().to_vec()
    }

    fn salted(self, password: &[u8], salt: &[u8]) -> Vec<u8> {
        let (algorithm, length) = match self {
            Self::Sha1 => (pbkdf2::PBKDF2_HMAC_SHA1, digest::SHA1_OUTPUT_LEN),
            Self::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, digest::SHA256_OUTPUT_LEN),
            Self::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, digest::SHA512_OUTPUT_LEN),
        };
        let mut out = vec![0; length];
        let iterations = NonZeroU32::new(ITERATIONS).expect("not zero");
        pbkdf2::derive(algorithm, iterations, salt, password, &mut out);
        out
    }
}

impl Scram {
    /// Answers the client's first message: the conversation and the server's first message. `None`: no such message.
    /// `password` tells the password of a user; who is not known learns it no sooner than who gave a wrong one.
    pub fn begin(hash: Hash, first: &[u8], password: impl Fn(&str) -> Option<String>) -> Option<(Self, String)> {
        let first = std::str::from_utf8(first).ok()?;
        // No channel binding, and no other identity: `n,,` and the bare message.
        let bare = first.strip_prefix("n,,")?;
        let mut fields = bare.split(',');
        let user = fields.next()?.strip_prefix("n=")?.replace("=2C", ",").replace("=3D", "=");
        let client_nonce = fields.next()?.strip_prefix("r=")?;
        let nonce = format!("{client_nonce}{}", uuid::Uuid::new_v4().simple());
        let salt = uuid::Uuid::new_v4().into_bytes();
        let password = password(&user).unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let answer = format!("r={nonce},s={},i={ITERATIONS}", BASE64.encode(salt));
        let messages = format!("{bare},{answer}");
        Some((Self { hash, user, salted: hash.salted(password.as_bytes(), &salt), nonce, messages }, answer))
    }

    /// Checks the client's proof: the user and the server's own proof, or `None` where it is wrong.
    pub fn finish(self, last: &[u8]) -> Option<(String, String)> {
        let last = std::str::from_utf8(last).ok()?;
        let (without_proof, proof) = last.rsplit_once(",p=")?;
        // `biws` is `n,,`: the client repeats that it binds no channel.
        if without_proof != format!("c=biws,r={}", self.nonce) {
            return None;
        }
        let messages = format!("{},{without_proof}", self.messages);
        let stored = self.hash.digest(&self.hash.hmac(&self.salted, b"Client Key"));
        let signature = self.hash.hmac(&stored, messages.as_bytes());
        let client_key: Vec<u8> = BASE64.decode(proof).ok()?.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        if self.hash.digest(&client_key) != stored {
            return None;
        }
        let server_key = self.hash.hmac(&self.salted, b"Server Key");
        let own = BASE64.encode(self.hash.hmac(&server_key, messages.as_bytes()));
        Some((self.user, format!("v={own}")))
    }
}
