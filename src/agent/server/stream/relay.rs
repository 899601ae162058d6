//! From a client's streams to descriptors and back: pipes, or a terminal.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::{CHUNK, Client, Gone, Incoming, Outgoing};
use crate::linux::terminal::Terminal;
use crate::runtime::Attach;

/// Bytes of terminal sizes that make no whole one yet: one has about thirty.
const SIZES_MAX: usize = 4 << 10;
/// How long a container may go on once nothing more of it is heard: its end is told a moment later.
const ENDING: Duration = Duration::from_secs(5);
/// What a terminal says for the end of what is typed: once for a line begun, once for the end.
const END_OF_INPUT: &[u8] = &[4, 4];

/// How a command went for its client.
#[derive(Debug)]
pub(in crate::server) enum Ended<T> {
    /// By itself.
    Itself(T),
    /// The client has typed what ends it; the exit code that a shell has for that.
    Interrupted(i32),
    /// Its output was not taken, and is cut off.
    CutOff,
}

/// What goes wrong with a client's streams.
#[derive(Debug)]
pub(in crate::server) enum Failed {
    /// They cannot be made.
    Make(io::Error),
    /// There is nobody to tell.
    Gone,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Make(error)
    }
}

impl From<Gone> for Failed {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// A pipe to be read, and our end of it, if it is wanted.
fn input(wanted: bool) -> io::Result<(Option<OwnedFd>, Option<pipe::Sender>)> {
    if !wanted {
        return Ok((None, None));
    }
    let (to, from) = pipe::pipe()?;
    Ok((Some(from.into_blocking_fd()?), Some(to)))
}

/// A pipe to be written, and our end of it, if it is wanted.
fn output(wanted: bool, blocking: bool) -> io::Result<(Option<OwnedFd>, Option<pipe::Receiver>)> {
    if !wanted {
        return Ok((None, None));
    }
    let (to, from) = pipe::pipe()?;
    let to = if blocking { to.into_blocking_fd()? } else { to.into_nonblocking_fd()? };
    Ok((Some(to), Some(from)))
}

/// Sends what comes out of a pipe to its end.
async fn pump(from: Option<pipe::Receiver>, to: Option<&Outgoing>) -> Result<(), Gone> {
    let Some(mut from) = from else { return Ok(()) };
    let mut bytes = BytesMut::new();
    loop {
        bytes.reserve(CHUNK);
        // An error is an end too: nothing more can be read.
        if from.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return Ok(());
        }
        if let Some(to) = to {
            to.send(bytes.split().freeze()).await?;
        }
        bytes.clear();
    }
}

/// Puts what the client sends into a pipe; ends with the client's stream.
async fn feed(from: Option<Incoming>, to: Option<pipe::Sender>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Ok(Some(bytes)) = from.next().await {
        if to.write_all(&bytes).await.is_err() {
            // It reads no more; what still comes is dropped with the stream.
            return;
        }
    }
}

/// Runs what `start` starts with a client's streams, until it has ended and all of its output is sent.
/// It ends when it is dropped.
pub(in crate::server) async fn command<F: Future>(
    client: &mut Client,
    tty: bool,
    start: impl FnOnce([OwnedFd; 3]) -> F,
) -> Result<Ended<F::Output>, Failed> {
    if tty {
        let (user, program) = Terminal::open()?;
        let streams = [program.try_clone()?, program.try_clone()?, program];
        return on_terminal(client, &user, start(streams)).await;
    }
    let (stdin, our_in) = input(client.stdin.is_some())?;
    let (stdout, our_out) = output(client.stdout.is_some(), true)?;
    let (stderr, our_err) = output(client.stderr.is_some(), true)?;
    let or_null = |fd: Option<OwnedFd>| fd.map_or_else(null, Ok);
    let run = start([or_null(stdin)?, or_null(stdout)?, or_null(stderr)?]);
    let fed = feed(client.stdin.take(), our_in);
    let ended = async {
        let outputs = async {
            tokio::try_join!(
                pump(our_out, client.stdout.as_ref()),
                pump(our_err, client.stderr.as_ref())
            )
        };
        let (ended, sent) = tokio::join!(run, outputs);
        sent?;
        Ok(Ended::Itself(ended))
    };
    alongside(fed, ended).await
}

/// What `work` gives, while `other` is done as well.
async fn alongside<T>(other: impl Future<Output = ()>, work: impl Future<Output = T>) -> T {
    let (mut other, mut work) = (pin!(other), pin!(work));
    tokio::select! {
        done = &mut work => return done,
        () = &mut other => {}
    }
    work.await
}

async fn on_terminal<F: Future>(
    client: &mut Client,
    user: &Terminal,
    run: F,
) -> Result<Ended<F::Output>, Failed> {
    let (stdin, resize) = (client.stdin.take(), client.resize.take());
    let typed = typed(stdin, user);
    let ended = async {
        let (ended, shown) = tokio::join!(run, shown(user, client.stdout.as_ref()));
        shown?;
        Ok(Ended::Itself(ended))
    };
    tokio::select! {
        ended = alongside(sizes(resize, user), ended) => ended,
        code = typed => Ok(Ended::Interrupted(code)),
    }
}

/// Sends what a terminal shows, to its end.
async fn shown(user: &Terminal, to: Option<&Outgoing>) -> Result<(), Gone> {
    let mut bytes = vec![0; CHUNK];
    loop {
        match user.read(&mut bytes).await {
            Ok(len @ 1..) => {
                if let Some(to) = to {
                    to.send(bytes[..len].to_vec()).await?;
                }
            }
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

/// Types what the client sends into its terminal. Ends only if that ends the program, with its exit
/// code: the terminal would signal it, but is of no session, and nothing else ever changes it.
async fn typed(from: Option<Incoming>, user: &Terminal) -> i32 {
    if let Some(mut from) = from {
        while let Ok(Some(bytes)) = from.next().await {
            let interrupt = bytes.iter().position(|byte| matches!(*byte, 3 | 28));
            let before = &bytes[..interrupt.unwrap_or(bytes.len())];
            if user.write_all(before).await.is_err() {
                break;
            }
            match interrupt.map(|at| bytes[at]) {
                // 128 + SIGINT, 128 + SIGQUIT.
                Some(3) => return 130,
                Some(_) => return 131,
                None => {}
            }
        }
        // Nobody reads then.
        let _ = user.write_all(END_OF_INPUT).await;
    }
    pending().await
}

/// A terminal's size, as clients send it.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Size {
    #[serde(rename = "Width", alias = "width")]
    columns: u16,
    #[serde(rename = "Height", alias = "height")]
    rows: u16,
}

/// Takes whole sizes out of what has come; none once something else stands there. A size is an object
/// without any other in it.
fn whole_sizes(bytes: &mut BytesMut) -> Option<Vec<Size>> {
    let mut found = Vec::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'}') {
        found.push(serde_json::from_slice(&bytes.split_to(end + 1)).ok()?);
    }
    (bytes.len() <= SIZES_MAX).then_some(found)
}

async fn sizes(from: Option<Incoming>, user: &Terminal) {
    let Some(mut from) = from else { return };
    let mut bytes = BytesMut::new();
    while let Ok(Some(more)) = from.next().await {
        bytes.extend_from_slice(&more);
        let Some(sizes) = whole_sizes(&mut bytes) else { return };
        if let Some(Size { columns, rows }) = sizes.last() {
            user.resize(*columns, *rows);
        }
    }
}

/// Connects a client to what `start` attaches to, until that has ended and all of its output is sent,
/// or the client has sent all that it wanted to and listens to nothing.
pub(in crate::server) async fn attached<F: Future>(
    client: &mut Client,
    tty: bool,
    start: impl FnOnce(Attach) -> F,
) -> Result<Ended<Option<F::Output>>, Failed> {
    let (stdin, our_in) = input(client.stdin.is_some())?;
    let (stdout, our_out) = output(client.stdout.is_some(), false)?;
    // A terminal shows both.
    let both = client.stderr.is_some() || tty && client.stdout.is_some();
    let (stderr, our_err) = output(both, false)?;
    let listens = our_out.is_some() || our_err.is_some();
    let mut run = pin!(start(Attach { stdin, stdout, stderr }));
    if tty {
        return on_own_terminal(client, (our_in, our_out, our_err), run).await;
    }
    let mut fed = pin!(feed(client.stdin.take(), our_in));
    if !listens {
        return Ok(Ended::Itself(tokio::select! {
            ended = &mut run => Some(ended),
            () = &mut fed => None,
        }));
    }
    let each = our_out.is_some() && our_err.is_some();
    let (out, err) = (client.stdout.as_ref(), client.stderr.as_ref());
    let outputs = ending(each, pump(our_out, out), pump(our_err, err));
    alongside(fed, heard(run, outputs)).await
}

/// Waits for the ends of two outputs. Where there is `each` of them, they end together: one that goes
/// on alone for longer than a moment has lost the other.
async fn ending(
    each: bool,
    one: impl Future<Output = Result<(), Gone>>,
    other: impl Future<Output = Result<(), Gone>>,
) -> Result<(), Gone> {
    if !each {
        return tokio::try_join!(one, other).map(drop);
    }
    let (mut one, mut other) = (pin!(one), pin!(other));
    let rest = tokio::select! {
        first = &mut one => {
            first?;
            timeout(ENDING, other).await
        }
        first = &mut other => {
            first?;
            timeout(ENDING, one).await
        }
    };
    rest.unwrap_or(Ok(()))
}

/// Waits for what is attached to and for all of its output.
async fn heard<T>(
    run: impl Future<Output = T>,
    outputs: impl Future<Output = Result<(), Gone>>,
) -> Result<Ended<Option<T>>, Failed> {
    let (mut run, mut outputs) = (pin!(run), pin!(outputs));
    tokio::select! {
        ended = &mut run => {
            outputs.await?;
            Ok(Ended::Itself(Some(ended)))
        }
        sent = &mut outputs => {
            sent?;
            let ended = timeout(ENDING, run).await;
            Ok(ended.map_or(Ended::CutOff, |ended| Ended::Itself(Some(ended))))
        }
    }
}

/// The container has no terminal, which its client expects: it gets one for the time that it is
/// attached, so that what is typed is seen and lines end as they should.
async fn on_own_terminal<T>(
    client: &mut Client,
    (to, out, err): (Option<pipe::Sender>, Option<pipe::Receiver>, Option<pipe::Receiver>),
    run: impl Future<Output = T>,
) -> Result<Ended<Option<T>>, Failed> {
    let (user, program) = Terminal::open()?;
    let program = Terminal::watch(program)?;
    let (stdin, resize) = (client.stdin.take(), client.resize.take());
    let each = out.is_some() && err.is_some();
    let written = ending(each, onto(&program, out), onto(&program, err));
    // One that is interrupted is left, not ended: it is not the client's.
    let typed = alongside(lines(&program, to), typed(stdin, &user));
    let beside = alongside(sizes(resize, &user), heard(run, written));
    let shown = shown(&user, client.stdout.as_ref());
    let mut shown = pin!(shown);
    let ended = tokio::select! {
        ended = beside => ended?,
        gone = &mut shown => { gone?; Ended::CutOff }
        code = typed => return Ok(Ended::Interrupted(code)),
    };
    drop(program);
    shown.await?;
    Ok(ended)
}

/// Writes what comes out of a pipe onto a terminal, to the pipe's end.
async fn onto(terminal: &Terminal, from: Option<pipe::Receiver>) -> Result<(), Gone> {
    let Some(mut from) = from else { return Ok(()) };
    let mut bytes = vec![0; CHUNK];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        terminal.write_all(&bytes[..len]).await.map_err(|_| Gone)?;
    }
    Ok(())
}

/// Puts the lines that a terminal gives into a pipe, to the end of what is typed.
async fn lines(terminal: &Terminal, to: Option<pipe::Sender>) {
    let Some(mut to) = to else { return };
    let mut bytes = vec![0; CHUNK];
    while let Ok(len @ 1..) = terminal.read(&mut bytes).await {
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let mut bytes = BytesMut::new();
        let mut seen = Vec::new();
        for piece in ["{\"Width\":80,\"Hei", "ght\":24}\n{\"Width\":132,", "\"Height\":43}\n"] {
            bytes.extend_from_slice(piece.as_bytes());
            seen.extend(whole_sizes(&mut bytes).expect("sizes"));
        }
        assert_eq!(seen, [Size { columns: 80, rows: 24 }, Size { columns: 132, rows: 43 }]);
        for bad in ["x}", "{}", "{\"Width\":-1,\"Height\":1}"] {
            assert_eq!(whole_sizes(&mut BytesMut::from(bad)), None, "{bad}");
        }
        let long = format!("{{\"Width\": \"{}", "x".repeat(SIZES_MAX));
        assert_eq!(whole_sizes(&mut BytesMut::from(&*long)), None);
    }
}
