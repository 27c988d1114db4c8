//! Finds out why the SDK does not connect. It tries for ever, and says why only in its log.
//!
//! This is not needed where a connection can be tried by hand (see [`super::probe`]). Without a
//! file of authorities it can't: only the SDK knows the authorities that it trusts, and no password
//! goes to a server whose certificate was not checked.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// The obstacle, in the SDK's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Obstacle {
    /// No trusted authority has signed the server's certificate, or the certificate is for another host.
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

/// The last log message while connecting, in the SDK's words. A later version of the SDK may use other
/// words, and then the obstacle is not recognised. The message is shown when connecting takes too long.
#[derive(Debug, Default, Clone)]
pub(super) struct LastMessage(Arc<Mutex<Option<String>>>);

impl LastMessage {
    /// The last message that the SDK logged while it connected.
    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().expect("no thread panics while it holds the lock").clone()
    }
}

/// The result of `connecting`, or the obstacle as soon as the SDK logs it.
pub(super) async fn connect_or_obstacle<T>(
    last_message: &LastMessage,
    connecting: impl Future<Output = T>,
) -> Result<T, Obstacle> {
    let sniffer = LogSniffer {
        log: tracing::dispatcher::get_default(Clone::clone),
        obstacle: Arc::default(),
        noticed: Arc::default(),
        last_message: last_message.clone(),
    };
    let (obstacle, noticed) = (sniffer.obstacle.clone(), sniffer.noticed.clone());
    tokio::select! {
        done = connecting.with_subscriber(sniffer) => Ok(done),
        () = noticed.notified() => {
            let obstacle = obstacle.lock().expect("no thread panics while it holds the lock").take();
            Err(obstacle.expect("it is there before the notice"))
        }
    }
}

/// Reads the log while the SDK connects, and passes it on.
struct LogSniffer {
    log: Dispatch,
    obstacle: Arc<Mutex<Option<Obstacle>>>,
    noticed: Arc<Notify>,
    last_message: LastMessage,
}

fn is_of_sdk(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && *metadata.level() <= Level::WARN && metadata.target().starts_with("couchbase")
}

impl Subscriber for LogSniffer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_of_sdk(metadata) || self.log.enabled(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        if is_of_sdk(event.metadata()) {
            let mut message = Message(String::new());
            event.record(&mut message);
            if let Some(obstacle) = Obstacle::of(&message.0) {
                *self.obstacle.lock().expect("no thread panics while it holds the lock") = Some(obstacle);
                self.noticed.notify_one();
            }
            *self.last_message.0.lock().expect("no thread panics while it holds the lock") = Some(message.0);
        }
        if self.log.enabled(event.metadata()) {
            self.log.event(event);
        }
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.log.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.log.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.log.record_follows_from(span, follows);
    }

    fn enter(&self, span: &Id) {
        self.log.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.log.exit(span);
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.log.clone_span(span)
    }

    fn try_close(&self, span: Id) -> bool {
        self.log.try_close(span)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A log as an operator would see it.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Log {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= Level::INFO
        }

        fn event(&self, event: &Event<'_>) {
            let mut message = Message(String::new());
            event.record(&mut message);
            self.0.lock().unwrap().push(message.0);
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[tokio::test]
    async fn what_is_said_while_connecting_is_in_the_log_too() {
        let log = Log::default();
        let _guard = tracing::subscriber::set_default(log.clone());
        let last_message = LastMessage::default();
        let connecting = async {
            tracing::info!(target: "jobber", "one");
            tracing::warn!(target: "couchbase_core::agent", "the moon is in the way");
            tracing::debug!(target: "couchbase_core::agent", "nobody wants to know");
            3
        };
        assert_eq!(connect_or_obstacle(&last_message, connecting).await, Ok(3));
        assert_eq!(*log.0.lock().unwrap(), ["one", "the moon is in the way"]);
        assert_eq!(last_message.get().as_deref(), Some("the moon is in the way"), "whatever its words");
        let refused = async {
            tracing::warn!(target: "couchbase_core::kvclient", "Auth failed: auth error");
            std::future::pending::<()>().await;
        };
        assert!(matches!(connect_or_obstacle(&last_message, refused).await, Err(Obstacle::Refused(_))));
        assert_eq!(log.0.lock().unwrap().len(), 3);
    }
}
