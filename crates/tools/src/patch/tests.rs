use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Change, Plan, Step, parse, paths, plan};
use crate::error::{Code, Error};

type Files = BTreeMap<String, String>;

fn files(list: &[(&str, &str)]) -> Files {
    list.iter()
        .map(|(path, content)| ((*path).to_owned(), (*content).to_owned()))
        .collect()
}

fn planned(files: &Files, patch: &str) -> Result<Plan, Error> {
    plan(&parse(patch)?, |path| {
        Ok(files.get(path).map(|content| content.clone().into_bytes()))
    })
}

fn done(files: &Files, patch: &str) -> Result<Files, Error> {
    let mut after = files.clone();
    for step in planned(files, patch)?.steps {
        match step {
            Step::Write {
                path,
                before,
                after: content,
                ..
            } => {
                assert_eq!(before, files.get(&path).map(|content| content.clone().into_bytes()));
                after.insert(path, String::from_utf8(content).unwrap());
            }
            Step::Remove { path, before } => assert_eq!(after.remove(&path), Some(String::from_utf8(before).unwrap())),
        }
    }
    Ok(after)
}

fn updated(content: &str, hunks: &str) -> Result<String, Error> {
    let patch = format!("*** Begin Patch\n*** Update File: f\n{hunks}\n*** End Patch\n");
    done(&files(&[("f", content)]), &patch).map(|files| files["f"].clone())
}

#[test]
fn a_patch_of_every_kind_is_worked_out() {
    let before = files(&[
        ("src/a.py", "def f():\n    one\n    two\n"),
        ("c.txt", "old\n"),
        ("m", "x\ny\n"),
    ]);
    let patch = "*** Begin Patch\n*** Update File: src/a.py\n@@ def f():\n     one\n-    two\n+    three\n*** Add File: b.txt\n+first\n+\n+last\n*** Delete File: c.txt\n*** Update File: m\n*** Move to: dir/m\n@@\n-x\n+z\n*** End Patch";
    let expected = files(&[
        ("src/a.py", "def f():\n    one\n    three\n"),
        ("b.txt", "first\n\nlast\n"),
        ("dir/m", "z\ny\n"),
    ]);
    assert_eq!(done(&before, patch).unwrap(), expected);
    assert_eq!(paths(patch), ["src/a.py", "b.txt", "c.txt", "m", "dir/m"]);
    let plan = planned(&before, patch).unwrap();
    assert!(
        plan.diff
            .contains("--- src/a.py\n+++ src/a.py\n@@ -1,3 +1,3 @@\n def f():\n     one\n-    two\n+    three\n"),
        "{}",
        plan.diff
    );
    assert!(plan.diff.contains("--- /dev/null\n+++ b.txt\n") && plan.diff.contains("--- c.txt\n+++ /dev/null\n"));
    // What is removed comes last: a move that fails half way has lost nothing.
    let kinds: Vec<bool> = plan
        .steps
        .iter()
        .map(|step| matches!(step, Step::Remove { .. }))
        .collect();
    assert_eq!(kinds, [false, false, false, true, true]);
    let moved = plan.steps.iter().find(|step| step.path() == "dir/m").unwrap();
    assert!(matches!(moved, Step::Write { mode_of: Some(from), before: None, .. } if from == "m"));
}

#[test]
fn wrappings_are_taken_off() {
    let inner = "*** Begin Patch\n*** Add File: a\n+x\n*** End Patch";
    for patch in [
        inner.to_owned(),
        format!("```\n{inner}\n```"),
        format!("```diff\n{inner}\n```\n"),
        format!("apply_patch <<'EOF'\n{inner}\nEOF\n"),
        format!("<<EOF\n{inner}\nEOF"),
        format!("\n\n{inner}\n\n"),
        inner.replace('\n', "\r\n"),
    ] {
        let changes = parse(&patch).unwrap_or_else(|error| panic!("{patch}: {error}")).changes;
        assert_eq!(
            changes,
            [Change::Add {
                path: "a".to_owned(),
                content: "x\n".to_owned()
            }],
            "{patch}"
        );
    }
    for patch in [
        "",
        "x",
        "*** Begin Patch\n*** Add File: a\n+x",
        &format!("rm -rf /\n{inner}"),
        "*** End Patch\n*** Begin Patch",
    ] {
        assert_eq!(parse(patch).unwrap_err().code, Code::InvalidArguments, "{patch}");
    }
}

#[test]
fn context_is_sought_from_strict_to_loose() {
    for (content, hunks, after) in [
        ("a\nb\nc\n", "@@\n a\n-b\n+x\n c", "a\nx\nc\n"),
        ("a\nb\nc\n", " a\n-b\n+x", "a\nx\nc\n"),
        ("a  \nb\t\n", "@@\n a\n-b\n+x", "a  \nx\n"),
        ("  a\n  b\n", "@@\n a\n-b\n+  x", "  a\n  x\n"),
        ("say “hi”\nb\n", "@@\n say \"hi\"\n-b\n+x", "say “hi”\nx\n"),
        // The strict level decides, also where a looser one finds more.
        (" a\na\n", "@@\n-a\n+x", " a\nx\n"),
        ("f:\n  x\ng:\n  x\n", "@@ g:\n-  x\n+  y", "f:\n  x\ng:\n  y\n"),
        (
            "class A:\n def f():\n  x\nclass B:\n def f():\n  x\n",
            "@@ class B:\n@@  def f():\n-  x\n+  y",
            "class A:\n def f():\n  x\nclass B:\n def f():\n  y\n",
        ),
        ("g:\n  x\n", "@@ g:\n g:\n-  x\n+  y", "g:\n  y\n"),
        ("x\ny\nx\n", "@@\n-x\n+z\n*** End of File", "x\ny\nz\n"),
        ("x\ny\nx\n", "@@\n-x\n-y\n+1\n@@\n-x\n+2", "1\n2\n"),
        ("a\n", "@@\n+b", "a\nb\n"),
        ("f:\n  x\ng:\n", "@@ f:\n+  new", "f:\n  new\n  x\ng:\n"),
        ("a\n\nb\n", "@@\n a\n\n-b\n+c", "a\n\nc\n"),
        ("a\nb\n", "@@\n-a\n+c\n\n", "c\nb\n"),
        ("", "@@\n+new", "new\n"),
    ] {
        assert_eq!(
            updated(content, hunks).unwrap_or_else(|error| panic!("{content:?} {hunks:?}: {error}")),
            after,
            "{content:?} {hunks:?}"
        );
    }
}

#[test]
fn line_ends_mark_and_end_of_file_stay() {
    for (content, hunks, after) in [
        ("a\r\nb\r\n", "@@\n a\n-b\n+x\n+y", "a\r\nx\r\ny\r\n"),
        ("\u{feff}a\nb\n", "@@\n-a\n+x", "\u{feff}x\nb\n"),
        ("a\nb", "@@\n-b\n+x", "a\nx"),
        ("a\nb", "@@\n b\n+x", "a\nb\nx"),
        ("a\r\nb", "@@\n b\n+x", "a\r\nb\r\nx"),
        ("a\nb\r\nc\n", "@@\n-b\n+x", "a\nx\r\nc\n"),
        ("a", "@@\n-a\n+b\n+c", "b\nc"),
    ] {
        assert_eq!(updated(content, hunks).unwrap(), after, "{content:?} {hunks:?}");
    }
}

#[test]
fn what_does_not_fit_says_why() {
    for (content, hunks, code, why) in [
        (
            "a\nb\n",
            "@@\n-c\n+x",
            Code::NoMatch,
            "line 3 of the patch: these lines do not occur in f",
        ),
        (
            "a\nb\na\n",
            "@@\n-a\n+x",
            Code::NotUnique,
            "more than once in f, at lines 1, 3",
        ),
        ("a\nb\n", "@@ zzz\n-a\n+x", Code::NoMatch, "do not occur"),
        ("b\na\n", "@@\n-a\n+x\n@@\n-b\n+y", Code::NoMatch, "line 6"),
        ("a\n", "@@\nbare", Code::InvalidArguments, "begins with none of"),
        ("a\n", "*** End of File", Code::InvalidArguments, "without lines"),
        (
            "a\n",
            "@@\n-a\n+x\n*** End of File\n-b",
            Code::InvalidArguments,
            "after the end",
        ),
        ("a\n", "", Code::InvalidArguments, "no change"),
    ] {
        let error = updated(content, hunks).expect_err(hunks);
        assert_eq!(error.code, code, "{hunks:?}: {error}");
        assert!(error.what.contains(why), "{hunks:?}: {error}");
    }
    let before = files(&[("a", "x\n"), ("b", "y\n")]);
    for (body, code) in [
        ("*** Add File: a\n+z", Code::InvalidArguments),
        ("*** Delete File: zz", Code::NotFound),
        ("*** Update File: zz\n@@\n-a\n+b", Code::NotFound),
        ("*** Update File: a\n*** Move to: b", Code::InvalidArguments),
        ("*** Delete File: a\n*** Delete File: a", Code::NotFound),
        ("*** Add File: ../x\n+z", Code::InvalidArguments),
        ("*** Add File: c\nz", Code::InvalidArguments),
        ("nonsense", Code::InvalidArguments),
    ] {
        let error = done(&before, &format!("*** Begin Patch\n{body}\n*** End Patch")).expect_err(body);
        assert_eq!(error.code, code, "{body}: {error}");
    }
}

#[test]
fn several_changes_of_one_file_are_one_step() {
    let before = files(&[("a", "1\n2\n")]);
    let patch = "*** Begin Patch\n*** Update File: a\n@@\n-1\n+one\n*** Update File: a\n@@\n-2\n+two\n*** End Patch";
    assert_eq!(planned(&before, patch).unwrap().steps.len(), 1);
    assert_eq!(done(&before, patch).unwrap(), files(&[("a", "one\ntwo\n")]));
    let patch = "*** Begin Patch\n*** Delete File: a\n*** Add File: a\n+new\n*** End Patch";
    assert_eq!(done(&before, patch).unwrap(), files(&[("a", "new\n")]));
    let patch = "*** Begin Patch\n*** Update File: a\n*** Move to: b\n*** Update File: b\n@@\n-1\n+one\n*** End Patch";
    assert_eq!(done(&before, patch).unwrap(), files(&[("b", "one\n2\n")]));
}

/// A model sends a patch of many files, or of many bytes.
#[test]
fn patches_are_bounded() {
    let body: String = (0..300).map(|n| format!("*** Add File: f{n}\n+x\n")).collect();
    assert!(
        parse(&format!("*** Begin Patch\n{body}*** End Patch"))
            .unwrap_err()
            .what
            .contains("200 files")
    );
    let large = "*** Begin Patch\n*** Delete File: a\n*** Delete File: b\n*** End Patch";
    let error = plan(&parse(large).unwrap(), |_| Ok(Some(vec![b'x'; 40 << 20]))).unwrap_err();
    assert_eq!(error.code, Code::TooLarge);
}

/// Lines that occur once each, so that any hunk has one place.
fn numbered(count: usize) -> String {
    (0..count).map(|n| format!("line {n}\n")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// A patch made from a random change of a file does just that change, whatever lines surround it.
    #[test]
    fn random_changes_come_out_as_meant(count in 1usize..60, edits in proptest::collection::btree_map(0usize..60, 0u8..3, 1..10), context in 0usize..4) {
        let before = numbered(count);
        let lines: Vec<&str> = before.lines().collect();
        let edits: BTreeMap<usize, u8> = edits.into_iter().filter(|(at, _)| *at < count).collect();
        prop_assume!(!edits.is_empty());
        let (mut after, mut hunks, mut told) = (String::new(), String::new(), 0);
        for (at, line) in lines.iter().enumerate() {
            match edits.get(&at) {
                None => after.push_str(&format!("{line}\n")),
                Some(kind) => {
                    hunks.push_str("@@\n");
                    for near in &lines[at.saturating_sub(context).max(told)..at] {
                        hunks.push_str(&format!(" {near}\n"));
                    }
                    hunks.push_str(&if *kind == 2 { format!(" {line}\n") } else { format!("-{line}\n") });
                    if *kind > 0 {
                        hunks.push_str(&format!("+new {at}\n"));
                    }
                    after.push_str(&match kind { 0 => String::new(), 1 => format!("new {at}\n"), _ => format!("{line}\nnew {at}\n") });
                    told = at + 1;
                }
            }
        }
        prop_assert_eq!(updated(&before, hunks.trim_end()).unwrap(), after);
    }

    /// One file of many does not fit: there is no plan, so nothing is changed.
    #[test]
    fn a_failing_patch_changes_none(good in 0usize..8, wrong in 0usize..4) {
        let mut before = Files::new();
        let mut body = String::new();
        for n in 0..good {
            before.insert(format!("f{n}"), numbered(3));
            body.push_str(&format!("*** Update File: f{n}\n@@\n-line 1\n+changed\n"));
        }
        before.insert("bad".to_owned(), numbered(3));
        body.push_str(["*** Update File: bad\n@@\n-missing\n+x\n", "*** Add File: bad\n+x\n", "*** Delete File: gone\n", "*** Update File: bad\n*** Move to: bad2\n@@\n-line 7\n+x\n"][wrong]);
        let patch = format!("*** Begin Patch\n{body}*** End Patch");
        prop_assert!(planned(&before, &patch).is_err());
    }

    /// Any text is answered.
    #[test]
    fn any_text_is_read_or_refused(lines in proptest::collection::vec(prop_oneof![
        Just("*** Begin Patch"), Just("*** End Patch"), Just("*** Add File: a"), Just("*** Update File: b"), Just("*** Delete File: c"), Just("*** Move to: d"),
        Just("*** End of File"), Just("@@"), Just("@@ x"), Just("+x"), Just("-x"), Just(" x"), Just(""), Just("x"), Just("```")], 0..24)) {
        let text = format!("*** Begin Patch\n{}\n*** End Patch", lines.join("\n"));
        let before = files(&[("b", "x\ny\n"), ("c", "x\n")]);
        let _ = done(&before, &text);
    }
}
