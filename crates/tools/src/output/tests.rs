use proptest::prelude::*;

use super::{Collector, Keep, MAX_RESULT_BYTES, MAX_RESULT_LINES, Output, Reading, Size, Spill, shorten_line};

fn collect(keep: Keep, reading: Reading, pieces: &[&[u8]]) -> Output {
    let mut collector = Collector::new(keep, reading);
    for piece in pieces {
        collector.push(piece);
    }
    collector.finish()
}

fn folded(bytes: &str) -> String {
    let whole = collect(Keep::Ends, Reading::Terminal, &[bytes.as_bytes()]).render(None);
    // Wherever it is split, the same comes out.
    let single: Vec<&[u8]> = bytes.as_bytes().chunks(1).collect();
    assert_eq!(
        collect(Keep::Ends, Reading::Terminal, &single).render(None),
        whole,
        "{bytes:?}"
    );
    whole
}

#[test]
fn short_output_is_shown_as_it_is() {
    let output = collect(Keep::Ends, Reading::Plain, &[b"one\ntw", b"o\n\xff"]);
    assert!(!output.is_cut());
    assert_eq!(output.render(None), "one\ntwo\n\u{fffd}");
    assert_eq!(output.written, Size { bytes: 9, lines: 3 });
    assert_eq!(collect(Keep::Start, Reading::Terminal, &[]).render(None), "");
}

#[test]
fn codes_and_overwritten_lines_are_folded() {
    for (bytes, expected) in [
        ("\x1b[1;31merror\x1b[0m: no\n", "error: no\n"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\n", "ab\n"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("10%\r50%\r100%\ndone\n", "100%\ndone\n"),
        ("progress 99%\r\x1b[Kdone\n", "done\n"),
        ("long line\rshort    \n", "short\n"),
        ("abc\x08\x08X\n", "aXc\n"),
        ("_\x08b_\x08o", "bo"),
        ("one\ntwo\n\x1b[2A\x1b[2KONE\n\x1b[KTWO\n", "ONE\nTWO\n"),
        ("keep\na\nb\x1b[1F\x1b[Jc\n", "keep\nc\n"),
        ("x\x1b[5Gy\n", "x   y\n"),
        ("\x1b(Bplain\x1b=\n", "plain\n"),
        ("bell\x07 nul\0 del\x7f\n", "bell nul del\n"),
        ("tab\tstays\n", "tab\tstays\n"),
        ("\u{9b}31mred\u{9b}0m ä\u{a0}€\n", "red ä\u{a0}€\n"),
        ("unfinished \x1b]0;title\nnext\n", "unfinished \nnext\n"),
        ("unfinished \x1b[31\nnext\n", "unfinished \nnext\n"),
        ("old\n\x1b[H\x1b[2Jnew\n", "new\n"),
        ("no end\x1b[0m", "no end"),
    ] {
        assert_eq!(folded(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn a_code_that_never_ends_hides_no_more_than_its_bound() {
    let text = format!("\x1b]{}visible", "x".repeat(5000));
    assert!(folded(&text).ends_with("visible"));
}

#[test]
fn progress_over_many_lines_is_folded_while_it_is_written() {
    let mut collector = Collector::new(Keep::Ends, Reading::Terminal);
    collector.push(b"begin\na 0\nb 0\n");
    for n in 1..5000 {
        collector.push(format!("\x1b[2A\x1b[Ka {n}\n\x1b[Kb {n}\n").as_bytes());
    }
    let output = collector.finish();
    assert_eq!(output.render(None), "begin\na 4999\nb 4999\n");
    assert!(output.written.bytes > 60_000);
}

#[test]
fn programs_show_their_first_third_and_last_two_thirds() {
    let text: String = (1..=20_000).map(|n| format!("line {n}\n")).collect();
    let output = collect(Keep::Ends, Reading::Terminal, &[text.as_bytes()]);
    let shown = output.render(Some(Spill {
        name: "result:c1",
        kept_bytes: text.len() as u64,
    }));
    assert!(shown.len() <= MAX_RESULT_BYTES && shown.lines().count() <= MAX_RESULT_LINES);
    assert_eq!(
        output.written,
        Size {
            bytes: text.len() as u64,
            lines: 20_000
        }
    );
    assert_eq!(output.total, output.written);
    let first = output.start.lines().count();
    let last = output.end.lines().count();
    assert!(
        (660..=664).contains(&first) && (1325..=1330).contains(&last),
        "{first} {last}"
    );
    assert!(output.start.starts_with("line 1\n") && output.end.ends_with("line 20000\n"));
    let omitted = output.omitted();
    assert_eq!(omitted.lines, 20_000 - (first + last) as u64);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            "[cut: {} bytes, 20000 lines in all; shown: the first {} bytes, {first} lines, and the last {} bytes, {last} lines; omitted: {} bytes, {} lines; all of it can be read as result:c1]",
            text.len(),
            output.start.len(),
            output.end.len(),
            omitted.bytes,
            omitted.lines
        )
    );
    assert_eq!(
        lines[first + 1],
        format!(
            "[... {} bytes, {} lines omitted here ...]",
            omitted.bytes, omitted.lines
        )
    );
}

#[test]
fn everything_else_shows_its_beginning() {
    let text: String = (1..=2_500).map(|n| format!("line {n} {}\n", "x".repeat(40))).collect();
    let output = collect(Keep::Start, Reading::Plain, &[text.as_bytes()]);
    let shown = output.render(None);
    assert!(output.end.is_empty() && text.starts_with(&output.start) && output.start.ends_with('\n'));
    assert!(shown.len() <= MAX_RESULT_BYTES && output.start.len() > 30_000);
    assert!(shown.lines().next().unwrap().ends_with("; the rest was not kept]"));
}

#[test]
fn an_endless_line_is_cut_within() {
    for reading in [Reading::Plain, Reading::Terminal] {
        let piece = "é".repeat(32 << 10);
        let mut collector = Collector::new(Keep::Ends, reading);
        for _ in 0..64 {
            collector.push(piece.as_bytes());
        }
        let output = collector.finish();
        assert_eq!(
            output.written,
            Size {
                bytes: 4 << 20,
                lines: 1
            }
        );
        assert_eq!(output.total, output.written);
        assert_eq!(output.shown().lines, 0);
        assert_eq!(output.omitted().lines, 1);
        assert!(output.start.chars().chain(output.end.chars()).all(|c| c == 'é'));
        assert!(output.shown().bytes > 30_000 && output.render(None).len() <= MAX_RESULT_BYTES);
    }
}

#[test]
fn large_output_is_counted_exactly_and_its_last_line_is_shown() {
    let line = b"a line of some output that a program has written, with its end\n";
    let piece = line.repeat(1024);
    let mut collector = Collector::new(Keep::Ends, Reading::Terminal);
    for _ in 0..128 {
        collector.push(&piece);
    }
    collector.push(b"error: at the tail\xff");
    let output = collector.finish();
    let lines = 128 * 1024;
    assert_eq!(
        output.written,
        Size {
            bytes: lines * line.len() as u64 + 19,
            lines: lines + 1
        }
    );
    assert!(output.end.ends_with("error: at the tail\u{fffd}"));
    let kept = Spill {
        name: "result:c1",
        kept_bytes: 1000,
    };
    assert!(
        output
            .render(Some(kept))
            .lines()
            .next()
            .unwrap()
            .ends_with("; the first 1000 bytes can be read as result:c1]")
    );
}

#[test]
fn each_look_tells_what_is_new() {
    let mut collector = Collector::new(Keep::Ends, Reading::Terminal);
    collector.push(b"one\ntw");
    assert_eq!(collector.take().render(None), "one\ntw");
    collector.push(b"o\n\xe2\x82");
    let second = collector.take();
    assert_eq!(
        (second.render(None), second.written),
        ("o\n".to_owned(), Size { bytes: 4, lines: 2 })
    );
    collector.push(b"\xac\n");
    assert_eq!(collector.finish().render(None), "€\n");
}

#[test]
fn long_lines_are_shortened_at_a_character() {
    assert_eq!(shorten_line("häß", 3), "häß");
    assert_eq!(shorten_line("häßlich", 3), "häß [... 4 more characters]");
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        4 => "[a-z \n]{0,80}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => (1usize..6000, any::<bool>()).prop_map(|(n, end)| { let mut line = vec![b'x'; n]; if end { line.push(b'\n'); } line }),
        1 => (1usize..3000).prop_map(|n| b"\n".repeat(n)),
        1 => prop_oneof![Just("\r"), Just("\x1b[2A"), Just("\x1b[K"), Just("\x1b[J"), Just("\x1b[300C"), Just("\x1b[H"), Just("\x1b]"), Just("\x08"), Just("\x1b[5P"), Just("\x1b[1J"), Just("\x1b[9X")]
            .prop_map(|code| code.as_bytes().to_vec()),
    ];
    proptest::collection::vec(piece, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is written: the limits hold, the figures add up, and nothing is invented.
    #[test]
    fn limits_and_figures_hold(pieces in pieces(), ends: bool, terminal: bool) {
        let keep = if ends { Keep::Ends } else { Keep::Start };
        let reading = if terminal { Reading::Terminal } else { Reading::Plain };
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let output = collect(keep, reading, &slices);
        let bytes = slices.concat();
        prop_assert_eq!(output.written.bytes, bytes.len() as u64);
        let ends = bytes.iter().filter(|b| **b == b'\n').count();
        let open = bytes.last().is_some_and(|b| *b != b'\n');
        prop_assert_eq!(output.written.lines, ends as u64 + u64::from(open));
        let shown = output.render(Some(Spill { name: "result:c1", kept_bytes: 0 }));
        prop_assert!(shown.len() <= MAX_RESULT_BYTES, "{} bytes", shown.len());
        prop_assert!(shown.lines().count() <= MAX_RESULT_LINES);
        prop_assert!(output.shown().bytes <= output.total.bytes && output.shown().lines <= output.total.lines);
        prop_assert_eq!(output.is_cut(), output.omitted().bytes > 0);
        if reading == Reading::Plain {
            let text = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(output.total.bytes, text.len() as u64);
            prop_assert!(text.starts_with(&output.start) && text.ends_with(&output.end));
        } else {
            prop_assert!(!output.start.contains(['\x1b', '\r']) && !output.end.contains(['\x1b', '\r']));
        }
    }
}
