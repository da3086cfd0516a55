//! A host that sleeps, daemons that are frozen, clocks that are set and a network that goes away: everyone notices,
//! dials again, and the conversation goes on. Recovery times are printed past the test harness.

mod freeze;
mod kit;
mod logind;
mod network;
mod slept;
