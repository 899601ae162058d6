//! The thread that writes: a reader that stalls (`| less`, Ctrl-S) holds up this one and nothing
//! else. It takes [`Message`]s in order and tells of the first write that failed.

use std::io::{self, Write};

use console::{Style, Term, truncate_str};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::{mpsc, oneshot};

use crate::cli::text::columns;

/// What is to be shown.
#[derive(Debug)]
pub(super) enum Message {
    /// Guests' lines, for standard output and standard error.
    Lines { out: Vec<u8>, err: Vec<u8> },
    /// A line of our own, on standard error.
    Note(String),
    /// A line of JSON, on standard output.
    Json(String),
    /// The table's rows as they are now, its titles first.
    Table(Vec<Vec<String>>),
}

/// Writes all messages until their sender is gone, then leaves the table standing. With `live`,
/// standard error is a terminal and has a table below everything else.
pub(super) fn run(
    mut messages: mpsc::Receiver<Message>,
    failed: oneshot::Sender<io::Error>,
    live: bool,
) {
    let mut failed = Some(failed);
    let mut table = live.then(Table::new);
    while let Some(message) = messages.blocking_recv() {
        let written = match message {
            Message::Table(rows) => {
                table.iter_mut().for_each(|table| table.draw(&rows));
                Ok(())
            }
            Message::Lines { out, err } => apart(table.as_ref(), || write(&out, &err)),
            Message::Note(text) => {
                apart(table.as_ref(), || write(b"", format!("copepod: {text}\n").as_bytes()))
            }
            Message::Json(text) => write(format!("{text}\n").as_bytes(), b""),
        };
        if let Err(error) = written
            && let Some(tell) = failed.take()
        {
            // Nobody listens any more: the session has ended.
            let _ = tell.send(error);
        }
    }
    table.iter().for_each(Table::end);
}

fn write(out: &[u8], err: &[u8]) -> io::Result<()> {
    // What standard error does not take has nowhere to be told.
    let _ = io::stderr().write_all(err);
    io::stdout().write_all(out)?;
    io::stdout().flush()
}

/// Writes with the table out of the way.
fn apart<T>(table: Option<&Table>, write: impl FnOnce() -> T) -> T {
    match table {
        Some(table) => table.bars.suspend(write),
        None => write(),
    }
}

struct Table {
    bars: MultiProgress,
    lines: Vec<ProgressBar>,
    _echo: Option<NoEcho>,
}

impl Table {
    fn new() -> Self {
        Self { bars: MultiProgress::new(), lines: Vec::new(), _echo: NoEcho::new() }
    }

    fn draw(&mut self, rows: &[Vec<String>]) {
        while self.lines.len() < rows.len() {
            let line = self.bars.add(ProgressBar::new_spinner());
            let plain = ProgressStyle::with_template("{msg}");
            line.set_style(plain.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            self.lines.push(line);
        }
        // A row that wraps would be two lines to clear: narrow terminals see less of it.
        let (_, width) = Term::stderr().size();
        let text = columns(rows, |_, _, cell| cell);
        for (index, (line, text)) in self.lines.iter().zip(text.lines()).enumerate() {
            let text = truncate_str(text.trim_end(), usize::from(width).saturating_sub(1), "…");
            let style = if index == 0 { Style::new().dim() } else { Style::new() };
            line.set_message(style.apply_to(text).to_string());
        }
    }

    fn end(&self) {
        self.lines.iter().for_each(ProgressBar::abandon);
    }
}

/// Keeps the terminal from showing `^C`, which would move the table; as it was when dropped.
struct NoEcho(Termios);

impl NoEcho {
    fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHOCTL);
        tcsetattr(io::stdin(), OptionalActions::Now, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        // The terminal is gone with whoever looked at it.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
