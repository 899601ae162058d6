//! What is shown: log lines, statuses, a live table.
//!
//! On a terminal: lines with the container's name in its colour on standard output, and below them
//! a table of states. Into a pipe: the guests' lines as they are, each on its own stream. With
//! `--output json`: a line with the pod at each change, the guests' lines on standard error.

use std::io::{self, IsTerminal, Write};

use console::{Color, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use serde_json::json;

use super::load::Loaded;
use super::report::state_text;
use crate::logs::Stream;

/// Colours of container names, given in turn.
const COLORS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::Blue, Color::Red];

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
    bar: ProgressBar,
}

/// Where everything is shown.
pub(super) struct Screen {
    json: bool,
    prefixed: bool,
    table: Option<MultiProgress>,
    header: Option<ProgressBar>,
    rows: Vec<Row>,
    width: usize,
}

impl Screen {
    /// A screen for what standard output and standard error are.
    pub(super) fn new(json: bool) -> Self {
        let prefixed = !json && io::stdout().is_terminal();
        let table = (prefixed && io::stderr().is_terminal()).then(MultiProgress::new);
        Self { json, prefixed, table, header: None, rows: Vec::new(), width: 0 }
    }

    /// Whether a table is drawn, which has to be drawn anew as time goes by.
    pub(super) fn is_live(&self) -> bool {
        self.table.is_some()
    }

    /// Makes a row of each container.
    pub(super) fn start<'a>(&mut self, pods: impl Iterator<Item = &'a Loaded>) {
        for (pod, loaded) in pods.enumerate() {
            for container in loaded.containers() {
                self.width = self.width.max(container.name.len());
                self.rows.push(Row {
                    pod,
                    name: loaded.name().into(),
                    container: container.name.clone(),
                    bar: ProgressBar::hidden(),
                });
            }
        }
        let Some(table) = &self.table else { return };
        let add = || {
            let bar = table.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("{msg}").unwrap_or(ProgressStyle::default_spinner()),
            );
            bar
        };
        self.header = Some(add());
        for row in &mut self.rows {
            row.bar = add();
        }
    }

    /// Draws the table from the pods' statuses, in the pods' order.
    pub(super) fn draw<'a>(&self, statuses: impl Iterator<Item = &'a PodStatus>) {
        let Some(header) = &self.header else { return };
        let now = Timestamp::now();
        let lines: Vec<[String; 5]> = statuses
            .enumerate()
            .flat_map(|(pod, status)| {
                let rows = self.rows.iter().filter(move |row| row.pod == pod);
                rows.map(move |row| cells(row, status, now))
            })
            .collect();
        let titles = ["POD", "CONTAINER", "STATE", "RESTARTS", "AGE"].map(String::from);
        let mut widths = [0; 5];
        for line in lines.iter().chain([&titles]) {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.len());
            }
        }
        header.set_message(Style::new().dim().apply_to(pad(&titles, &widths)).to_string());
        for (row, line) in self.rows.iter().zip(&lines) {
            row.bar.set_message(pad(line, &widths));
        }
    }

    /// Draws the table a last time and leaves it standing.
    pub(super) fn end<'a>(&self, statuses: impl Iterator<Item = &'a PodStatus>) {
        self.draw(statuses);
        for bar in self.header.iter().chain(self.rows.iter().map(|row| &row.bar)) {
            bar.abandon();
        }
    }

    /// A line of our own, on standard error.
    pub(super) fn note(&self, text: &str) {
        self.apart(|| eprintln!("copepod: {text}"));
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
        // Nobody reads any more: the logs' writer says so.
        let _ = writeln!(io::stdout(), "{object}");
    }

    /// Shows what `read` gives to its argument: lines of `source`.
    ///
    /// # Errors
    /// That of `read`, and of writing: `BrokenPipe` when nobody reads any more.
    pub(super) fn lines(
        &self,
        source: &Source,
        read: impl FnOnce(&mut dyn FnMut(Stream, &[u8])) -> io::Result<()>,
    ) -> io::Result<()> {
        let prefix = self.prefix(source);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        read(&mut |stream, text| {
            let to = match stream {
                Stream::Stdout if !self.json => &mut out,
                Stream::Stdout | Stream::Stderr => &mut err,
            };
            to.extend_from_slice(prefix.as_bytes());
            to.extend_from_slice(text);
            to.push(b'\n');
        })?;
        self.apart(|| {
            io::stderr().write_all(&err)?;
            io::stdout().write_all(&out)?;
            io::stdout().flush()
        })
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

    /// Writes with the table out of the way.
    fn apart<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.table {
            Some(table) => table.suspend(write),
            None => write(),
        }
    }
}

fn cells(row: &Row, status: &PodStatus, now: Timestamp) -> [String; 5] {
    let of = |list: &Option<Vec<ContainerStatus>>| {
        list.iter().flatten().find(|status| status.name == row.container).cloned()
    };
    let container = of(&status.init_container_statuses).or_else(|| of(&status.container_statuses));
    let container = container.unwrap_or_default();
    let age = status.start_time.as_ref().map(|time| now.as_second() - time.0.as_second());
    [
        row.name.clone(),
        row.container.clone(),
        state_text(&container),
        container.restart_count.to_string(),
        age.map(age_text).unwrap_or_default(),
    ]
}

/// An age as kubectl shows it: the largest two units that say something.
fn age_text(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        120..600 => format!("{}m{}s", seconds / 60, seconds % 60),
        600..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        172_800.. => format!("{}d", seconds / 86_400),
    }
}

fn pad(cells: &[String; 5], widths: &[usize; 5]) -> String {
    let padded: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    padded.join("   ").trim_end().into()
}
