//! Judges the answers of a Jobber server.

use super::Finding;

/// Judges what the server at `address` answered: its version, or the reason why there was no
/// answer. `asked_for` says that the user named the address, so that silence is a failure.
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

/// Judges schedules: how many there are, and those that bring no jobs, each with the reason.
pub fn judge_schedules(count: usize, stopped: &[(String, String)]) -> Finding {
    const CHECK: &str = "schedules";
    match stopped {
        [] => Finding::ok(CHECK, format!("{count}, none of them stopped")),
        [(id, why), rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
            Finding::warning(
                CHECK,
                format!("{id} brings no jobs: {why}{more}"),
                "see `jobber schedule ls`; put it in place anew with `jobber schedule add`, or resume it",
            )
        }
    }
}

/// Judges how many events were set aside because they could not be read.
pub fn judge_parked(count: u64) -> Finding {
    const CHECK: &str = "event log";
    if count == 0 {
        return Finding::ok(CHECK, "every event can be read");
    }
    Finding::warning(
        CHECK,
        format!("{count} events could not be read; history is without them"),
        "find out who writes to the log; they lie in the hash ...:events:parked in Redis, or the table events_parked",
    )
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

    #[test]
    fn what_stands_still_is_named() {
        assert_eq!(judge_schedules(2, &[]).status, Health::Ok);
        let stopped = [("nightly".to_owned(), "a clock was wrong".to_owned()), ("b".to_owned(), "x".to_owned())];
        let finding = judge_schedules(2, &stopped);
        assert_eq!(finding.status, Health::Warning);
        assert!(finding.found.contains("nightly") && finding.found.contains("1 more"), "{}", finding.found);
        assert_eq!((judge_parked(0).status, judge_parked(3).status), (Health::Ok, Health::Warning));
    }
}
