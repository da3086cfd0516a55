//! Prints the result as a table and as JSON.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    figures::{Figure, Goal},
    plot,
};

/// Under what the figures were taken.
#[derive(Debug, Serialize)]
pub struct Setting {
    pub date: String,
    pub profile: String,
    pub quick: bool,
    pub cores: usize,
    pub kernel: String,
    /// Of all processes, before and after.
    pub load_average: [String; 2],
}

pub fn table(figures: &[Figure]) -> String {
    let head = ["", "ours", "yardstick", "ratio", "spread", "goal", ""].map(String::from);
    let mut lines = vec![head];
    for figure in figures {
        let unit = |value: f64| format!("{} {}", short(value), figure.unit);
        let goal = figure.goal.map(|goal| match goal {
            Goal::AtMost(most) => format!("<= {}", short(most)),
            Goal::AtLeast(least) => format!(">= {}", short(least)),
        });
        let met = match figure.met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let spread = figure.spread.map(|(least, most)| format!("{least:.2}..{most:.2}"));
        lines.push([
            figure.name.clone(),
            unit(figure.ours),
            figure.beside.map(unit).unwrap_or_default(),
            figure.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            spread.unwrap_or_default(),
            goal.unwrap_or_default(),
            met.to_owned(),
        ]);
    }
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (i, line) in lines.iter().enumerate() {
        let mut row = format!("{:<width$}", line[0], width = widths[0]);
        for (width, cell) in widths.iter().zip(line).skip(1) {
            write!(row, "  {cell:>width$}").expect("a string takes everything");
        }
        text.push_str(row.trim_end());
        text.push('\n');
        let note = i.checked_sub(1).map_or("", |i| &figures[i].note);
        if !note.is_empty() {
            writeln!(text, "    {note}").expect("a string takes everything");
        }
    }
    text
}

/// Three digits, or all of a whole number.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2}M", value / 1e6),
        v if v >= 1e4 => format!("{:.1}k", value / 1e3),
        v if v >= 100.0 || v.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Writes `<date>.json` and `<date>.svg`.
pub fn keep(out: &Path, setting: &Setting, figures: &[Figure]) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("failed to create {}", out.display()))?;
    let json = serde_json::json!({ "setting": setting, "figures": figures });
    for (ending, text) in [
        ("json", serde_json::to_string_pretty(&json)?),
        ("svg", plot::bars(setting, figures)),
    ] {
        let path = out.join(format!("{}.{ending}", setting.date.replace(':', "-")));
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_is_missed_stands_out() {
        let met = Figure::pairs("x", "quick", "/s", &[(1_200_000.0, 1_000_000.0)]).goal(Goal::AtLeast(0.5));
        let missed = Figure::alone("x", "slow", "ms", 41.25).goal(Goal::AtMost(40.0));
        let text = table(&[met, missed]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("1.20M /s") && lines[1].contains("1.20") && lines[1].ends_with("  met"),
            "{text}"
        );
        assert!(lines[2].contains("41.2 ms") && lines[2].ends_with("NOT MET"), "{text}");
    }
}
