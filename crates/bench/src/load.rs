//! A closed loop: so many callers, each with one call in flight, over so many connections.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tonic::{client::Grpc, transport::Channel};

use crate::wire::{Target, call, connect};

/// When a loop ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    Time(Duration),
    Calls(usize),
}

/// What one loop saw.
#[derive(Debug)]
pub struct Seen {
    pub elapsed: Duration,
    /// Nanoseconds of each call, sorted.
    latencies: Vec<u64>,
}

impl Seen {
    pub fn new(elapsed: Duration, mut latencies: Vec<u64>) -> Self {
        latencies.sort_unstable();
        Seen { elapsed, latencies }
    }

    pub fn calls(&self) -> usize {
        self.latencies.len()
    }

    /// Calls each second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds.
    pub fn quantile(&self, q: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies
            .get((last as f64 * q) as usize)
            .map_or(f64::NAN, |ns| *ns as f64 / 1e3)
    }
}

/// Open connections to one method.
#[derive(Debug)]
pub struct Pool {
    target: Target,
    connections: Vec<Channel>,
}

impl Pool {
    pub async fn open(target: Target, connections: usize) -> Result<Self> {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            open.push(connect(&target.socket).await?);
        }
        Ok(Pool {
            target,
            connections: open,
        })
    }

    /// Caller `i` sends `bodies[i]`, going round.
    pub async fn run(&self, bodies: &[Bytes], in_flight: usize, until: Until) -> Result<Seen> {
        ensure!(!bodies.is_empty(), "nothing to send");
        let begin = Instant::now();
        let callers: Vec<_> = (0..in_flight)
            .map(|i| {
                let mut grpc = Grpc::new(self.connections[i % self.connections.len()].clone());
                let (path, body) = (self.target.path.clone(), bodies[i % bodies.len()].clone());
                // What does not divide evenly goes to the first callers.
                let most = match until {
                    Until::Time(_) => usize::MAX,
                    Until::Calls(calls) => calls / in_flight + usize::from(i < calls % in_flight),
                };
                let end = match until {
                    Until::Time(time) => Some(begin + time),
                    Until::Calls(_) => None,
                };
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    let mut before = Instant::now();
                    while latencies.len() < most && end.is_none_or(|end| before < end) {
                        call(&mut grpc, &path, body.clone()).await?;
                        let now = Instant::now();
                        latencies.push(nanos(now - before));
                        before = now;
                    }
                    anyhow::Ok(latencies)
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for caller in callers {
            latencies.append(&mut caller.await.context("a caller panicked")??);
        }
        Ok(Seen::new(begin.elapsed(), latencies))
    }
}

pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
