//! Draws the figures that have a goal as bars, in plain SVG.

use std::fmt::Write as _;

use crate::{figures::Figure, report::Setting};

const LEFT: f64 = 430.0;
/// Where a bar that just meets its goal ends.
const GOAL: f64 = 200.0;
/// Longer bars are cut here.
const LONGEST: f64 = 2.6;
const LINE: f64 = 24.0;

pub fn bars(setting: &Setting, figures: &[Figure]) -> String {
    let with_goal: Vec<(&Figure, f64)> = figures
        .iter()
        .filter_map(|figure| Some((figure, figure.goal?.reached(figure.judged()))))
        .collect();
    let height = LINE * (with_goal.len() as f64 + 3.5);
    let width = LEFT + GOAL * LONGEST + 90.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut put = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    let title = format!(
        "Reached, in parts of the goal; {}, profile {}",
        setting.date, setting.profile
    );
    put(format!(
        "<text x=\"10\" y=\"20\" font-size=\"14\">{}</text>",
        escaped(&title)
    ));
    for (i, (figure, reached)) in with_goal.iter().enumerate() {
        let top = LINE * (i as f64 + 1.5);
        let text = top + LINE * 0.65;
        let long = reached.min(LONGEST) * GOAL;
        let colour = if *reached >= 1.0 { "#3a7d44" } else { "#b3412e" };
        put(format!(
            "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            escaped(&figure.name)
        ));
        put(format!(
            "<rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{long:.1}\" height=\"{:.0}\" fill=\"{colour}\"/>",
            top + 4.0,
            LINE - 8.0
        ));
        put(format!(
            "<text x=\"{:.0}\" y=\"{text:.0}\">{reached:.2}</text>",
            LEFT + long + 6.0
        ));
    }
    let (x, bottom) = (LEFT + GOAL, LINE * (with_goal.len() as f64 + 1.8));
    put(format!(
        "<line x1=\"{x}\" y1=\"{:.0}\" x2=\"{x}\" y2=\"{bottom:.0}\" stroke=\"black\" stroke-dasharray=\"4 3\"/>",
        LINE * 1.3
    ));
    put(format!(
        "<text x=\"{x}\" y=\"{:.0}\" text-anchor=\"middle\">goal</text>",
        bottom + LINE * 0.7
    ));
    let mut end = String::new();
    write!(end, "</svg>").expect("a string takes everything");
    svg + &end + "\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
