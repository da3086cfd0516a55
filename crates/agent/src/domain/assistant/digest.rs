//! What later turns of a session are told of the calls of a run: one line for each, without its result.

use nexus_proto::orchestrator::v1::RunStep;

/// The whole is not longer; the newest calls stay.
const BYTES: usize = 4_096;
/// Arguments are shown up to here.
const ARGUMENT_BYTES: usize = 160;

/// The lines of all calls, oldest first; empty for a run without calls.
pub fn of<'a>(steps: impl DoubleEndedIterator<Item = &'a RunStep>) -> String {
    let calls = steps.rev().flat_map(|step| step.calls.iter().rev());
    let mut lines: Vec<String> = Vec::new();
    let (mut bytes, mut left_out) = (0, 0_usize);
    for call in calls {
        let outcome = if call.code.is_empty() {
            "done"
        } else {
            call.code.as_str()
        };
        let arguments = &call.arguments_json;
        let cut = if arguments.len() > ARGUMENT_BYTES { "..." } else { "" };
        let arguments = &arguments[..arguments.floor_char_boundary(ARGUMENT_BYTES)];
        let line = format!("{} {}{cut}: {outcome}", call.tool, arguments.replace(['\n', '\r'], " "));
        bytes += line.len() + 1;
        if left_out > 0 || bytes > BYTES {
            left_out += 1;
        } else {
            lines.push(line);
        }
    }
    if left_out > 0 {
        lines.push(format!("{left_out} calls before these"));
    }
    lines.reverse();
    lines.join("\n")
}

/// How the lines stand in a later conversation.
pub fn shown(lines: &str) -> String {
    format!("[note] For the answer above these tools were called; their results are no longer shown:\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::assistant::conversation::tests::step;

    #[test]
    fn each_call_is_one_line_and_the_newest_stay() {
        let mut steps = vec![step(1, "exec", "{\"command\":\"a\nb\"}", "secret output")];
        steps[0].calls[0].code = "timeout".into();
        assert_eq!(of(steps.iter()), "exec {\"command\":\"a b\"}: timeout");
        for n in 2..=100 {
            steps.push(step(
                n,
                "write_file",
                &format!("{{\"path\":\"{}\"}}", "x".repeat(500)),
                "",
            ));
        }
        let text = of(steps.iter());
        assert!(text.len() <= BYTES + 40, "{}", text.len());
        assert!(text.contains("calls before these"), "{text}");
        assert!(text.lines().all(|line| line.len() < 220));
        assert_eq!(of([].iter()), "");
    }
}
