//! The API server's own figures, as its `/metrics` tells them.

use std::collections::BTreeMap;

/// All samples of one reading.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads the text format; lines that are none are passed over.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum of the samples of this name that have all of the labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample| {
            labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        self.0.iter().filter(|s| s.name == name && has(s)).map(|s| s.value).sum()
    }

    /// Requests that the API server has answered, by labels such as `verb` (`POST`, `PATCH`, ...),
    /// `resource` (`pods`), `subresource` (`status`), `code`.
    pub fn requests(&self, labels: &[(&str, &str)]) -> f64 {
        self.sum("apiserver_request_total", labels)
    }
}

/// `name{label="value",...} number`; values of labels that are looked at here have no escapes.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}')?;
    let labels = labels.split("\",").filter_map(|label| {
        let (key, value) = label.split_once("=\"")?;
        Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some(Sample { name: name.into(), labels: labels.collect(), value: value.parse().ok()? })
}
