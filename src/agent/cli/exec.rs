//! `copepod exec`: runs a command beside a running container.

use std::io::{self, Write};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{SinkExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::api::{self, Found, address};
use super::{find, note, print};
use crate::server::stream::websocket::{PROTOCOL, channel, limits};

/// Bytes of standard input sent at once.
const CHUNK: usize = 32 << 10;

/// Run a command in a container of a running pod.
///
/// The container's module is run once more with the command as its arguments; if the command's
/// first word names another Wasm file of the image, that one. Its exit code is this command's.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    namespace: find::Namespace,
    /// The pod: POD, NAMESPACE/POD or the beginning of a uid
    #[arg(value_name = "POD")]
    pod: String,
    /// The container; the only one if not given
    #[arg(long, short, value_name = "CONTAINER")]
    container: Option<String>,
    /// Give it this command's standard input
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Taken for kubectl's sake: a guest has no terminal
    #[arg(long, short)]
    tty: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

type Socket = WebSocketStream<UnixStream>;

/// Runs the command and gives its exit code.
///
/// # Errors
/// A pod or container that is not there; a command that could not be started.
pub(super) async fn run(args: Args) -> Result<u8> {
    let runs = api::runs().await?;
    let found = find::one(&runs, &args.pod, args.namespace.namespace.as_deref())?;
    if args.tty {
        note("-t: a guest has no terminal: its streams are pipes");
    }
    let container = found.container(args.container.as_deref())?;
    let (mut to, mut from) = connect(&args, &found, container).await?.split();
    let feed = async {
        if args.stdin {
            let mut stdin = tokio::io::stdin();
            let mut chunk = vec![channel::STDIN; 1 + CHUNK];
            // What cannot be read is at its end.
            while let Ok(len @ 1..) = stdin.read(&mut chunk[1..]).await {
                to.send(Message::binary(chunk[..=len].to_vec())).await?;
            }
            to.send(Message::binary(vec![channel::CLOSE, channel::STDIN])).await?;
        }
        std::future::pending::<Result<u8, Error>>().await
    };
    let show = async {
        while let Some(message) = from.next().await {
            if let Message::Binary(bytes) = message.context(ENDED)?
                && let Some(code) = shown(&bytes)?
            {
                return Ok(code);
            }
        }
        bail!(ENDED)
    };
    tokio::select! {
        code = show => code,
        // The other half tells why: here it is only known that nothing more can be sent.
        Err(error) = feed => Err(error).context(ENDED),
    }
}

const ENDED: &str = "the run ended before the command did";

/// Shows a message; the exit code, if that is what it tells.
fn shown(message: &[u8]) -> Result<Option<u8>> {
    match *message {
        [channel::STDOUT, ref bytes @ ..] => {
            // Nobody reads any more: the command is ended with this one.
            Ok(if print(bytes)? { None } else { Some(1) })
        }
        [channel::STDERR, ref bytes @ ..] => {
            // What standard error does not take has nowhere to be told.
            let _ = io::stderr().write_all(bytes);
            Ok(None)
        }
        [channel::ERROR, ref status @ ..] => exit_code(status).map(Some),
        _ => Ok(None),
    }
}

fn exit_code(status: &[u8]) -> Result<u8> {
    let status: Status = serde_json::from_slice(status).context("cannot read the command's end")?;
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message?.parse::<i32>().ok()) {
        // What does not fit is still not 0.
        Some(code) => Ok(u8::try_from(code & 0xff).ok().filter(|code| *code != 0).unwrap_or(1)),
        None => Err(anyhow!(status.message.unwrap_or_else(|| "the command failed".into()))),
    }
}

async fn connect(args: &Args, found: &Found<'_>, container: &str) -> Result<Socket> {
    let mut url = address(&["exec", found.namespace(), found.name(), container])?;
    for word in &args.command {
        url.query_pairs_mut().append_pair("command", word);
    }
    for (name, wanted) in [("input", args.stdin), ("output", true), ("error", true)] {
        url.query_pairs_mut().append_pair(name, if wanted { "1" } else { "0" });
    }
    let mut request = url.as_str().replacen("http:", "ws:", 1).into_client_request()?;
    let protocol = HeaderValue::from_static(PROTOCOL);
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    let stream = found.run.connect().await?;
    match client_async_with_config(request, stream, Some(limits())).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => {
            let text = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let text = text.trim_end();
            let code = answer.status();
            bail!("{}", if text.is_empty() { code.to_string() } else { text.to_owned() })
        }
        Err(error) => Err(error).context("the run ended before it answered"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_end_is_an_exit_code_or_an_error() {
        let code = |status: &str| exit_code(status.as_bytes()).map_err(|e| e.to_string());
        assert_eq!(code(r#"{"status":"Success"}"#), Ok(0));
        let failed = |code: &str| {
            format!(
                r#"{{"status":"Failure","details":{{"causes":[{{"reason":"ExitCode","message":"{code}"}}]}}}}"#
            )
        };
        assert_eq!(code(&failed("3")), Ok(3));
        assert_eq!(code(&failed("256")), Ok(1));
        let error = r#"{"status":"Failure","message":"container not running (c)"}"#;
        assert_eq!(code(error), Err("container not running (c)".into()));
        assert!(code("no JSON").is_err());
    }
}
