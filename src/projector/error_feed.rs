//! The feed from the leading projector to the classifier. The projector never waits here.

use tokio::sync::{mpsc, watch};

use crate::domain::Fingerprint;
use crate::store::Term;

/// How many messages may wait. Beyond that, the classifier has to look for itself.
const WAITING: usize = 1024;

/// Whether this process's projector leads, and how often everything must be looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lead {
    /// The term of this process's projector; `None` while it does not lead.
    pub term: Option<Term>,
    /// Grows whenever all errors must be looked at again: the categories were changed, or messages were dropped.
    pub rounds: u64,
}

/// The projector's end of the feed.
pub struct ErrorFeedSender {
    lead: watch::Sender<Lead>,
    errors: mpsc::Sender<Vec<Fingerprint>>,
}

/// The classifier's end of the feed.
pub struct ErrorFeedReceiver {
    /// The present state of leadership and rounds.
    pub lead: watch::Receiver<Lead>,
    /// Errors with which attempts have failed, known or not. They are sent once the store has them.
    pub errors: mpsc::Receiver<Vec<Fingerprint>>,
}

/// Makes both ends of a feed.
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
        // It is fine if the process has no classifier.
        if !errors.is_empty() && matches!(self.errors.try_send(errors), Err(mpsc::error::TrySendError::Full(_))) {
            self.look_again();
        }
    }

    pub(super) fn look_again(&self) {
        self.lead.send_modify(|lead| lead.rounds += 1);
    }
}
