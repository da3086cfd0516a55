//! Ids of calls: each call has one of its own, whatever the server sends.

#[derive(Default)]
pub struct Ids {
    all: Vec<String>,
}

impl Ids {
    /// The given one, unless it is empty or taken.
    pub fn own(&mut self, given: &str, otherwise: &str) -> String {
        let mut id = given.to_owned();
        let mut number = self.all.len();
        while id.is_empty() || self.all.contains(&id) {
            id = match given {
                "" => format!("{otherwise}{number}"),
                given => format!("{given}_{number}"),
            };
            number += 1;
        }
        self.all.push(id.clone());
        id
    }
}
