//! A row of the table, and how pairs of measurements become one.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    pub fn met_by(self, value: f64) -> bool {
        match self {
            Goal::AtMost(most) => value <= most,
            Goal::AtLeast(least) => value >= least,
        }
    }

    /// How far a value goes beyond the goal: 1 just meets it, more is better.
    pub fn reached(self, value: f64) -> f64 {
        match self {
            Goal::AtMost(most) => most / value,
            Goal::AtLeast(least) => value / least,
        }
    }
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub row: &'static str,
    pub name: String,
    pub unit: &'static str,
    pub ours: f64,
    /// The yardstick, measured in turn with ours.
    pub beside: Option<f64>,
    /// Ours over the yardstick, median of the pairs.
    pub ratio: Option<f64>,
    /// Where the middle half of the pairs' ratios lies.
    pub spread: Option<(f64, f64)>,
    /// About the ratio where there is one, else about ours.
    pub goal: Option<Goal>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Figure {
    pub fn alone(row: &'static str, name: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        Figure {
            row,
            name: name.into(),
            unit,
            ours,
            beside: None,
            ratio: None,
            spread: None,
            goal: None,
            note: String::new(),
        }
    }

    /// From pairs of (ours, yardstick), each taken one right after the other.
    pub fn pairs(row: &'static str, name: impl Into<String>, unit: &'static str, pairs: &[(f64, f64)]) -> Self {
        let ratios: Vec<f64> = pairs.iter().map(|(ours, beside)| ours / beside).collect();
        let quarter = |q| quantile(ratios.iter().copied(), q);
        Figure {
            beside: Some(median(pairs.iter().map(|pair| pair.1))),
            ratio: Some(median(ratios.iter().copied())),
            spread: Some((quarter(0.25), quarter(0.75))),
            ..Figure::alone(row, name, unit, median(pairs.iter().map(|pair| pair.0)))
        }
    }

    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// What the goal is about.
    pub fn judged(&self) -> f64 {
        self.ratio.unwrap_or(self.ours)
    }

    pub fn met(&self) -> Option<bool> {
        self.goal.map(|goal| goal.met_by(self.judged()))
    }
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// Between two values where it falls between them.
pub fn quantile(values: impl IntoIterator<Item = f64>, q: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let place = q * values.len().saturating_sub(1) as f64;
    match (values.get(place.floor() as usize), values.get(place.ceil() as usize)) {
        (Some(below), Some(above)) => below + (above - below) * place.fract(),
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let figure = Figure::pairs("x", "x", "us", &[(1.0, 2.0), (30.0, 10.0), (4.0, 4.0)]);
        assert_eq!((figure.ratio, figure.spread), (Some(1.0), Some((0.75, 2.0))));
        assert_eq!((figure.ours, figure.beside), (4.0, Some(4.0)));
        assert_eq!(figure.clone().goal(Goal::AtMost(1.2)).met(), Some(true));
        assert_eq!(figure.goal(Goal::AtLeast(1.2)).met(), Some(false));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }
}
