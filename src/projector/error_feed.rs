//! What the leading projector tells whoever works out what errors mean. Nothing here ever makes the projector wait.

use tokio::sync::{mpsc, watch};

use crate::domain::Fingerprint;
use crate::store::Term;

/// Messages that may wait; with more, the listener is told to look for itself.
const WAITING: usize = 1024;

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lead {
    /// The term of this process's projector; `None` while it does not lead.
    pub term: Option<Term>,
    /// Grows whenever all errors must be looked at again: the categories were changed, or messages were dropped.
    pub rounds: u64,
}

/// The projector's end.
pub struct ErrorFeedSender {
    lead: watch::Sender<Lead>,
    errors: mpsc::Sender<Vec<Fingerprint>>,
}

/// The listener's end.
pub struct ErrorFeedReceiver {
    /// How things stand.
    pub lead: watch::Receiver<Lead>,
    /// Errors that attempts have failed with, known or not, as soon as they can be found in the store.
    pub errors: mpsc::Receiver<Vec<Fingerprint>>,
}

/// Both ends.
pub fn new_error_feed() -> (ErrorFeedSender, ErrorFeedReceiver) {
    let (lead, standing) = watch::channel(Lead::default());
    let (errors, arriving) = mpsc::channel(WAITING);
    (ErrorFeedSender { lead, errors }, ErrorFeedReceiver { lead: standing, errors: arriving })
}

impl ErrorFeedSender {
    pub(super) fn leads(&self, term: Option<Term>) {
        self.lead.send_modify(|lead| lead.term = term);
    }

    pub(super) fn seen(&self, errors: Vec<Fingerprint>) {
        // Nobody may be listening, and that is fine.
        if !errors.is_empty() && matches!(self.errors.try_send(errors), Err(mpsc::error::TrySendError::Full(_))) {
            self.look_again();
        }
    }

    pub(super) fn look_again(&self) {
        self.lead.send_modify(|lead| lead.rounds += 1);
    }
}
