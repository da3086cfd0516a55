//! The input line: editing, and a history kept in a file.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::PathBuf};

use rustyline::{Config, Editor, error::ReadlineError, history::FileHistory};
use tokio::task::spawn_blocking;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

const REMEMBERED: usize = 2_000;

pub struct Prompt {
    editor: Editor<(), FileHistory>,
    history: PathBuf,
}

pub enum Line {
    Text(String),
    /// Ctrl-C: what was typed is dropped.
    Interrupted,
    /// Ctrl-D.
    End,
}

impl Prompt {
    pub fn open(context: &Context) -> Result<Prompt, Failure> {
        let dir = context.root.state().join("cli");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| Failure::file("create", &dir, &error))?;
        let config = Config::builder()
            .max_history_size(REMEMBERED)
            .map_err(|e| failed(&e))?
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(|e| failed(&e))?;
        let history = dir.join("history");
        // A first run has none, and a damaged one is no reason not to talk.
        let _none = editor.load_history(&history);
        Ok(Prompt { editor, history })
    }

    /// Waits on a thread of its own, so that the connection goes on living; gives itself back.
    pub async fn ask(mut self) -> Result<(Prompt, Line), Failure> {
        let asked = spawn_blocking(move || {
            let line = self.editor.readline("you> ");
            if line.is_ok() {
                // What cannot be written to disk is still remembered until the end.
                let _full = self.editor.append_history(&self.history);
            }
            (self, line)
        });
        let (prompt, line) = asked
            .await
            .map_err(|error| Failure::new(Exit::Failed, format!("the prompt broke: {error}")))?;
        match line {
            Ok(text) => Ok((prompt, Line::Text(text))),
            Err(ReadlineError::Interrupted) => Ok((prompt, Line::Interrupted)),
            Err(ReadlineError::Eof) => Ok((prompt, Line::End)),
            Err(error) => Err(failed(&error)),
        }
    }
}

fn failed(error: &ReadlineError) -> Failure {
    Failure::new(Exit::Failed, format!("failed to read from the terminal: {error}"))
}
