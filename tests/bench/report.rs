//! The table for people and the JSON for programs.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::measure::Sample;

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// At most this, in the figure's own unit.
    AtMost(f64),
    /// Not more than wasmtime's.
    NotMore,
    /// Not less than wasmtime's.
    NotLess,
    /// It is shown, and that is all.
    None,
}

/// One figure of Copepod's, beside wasmtime's where there is one.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) copepod: Sample,
    pub(crate) wasmtime: Option<Sample>,
    pub(crate) aim: Aim,
}

impl Row {
    /// A figure that nothing is compared with.
    pub(crate) fn alone(what: impl Into<String>, unit: &'static str, value: f64, aim: Aim) -> Self {
        Self { what: what.into(), unit, copepod: Sample::new(vec![value]), wasmtime: None, aim }
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.copepod.median() / self.wasmtime.as_ref()?.median())
    }

    /// Whether the aim is met, if there is one and what it compares with.
    fn met(&self) -> Option<bool> {
        match self.aim {
            Aim::AtMost(most) => Some(self.copepod.median() <= most),
            Aim::NotMore => Some(self.ratio()? <= 1.0),
            Aim::NotLess => Some(self.ratio()? >= 1.0),
            Aim::None => None,
        }
    }

    fn line(&self) -> String {
        let wasmtime = self.wasmtime.as_ref().map_or_else(String::new, |s| number(s.median()));
        let ratio = self.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let aim = match self.aim {
            Aim::AtMost(most) => format!("<= {}", number(most)),
            Aim::NotMore => "<= 1.00 x".into(),
            Aim::NotLess => ">= 1.00 x".into(),
            Aim::None => String::new(),
        };
        let met = self.met().map_or("", |met| if met { "met" } else { "MISSED" });
        let line = format!(
            "{:44} {:>9} {:>10} {:>10} {:>7} {:>10} {met}",
            self.what,
            self.unit,
            number(self.copepod.median()),
            wasmtime,
            ratio,
            aim
        );
        line.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": self.unit,
            "copepod": self.copepod.json(),
            "wasmtime": self.wasmtime.as_ref().map(Sample::json),
            "ratio": self.ratio(),
            "aim": match self.aim {
                Aim::AtMost(most) => json!({"at_most": most}),
                Aim::NotMore => json!({"ratio_at_most": 1}),
                Aim::NotLess => json!({"ratio_at_least": 1}),
                Aim::None => Value::Null,
            },
            "met": self.met(),
        })
    }
}

/// Three digits that matter, and no more than are there.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What was measured so far; shown as it comes.
pub(crate) struct Report {
    silent: bool,
    rows: Vec<Row>,
}

impl Report {
    /// A `silent` one leaves standard output to the JSON; what is said goes to standard error.
    pub(crate) fn new(silent: bool) -> Self {
        Self { silent, rows: Vec::new() }
    }

    /// Shows a line.
    pub(crate) fn say(&self, line: &str) {
        if self.silent {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// Begins a part of the table.
    pub(crate) fn head(&self, title: &str) {
        self.say(&format!(
            "\n{title:44} {:>9} {:>10} {:>10} {:>7} {:>10}",
            "unit", "copepod", "wasmtime", "ratio", "aim"
        ));
    }

    /// Takes and shows a figure.
    pub(crate) fn row(&mut self, row: Row) {
        self.say(&row.line());
        self.rows.push(row);
    }

    pub(crate) fn has_rows(&self) -> bool {
        !self.rows.is_empty()
    }

    pub(crate) fn json(&self, before: &Machine, after: &Machine) -> Value {
        json!({
            "machine": before.json(),
            "machine_after": after.json(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }
}
