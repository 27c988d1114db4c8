//! Why the SDK does not connect: it tries for ever, and says why only in its log.
//!
//! Where the way to a server can be tried by hand (see [`super::probe`]) this is not needed. Without a file of authorities
//! it can't: the authorities that the SDK trusts are known to it alone, and no password goes to a server that nobody has
//! checked.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// What stands in the way, in the SDK's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Obstacle {
    /// No trusted authority has signed the server's certificate, or it is another's.
    #[error("{0}")]
    Untrusted(String),
    /// The server refuses the user.
    #[error("{0}")]
    Refused(String),
}

impl Obstacle {
    fn of(text: &str) -> Option<Self> {
        let lower = text.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if has(&["invalid peer certificate"]) {
            Some(Self::Untrusted(text.to_owned()))
        } else if has(&["auth error", "authentication", "invalid credentials"]) {
            Some(Self::Refused(text.to_owned()))
        } else {
            None
        }
    }
}

/// What `connecting` comes to, or what stands in its way as soon as that is heard.
pub(super) async fn unless_hopeless<T>(connecting: impl Future<Output = T>) -> Result<T, Obstacle> {
    let ear = Ear::default();
    let heard = ear.clone();
    tokio::select! {
        done = connecting.with_subscriber(ear) => Ok(done),
        () = heard.news.notified() => {
            let obstacle = heard.obstacle.lock().expect("nobody panics with the lock in hand").take();
            Err(obstacle.expect("it is there before the news"))
        }
    }
}

/// Listens to what is logged meanwhile.
#[derive(Debug, Default, Clone)]
struct Ear {
    obstacle: Arc<Mutex<Option<Obstacle>>>,
    news: Arc<Notify>,
}

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("couchbase")
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if let Some(obstacle) = Obstacle::of(&message.0) {
            *self.obstacle.lock().expect("nobody panics with the lock in hand") = Some(obstacle);
            self.news.notify_one();
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The text of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
