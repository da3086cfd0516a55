//! Where the output of a sandbox goes: to its log, or collected in one file.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::PollFlags;

use crate::spec::Run;

use super::collect::Collector;
use super::logs::Logs;
use super::step::{Result, failed};

pub enum Output {
    Log(Logs),
    Collected(Box<Collector>, bool),
}

impl Output {
    pub fn open(dir: &Path, run: &Run) -> Result<Output> {
        Ok(match &run.collect {
            Some(collect) => Output::Collected(Box::new(Collector::open(dir, collect)?), collect.tty.is_some()),
            None => Output::Log(Logs::open(dir, run.log_bytes)?),
        })
    }

    /// In the child.
    pub fn become_output(&mut self) -> Result<()> {
        match self {
            Output::Log(logs) => logs.become_output(),
            Output::Collected(collector, _) => collector.become_output(),
        }
    }

    /// In the monitor.
    pub fn keep_reading(&mut self) {
        match self {
            Output::Log(logs) => logs.keep_reading(),
            Output::Collected(collector, _) => collector.keep_reading(),
        }
    }

    pub fn wants_terminal(&self) -> bool {
        matches!(self, Output::Collected(_, true))
    }

    pub fn terminal(&mut self, master: OwnedFd) -> Result<()> {
        match self {
            Output::Collected(collector, _) => collector.terminal(master),
            Output::Log(_) => Err(failed("terminal", "a log has none", "")),
        }
    }

    /// What is waited for.
    pub fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        match self {
            Output::Log(logs) => logs.readers().into_iter().map(|fd| (fd, PollFlags::IN)).collect(),
            Output::Collected(collector, _) => collector.polled(),
        }
    }

    /// `told` stands for [`Output::polled`], in order.
    pub fn pump(&mut self, told: &[PollFlags]) {
        match self {
            Output::Log(logs) => {
                let ready: Vec<bool> = told.iter().map(|told| !told.is_empty()).collect();
                logs.pump(&ready);
            }
            Output::Collected(collector, _) => {
                let gone = PollFlags::ERR | PollFlags::HUP;
                let polled = collector.polled();
                let mut pairs = polled.iter().zip(told);
                let hung_up = pairs.any(|((fd, _), told)| collector.is_stdin(*fd) && told.intersects(gone));
                drop(polled);
                if hung_up {
                    collector.hung_up();
                }
                collector.pump();
            }
        }
    }

    /// Everybody who wrote is gone.
    pub fn finish(&mut self) {
        match self {
            Output::Log(logs) => logs.drain(),
            Output::Collected(collector, _) => collector.finish(),
        }
    }
}
