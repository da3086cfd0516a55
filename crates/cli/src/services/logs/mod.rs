//! `nexus services logs`: the logs of all services, merged by time.
//!
//! Each daemon writes `state/logs/<service>.log`, one JSON object a line, and turns to a new file when it is full;
//! what it prints past that is in `<service>.err.log`. Here the files are only read.

mod files;
mod record;

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use nexus_config::Root;

use self::{
    files::{Tail, services},
    record::Record,
};
use super::status;
use crate::{
    args::LogsArgs,
    context::Context,
    failure::{Exit, Failure},
    output::{Output, clean},
};

/// Between two looks at files that may have grown.
const LOOK_AGAIN: Duration = Duration::from_millis(150);

pub async fn run(context: &Context, args: &LogsArgs, output: &Output) -> Result<Exit, Failure> {
    let names = match args.services.is_empty() {
        true => services(&context.root.log_dir()),
        false => named(context, &args.services)?,
    };
    let wanted = Wanted {
        since: args.since,
        level: args.level.map(|level| level.rank()),
        grep: args.grep.as_ref().map(|text| text.to_lowercase()),
    };
    let mut tails: Vec<Tail> = names
        .iter()
        .flat_map(|name| Tail::of(&context.root.log_dir(), name))
        .collect();
    let mut records = Vec::new();
    for tail in &mut tails {
        tail.past(args.since, &mut records)?;
    }
    let mut records: Vec<Record> = records.into_iter().filter(|record| wanted.has(record)).collect();
    records.sort_by_key(|record| record.time);
    // Without a time the newest lines are meant.
    let most = match (args.lines, args.since) {
        (Some(lines), _) => lines,
        (None, Some(_)) => usize::MAX,
        (None, None) => 200,
    };
    let width = names.iter().map(String::len).max().unwrap_or_default();
    for record in &records[records.len().saturating_sub(most)..] {
        say(record, width, output)?;
    }
    if !args.follow {
        return Ok(Exit::Ok);
    }
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let mut records = Vec::new();
        for tail in &mut tails {
            tail.more(&mut records)?;
        }
        records.sort_by_key(|record| record.time);
        for record in records.iter().filter(|record| wanted.has(record)) {
            say(record, width, output)?;
        }
    }
}

/// Names of the table, and of any other daemon that left a log.
fn named(context: &Context, asked: &[String]) -> Result<Vec<String>, Failure> {
    let written = services(&context.root.log_dir());
    asked
        .iter()
        .map(|name| match written.contains(name) {
            true => Ok(name.clone()),
            false => status::known(std::slice::from_ref(name)).map(|mut names| names.remove(0)),
        })
        .collect()
}

/// The newest lines of a service since then, as people read them.
pub fn last(root: &Root, service: &str, since: SystemTime, lines: usize) -> Vec<String> {
    let mut records = Vec::new();
    for mut tail in Tail::of(&root.log_dir(), service) {
        // What cannot be read is not shown; the path is.
        let _unread = tail.past(Some(since), &mut records);
    }
    let wanted = Wanted {
        since: Some(since),
        level: None,
        grep: None,
    };
    records.retain(|record| wanted.has(record));
    records.sort_by_key(|record| record.time);
    let mut newest: VecDeque<String> = VecDeque::new();
    for record in &records {
        newest.push_back(record.text());
        if newest.len() > lines {
            newest.pop_front();
        }
    }
    newest.into()
}

struct Wanted {
    since: Option<SystemTime>,
    level: Option<u8>,
    grep: Option<String>,
}

impl Wanted {
    fn has(&self, record: &Record) -> bool {
        let late = self
            .since
            .is_none_or(|since| record.time.is_none_or(|time| time >= since));
        let loud = self.level.is_none_or(|level| record.rank() <= level);
        late && loud
            && self
                .grep
                .as_ref()
                .is_none_or(|text| record.raw.to_lowercase().contains(text))
    }
}

fn say(record: &Record, width: usize, output: &Output) -> Result<(), Failure> {
    if output.json {
        return Ok(output.record(&record.object())?);
    }
    let time = record.time.map_or_else(
        || "-".repeat(24),
        |time| humantime::format_rfc3339_millis(time).to_string(),
    );
    let line = format!(
        "{} {:5} {:width$} {}\n",
        output.dim(&time),
        record.level,
        record.service,
        clean(&record.text())
    );
    Ok(output.piece(&line)?)
}
