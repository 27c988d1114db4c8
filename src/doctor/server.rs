//! What a server's answer means.

use super::Finding;

/// Judges what the server at `address` answered: its version, or why there was no answer. `asked_for`: somebody named
/// the address, so that silence is a failure.
pub fn judge(address: &str, answer: Result<String, String>, asked_for: bool) -> Finding {
    const CHECK: &str = "server";
    let own = env!("CARGO_PKG_VERSION");
    match answer {
        Ok(version) if version == own => Finding::ok(CHECK, format!("{address} answers, version {version}")),
        Ok(version) => Finding::warning(
            CHECK,
            format!("{address} has version {version}, this is {own}"),
            "install the same version everywhere; servers first, then workers",
        ),
        Err(why) if asked_for => {
            Finding::failed(CHECK, why, "start `jobber serve` or `jobber dev`, or correct --server")
        }
        Err(_) => Finding::ok(CHECK, format!("none at {address}; all else is checked without it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    #[test]
    fn silence_matters_only_where_an_answer_was_expected() {
        let own = || Ok(env!("CARGO_PKG_VERSION").to_owned());
        assert_eq!(judge("http://a", own(), false).status, Health::Ok);
        assert_eq!(judge("http://a", Ok("9.9.9".into()), false).status, Health::Warning);
        assert_eq!(judge("http://a", Err("refused".into()), false).status, Health::Ok);
        assert_eq!(judge("http://a", Err("refused".into()), true).status, Health::Failed);
    }
}
