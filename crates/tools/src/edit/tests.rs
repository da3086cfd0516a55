use proptest::prelude::*;

use super::{Edited, edit, hash, unified_diff};
use crate::error::Code;

fn edited(content: &str, old: &str, new: &str) -> Edited {
    edit("f", content.as_bytes(), old, new, false).unwrap_or_else(|error| panic!("{content:?} {old:?}: {error}"))
}

fn text(edited: &Edited) -> &str {
    std::str::from_utf8(&edited.content).unwrap()
}

#[test]
fn a_unique_text_is_replaced_and_the_rest_stays() {
    for (content, old, new, after) in [
        ("a b c", "b", "x", "a x c"),
        ("one\ntwo\nthree\n", "two\n", "", "one\nthree\n"),
        ("no end", "end", "END", "no END"),
        ("\u{feff}bom\nx\n", "x", "y", "\u{feff}bom\ny\n"),
        ("a\r\nb\r\nc\r\n", "a\r\nb", "x\r\ny", "x\r\ny\r\nc\r\n"),
        ("aaa", "aaa", "b", "b"),
        ("ä\nö\n", "ö", "ü", "ä\nü\n"),
    ] {
        let edited = edited(content, old, new);
        assert_eq!(text(&edited), after, "{content:?}");
        assert_eq!((edited.replaced, edited.notes.len()), (1, 0), "{content:?}");
        assert_eq!(edited.hash_before, hash(content.as_bytes()));
        assert_eq!(edited.hash_after, hash(after.as_bytes()));
    }
}

/// Models do not see line ends: what they send with `\n` fits a file with `\r\n`, and stays one.
#[test]
fn line_ends_stay_as_they_are() {
    for (content, old, new, after) in [
        ("a\r\nb\r\nc\r\n", "a\nb\n", "x\ny\nz\n", "x\r\ny\r\nz\r\nc\r\n"),
        ("a\r\nb\r\n", "b", "b\nc", "a\r\nb\r\nc\r\n"),
        ("a\r\nb", "b", "b\nc", "a\r\nb\r\nc"),
        ("a\nb\n", "a\r\nb", "x\r\ny", "x\ny\n"),
        ("unix\ndos\r\n", "unix", "u\nx", "u\nx\ndos\r\n"),
        ("unix\ndos\r\nlast\r\n", "dos\nlast", "d\nl", "unix\nd\r\nl\r\n"),
    ] {
        assert_eq!(text(&edited(content, old, new)), after, "{content:?}");
    }
}

#[test]
fn what_is_confused_is_found_and_said() {
    for (content, old, new, after) in [
        ("say “hi” – now\nx\n", "say \"hi\" - now", "bye", "bye\nx\n"),
        ("say \"hi\"\n", "say “hi”", "bye", "bye\n"),
        ("a  \nb\t\nc\n", "a\nb\nc", "x", "x\n"),
        ("a\nb\n", "a  \nb  ", "x", "x\n"),
        ("a\u{a0}b\n", "a b", "c", "c\n"),
        ("keep ’1’\nchange ’2’\n", "change '2'", "changed", "keep ’1’\nchanged\n"),
    ] {
        let edited = edited(content, old, new);
        assert_eq!(text(&edited), after, "{content:?}");
        assert_eq!(edited.notes.len(), 1, "{content:?}");
    }
}

/// Likeness has overwritten code unseen.
#[test]
fn nothing_is_replaced_by_likeness() {
    for (content, old) in [
        ("fn main() {\n    run();\n}\n", "fn main() {\n    ran();\n}"),
        ("    indented\n", "  indented more"),
        ("if a {\n    b\n}\n", "if a {\n  b\n}"),
        ("Case\n", "case"),
        ("a\n\nb\n", "a\nb"),
        ("   \n", "  "),
    ] {
        let result = edit("f", content.as_bytes(), old, "x", false);
        if content.contains(old) {
            continue;
        }
        assert_eq!(result.unwrap_err().code, Code::NoMatch, "{content:?} {old:?}");
    }
}

#[test]
fn several_places_are_told_by_their_lines() {
    let content = "x = 1\ny\nx = 1\nx = 1\nx = 1\nx = 1\nx = 1\n";
    let error = edit("a.py", content.as_bytes(), "x = 1", "x = 2", false).unwrap_err();
    assert_eq!(error.code, Code::NotUnique);
    assert_eq!(
        error.what,
        "the text occurs 6 times in a.py, on lines 1, 3, 4, 5, 6 and others"
    );
    let all = edit("a.py", content.as_bytes(), "x = 1", "x = 2", true).unwrap();
    assert_eq!(
        (all.replaced, text(&all)),
        (6, "x = 2\ny\nx = 2\nx = 2\nx = 2\nx = 2\nx = 2\n")
    );
    let quotes = "‘a’\n‘a’\n";
    assert_eq!(
        edit("f", quotes.as_bytes(), "'a'", "b", false).unwrap_err().code,
        Code::NotUnique
    );
}

#[test]
fn the_nearest_lines_are_shown_where_nothing_matches() {
    let mut content: String = (1..=200).map(|n| format!("let value_{n} = {n};\n")).collect();
    content.push_str("fn special_case(input: &str) -> bool {\n    input.len() > 3\n}\n");
    let error = edit(
        "a.rs",
        content.as_bytes(),
        "fn special_case(input: String) -> bool {\n    input.len() > 4\n}",
        "x",
        false,
    )
    .unwrap_err();
    assert_eq!(error.code, Code::NoMatch);
    assert!(
        error.next.starts_with("The nearest lines, 184 to 203 of 203:\n"),
        "{}",
        error.next
    );
    assert!(error.next.contains("fn special_case(input: &str) -> bool {\n"));
    assert!(
        edit("a.rs", b"", "x", "y", false)
            .unwrap_err()
            .next
            .contains("write_file")
    );
    let long = "y".repeat(1 << 20);
    assert!(
        edit("a.rs", long.as_bytes(), "x", "z", false)
            .unwrap_err()
            .to_string()
            .len()
            < 1000
    );
}

#[test]
fn what_cannot_be_edited_is_refused() {
    for (content, old, new, code) in [
        (&b"a"[..], "", "x", Code::InvalidArguments),
        (b"a", "a", "a", Code::InvalidArguments),
        (b"a\xff", "a", "b", Code::InvalidArguments),
    ] {
        assert_eq!(edit("f", content, old, new, false).unwrap_err().code, code);
    }
    let large = vec![b'a'; super::MAX_FILE_BYTES + 1];
    assert_eq!(edit("f", &large, "a", "b", false).unwrap_err().code, Code::TooLarge);
}

#[test]
fn differences_are_those_of_diff() {
    let before: String = (1..=30).map(|n| format!("{n}\n")).collect();
    let after = before
        .replace("\n5\n", "\nfive\n")
        .replace("\n9\n", "\n9\nnine and a half\n")
        .replace("\n25\n", "\n");
    let expected = "--- f\n+++ f\n@@ -2,11 +2,12 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n 9\n+nine and a half\n 10\n 11\n 12\n@@ -22,7 +23,6 @@\n 22\n 23\n 24\n-25\n 26\n 27\n 28\n";
    assert_eq!(unified_diff("f", "f", &before, &after), expected);
    assert_eq!(unified_diff("f", "f", "", "a\n"), "--- f\n+++ f\n@@ -0,0 +1 @@\n+a\n");
    assert_eq!(
        unified_diff("f", "f", "a", "b\n"),
        "--- f\n+++ f\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n"
    );
    assert_eq!(unified_diff("f", "f", "a\n", "a\n"), "");
    let large: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let shown = unified_diff("f", "f", "", &large);
    assert!(
        shown.len() < 25_000 && shown.ends_with("1 changes in all]\n"),
        "{}",
        shown.len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever is edited, all bytes outside of the place stay.
    #[test]
    fn only_the_place_changes(before in "[ab“ \r\n]{0,20}", old in "[c-f \n]{1,8}", new in "[x\n]{0,8}", after in "[ab” \r\n]{0,20}") {
        prop_assume!(old.contains(|c: char| c.is_alphabetic()));
        let old = format!("c{}f", old.trim());
        let content = format!("{before}{old}{after}");
        let edited = edit("f", content.as_bytes(), &old, &new, false).unwrap();
        let result = String::from_utf8(edited.content).unwrap();
        prop_assert!(result.starts_with(&before) && result.ends_with(&after));
        prop_assert_eq!(result[before.len()..result.len() - after.len()].replace('\r', ""), new);
    }

    /// Any text, any edit: an answer, and if it is an edit the hashes are right.
    #[test]
    fn any_text_is_answered(content in "[a’'“\" \t\r\n-]{0,60}", old in "[a’'“\" \t\r\n–]{1,6}", new in "[a \n]{0,6}", all: bool) {
        if let Ok(edited) = edit("f", content.as_bytes(), &old, &new, all) {
            prop_assert_eq!(edited.hash_after, hash(&edited.content));
            prop_assert!(all || edited.replaced == 1);
            prop_assert_ne!(edited.content, content.into_bytes());
        }
    }
}
