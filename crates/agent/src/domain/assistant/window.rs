//! The part of a conversation that fits a model, in the form models take it.
//!
//! Entries are offered newest first and taken while they fit, so what a model sees is always an unbroken end of the
//! conversation. The rules of the strictest provider hold for all: system text stands in front, roles alternate, the
//! first to speak is the user, nobody says nothing.

use std::collections::VecDeque;

/// What a message costs beside its text.
const OVERHEAD_TOKENS: u64 = 8;
/// Fewer bytes than any tokenizer of today packs into a token of ordinary text, so that the guess errs high.
const BYTES_PER_TOKEN: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    User,
    Assistant,
    System,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub role: Role,
    pub text: String,
}

impl Entry {
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Entry {
            role,
            text: text.into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the message needs about {needed} tokens, and the model has room for {room} beside its answer")]
    TooLong { needed: u64, room: u64 },
}

/// How a model's window is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tokens for everything that is sent.
    pub input: u64,
    /// Tokens kept free for the answer.
    pub answer: u64,
}

impl Budget {
    /// The answer gets what was asked for, but never more than half of the window.
    pub fn split(window: u64, answer: u64) -> Self {
        let answer = answer.min(window / 2).max(1);
        Budget {
            input: window.saturating_sub(answer),
            answer,
        }
    }
}

/// A careful guess, high rather than low.
pub fn tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(BYTES_PER_TOKEN) + OVERHEAD_TOKENS
}

/// Filled from the newest message backwards.
#[derive(Debug)]
pub struct Window {
    left: u64,
    full: bool,
    standing: Option<String>,
    entries: VecDeque<Entry>,
}

impl Window {
    /// `standing` is the text that precedes every conversation; `current` the message to be answered. Both must fit.
    pub fn open(budget: Budget, standing: &str, current: Entry) -> Result<Self, Error> {
        let standing = (!standing.trim().is_empty()).then(|| standing.to_owned());
        let needed = tokens(&current.text) + standing.as_deref().map_or(0, tokens);
        let Some(left) = budget.input.checked_sub(needed) else {
            return Err(Error::TooLong {
                needed,
                room: budget.input,
            });
        };
        Ok(Window {
            left,
            full: false,
            standing,
            entries: VecDeque::from([current]),
        })
    }

    /// Takes the next older entry, if it fits. Once one did not, none is taken any more.
    pub fn take_older(&mut self, entry: Entry) -> bool {
        if self.full || entry.text.trim().is_empty() {
            return !self.full;
        }
        match self.left.checked_sub(tokens(&entry.text)) {
            Some(left) => {
                self.left = left;
                self.entries.push_front(entry);
            }
            None => self.full = true,
        }
        !self.full
    }

    /// The conversation as it is sent.
    pub fn finish(self) -> Vec<Entry> {
        in_turns(self.standing, self.entries)
    }
}

/// A conversation in the form that the strictest provider takes: at most one system text in front, then user and
/// assistant in turns.
pub fn in_turns(standing: Option<String>, entries: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    let mut system = standing;
    let mut spoken: Vec<Entry> = Vec::new();
    for entry in entries {
        match (entry.role, spoken.last_mut()) {
            (Role::System, _) => match &mut system {
                Some(text) => join(text, &entry.text),
                None => system = Some(entry.text),
            },
            // The question to an answer without one was cut off.
            (Role::Assistant, None) => {}
            (role, Some(last)) if last.role == role => join(&mut last.text, &entry.text),
            _ => spoken.push(entry),
        }
    }
    let system = system.map(|text| Entry::new(Role::System, text));
    system.into_iter().chain(spoken).collect()
}

fn join(text: &mut String, more: &str) {
    text.push_str("\n\n");
    text.push_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(input: u64, standing: &str, current: &str) -> Window {
        Window::open(Budget { input, answer: 1 }, standing, Entry::new(Role::User, current)).unwrap()
    }

    #[test]
    fn a_short_conversation_is_sent_whole() {
        let mut w = window(1000, "be kind", "and now?");
        assert!(w.take_older(Entry::new(Role::Assistant, "hello")));
        assert!(w.take_older(Entry::new(Role::User, "hi")));
        assert_eq!(
            w.finish(),
            [
                Entry::new(Role::System, "be kind"),
                Entry::new(Role::User, "hi"),
                Entry::new(Role::Assistant, "hello"),
                Entry::new(Role::User, "and now?"),
            ]
        );
    }

    #[test]
    fn what_does_not_fit_ends_the_view_even_if_older_ones_would_fit() {
        let mut w = window(40, "", "now");
        assert!(!w.take_older(Entry::new(Role::User, "x".repeat(300))));
        assert!(!w.take_older(Entry::new(Role::User, "small")));
        assert_eq!(w.finish(), [Entry::new(Role::User, "now")]);
    }

    #[test]
    fn unanswered_questions_become_one_and_a_lone_answer_is_left_out() {
        let mut w = window(1000, "", "three");
        w.take_older(Entry::new(Role::User, "two"));
        w.take_older(Entry::new(Role::User, "  "));
        w.take_older(Entry::new(Role::User, "one"));
        w.take_older(Entry::new(Role::Assistant, "to what?"));
        assert_eq!(w.finish(), [Entry::new(Role::User, "one\n\ntwo\n\nthree")]);
    }

    #[test]
    fn system_messages_move_to_the_front_in_their_order() {
        let mut w = window(1000, "standing", "q");
        w.take_older(Entry::new(Role::System, "second"));
        w.take_older(Entry::new(Role::System, "first"));
        assert_eq!(
            w.finish(),
            [
                Entry::new(Role::System, "standing\n\nfirst\n\nsecond"),
                Entry::new(Role::User, "q"),
            ]
        );
    }

    #[test]
    fn a_message_longer_than_the_model_is_refused_with_both_figures() {
        let error = Window::open(Budget::split(100, 4096), "", Entry::new(Role::User, "x".repeat(3000))).unwrap_err();
        assert_eq!(error, Error::TooLong { needed: 1008, room: 50 });
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let role = prop_oneof![
            3 => Just(Role::User),
            3 => Just(Role::Assistant),
            1 => Just(Role::System)
        ];
        (role, "[a-zé ]{0,60}").prop_map(|(role, text)| Entry { role, text })
    }

    proptest! {
        #[test]
        fn whatever_the_history_the_strictest_provider_takes_it(
            history in prop::collection::vec(entry(), 0..40),
            input in 60_u64..600,
            standing in "[a-z]{0,20}",
        ) {
            let budget = Budget { input, answer: 1 };
            let mut w = Window::open(budget, &standing, Entry::new(Role::User, "the question")).unwrap();
            let mut taken = 0;
            for entry in history.iter().rev() {
                if !w.take_older(entry.clone()) {
                    break;
                }
                taken += 1;
            }
            let sent = w.finish();

            let cost: u64 = sent.iter().map(|entry| tokens(&entry.text)).sum();
            prop_assert!(cost <= input, "{cost} of {input}");
            prop_assert!(sent.iter().all(|entry| !entry.text.trim().is_empty()));
            prop_assert!(sent.last().unwrap().text.ends_with("the question"));
            let spoken: Vec<_> = sent.iter().filter(|entry| entry.role != Role::System).collect();
            prop_assert!(sent.len() - spoken.len() <= 1);
            prop_assert!(sent.iter().skip(1).all(|entry| entry.role != Role::System));
            for (n, entry) in spoken.iter().enumerate() {
                let expected = if n % 2 == 0 { Role::User } else { Role::Assistant };
                prop_assert_eq!(entry.role, expected);
            }
            // Every user's word within the view is still there, in order.
            let view = &history[history.len() - taken..];
            let all: String = spoken.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>().join("\n\n");
            let mut from = 0;
            for entry in view.iter().filter(|e| e.role == Role::User && !e.text.trim().is_empty()) {
                let at = all[from..].find(&entry.text);
                prop_assert!(at.is_some(), "{:?} is gone", entry.text);
                from += at.unwrap() + entry.text.len();
            }
        }
    }
}
