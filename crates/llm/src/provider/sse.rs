//! Server-sent events from bytes, however they are cut: lines end with LF, CR or CRLF, an empty line ends an event, a
//! byte order mark at the start is skipped. `id` and `retry` are not used: nobody resumes an answer. Bytes that are no
//! UTF-8 become U+FFFD, so that one bad byte does not end an answer. A field `error`, which some servers send, is an
//! event of that name.
//!
//! One event may not grow beyond [`LONGEST`]; a provider that sends more is broken or hostile.

use std::collections::VecDeque;

pub const LONGEST: usize = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Empty where the sender gave none.
    pub name: String,
    pub data: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("an event is longer than {LONGEST} bytes")]
    TooLong,
}

#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    name: String,
    data: String,
    has_data: bool,
    /// The last byte was a CR, so a LF now is the same line's end.
    after_cr: bool,
    past_first_line: bool,
}

impl Decoder {
    pub fn push(&mut self, mut bytes: &[u8], out: &mut VecDeque<Event>) -> Result<(), Error> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + self.data.len() + part.len() > LONGEST {
                return Err(Error::TooLong);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { break };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(out);
        }
        Ok(())
    }

    /// At the end of the connection: an event whose empty line is missing still counts, as some servers forget it.
    pub fn finish(&mut self, out: &mut VecDeque<Event>) -> Result<(), Error> {
        if !self.line.is_empty() {
            self.end_line(out);
        }
        self.end_event(out);
        Ok(())
    }

    fn end_line(&mut self, out: &mut VecDeque<Event>) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let mut text = text.as_ref();
        if !std::mem::replace(&mut self.past_first_line, true) {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            self.end_event(out);
            return;
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.add(value),
            "error" => {
                self.name = "error".to_owned();
                self.add(value);
            }
            "event" => self.name = value.to_owned(),
            _ => {}
        }
    }

    fn add(&mut self, value: &str) {
        if self.has_data {
            self.data.push('\n');
        }
        self.has_data = true;
        self.data.push_str(value);
    }

    fn end_event(&mut self, out: &mut VecDeque<Event>) {
        let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        // An error is one even where nothing is said about it.
        if std::mem::take(&mut self.has_data) || name == "error" {
            out.push_back(Event { name, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = "\u{feff}event: ping\r\ndata: {}\r\n\r\n: a comment\ndata: zwölf €\ndata:second\n\nid: 7\n\n\
        event: x\rdata: Tschüß 🦀\r\rdata\n\ndata: [DONE]\n\n";

    fn events(parts: &[&[u8]]) -> Result<Vec<Event>, Error> {
        let (mut decoder, mut out) = (Decoder::default(), VecDeque::new());
        for part in parts {
            decoder.push(part, &mut out)?;
        }
        decoder.finish(&mut out)?;
        Ok(out.into())
    }

    fn expected() -> Vec<Event> {
        [
            ("ping", "{}"),
            ("", "zwölf €\nsecond"),
            ("x", "Tschüß 🦀"),
            ("", ""),
            ("", "[DONE]"),
        ]
        .map(|(name, data)| Event {
            name: name.into(),
            data: data.into(),
        })
        .to_vec()
    }

    #[test]
    fn any_two_cuts_give_the_same_events() {
        let bytes = STREAM.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(events(&parts), Ok(expected()), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn byte_by_byte_too() {
        let parts: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(events(&parts), Ok(expected()));
    }

    #[test]
    fn bad_bytes_are_replaced_and_an_error_is_an_event() {
        let read = events(&[b"data: a\xffb\n\nerror: {\"x\":1}\n\nevent: error\n\n"]).expect("bounded");
        let told: Vec<_> = read.iter().map(|one| (one.name.as_str(), one.data.as_str())).collect();
        assert_eq!(told, [("", "a\u{fffd}b"), ("error", "{\"x\":1}"), ("error", "")]);
    }

    #[test]
    fn a_missing_last_line_end_loses_nothing() {
        assert_eq!(events(&[b"data: a\n\ndata: [DONE]"]).expect("valid").len(), 2);
    }

    #[test]
    fn no_event_grows_without_bound() {
        let chunk = vec![b'x'; 1 << 20];
        let mut parts: Vec<&[u8]> = vec![b"data: "];
        parts.extend(std::iter::repeat_n(chunk.as_slice(), 5));
        assert_eq!(events(&parts), Err(Error::TooLong));
        let lines = "data: 0123456789\n".repeat(500_000);
        assert_eq!(events(&[lines.as_bytes()]), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_cut_anywhere(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let cut = cut.min(bytes.len());
            prop_assert_eq!(events(&[&bytes]), events(&[&bytes[..cut], &bytes[cut..]]));
        }

        #[test]
        fn what_is_sent_is_read(texts in proptest::collection::vec("[^\r\n]{0,40}", 1..10), cut in 1usize..50) {
            let sent: String = texts.iter().map(|text| format!("data: {text}\n\n")).collect();
            let parts: Vec<&[u8]> = sent.as_bytes().chunks(cut).collect();
            let read: Vec<String> = events(&parts).expect("valid").into_iter().map(|event| event.data).collect();
            prop_assert_eq!(read, texts);
        }
    }
}
