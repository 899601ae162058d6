//! The table for people and the JSON for programs.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::measure::Sample;

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// At most this, in the figure's own unit.
    AtMost(f64),
    /// Not more than the other's.
    NotMore,
    /// Not less than the other's.
    NotLess,
    /// At most so many times the other's.
    RatioAtMost(f64),
    /// At least so many times the other's.
    RatioAtLeast(f64),
    /// It is shown, and that is all.
    None,
}

impl Aim {
    /// The bound on the ratio, and whether it is the upper one.
    fn ratio(self) -> Option<(f64, bool)> {
        match self {
            Self::NotMore => Some((1.0, true)),
            Self::NotLess => Some((1.0, false)),
            Self::RatioAtMost(most) => Some((most, true)),
            Self::RatioAtLeast(least) => Some((least, false)),
            Self::AtMost(_) | Self::None => None,
        }
    }
}

/// One figure of Copepod's, beside another program's where there is one.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) copepod: Sample,
    /// Of the program that the part's head names.
    pub(crate) other: Option<Sample>,
    pub(crate) aim: Aim,
}

impl Row {
    /// A figure that nothing is compared with.
    pub(crate) fn alone(what: impl Into<String>, unit: &'static str, value: f64, aim: Aim) -> Self {
        Self { what: what.into(), unit, copepod: Sample::new(vec![value]), other: None, aim }
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.copepod.median() / self.other.as_ref()?.median())
    }

    /// Whether the aim is met, if there is one and what it compares with.
    fn met(&self) -> Option<bool> {
        match (self.aim, self.aim.ratio()) {
            (Aim::AtMost(most), _) => Some(self.copepod.median() <= most),
            (_, Some((most, true))) => Some(self.ratio()? <= most),
            (_, Some((least, false))) => Some(self.ratio()? >= least),
            (_, None) => None,
        }
    }

    fn line(&self) -> String {
        let other = self.other.as_ref().map_or_else(String::new, |s| number(s.median()));
        let ratio = self.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let aim = match (self.aim, self.aim.ratio()) {
            (Aim::AtMost(most), _) => format!("<= {}", number(most)),
            (_, Some((most, true))) => format!("<= {most:.2} x"),
            (_, Some((least, false))) => format!(">= {least:.2} x"),
            (_, None) => String::new(),
        };
        let met = self.met().map_or("", |met| if met { "met" } else { "MISSED" });
        let line = format!(
            "{:44} {:>9} {:>10} {:>10} {:>7} {:>10} {met}",
            self.what,
            self.unit,
            number(self.copepod.median()),
            other,
            ratio,
            aim
        );
        line.trim_end().to_owned()
    }

    /// For programs; `beside` is the name of the other one.
    fn json(&self, beside: &str) -> Value {
        let aim = match (self.aim, self.aim.ratio()) {
            (Aim::AtMost(most), _) => json!({"at_most": most}),
            (_, Some((most, true))) => json!({"ratio_at_most": most}),
            (_, Some((least, false))) => json!({"ratio_at_least": least}),
            (_, None) => Value::Null,
        };
        json!({
            "what": self.what,
            "unit": self.unit,
            "copepod": self.copepod.json(),
            beside: self.other.as_ref().map(Sample::json),
            "ratio": self.ratio(),
            "aim": aim,
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
    /// The name of what the present part compares with.
    beside: &'static str,
    /// Each with the name of the other program.
    rows: Vec<(&'static str, Row)>,
}

impl Report {
    /// A `silent` one leaves standard output to the JSON; what is said goes to standard error.
    pub(crate) fn new(silent: bool) -> Self {
        Self { silent, beside: "wasmtime", rows: Vec::new() }
    }

    /// Shows a line.
    pub(crate) fn say(&self, line: &str) {
        if self.silent {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// Begins a part of the table that compares with wasmtime, or with nothing.
    pub(crate) fn head(&mut self, title: &str) {
        self.head_beside(title, "wasmtime");
    }

    /// Begins a part of the table that compares with another program.
    pub(crate) fn head_beside(&mut self, title: &str, beside: &'static str) {
        self.beside = beside;
        self.say(&format!(
            "\n{title:44} {:>9} {:>10} {beside:>10} {:>7} {:>10}",
            "unit", "copepod", "ratio", "aim"
        ));
    }

    /// Takes and shows a figure.
    pub(crate) fn row(&mut self, row: Row) {
        self.say(&row.line());
        self.rows.push((self.beside, row));
    }

    pub(crate) fn has_rows(&self) -> bool {
        !self.rows.is_empty()
    }

    pub(crate) fn json(&self, before: &Machine, after: &Machine) -> Value {
        json!({
            "machine": before.json(),
            "machine_after": after.json(),
            "rows": self.rows.iter().map(|(beside, row)| row.json(beside)).collect::<Vec<_>>(),
        })
    }
}
