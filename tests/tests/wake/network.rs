//! The model daemon in a network of its own, which is taken away in the middle of an answer and given back.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nexus_tests::{Daemon, PATIENCE, Site, binary, skipped};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::kit::{QUICK, Question, events, length, log_of, logged, report};

/// A namespace with one way out, to this host; gone when dropped.
struct Net {
    name: String,
    third: u8,
}

fn ip(arguments: &str) -> Result<(), String> {
    let done = Command::new("ip").args(arguments.split(' ')).output();
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("ip: {error}")),
    }
}

impl Net {
    fn new() -> Result<Net, String> {
        let id = std::process::id();
        let net = Net {
            name: format!("nx{id}"),
            third: u8::try_from(id % 250).expect("below 250"),
        };
        let (name, third) = (&net.name, net.third);
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {name}h type veth peer name {name}n"))?;
        ip(&format!("link set {name}n netns {name}"))?;
        ip(&format!("addr add 10.203.{third}.1/24 dev {name}h"))?;
        ip(&format!("link set {name}h up"))?;
        ip(&format!("-n {name} addr add 10.203.{third}.2/24 dev {name}n"))?;
        ip(&format!("-n {name} link set lo up"))?;
        net.give().map(|()| net)
    }

    fn give(&self) -> Result<(), String> {
        let (name, third) = (&self.name, self.third);
        ip(&format!("-n {name} link set {name}n up"))?;
        ip(&format!("-n {name} route replace default via 10.203.{third}.1"))
    }

    /// Its routes go with it.
    fn take(&self) {
        ip(&format!("-n {} link set {}n down", self.name, self.name)).expect("it can be taken");
    }

    fn host(&self) -> String {
        format!("10.203.{}.1", self.third)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // Whatever of it there is; the other end goes with the namespace's.
        let _link = ip(&format!("link del {}h", self.name));
        let _space = ip(&format!("netns del {}", self.name));
    }
}

/// Speaks OpenAI's stream. The first call gets its head and then nothing; every further one an answer.
async fn provider(listener: TcpListener, asked: watch::Sender<usize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    while let Ok((stream, _)) = listener.accept().await {
        let (calls, asked) = (calls.clone(), asked.clone());
        tokio::spawn(async move {
            let _gone = speak(stream, &calls, &asked).await;
        });
    }
}

async fn speak(mut stream: TcpStream, calls: &AtomicUsize, asked: &watch::Sender<usize>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while !head.ends_with(b"}") {
        match stream.read(&mut chunk).await? {
            0 => return Ok(()),
            read => head.extend_from_slice(&chunk[..read]),
        }
    }
    let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
    let text = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    stream.write_all(text.as_bytes()).await?;
    asked.send_replace(call);
    if call == 1 {
        return std::future::pending().await;
    }
    let events = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"back again\"}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    stream.write_all(events.as_bytes()).await?;
    stream.shutdown().await
}

#[tokio::test]
async fn an_answer_under_way_outlives_a_network_that_goes_and_returns() {
    let test = "an_answer_under_way_outlives_a_network_that_goes_and_returns";
    if !nix::unistd::geteuid().is_root() {
        return skipped(test, "root, for a network namespace");
    }
    let net = match Net::new() {
        Ok(net) => net,
        Err(error) => return skipped(test, &format!("network namespaces and veth: {error}")),
    };
    let listener = TcpListener::bind((net.host(), 0)).await.expect("the address is ours");
    let port = listener.local_addr().expect("it is bound").port();
    let (asked, mut calls) = watch::channel(0);
    let serving = tokio::spawn(provider(listener, asked));

    let settings = format!(
        "{QUICK}[llm]\nendpoints = {{ box = \"http://{}:{port}/v1\" }}\ndefault_provider = \"box\"\ndefault_model = \"m\"\n",
        net.host()
    );
    let mut site = Site::new().settings(&settings);
    for daemon in [Daemon::Orchestrator, Daemon::Llm] {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &net.name]).arg(binary(daemon.program()));
        site.dress(&mut inside, daemon);
        site.start_with(daemon, &mut inside);
        site.ready(daemon).await;
    }
    site.up(&[Daemon::Agent]).await;

    let connection = site.connect();
    let question = Question::ask(&connection, "hello out there").await;
    calls.wait_for(|calls| *calls == 1).await.expect("it lives");
    let log = log_of(&mut site, Daemon::Llm);
    let mark = length(&log);
    net.take();
    logged(&log, mark, "the network changed").await;
    let mark = length(&log);
    net.give().expect("it can be given back");
    let back = Instant::now();
    logged(&log, mark, "the network changed").await;
    report(&format!("the network's return was noticed {:?} after", back.elapsed()));
    assert_eq!(question.answered(&connection).await, "back again");
    let took = back.elapsed();
    report(&format!(
        "the answer under way came {took:?} after the network's return"
    ));
    assert!(took < Duration::from_secs(30), "{took:?}");
    let mut told = events(&connection, "system.network");
    for state in ["down", "up"] {
        let event = tokio::time::timeout(PATIENCE, told.next())
            .await
            .expect("both are told");
        assert_eq!(
            event.expect("events do not end").expect("events can be read").data["state"],
            state
        );
    }
    serving.abort();
}
