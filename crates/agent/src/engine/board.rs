//! The status of this agent, shared with everything that reports it.

use std::{sync::Arc, time::SystemTime};

use nexus_daemon::Health;
use parking_lot::Mutex;

/// The part of our health that is the stream to the orchestrator.
pub const PART: &str = "orchestrator";

#[derive(Clone, Debug)]
pub struct Figures {
    pub agent_id: Option<String>,
    pub connected: bool,
    pub active: usize,
    pub waiting: usize,
    pub started_at: SystemTime,
}

#[derive(Clone)]
pub struct Board {
    figures: Arc<Mutex<Figures>>,
    health: Health,
}

impl Board {
    pub fn new(health: Health) -> Self {
        Board {
            figures: Arc::new(Mutex::new(Figures {
                agent_id: None,
                connected: false,
                active: 0,
                waiting: 0,
                started_at: SystemTime::now(),
            })),
            health,
        }
    }

    pub fn figures(&self) -> Figures {
        self.figures.lock().clone()
    }

    /// The degraded parts, each with its reason.
    pub fn degraded(&self) -> Vec<(String, String)> {
        self.health.degraded()
    }

    pub fn registered(&self, agent_id: &str) {
        self.figures.lock().agent_id = Some(agent_id.to_owned());
    }

    pub fn connected(&self) {
        self.figures.lock().connected = true;
        self.health.degrade(PART, None);
    }

    pub fn disconnected(&self, reason: &str) {
        {
            let mut figures = self.figures.lock();
            figures.connected = false;
            figures.active = 0;
            figures.waiting = 0;
        }
        self.health.degrade(PART, Some(reason.to_owned()));
    }

    pub fn turns(&self, active: usize, waiting: usize) {
        let mut figures = self.figures.lock();
        figures.active = active;
        figures.waiting = waiting;
    }
}
