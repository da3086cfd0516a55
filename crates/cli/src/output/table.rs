//! Tables without lines, which can be cut by the usual tools.

use comfy_table::{ContentArrangement, Table, presets};

use super::{Output, clean};

/// Rows under a header, as wide as they are when the output is no terminal.
pub fn table<const N: usize>(
    output: &Output,
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let arrangement = if output.terminal {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    };
    table.set_content_arrangement(arrangement);
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| one_line(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A cell never breaks its row, whatever it holds.
pub fn one_line(text: &str) -> String {
    clean(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// At most this many characters, the last one a mark if something was cut off.
pub fn cut(text: &str, width: usize) -> String {
    let text = one_line(text);
    if text.chars().count() <= width {
        return text;
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_where_the_text_does() {
        let output = Output::new(false);
        let shown = table(
            &output,
            ["NAME", "STATE"],
            [["llm".into(), "ready\nnow".into()], ["gateway".into(), "off".into()]],
        );
        assert_eq!(shown, "NAME     STATE\nllm      ready now\ngateway  off");
    }

    #[test]
    fn long_text_is_cut_by_characters() {
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("abc", 3), "abc");
    }
}
