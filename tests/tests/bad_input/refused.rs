//! Calls with a message that can be read and says the wrong thing, and the code each has to be refused with.

use std::{fmt::Debug, time::Duration};

use nexus_client::Connection;
use nexus_tests::raw;
use prost::Message;
use tonic::{Code, Status};

/// One service, asked.
pub struct Asked<'a> {
    pub connection: &'a Connection,
    pub service: &'static str,
}

impl Asked<'_> {
    pub async fn refused(&self, call: &str, message: impl Message + Debug, code: Code) -> Status {
        let path = format!("/{}/{call}", self.service);
        let call = raw::Call::message(&message.encode_to_vec()).deadline(Duration::from_secs(5));
        let answer = raw::call(self.connection, &path, call).await;
        assert_eq!(answer.code(), code, "{path} {message:?}: {:?}", answer.status);
        assert!(
            answer.reason.is_some(),
            "{path} {message:?} has no reason: {:?}",
            answer.status
        );
        answer.status
    }
}

/// An id that nothing has.
pub const NOBODY: &str = "00000000000000000000000000000000";
