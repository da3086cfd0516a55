use std::io::{self, Write};

use clap_complete::{Shell, generate};

use crate::{
    cli,
    failure::{Exit, Failure},
    output::Output,
};

pub fn run(shell: Shell, _output: &Output) -> Result<Exit, Failure> {
    // Through memory: the generator panics where the reader has gone.
    let mut script = Vec::new();
    generate(shell, &mut cli::command(), "nexus", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(Exit::Ok)
}
