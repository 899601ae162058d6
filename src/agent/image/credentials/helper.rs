//! docker's programs that keep credentials elsewhere (`credHelpers`, `credsStore`).

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Credentials, CredentialsError, HUB};
use crate::image::reference::Repository;

/// Most bytes of a helper's answer: a token has a few KiB.
const HELPER_MAX: u64 = 64 << 10;
/// Longest run of a helper, which may ask a cloud.
const HELPER_TIME: Duration = Duration::from_secs(30);
/// The name under which helpers know the hub.
const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the program `docker-credential-HELPER` for the credentials of a repository; `None` if it has
/// none.
///
/// # Errors
/// [`CredentialsError::Helper`].
pub(super) async fn ask(
    helper: &str,
    repository: &Repository,
) -> Result<Option<Credentials>, CredentialsError> {
    let failed = |text: String| CredentialsError::Helper { helper: helper.to_owned(), text };
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(failed("not the name of a helper".into()));
    }
    let server = if repository.host == HUB { HUB_SERVER } else { &repository.host };
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let answer = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(server.as_bytes()).await?;
        }
        let mut text = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(HELPER_MAX).read_to_end(&mut text).await?;
        }
        Ok::<_, io::Error>((child.wait().await?, text))
    };
    let (status, text) = match timeout(HELPER_TIME, answer).await {
        Ok(answer) => answer.map_err(|e| failed(e.to_string()))?,
        Err(_) => return Err(failed(format!("took longer than {} s", HELPER_TIME.as_secs()))),
    };
    if !status.success() {
        // The one failure that says: none. Helpers write it to standard output.
        let text = String::from_utf8_lossy(&text);
        return match text.contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(format!("{status}"))),
        };
    }
    let answer: Answer =
        serde_json::from_slice(&text).map_err(|_| failed("its answer is not that JSON".into()))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::Identity(answer.secret),
        _ => Credentials::Basic { username: answer.username, password: answer.secret },
    }))
}
