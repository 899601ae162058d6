//! How a command ended, as its client is told on the error stream.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use super::{Client, Gone};

/// The end of a command or of what else a client waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) enum End {
    /// All went well.
    Success,
    /// A command ended with this code, which is not 0.
    Code(i32),
    /// It could not be done, in upstream's words.
    Failed(String),
}

impl End {
    /// The end of a command with this code.
    pub(in crate::server) fn of_code(code: i32) -> Self {
        if code == 0 { Self::Success } else { Self::Code(code) }
    }

    /// The text that protocols before `v4` have; none for success.
    fn text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Code(code) => {
                format!("command terminated with non-zero exit code: exit status {code}")
            }
            Self::Failed(text) => format!("Internal error occurred: {text}"),
        }
    }

    fn status(&self) -> Status {
        let failure = |reason: &str| Status {
            status: Some("Failure".into()),
            reason: Some(reason.into()),
            message: Some(self.text()),
            ..Status::default()
        };
        match self {
            Self::Success => Status { status: Some("Success".into()), ..Status::default() },
            Self::Code(code) => {
                let cause = StatusCause {
                    reason: Some("ExitCode".into()),
                    message: Some(code.to_string()),
                    ..StatusCause::default()
                };
                let causes = Some(vec![cause]);
                let details = Some(StatusDetails { causes, ..StatusDetails::default() });
                Status { details, ..failure("NonZeroExitCode") }
            }
            Self::Failed(_) => Status { code: Some(500), ..failure("InternalError") },
        }
    }

    fn bytes(&self, statuses: bool) -> Vec<u8> {
        if statuses {
            // None of it is anything that JSON has not.
            return serde_json::to_vec(&self.status()).unwrap_or_default();
        }
        self.text().into_bytes()
    }
}

impl Client {
    /// Tells the client how it ended, and that nothing more comes.
    pub(in crate::server) async fn finish(self, end: &End) -> Result<(), Gone> {
        let Self { stdout, stderr, error, statuses, .. } = self;
        for output in [stdout, stderr].into_iter().flatten() {
            output.end().await?;
        }
        error.send(end.bytes(statuses)).await?;
        error.end().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_upstreams() {
        let text = |end: End| String::from_utf8(end.bytes(true)).expect("UTF-8");
        assert!(text(End::of_code(0)).contains(r#""status":"Success""#));
        let failed = text(End::of_code(3));
        assert!(failed.contains(r#""reason":"NonZeroExitCode""#), "{failed}");
        assert!(failed.contains(r#"{"message":"3","reason":"ExitCode"}"#), "{failed}");
        let error = text(End::Failed("container not running (c)".into()));
        let expected = r#""message":"Internal error occurred: container not running (c)""#;
        assert!(error.contains(expected) && error.contains(r#""code":500"#), "{error}");
        assert_eq!(End::Success.bytes(false), b"");
        let old = End::Code(3).bytes(false);
        assert_eq!(old, b"command terminated with non-zero exit code: exit status 3");
    }
}
