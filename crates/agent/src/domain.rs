//! What the two roles decide. Nothing here waits, speaks to anyone, or looks at a clock.

pub mod assistant;
pub mod worker;
