//! The layers: a module uses modules of its own layer and of those below.

use crate::arrows::{Arrows, top};

/// The rooms of a daemon, from the ground up. A module that is in none of them may be used from everywhere.
const DAEMON: &[(&str, u8)] = &[
    ("domain", 1),
    ("store", 2),
    ("engine", 3),
    ("service", 4),
    ("remote", 4),
    ("provider", 4),
    ("daemon", 5),
];

/// What people type stands over what is known of the daemons, and that over those who start them.
const COMMAND: &[(&str, u8)] = &[
    ("supervise", 1),
    ("units", 1),
    ("fleet", 2),
    ("services", 3),
    ("doctor", 3),
    ("commands", 4),
    ("chat", 4),
    ("run", 5),
];

fn rooms(name: &str) -> &'static [(&'static str, u8)] {
    match name {
        "orchestrator" | "agent" | "llm" | "gateway" => DAEMON,
        "cli" => COMMAND,
        _ => &[],
    }
}

fn floor(name: &str, file: &str) -> Option<u8> {
    let room = top(file);
    rooms(name)
        .iter()
        .find(|(known, _)| *known == room)
        .map(|(_, floor)| *floor)
}

/// `engine/once.rs -> service/status.rs` for each arrow of the crate that goes up.
pub fn wrong(name: &str, arrows: &Arrows) -> Vec<String> {
    let mut wrong = Vec::new();
    for (from, to) in arrows {
        let Some(own) = floor(name, from) else { continue };
        let up = to.iter().filter(|to| floor(name, to).is_some_and(|floor| floor > own));
        wrong.extend(up.map(|to| format!("{from} -> {to}")));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong_in(name: &str, from: &str, to: &str) -> bool {
        let arrows: Arrows = [(from.to_owned(), [to.to_owned()].into())].into();
        !wrong(name, &arrows).is_empty()
    }

    #[test]
    fn arrows_go_down() {
        assert!(!wrong_in("gateway", "service/gateway.rs", "engine/mod.rs"));
        assert!(!wrong_in("gateway", "engine/book.rs", "domain/session.rs"));
        assert!(!wrong_in("gateway", "engine/book.rs", "error.rs"));
        assert!(wrong_in("gateway", "domain/session.rs", "engine/mod.rs"));
        assert!(wrong_in("gateway", "domain.rs", "store.rs"));
        assert!(wrong_in("gateway", "store.rs", "engine.rs"));
        assert!(wrong_in("gateway", "engine.rs", "service/status.rs"));
        assert!(wrong_in("cli", "supervise/view.rs", "fleet/probe.rs"));
        assert!(wrong_in("cli", "fleet/probe.rs", "commands/status.rs"));
        assert!(!wrong_in("cli", "commands/status.rs", "supervise/view.rs"));
    }
}
