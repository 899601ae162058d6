//! The lines of a watch, bounded in length and silence.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use thiserror::Error;
use tokio::time::timeout;

/// Longest line: etcd's largest object (1.5 MiB) with all that JSON can make of it.
const LINE_MAX: usize = 8 << 20;

/// Why there are no more lines.
#[derive(Debug, Error)]
pub(super) enum LinesError {
    #[error("connection lost")]
    Lost(#[source] kube::Error),
    #[error("nothing heard for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("a line of more than {LINE_MAX} bytes")]
    TooLong,
}

/// A body, line by line.
pub(super) struct Lines<B> {
    body: B,
    silence: Duration,
    buffer: BytesMut,
    /// Bytes of the buffer without an end of line in them.
    searched: usize,
}

impl<B: Body<Data = Bytes, Error = kube::Error> + Unpin> Lines<B> {
    /// Lines of `body`, which is never silent for longer than `silence`.
    pub(super) fn new(body: B, silence: Duration) -> Self {
        Self { body, silence, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line without its end; none once the body has ended. Half a line at the end is none.
    ///
    /// # Errors
    /// [`LinesError`].
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, LinesError> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_MAX {
                return Err(LinesError::TooLong);
            }
            let frame = timeout(self.silence, self.body.frame()).await;
            match frame.map_err(|_| LinesError::Silent(self.silence))? {
                Some(Ok(frame)) => {
                    self.buffer.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()))
                }
                Some(Err(error)) => return Err(LinesError::Lost(error)),
                None => return Ok(None),
            }
        }
    }
}
