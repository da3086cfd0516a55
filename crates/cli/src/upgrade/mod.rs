//! `nexus upgrade`: installs another version of all programs, and rolls back automatically if it does not become ready.
//!
//! ```text
//!   unpack ──▶ check ──▶ backup ──▶ switch ──▶ restart ──▶ finish
//!      └─────────┴──────────┘          └──────────┴──▶ return: the version before, restarted
//!        undone: nothing had changed
//! ```
//!
//! Each step is in the journal before it is taken ([`journal`]), so that one who finds it after a kill knows whether to
//! undo it or to go on. Until `switch` nothing that anybody uses has changed. It downloads nothing, and it never touches
//! what the daemons keep but for the backup that it makes: a version that needs other tables makes them itself when it
//! starts, and only such as the version before can work with ([`stores`]).

mod args;
mod check;
mod gate;
mod journal;
pub mod layout;
mod list;
mod release;
mod stores;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

pub use args::UpgradeArgs;
pub use list::look as unfinished;
use serde_json::{Value, json};

use self::{
    gate::{Gate, Trouble},
    journal::{Journal, Step},
    layout::Layout,
    release::About,
};
use crate::{
    backup::{self, progress, staging},
    commands,
    context::Context,
    failure::{Exit, Failure},
    output::Output,
};

pub async fn run(context: &Context, args: &UpgradeArgs, output: &Output) -> Result<Exit, Failure> {
    if args.stores {
        return stores::show(context, output).await.map(|()| Exit::Ok);
    }
    let layout = Layout::find(args.prefix.as_deref())?;
    if args.list {
        return list::show(&layout, output);
    }
    context.local()?;
    check::beforehand()?;
    let _lock = layout.lock()?;
    let found = Journal::read(&layout)?;
    let resumed = found.is_some();
    if let Some(journal) = found {
        if args.dry_run {
            return Err(list::told(&journal));
        }
        let mut work = Work::new(context, &layout, output, journal);
        let end = work.resume().await?;
        let over = args.source.is_none() && !args.rollback;
        if over || !matches!(end, End::Upgraded | End::Undone) {
            return work.report(&end).await;
        }
    }
    let current = layout.current().unwrap_or_default();
    let what = match (&args.source, args.rollback) {
        (Some(source), false) => Source::Release(source.clone()),
        (None, true) => Source::Version(layout.previous().filter(|previous| *previous != current).ok_or_else(
            || Failure::new(Exit::NotFound, "there is no version to go back to").hint("see: nexus upgrade --list"),
        )?),
        _ if resumed => return Ok(Exit::Ok),
        _ => {
            return Err(
                Failure::usage("to what? name a release: nexus-VERSION-TARGET.tar.gz, or a folder")
                    .hint("see: nexus upgrade --help"),
            );
        }
    };
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let journal = Journal::new(
        &current,
        context.root.path().to_path_buf(),
        usize::from(args.keep),
        (ms(args.wait), ms(args.stay)),
    );
    let mut work = Work::new(context, &layout, output, journal);
    let end = match work.prepare(what, args).await {
        Ok(None) => work.carry().await?,
        Ok(Some(end)) => {
            work.undo()?;
            end
        }
        Err(failure) => {
            work.undo()?;
            return Err(failure);
        }
    };
    work.report(&end).await
}

/// What to upgrade to.
enum Source {
    Release(PathBuf),
    /// One that is installed.
    Version(String),
}

/// How it ended.
enum End {
    Upgraded,
    /// It is the current version already.
    Current,
    /// It would have worked, as far as can be known.
    Planned,
    /// One that was cut off while it prepared.
    Undone,
    Returned(Trouble),
    /// Not even the version before works as it did.
    Stuck(Trouble, Trouble),
}

struct Work<'a> {
    context: &'a Context,
    layout: &'a Layout,
    output: &'a Output,
    journal: Journal,
    begin: Instant,
    /// Each step, and when it began.
    steps: Vec<(String, Instant)>,
    removed: Vec<String>,
}

impl<'a> Work<'a> {
    fn new(context: &'a Context, layout: &'a Layout, output: &'a Output, journal: Journal) -> Work<'a> {
        Work {
            context,
            layout,
            output,
            journal,
            begin: Instant::now(),
            steps: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Says where we are: to the next one first, then to whoever watches.
    fn step(&mut self, step: Step, words: &str) -> Result<(), Failure> {
        self.journal.step = step;
        self.journal.write(self.layout)?;
        self.steps.push((self.journal.word(), Instant::now()));
        self.output.note(words);
        Ok(())
    }

    /// Everything up to the switch; an end if it is over before.
    async fn prepare(&mut self, what: Source, args: &UpgradeArgs) -> Result<Option<End>, Failure> {
        let (about, folder) = match what {
            Source::Release(source) => self.unpack(source, args.sha256.as_deref()).await?,
            Source::Version(version) => {
                let folder = self.layout.folder(&version);
                (release::about(&folder)?, folder)
            }
        };
        self.journal.to = about.version.clone();
        if about.version == self.journal.from {
            return Ok(Some(End::Current));
        }
        let target = self.layout.folder(&about.version);
        if folder != target && target.exists() && !same(&folder, &target) {
            let said = format!("another nexus {} is installed already, with other files", about.version);
            return Err(
                Failure::new(Exit::Refused, said).hint(format!("if it is not needed, remove {}", target.display()))
            );
        }
        let save = !args.no_backup && self.context.root.state().is_dir();
        self.step(Step::Check, &format!("checking nexus {} ...", about.version))?;
        let from = self.layout.folder(&self.journal.from);
        check::all(self.context, &about, &folder, &from, save).await?;
        let seen = gate::look(&self.layout.program(&self.journal.from), self.context).await?;
        self.journal.services = gate::wanted(&seen);
        if args.dry_run {
            return Ok(Some(End::Planned));
        }
        self.journal.fresh = !target.exists();
        self.step(Step::Backup, "saving the state ...")?;
        if self.journal.fresh {
            fs::rename(&folder, &target).map_err(|error| Failure::file("install", &target, &error))?;
        }
        if save {
            let name = format!(
                "nexus-before-{}-{}.tar.gz",
                about.version,
                backup::stamp(SystemTime::now())
            );
            let file = backup::directory(self.context.root.path()).join(name);
            commands::backup::take(self.context, file.clone(), false, self.output).await?;
            self.journal.backup = Some(file);
        }
        Ok(None)
    }

    async fn unpack(&mut self, source: PathBuf, sha256: Option<&str>) -> Result<(About, PathBuf), Failure> {
        let sum = match source.is_file() {
            true => Some(release::expected(&source, sha256)?),
            false => None,
        };
        self.step(Step::Unpack, &format!("unpacking {} ...", source.display()))?;
        let layout = self.layout.clone();
        progress::run(self.output, move |progress| {
            release::stage(&source, sum.as_deref(), &|name| layout.unfinished(name), progress)
        })
        .await
    }

    /// The switch, and what follows.
    async fn carry(&mut self) -> Result<End, Failure> {
        let (from, to) = (self.journal.from.clone(), self.journal.to.clone());
        match self.take(&from, &to, Step::Switch, Step::Restart).await? {
            None => self.finish(),
            Some(trouble) => self.go_back(trouble).await,
        }
    }

    /// One version takes the other's place; what does not work then comes back.
    async fn take(&mut self, from: &str, to: &str, switch: Step, restart: Step) -> Result<Option<Trouble>, Failure> {
        self.step(switch, &format!("switching from {from} to {to} ..."))?;
        self.layout.switch("current", to)?;
        for path in self.layout.link(from, to)? {
            self.output
                .warn(&format!("{} is not ours, and stays as it is", path.display()));
        }
        self.step(restart, &format!("handing over to {to} ..."))?;
        let program = self.layout.program(to);
        if let Err(failure) = gate::hand_over(self.context, &program).await {
            return Ok(Some(Trouble {
                service: "supervisor".to_owned(),
                why: failure.message,
                log: Vec::new(),
            }));
        }
        let gate = Gate {
            context: self.context,
            program: &program,
            version: to.split('+').next().unwrap_or_default(),
            before: &self.journal.services,
            wait: Duration::from_millis(self.journal.wait_ms),
            // What ran before needs no trial.
            stay: match restart {
                Step::Return => Duration::ZERO,
                _ => Duration::from_millis(self.journal.stay_ms),
            },
        };
        Ok(gate.pass(self.output).await.err())
    }

    fn finish(&mut self) -> Result<End, Failure> {
        self.step(Step::Finish, "all is as it was; clearing up ...")?;
        self.layout.switch("previous", &self.journal.from)?;
        Journal::remove(self.layout)?;
        self.removed = self.layout.prune(self.journal.keep);
        Ok(End::Upgraded)
    }

    async fn go_back(&mut self, trouble: Trouble) -> Result<End, Failure> {
        let (from, to) = (self.journal.from.clone(), self.journal.to.clone());
        let why = format!("{} {}", trouble.service, trouble.why);
        self.output.note(&format!("{why}; going back to {from}"));
        self.journal.why = Some(why);
        if let Some(other) = self.take(&to, &from, Step::Return, Step::Return).await? {
            return Ok(End::Stuck(trouble, other));
        }
        if self.journal.fresh {
            // The next try may bring the same version, mended. What stays is pruned some time.
            let _stays = staging::remove(&self.layout.folder(&to));
        }
        Journal::remove(self.layout)?;
        Ok(End::Returned(trouble))
    }

    /// What one that was cut off had left to do.
    async fn resume(&mut self) -> Result<End, Failure> {
        let journal = &self.journal;
        if journal.root != self.context.root.path() {
            let root = journal.root.display();
            return Err(Failure::new(Exit::Refused, format!("an upgrade of {root} was cut off"))
                .hint(format!("finish that one first: nexus --root {root} upgrade")));
        }
        let (from, to) = (journal.from.clone(), journal.to.clone());
        let said = format!("an upgrade from {from} to {to}, begun {}, was cut off", journal.began);
        match journal.step {
            Step::Unpack | Step::Check | Step::Backup => {
                self.output
                    .note("an upgrade was cut off while it prepared; nothing had changed, and it is undone");
                self.undo()?;
                Ok(End::Undone)
            }
            Step::Switch | Step::Restart => {
                self.output.note(&format!("{said}; going on with it"));
                self.carry().await
            }
            Step::Finish => self.finish(),
            Step::Return => {
                self.output.note(&format!("{said} on its way back; going on with that"));
                let why = self.journal.why.clone().unwrap_or_default();
                let (service, why) = why.split_once(' ').unwrap_or(("nexus", "did not work"));
                let trouble = Trouble {
                    service: service.to_owned(),
                    why: why.to_owned(),
                    log: Vec::new(),
                };
                self.go_back(trouble).await
            }
        }
    }

    /// Before the switch nothing counts yet.
    fn undo(&mut self) -> Result<(), Failure> {
        self.layout.sweep();
        let to = &self.journal.to;
        if self.journal.fresh && !to.is_empty() && self.layout.current().as_ref() != Some(to) {
            let _stays = staging::remove(&self.layout.folder(to));
        }
        if self.journal.step == Step::Backup {
            // What stays is told by the doctor, and swept later.
            let _stays = backup::sweep(self.context.root.path());
        }
        Journal::remove(self.layout)
    }

    async fn report(&self, end: &End) -> Result<Exit, Failure> {
        let (from, to) = (&self.journal.from, &self.journal.to);
        let exit = match end {
            End::Upgraded | End::Current | End::Planned | End::Undone => Exit::Ok,
            End::Returned(_) => Exit::Returned,
            End::Stuck(..) => Exit::Stuck,
        };
        if self.output.json {
            self.output.value(&self.json(end).await)?;
            return Ok(exit);
        }
        let took = format!("{:.1} s", self.begin.elapsed().as_secs_f64());
        match end {
            End::Current => self.output.line(format!("nexus {to} is what is installed already"))?,
            End::Undone => self.output.line("undone; nothing had changed")?,
            End::Planned => {
                let services: Vec<&str> = self.journal.services.iter().map(|one| one.id.as_str()).collect();
                let services = if services.is_empty() {
                    "nothing runs that would be restarted".to_owned()
                } else {
                    format!("would be restarted: {}", services.join(", "))
                };
                self.output.line(format!(
                    "nexus {to} would run here, in place of {from}\n{services}\nnothing was changed"
                ))?;
            }
            End::Upgraded => {
                self.output.line(format!("nexus {to} in place of {from}, in {took}"))?;
                if self.journal.services.is_empty() {
                    self.output.note("nothing ran; start everything with: nexus up");
                }
                if let Some(file) = &self.journal.backup {
                    self.output
                        .note(&format!("the state as it was before: {}", file.display()));
                }
                for version in &self.removed {
                    self.output.note(&format!("removed {version}"));
                }
                self.output
                    .note("to roll back to the previous version: nexus upgrade --rollback");
            }
            End::Returned(trouble) => {
                self.tell(trouble);
                return Err(Failure::new(
                    Exit::Returned,
                    format!(
                        "nexus {to} did not work: {} {}; {from} is back, and serves",
                        trouble.service, trouble.why
                    ),
                ));
            }
            End::Stuck(trouble, other) => {
                self.tell(other);
                return Err(Failure::new(
                    Exit::Stuck,
                    format!(
                        "nexus {to} did not work ({} {}), and {from}, which is back, does not either: {} {}",
                        trouble.service, trouble.why, other.service, other.why
                    ),
                )
                .hint("see: nexus services status; nexus upgrade tries to go back once more"));
            }
        }
        Ok(exit)
    }

    fn tell(&self, trouble: &Trouble) {
        for line in &trouble.log {
            self.output.note(&format!("  | {}", crate::output::clean(line)));
        }
    }

    async fn json(&self, end: &End) -> Value {
        let (outcome, trouble) = match end {
            End::Upgraded => ("upgraded", None),
            End::Current => ("current", None),
            End::Planned => ("planned", None),
            End::Undone => ("undone", None),
            End::Returned(trouble) => ("returned", Some(trouble)),
            End::Stuck(_, other) => ("stuck", Some(other)),
        };
        let ends = self
            .steps
            .iter()
            .skip(1)
            .map(|(_, begin)| *begin)
            .chain([Instant::now()]);
        let steps: Vec<Value> = self
            .steps
            .iter()
            .zip(ends)
            .map(|((step, begin), end)| json!({ "step": step, "ms": (end - *begin).as_millis() }))
            .collect();
        let current = self.layout.current().unwrap_or_default();
        // Who cannot tell how the services are has said so above.
        let seen = gate::look(&self.layout.program(&current), self.context)
            .await
            .unwrap_or_default();
        let services: Vec<Value> = seen
            .iter()
            .map(|one| json!({ "id": one.id, "state": one.state, "pid": one.pid, "version": one.version }))
            .collect();
        let trouble = trouble.map(|it| json!({ "service": it.service, "why": it.why, "log": it.log }));
        json!({
            "schema": 1, "outcome": outcome, "from": self.journal.from, "to": self.journal.to, "current": current,
            "backup": self.journal.backup, "before": self.journal.services, "services": services, "steps": steps,
            "removed": self.removed, "trouble": trouble,
        })
    }
}

fn same(one: &Path, other: &Path) -> bool {
    let sums = |folder: &Path| fs::read(folder.join(release::SUMS)).ok();
    sums(one).is_some() && sums(one) == sums(other)
}
