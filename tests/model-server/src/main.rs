//! `nexus-model-server [SCRIPTS.json]`: prints its port, then one line of JSON for each request; ends with its standard
//! input. Scripts are an object of model names, each with its turns (see `script.rs`).

use std::{collections::BTreeMap, env, fs, io, time::Duration};

use nexus_model_server::{Script, Server};
use serde_json::json;
use tokio::io::AsyncReadExt;

/// Between two looks at what was asked.
const LOOK: Duration = Duration::from_millis(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let scripts: BTreeMap<String, Script> = match env::args_os().nth(1) {
        Some(path) => serde_json::from_slice(&fs::read(path)?)?,
        None => BTreeMap::from([("echo".to_owned(), Script::says("Hello."))]),
    };
    let server = Server::start(scripts).await?;
    println!("{}", server.port());
    let began = std::time::Instant::now();
    let mut told = 0;
    let mut input = tokio::io::stdin();
    let mut byte = [0];
    loop {
        tokio::select! {
            read = input.read(&mut byte) => if read? == 0 { return Ok(()) },
            () = tokio::time::sleep(LOOK) => {}
        }
        for one in server.recorded_after(told) {
            let ms = one.at.duration_since(began).as_millis() as u64;
            println!(
                "{}",
                json!({"ms": ms, "model": one.model, "refused": one.refused, "body": one.body})
            );
            told += 1;
        }
    }
}
