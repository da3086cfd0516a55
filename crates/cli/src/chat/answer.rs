//! Assembles an answer from its deltas, which may be repeated, start over, or be missing after a reconnect.
//!
//! A delta says where in the answer it belongs (a UTF-8 byte offset). The final message is whole and always right, so
//! whatever was shown before is at worst incomplete or said to be void, never silently wrong.

use super::screen::Show;

#[derive(Debug, Default)]
pub struct Answer {
    id: String,
    /// What the reader has seen of it.
    text: String,
}

impl Answer {
    pub fn delta(&mut self, message_id: &str, index: usize, delta: &str) -> Option<Show> {
        if self.id != message_id {
            self.id = message_id.to_owned();
            if !self.text.is_empty() {
                return self.again(if index == 0 { delta } else { "" });
            }
        }
        let Some(known) = self.text.get(index..) else {
            // Beyond what we have: a piece before it is missing, and the final message brings it.
            return None;
        };
        if known.starts_with(delta) {
            // A piece that came before. At the very start it may also be a second attempt that begins alike; then
            // its own next pieces say so.
            return None;
        }
        if let Some(new) = delta.strip_prefix(known) {
            let new = new.to_owned();
            self.text.push_str(&new);
            return Some(Show::Append(new));
        }
        let kept = self.text.get(..index).unwrap_or_default().to_owned();
        self.again(&(kept + delta))
    }

    /// The final text.
    pub fn whole(&mut self, content: &str) -> Option<Show> {
        match content.strip_prefix(self.text.as_str()) {
            Some("") => None,
            Some(rest) => {
                let rest = rest.to_owned();
                self.text = content.to_owned();
                Some(Show::Append(rest))
            }
            None => self.again(content),
        }
    }

    fn again(&mut self, text: &str) -> Option<Show> {
        self.text = text.to_owned();
        Some(Show::Again(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader ends up with, counting only what follows the last start.
    fn read(shows: impl IntoIterator<Item = Option<Show>>) -> String {
        shows
            .into_iter()
            .flatten()
            .fold(String::new(), |seen, show| match show {
                Show::Append(text) => seen + &text,
                Show::Again(text) => text,
            })
    }

    #[test]
    fn pieces_in_order_are_shown_once() {
        let mut answer = Answer::default();
        let shows = [
            answer.delta("a", 0, "Hä"),
            answer.delta("a", 3, "llo"),
            answer.whole("Hällo"),
        ];
        assert_eq!(read(shows), "Hällo");
    }

    #[test]
    fn a_replay_after_a_reconnect_repeats_nothing() {
        let mut answer = Answer::default();
        let mut shows = vec![answer.delta("a", 0, "one "), answer.delta("a", 4, "two ")];
        shows.push(answer.delta("a", 0, "one two three"));
        assert_eq!(shows[2], Some(Show::Append("three".into())));
        assert_eq!(answer.delta("a", 0, "one "), None);
        assert_eq!(answer.whole("one two three"), None);
    }

    #[test]
    fn a_second_attempt_voids_the_first() {
        let mut answer = Answer::default();
        let shows = [
            answer.delta("a", 0, "The sky"),
            answer.delta("a", 0, "A sky"),
            answer.delta("a", 5, " is"),
            answer.whole("A sky is"),
        ];
        assert_eq!(shows[1], Some(Show::Again("A sky".into())));
        assert_eq!(read(shows), "A sky is");
    }

    #[test]
    fn a_second_attempt_that_begins_alike_is_noticed_where_it_differs() {
        let mut answer = Answer::default();
        let shows = [
            answer.delta("a", 0, "The sky is"),
            answer.delta("a", 0, "The "),
            answer.delta("a", 4, "sea"),
            answer.whole("The sea"),
        ];
        assert_eq!(read(shows), "The sea");
    }

    #[test]
    fn a_hole_waits_for_the_whole() {
        let mut answer = Answer::default();
        let shows = [
            answer.delta("a", 4, "two"),
            answer.delta("a", 7, " three"),
            answer.whole("one two three"),
        ];
        assert_eq!(shows[0], None);
        assert_eq!(read(shows), "one two three");
    }

    #[test]
    fn an_offset_inside_a_character_harms_nothing() {
        let mut answer = Answer::default();
        let shows = [
            answer.delta("a", 0, "äö"),
            answer.delta("a", 1, "x"),
            answer.whole("äöü"),
        ];
        assert_eq!(read(shows), "äöü");
    }
}
