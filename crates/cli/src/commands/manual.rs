//! Prints the manual for packages: a page for each command, generated from the command tree.

use std::io::{self, Write};

use crate::{
    cli,
    failure::{Exit, Failure},
};

/// Each page behind a form feed and a line with its name.
pub fn run() -> Result<Exit, Failure> {
    let mut root = cli::command();
    root.build();
    let mut pages = Vec::new();
    page(root, "nexus".to_owned(), &mut pages)?;
    io::stdout().lock().write_all(&pages)?;
    Ok(Exit::Ok)
}

fn page(command: clap::Command, name: String, pages: &mut Vec<u8>) -> io::Result<()> {
    let visible = |command: &&clap::Command| !command.is_hide_set() && command.get_name() != "help";
    let below: Vec<clap::Command> = command.get_subcommands().filter(visible).cloned().collect();
    writeln!(pages, "\u{c}{name}")?;
    // The library wants names that live as long as the program; it runs once, and ends.
    let shown: &'static str = name.clone().leak();
    clap_mangen::Man::new(command.name(shown)).render(pages)?;
    for command in below {
        let name = format!("{name}-{}", command.get_name());
        page(command, name, pages)?;
    }
    Ok(())
}
