//! Makes one call as whoever runs it and prints how it ended: `CODE message`. For tests with a second user.
//!
//! `nexus-tests-call SOCKET PATH [HEX]`, with the token in `NEXUS_TOKEN` if there is one.

use std::env;

use anyhow::{Context, Result};
use nexus_client::{Address, Connection, Options};
use nexus_tests::raw;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let socket = args.next().context("the socket is missing")?;
    let path = args.next().context("the path is missing")?;
    let body = bytes(&args.next().unwrap_or_default())?;
    let options = Options {
        token: env::var("NEXUS_TOKEN").ok(),
        ..Options::default()
    };
    let connection = Connection::lazy(&Address::Unix(socket.into()), &options);
    let call = raw::Call::message(&body).deadline(std::time::Duration::from_secs(2));
    let answer = raw::call(&connection, &path, call).await;
    println!("{:?} {}", answer.code(), answer.status.message());
    for message in answer.messages {
        println!("{}", hex::encode(message));
    }
    Ok(())
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    hex::decode(hex).context("the body is not hex")
}
