//! Parses the commands of a conversation, which begin with `/`.

/// What a typed line means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    Message(String),
    Help,
    /// The next message begins another conversation.
    New,
    /// `None`: which model is asked.
    Model(Option<String>),
    Sessions,
    Stop,
    Quit,
    /// A word that means nothing here.
    Unknown(String),
}

pub const HELP: &str = "\
/help          this list
/new           begin another conversation with the next message
/model NAME    ask this model from now on, as provider/model; without a name: say which one is asked
/sessions      the latest conversations; go on with one: nexus chat --session ID
/stop          end everything that runs in this conversation, background processes too; works while an answer is
               written, and so does the word stop alone. Ctrl-C ends only the answer
/quit          leave; Ctrl-D does it too
//...          a message that begins with a slash";

/// Whether a line asks to end everything, whenever it is typed.
pub fn is_stop(line: &str) -> bool {
    let word = line.trim();
    word.strip_prefix('/').unwrap_or(word).eq_ignore_ascii_case("stop")
}

pub fn read(line: String) -> Typed {
    if is_stop(&line) {
        return Typed::Stop;
    }
    let Some(rest) = line.trim_start().strip_prefix('/') else {
        return Typed::Message(line);
    };
    if rest.starts_with('/') {
        return Typed::Message(rest.to_owned());
    }
    let (word, argument) = match rest.split_once(char::is_whitespace) {
        Some((word, argument)) => (word, argument.trim()),
        None => (rest.trim_end(), ""),
    };
    match (word, argument.is_empty()) {
        ("help", true) => Typed::Help,
        ("new", true) => Typed::New,
        ("model", empty) => Typed::Model((!empty).then(|| argument.to_owned())),
        ("sessions", true) => Typed::Sessions,
        ("quit", true) => Typed::Quit,
        _ => Typed::Unknown(word.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_known_and_others_are_not_sent() {
        let typed = |line: &str| read(line.to_owned());
        for (line, meant) in [
            ("/help", Typed::Help),
            ("  /new ", Typed::New),
            ("/model", Typed::Model(None)),
            ("/model  anthropic/x ", Typed::Model(Some("anthropic/x".into()))),
            ("/sessions", Typed::Sessions),
            ("/stop", Typed::Stop),
            ("/STOP ", Typed::Stop),
            ("/quit", Typed::Quit),
        ] {
            assert_eq!(typed(line), meant, "{line}");
            let word = line.trim().split(' ').next().unwrap().to_lowercase();
            assert!(HELP.contains(&word), "{word} is not in the help");
        }
        assert_eq!(typed("stop"), Typed::Stop);
        assert_eq!(typed("stop the car"), Typed::Message("stop the car".into()));
        assert_eq!(typed("/hlep"), Typed::Unknown("hlep".into()));
        assert_eq!(typed("/etc/passwd: what is it?"), Typed::Unknown("etc/passwd:".into()));
        assert_eq!(typed("/"), Typed::Unknown(String::new()));
        assert_eq!(typed("/quit now"), Typed::Unknown("quit".into()));
    }

    #[test]
    fn two_slashes_send_one() {
        assert_eq!(read("//etc/passwd".into()), Typed::Message("/etc/passwd".into()));
        assert_eq!(read("a / b".into()), Typed::Message("a / b".into()));
    }
}
