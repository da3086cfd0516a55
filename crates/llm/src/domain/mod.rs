//! What the model daemon decides: which provider answers, when to try again, what a budget allows. Plain data and
//! functions; nothing here waits, reads a clock or knows of gRPC or HTTP.

pub mod answer;
pub mod block;
pub mod breaker;
pub mod budget;
pub mod catalogue;
pub mod error;
pub mod failure;
pub mod history;
pub mod price;
pub mod request;
pub mod retry;
pub mod route;
pub mod statistics;
pub mod usage;
