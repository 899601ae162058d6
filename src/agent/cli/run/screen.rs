//! What is shown: log lines, statuses, a live table.
//!
//! On a terminal: lines with the container's name in its colour on standard output, and below them
//! a table of states. Into a pipe: the guests' lines as they are, each on its own stream. With
//! `--output json`: a line with the pod as it is after each change, the guests' lines on standard
//! error. The writing itself is done by a thread ([`display`](super::display)), behind a queue.

use std::io::{self, IsTerminal};
use std::thread::{self, JoinHandle};

use console::{Color, Style};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::display::{self, Message};
use super::load::Loaded;
use super::report::state_text;
use crate::cli::text::age;
use crate::logs::Stream;

/// Colours of container names, given in turn.
const COLORS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::Blue, Color::Red];
/// The table's columns, the last one only where there is an HTTP server.
const TITLES: [&str; 6] = ["POD", "CONTAINER", "STATE", "RESTARTS", "AGE", "URL"];
/// Messages that wait for a slow reader. Logs stay in their files while half of it is taken; of
/// the rest, what does not fit is not shown.
const QUEUE: usize = 128;

/// Tells of the first write that failed.
pub(super) type Failed = oneshot::Receiver<io::Error>;

/// Whose lines a log holds.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The pod's place among the pods.
    pub(super) pod: usize,
    /// The container's name.
    pub(super) container: String,
}

/// A line of the table.
struct Row {
    pod: usize,
    name: String,
    container: String,
    url: Option<String>,
}

/// Where everything is shown.
pub(super) struct Screen {
    json: bool,
    prefixed: bool,
    live: bool,
    rows: Vec<Row>,
    width: usize,
    queue: mpsc::Sender<Message>,
    thread: JoinHandle<()>,
}

impl Screen {
    /// A screen for what standard output and standard error are, with its thread, and where the
    /// first write that fails is told.
    ///
    /// # Errors
    /// That of starting the thread.
    pub(super) fn new(json: bool) -> io::Result<(Self, Failed)> {
        let prefixed = !json && io::stdout().is_terminal();
        let live = prefixed && io::stderr().is_terminal();
        let (queue, messages) = mpsc::channel(QUEUE);
        let (tell, failed) = oneshot::channel();
        let run = move || display::run(messages, tell, live);
        let thread = thread::Builder::new().name("display".into()).spawn(run)?;
        Ok((Self { json, prefixed, live, rows: Vec::new(), width: 0, queue, thread }, failed))
    }

    /// Whether a table is drawn, which has to be drawn anew as time goes by.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Makes a row of each container.
    pub(super) fn start<'a>(&mut self, pods: impl Iterator<Item = &'a Loaded>) {
        for (pod, loaded) in pods.enumerate() {
            for container in loaded.containers() {
                self.width = self.width.max(container.name.len());
                let (name, container) = (loaded.name().into(), container.name.clone());
                let url = loaded.url(&container);
                self.rows.push(Row { pod, name, container, url });
            }
        }
    }

    /// Draws the table from the pods' statuses, in the pods' order.
    pub(super) fn draw<'a>(&self, statuses: impl Iterator<Item = &'a PodStatus>) {
        if !self.live {
            return;
        }
        let now = Timestamp::now();
        let mut table = vec![TITLES.map(String::from).to_vec()];
        for (pod, status) in statuses.enumerate() {
            let rows = self.rows.iter().filter(|row| row.pod == pod);
            table.extend(rows.map(|row| cells(row, status, now)));
        }
        if self.rows.iter().all(|row| row.url.is_none()) {
            for row in &mut table {
                row.truncate(TITLES.len() - 1);
            }
        }
        self.show(Message::Table(table));
    }

    /// A line of our own, on standard error.
    pub(super) fn note(&self, text: &str) {
        self.show(Message::Note(text.into()));
    }

    /// With `--output json`: the pod with its status, as one line.
    pub(super) fn status(&self, pod: &Pod, status: &PodStatus) {
        if !self.json {
            return;
        }
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod.metadata.name,
                "namespace": pod.metadata.namespace,
                "uid": pod.metadata.uid,
            },
            "status": status,
        });
        self.show(Message::Json(object.to_string()));
    }

    /// Shows what `read` gives to its argument: lines of `source`.
    ///
    /// # Errors
    /// That of `read`.
    pub(super) fn lines(
        &self,
        source: &Source,
        read: impl FnOnce(&mut dyn FnMut(Stream, &[u8])) -> io::Result<()>,
    ) -> io::Result<()> {
        let prefix = self.prefix(source);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let result = read(&mut |stream, text| {
            let to = match stream {
                Stream::Stdout if !self.json => &mut out,
                Stream::Stdout | Stream::Stderr => &mut err,
            };
            to.extend_from_slice(prefix.as_bytes());
            to.extend_from_slice(text);
            to.push(b'\n');
        });
        if !out.is_empty() || !err.is_empty() {
            self.show(Message::Lines { out, err });
        }
        result
    }

    /// Waits until there is room for logs.
    pub(super) async fn room(&self) {
        // Given back at once: nobody else sends. Closed is no case, since this holds it open.
        let _ = self.queue.reserve_many(QUEUE / 2).await;
    }

    /// Waits until everything is written, the table with it; dropped before, the rest is lost.
    pub(super) async fn end(self) {
        drop(self.queue);
        let thread = self.thread;
        // A panic of that thread has ended the process.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }

    fn show(&self, message: Message) {
        // Full: nobody has read for so long that the newest is not missed.
        let _ = self.queue.try_send(message);
    }

    fn prefix(&self, source: &Source) -> String {
        let at = |row: &Row| row.pod == source.pod && row.container == source.container;
        let Some(index) = self.rows.iter().position(at).filter(|_| self.prefixed) else {
            return String::new();
        };
        let color = COLORS[index % COLORS.len()];
        let name = format!("{:width$} |", source.container, width = self.width);
        format!("{} ", Style::new().fg(color).apply_to(name))
    }
}

fn cells(row: &Row, status: &PodStatus, now: Timestamp) -> Vec<String> {
    let of = |list: &Option<Vec<ContainerStatus>>| {
        list.iter().flatten().find(|status| status.name == row.container).cloned()
    };
    let container = of(&status.init_container_statuses).or_else(|| of(&status.container_statuses));
    let container = container.unwrap_or_default();
    let started = status.start_time.as_ref();
    vec![
        row.name.clone(),
        row.container.clone(),
        state_text(&container),
        container.restart_count.to_string(),
        started.map(|time| age(time, now)).unwrap_or_default(),
        row.url.clone().unwrap_or_default(),
    ]
}
