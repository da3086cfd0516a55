//! Prints a daemon's settings for programs: the schema, and the values in force with their origins.

use nexus_config::{DaemonSchema, DaemonValues, Root};

use crate::args::Args;
use crate::daemon::{Daemon, chain};
use crate::exit::Exit;
use crate::reload::sources;
use crate::settings::{self, Shown, schema};
use crate::trace;

/// The version of these shapes.
const SHAPE: u32 = 1;

/// The answer to a question that was asked in JSON, if one was.
pub(crate) fn answer<D: Daemon>(args: &Args) -> Option<(String, Exit)> {
    let (text, exit) = if args.schema {
        (serde_json::to_string_pretty(&tables::<D>()), Exit::Ok)
    } else if args.json && (args.dump_config || args.check_config) {
        let values = values::<D>(args);
        let exit = if values.ok { Exit::Ok } else { Exit::Config };
        (serde_json::to_string_pretty(&values), exit)
    } else {
        return None;
    };
    let mut text = text.expect("texts, numbers and lists of them are JSON");
    text.push('\n');
    Some((text, exit))
}

fn tables<D: Daemon>() -> DaemonSchema {
    let mut settings = schema::<D>().describe();
    settings.extend(nexus_config::common().describe());
    DaemonSchema {
        schema: SHAPE,
        daemon: D::NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings,
    }
}

fn values<D: Daemon>(args: &Args) -> DaemonValues {
    let said = |mistakes: Vec<String>, settings| DaemonValues {
        schema: SHAPE,
        daemon: D::NAME.to_owned(),
        ok: mistakes.is_empty(),
        mistakes,
        settings,
    };
    let root = match Root::resolve(args.root.as_deref()) {
        Ok(root) => root,
        Err(error) => return said(vec![chain(&error)], Vec::new()),
    };
    let (own, common) = (schema::<D>(), nexus_config::common());
    let mut loaded = nexus_config::read(&[&own, &common], &sources(args, &root));
    let mut mistakes = loaded.mistakes.lines();
    let mut settings = Vec::new();
    if let (Some(common), Some(own)) = (loaded.settings.pop(), loaded.settings.pop()) {
        if args.dump_config {
            settings = own.effective();
            settings.extend(common.effective());
        }
        settings::plan::<D>(&root, Shown { common, own }, &mut mistakes);
    }
    mistakes.extend(trace::check().err());
    said(mistakes, settings)
}
