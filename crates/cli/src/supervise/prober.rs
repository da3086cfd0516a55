//! Asks one process of a service, again and again, how it is; quickly until it is of use, then at its leisure.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use nexus_client::{Address, Connection, Kind, Options};
use nexus_daemon::StatusFile;
use tokio::{sync::mpsc, time};

use super::dispatcher::Input;
use crate::supervise::{
    ask::{self, DaemonReport},
    table::{Entry, Link},
};

/// Between two looks at one that is on its way: short at first, then longer and longer.
const FIRST: Duration = Duration::from_millis(2);
const QUICK: u32 = 100;

/// The result of one probe of a daemon.
#[derive(Clone, Debug)]
pub struct ProbeResult {
    pub said: Result<DaemonReport, String>,
    /// Why it is not ready although it serves.
    pub unlinked: Option<String>,
    /// Its socket file is gone: no new client can connect.
    pub absent: bool,
    /// Its status file.
    pub status_file: Option<StatusFile>,
    pub took: Duration,
}

impl ProbeResult {
    /// It is ready and nothing about it is about to change: a degraded daemon may recover the next moment.
    fn is_settled(&self) -> bool {
        let well = self.said.as_ref().is_ok_and(|said| said.serving && !said.is_degraded());
        let asking = self.status_file.as_ref().is_some_and(StatusFile::is_asking);
        well && !self.absent && self.unlinked.is_none() && !asking
    }
}

pub struct Prober {
    pub unit: usize,
    pub instance: u64,
    pub entry: &'static Entry,
    pub pid: i32,
    pub status_file: PathBuf,
    pub address: Address,
    pub orchestrator: Address,
    pub options: Options,
    pub interval: Duration,
    pub limit: Duration,
}

impl Prober {
    /// Until nobody listens.
    pub async fn run(self, heard: mpsc::Sender<Input>) {
        let options = Options {
            dial_timeout: self.limit,
            rpc_timeout: self.limit,
            ..self.options.clone()
        };
        let connection = Connection::lazy(&self.address, &options);
        let orchestrator = match self.entry.link {
            Link::Registered => Connection::lazy(&self.orchestrator, &options),
            Link::None | Link::Connected => connection.clone(),
        };
        let mut looks = 0;
        loop {
            let look = self.look(&connection, &orchestrator).await;
            let settled = look.is_settled();
            let message = Input::ProbeResult {
                unit: self.unit,
                instance: self.instance,
                look: Box::new(look),
            };
            if heard.send(message).await.is_err() {
                return;
            }
            looks = if settled { 0 } else { looks + 1 };
            let pause = match looks {
                0 => self.interval,
                looks if looks <= QUICK => FIRST,
                looks => (FIRST * 2_u32.saturating_pow((looks - QUICK).min(16))).min(self.interval),
            };
            time::sleep(pause).await;
        }
    }

    async fn look(&self, connection: &Connection, orchestrator: &Connection) -> ProbeResult {
        let begin = Instant::now();
        let said = match time::timeout(self.limit, ask::daemon(connection, self.entry.name)).await {
            Ok(Ok(said)) => Ok(said),
            // It answers, and does not want us: it lives.
            Ok(Err(error)) if matches!(error.kind, Kind::Denied | Kind::Unauthenticated) => Ok(DaemonReport {
                serving: true,
                health: None,
                version: String::new(),
                started_at: None,
                connected: true,
                waits: false,
            }),
            Ok(Err(error)) => Err(error.message),
            Err(_) => Err(format!(
                "did not answer within {}",
                humantime::format_duration(self.limit)
            )),
        };
        let took = begin.elapsed();
        let unlinked = match &said {
            Ok(said) if said.serving => ask::unlinked(self.entry.link, self.entry.name, said, orchestrator).await,
            _ => None,
        };
        let pid = self.pid.unsigned_abs();
        ProbeResult {
            said,
            unlinked,
            absent: matches!(&self.address, Address::Unix(path) if path.symlink_metadata().is_err()),
            status_file: StatusFile::of(pid, &self.status_file),
            took,
        }
    }
}
