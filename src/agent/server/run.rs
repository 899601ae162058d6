//! `/run`: a command in a container, and all that it wrote as the answer.

use std::sync::Arc;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::answer::{Answer, Refusal, full, text};
use super::route::{Query, Target};
use super::{Pods, Shared};
use crate::runtime::ExecOutput;
use crate::telemetry::chain;

/// Bytes of each stream of a command that are kept: what a CRI message may have.
const OUTPUT_MAX: usize = 16 << 20;

impl<P: Pods> Shared<P> {
    /// Runs the command and answers with what it wrote.
    pub(super) async fn run(
        self: &Arc<Self>,
        target: &Target,
        query: &Query,
    ) -> Result<Response<Answer>, Refusal> {
        let failed = |text: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text);
        let served = self.pod(target)?;
        if !Self::has(&served, target) {
            return Err(failed(format!("container not found ({:?})", target.container)));
        }
        let _permit = self.stream_permit()?;
        // Upstream splits at each blank, and knows no quotes.
        let given = query.get("cmd").unwrap_or_default();
        let command: Vec<String> = given.split(' ').map(String::from).collect();
        let ended = self.pods.exec_sync(&served, &target.container, command, OUTPUT_MAX).await;
        let ExecOutput { code, mut stdout, stderr } = ended.map_err(|e| failed(chain(&e)))?;
        if code != 0 {
            let stderr = String::from_utf8_lossy(&stderr);
            return Err(failed(format!("command '{given}' exited with {code}: {stderr}")));
        }
        stdout.extend(stderr);
        let mut answer = text(full(stdout));
        // Whatever it is: upstream's.
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(answer)
    }
}
