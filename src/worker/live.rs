//! What a running job says, on its way to those who watch. Called on the attempt's own thread.

use crate::domain::{AttemptNumber, Progress, Stream};
use crate::queue::{OutputChunk, Publisher};
use crate::runner::OutputSink;

/// Publishes output and progress through the lease.
pub(super) struct Live {
    pub(super) publisher: Publisher,
    pub(super) attempt: AttemptNumber,
}

impl OutputSink for Live {
    fn output(&self, stream: Stream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.publisher.output(OutputChunk { attempt: self.attempt.0, stream, text });
    }

    fn progress(&self, progress: Progress) {
        self.publisher.progress(&progress);
    }
}
