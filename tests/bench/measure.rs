//! Samples, their medians, and measuring several things in turn.

use anyhow::Result;
use serde_json::{Value, json};

/// What was measured of one thing, in order of size.
#[derive(Clone, Debug)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    /// Of at least one measurement.
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The middle one; of an even count, the mean of the two.
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() % 2 {
            0 => f64::midpoint(self.0[middle - 1], self.0[middle]),
            _ => self.0[middle],
        }
    }

    /// For programs: how much the figure is worth can be seen from its quartiles.
    pub(crate) fn json(&self) -> Value {
        let at = |share: usize| self.0[(self.0.len() - 1) * share / 4];
        json!({
            "median": self.median(), "n": self.0.len(),
            "min": at(0), "lower_quartile": at(1), "upper_quartile": at(3), "max": at(4),
        })
    }
}

/// Something that can be measured again and again.
pub(crate) type Measure<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// Measures all in turn, `rounds` times after `warm_up` times that do not count.
pub(crate) fn in_turn(
    warm_up: usize,
    rounds: usize,
    measures: &mut [Measure<'_>],
) -> Result<Vec<Sample>> {
    let mut values = vec![Vec::with_capacity(rounds); measures.len()];
    for round in 0..warm_up + rounds {
        for (measure, values) in measures.iter_mut().zip(&mut values) {
            let value = measure()?;
            if round >= warm_up {
                values.push(value);
            }
        }
    }
    Ok(values.into_iter().map(Sample::new).collect())
}
