use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::{
    cli::Cli,
    failure::{Exit, Failure},
    output::Output,
};

pub fn run(shell: Shell, _output: &Output) -> Result<Exit, Failure> {
    // Through memory: the generator panics where the reader has gone.
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "nexus", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(Exit::Ok)
}
