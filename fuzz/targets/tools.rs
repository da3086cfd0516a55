//! What models, servers and programs write about tools: output in any pieces, arguments and schemas, edits, patches,
//! commands. The first byte says which, the second how large the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nexus_fuzz::pieces;
use nexus_tools::{
    Definition, Effects, Foreign, LockKind, Source, canonical, edit, grant, json,
    output::{Collector, Keep, MAX_RESULT_BYTES, MAX_RESULT_LINES, Output, Reading},
    patch,
};

fuzz_target!(|data: &[u8]| {
    let [kind, size, bytes @ ..] = data else { return };
    let text = String::from_utf8_lossy(bytes);
    match kind % 5 {
        0 => output(bytes, *size),
        1 => arguments(&text),
        2 => edits(&text),
        3 => patches(&text),
        _ => commands(&text),
    }
});

/// The figures are exact and the limits hold; plain text does not depend on how it was cut.
fn output(bytes: &[u8], size: u8) {
    let collect = |keep, reading, parts: &[&[u8]]| -> Output {
        let mut collector = Collector::new(keep, reading);
        parts.iter().for_each(|part| collector.push(part));
        collector.finish()
    };
    let parts: Vec<&[u8]> = pieces(bytes, size).into_iter().collect();
    for keep in [Keep::Start, Keep::Ends] {
        assert_eq!(
            collect(keep, Reading::Plain, &parts),
            collect(keep, Reading::Plain, &[bytes])
        );
        for reading in [Reading::Plain, Reading::Terminal] {
            let output = collect(keep, reading, &parts);
            assert_eq!(output.written.bytes, bytes.len() as u64);
            assert!(output.shown().bytes <= output.total.bytes && output.shown().lines <= output.total.lines);
            let text = output.render(None);
            assert!(text.len() <= MAX_RESULT_BYTES && text.lines().count() <= MAX_RESULT_LINES);
        }
    }
}

/// A line of schema, then arguments: taken or refused, and what is taken has one spelling.
fn arguments(text: &str) {
    let (schema, arguments) = text.split_once('\n').unwrap_or((r#"{"type":"object"}"#, text));
    if let Ok(value) = json::parse(arguments) {
        let spelled = canonical::text(&value);
        assert_eq!(canonical::text(&json::parse(&spelled).expect("it is JSON")), spelled);
    }
    let Ok(schema) = json::parse(schema) else { return };
    let tool = Definition::new(Foreign {
        name: "tool".to_owned(),
        description: String::new(),
        schema,
        source: Source::User,
        read_only: false,
        idempotent: false,
        effects: Effects::default(),
        lock: LockKind::Alone,
    });
    if let Ok(tool) = tool
        && let Ok(checked) = tool.check(arguments)
    {
        let again = tool
            .check_value(checked.arguments.clone())
            .expect("what fits once fits again");
        assert_eq!(again.arguments, checked.arguments);
    }
}

/// Old text, new text, content: an edit changes one place, and text stays text.
fn edits(text: &str) {
    let mut parts = text.splitn(3, '\u{1}');
    let (Some(old), Some(new), Some(content)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    if let Ok(edited) = edit::edit("file", content.as_bytes(), old, new, false) {
        assert_eq!(edited.hash_after, edit::hash(&edited.content));
        assert_eq!(edited.replaced, 1);
        assert_ne!(edited.content, content.as_bytes());
        std::str::from_utf8(&edited.content).expect("text stays text");
    }
}

/// A patch over files that all have the same content: worked out or refused.
fn patches(text: &str) {
    let Ok(patch) = patch::parse(text) else { return };
    let read = |path: &str| Ok((path.len() % 2 == 0).then(|| b"one\ntwo\nthree\n".to_vec()));
    if let Ok(plan) = patch::plan(&patch, read) {
        assert!(plan.steps.len() <= 2 * patch.changes.len());
    }
}

/// A plain command has nothing in it that a shell would act on.
fn commands(text: &str) {
    let _ = grant::named_files(text, 16);
    if grant::plain_words(text).is_some() {
        let mut quote = None;
        for c in text.chars() {
            match quote {
                Some(open) if c == open => quote = None,
                Some('"') => assert!(!"$`\\!".contains(c), "{text:?}"),
                Some(_) => {}
                None if c == '\'' || c == '"' => quote = Some(c),
                None => assert!(!"$`\\;|&<>(){}*?[]~#!\n".contains(c), "{text:?}"),
            }
        }
        assert!(quote.is_none(), "{text:?}");
    }
}
