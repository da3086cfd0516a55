//! Where something runs out: the disk, a reader's attention, the room for streams.

mod disk;

use std::collections::BTreeSet;

use disk::Disk;
use nexus_proto::orchestrator::v1::{
    CloseSessionRequest, CreateSessionRequest, Event, MessageRole, StreamMessageRequest, SubscribeEventsRequest,
    stream_message_request, stream_message_response,
};
use nexus_tests::{Daemon, Frame, PATIENCE, Site, Talk, ask, skipped};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant, timeout},
};
use tokio_stream::StreamExt;
use tonic::{Code, Status};

fn system(content: &str) -> nexus_proto::orchestrator::v1::Message {
    ask::message("", MessageRole::System, content)
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_what_grows_and_nothing_else() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "full").await;
    ask::send(&connection, &session, system("before")).await.unwrap();
    site.stopped(Daemon::Orchestrator).await;

    // No disk has this much room.
    site.set("NEXUS_ORCHESTRATOR__LOW_DISK", Some("1000000GiB"));
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let status = ask::refused(
        ask::send(&connection, &session, system("no")).await,
        Code::ResourceExhausted,
    );
    assert!(status.message().contains("free"), "{status:?}");
    let made = connection
        .orchestrator()
        .create_session(CreateSessionRequest::default())
        .await;
    ask::refused(made, Code::ResourceExhausted);
    assert_eq!(ask::messages(&connection, &session).await.len(), 1, "reads go on");
    // A stream says it in band and stays.
    let mut talk = Talk::open(&connection, &session, Some(0), false).await.unwrap();
    assert!(matches!(talk.next().await.unwrap(), Some(Frame::Message(_))));
    talk.message(system("no")).await;
    match talk.next().await.unwrap() {
        Some(Frame::Failed { error, .. }) => assert!(error.starts_with("RESOURCE_EXHAUSTED"), "{error}"),
        other => panic!("a refusal was due, not {other:?}"),
    }
    // What makes room is never refused.
    let close = CloseSessionRequest {
        session_id: session.clone(),
        reason: String::new(),
    };
    connection.orchestrator().close_session(close).await.unwrap();
    drop(talk);
    ask::delete(&connection, &session).await;
    site.stopped(Daemon::Orchestrator).await;

    site.set("NEXUS_ORCHESTRATOR__LOW_DISK", None);
    site.up(&[Daemon::Orchestrator]).await;
    ask::create(&site.connect(), "room again").await;
}

/// However many write at once, what is kept back stays free; it is logged once when it begins and once when it ends.
#[tokio::test]
async fn a_burst_of_writers_does_not_outrun_the_guard_of_the_disk() {
    const KEPT_BACK: u64 = 4 << 20;
    let mut site = Site::new();
    let disk = match Disk::small(site.folder().path()) {
        Ok(disk) => disk,
        Err(missing) => return skipped("a_burst_of_writers_does_not_outrun_the_guard_of_the_disk", &missing),
    };
    let database = disk.path().join("o.db");
    // What else lies on the disk.
    disk.take(4 << 20);
    site.set("NEXUS_ORCHESTRATOR__DATABASE", Some(database.to_str().unwrap()));
    site.set("NEXUS_ORCHESTRATOR__LOW_DISK", Some(&KEPT_BACK.to_string()));
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "burst").await;
    let mut writers = JoinSet::new();
    for _ in 0..64 {
        let (connection, session) = (site.connect(), session.clone());
        writers.spawn(async move {
            let words = "x".repeat(20_000);
            while ask::send(&connection, &session, system(&words)).await.is_ok() {}
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let free = disk.free_bytes();
    assert!(free >= KEPT_BACK, "{free} bytes are free, and {KEPT_BACK} should be");
    let log = site.root().log_dir().join("orchestrator.log");
    let told = |what: &str| std::fs::read_to_string(&log).unwrap_or_default().matches(what).count();
    let begin = Instant::now();
    while told("too little room on the disk") == 0 {
        assert!(begin.elapsed() < PATIENCE, "it is not told");
        let _refused_or_small = ask::send(&connection, &session, system("no")).await;
    }
    disk.free();
    while ask::send(&connection, &session, system("yes")).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "there is room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while told("enough room on the disk again") == 0 {
        assert!(begin.elapsed() < PATIENCE, "it is not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told("too little room on the disk"), 1);
    assert_eq!(told("enough room on the disk again"), 1);
    site.stopped(Daemon::Orchestrator).await;
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    let mut site = Site::new();
    let disk = match Disk::small(site.folder().path()) {
        Ok(disk) => disk,
        Err(missing) => return skipped("a_full_disk_loses_nothing_and_goes_on_when_there_is_room", &missing),
    };
    site.set(
        "NEXUS_ORCHESTRATOR__DATABASE",
        Some(disk.path().join("o.db").to_str().unwrap()),
    );
    site.set("NEXUS_ORCHESTRATOR__LOW_DISK", Some("0"));
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "full").await;
    let mut talk = Talk::open(&connection, &session, None, false)
        .await
        .expect("a stream opens");
    let words = "x".repeat(20_000);
    let mut kept = Vec::new();
    for round in 0..3 {
        ask::send(&connection, &session, system(&format!("round {round}")))
            .await
            .unwrap();
        kept.push(format!("round {round}"));
        disk.fill();
        let mut refusal = None;
        for number in 0..1000 {
            let content = format!("{round}/{number} {words}");
            match ask::send(&connection, &session, system(&content)).await {
                Ok(_) => kept.push(content),
                Err(status) => {
                    refusal = Some(status);
                    break;
                }
            }
        }
        let refusal = refusal.expect("a full disk takes nothing");
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        let there = ask::messages(&connection, &session).await;
        ask::in_order(&there);
        assert!(
            there.iter().map(|message| &message.content).eq(&kept),
            "reads go on, and show what is kept"
        );
        disk.free();
    }
    // The same process took it all, and the stream saw it all.
    ask::send(&connection, &session, system("room again")).await.unwrap();
    kept.push("room again".into());
    for content in &kept {
        match talk.next().await.unwrap() {
            Some(Frame::Message(message)) => assert_eq!(message.content, *content),
            other => panic!("a message was due, not {other:?}"),
        }
    }
    // Killed while it is full, everything acknowledged is there.
    disk.fill();
    while ask::send(&connection, &session, system("last")).await.is_ok() {
        kept.push("last".into());
    }
    site.kill(Daemon::Orchestrator);
    disk.free();
    site.up(&[Daemon::Orchestrator]).await;
    let there = ask::messages(&site.connect(), &session).await;
    ask::in_order(&there);
    assert!(there.iter().map(|message| &message.content).eq(&kept));
    ask::send(&site.connect(), &session, system("goes on")).await.unwrap();
    site.stopped(Daemon::Orchestrator).await;
}

const EVENTS: usize = 20_000;

#[tokio::test]
async fn a_reader_that_does_not_read_harms_nobody_and_loses_nothing() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "flood").await;
    let aside = ask::create(&connection, "aside").await;

    let mut slow_talk = Talk::open(&site.connect(), &session, Some(0), false).await.unwrap();
    let all = SubscribeEventsRequest {
        filter: None,
        after_sequence: Some(0),
    };
    let mut slow_log = site
        .connect()
        .orchestrator()
        .subscribe_events(all.clone())
        .await
        .unwrap()
        .into_inner();
    let mut quick_log = site
        .connect()
        .orchestrator()
        .subscribe_events(all)
        .await
        .unwrap()
        .into_inner();
    let quick = tokio::spawn(async move {
        let mut found = BTreeSet::new();
        while found.len() < EVENTS {
            let event: Event = quick_log.message().await.unwrap().expect("it goes on");
            assert_eq!(event.gap, None, "it keeps up");
            if event.name == "message.sent" {
                found.insert(event.sequence);
            }
        }
        found
    });

    let name = session.clone();
    let frames = (0..EVENTS).map(move |number| StreamMessageRequest {
        session_id: name.clone(),
        acks: true,
        payload: Some(stream_message_request::Payload::Message(system(&format!(
            "{number} {}",
            "y".repeat(300)
        )))),
        ..StreamMessageRequest::default()
    });
    let mut writer = connection
        .orchestrator()
        .stream_messages(tokio_stream::iter(frames))
        .await
        .unwrap()
        .into_inner();
    let flood = async {
        let mut acks = 0;
        while acks < EVENTS {
            let frame = timeout(PATIENCE, writer.next())
                .await
                .expect("the flood flows")
                .expect("it goes on")
                .unwrap();
            match frame.payload {
                Some(stream_message_response::Payload::Event(event)) if event.data.contains_key("ack") => acks += 1,
                other => panic!("only acknowledgements are due, not {other:?}"),
            }
        }
    };
    // Meanwhile others are served.
    let others = async {
        let connection = site.connect();
        for number in 0..50 {
            ask::send(&connection, &aside, system(&number.to_string()))
                .await
                .unwrap();
            assert_eq!(ask::messages(&connection, &aside).await.len(), number + 1);
        }
    };
    tokio::join!(flood, others);
    let mut there = timeout(PATIENCE, quick)
        .await
        .expect("a reader that reads keeps up")
        .unwrap();

    // Only now do the slow ones read.
    for number in 0..EVENTS {
        match slow_talk.next().await.unwrap() {
            Some(Frame::Message(message)) => {
                assert_eq!(message.sequence, number as u64 + 1);
                assert!(message.content.starts_with(&format!("{number} ")));
            }
            other => panic!("message {number} was due, not {other:?}"),
        }
    }
    while !there.is_empty() {
        let event = timeout(PATIENCE, slow_log.message())
            .await
            .expect("it goes on")
            .unwrap()
            .expect("it goes on");
        if let Some(gap) = event.gap {
            there.retain(|sequence| !(gap.first..=gap.last).contains(sequence));
        } else {
            there.remove(&event.sequence);
        }
    }
}

const STREAMS: usize = 1000;
const SESSIONS: usize = 20;

#[tokio::test]
async fn a_thousand_idle_streams_cost_nobody_anything_and_do_not_hold_a_stop() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connections: Vec<_> = (0..4).map(|_| site.connect()).collect();
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        sessions.push(ask::create(&connections[0], &number.to_string()).await);
    }
    let mut talks = Vec::new();
    for number in 0..STREAMS {
        let connection = &connections[number % connections.len()];
        talks.push(
            Talk::open(connection, &sessions[number % SESSIONS], None, false)
                .await
                .unwrap(),
        );
    }
    // Each hears what is said in its session, and nothing else.
    for talk in &talks {
        talk.heartbeat().await;
    }
    for talk in &mut talks {
        assert_eq!(talk.next().await.expect("the stream goes on"), Some(Frame::Heartbeat));
    }
    for session in &sessions {
        ask::send(&site.connect(), session, system(session)).await.unwrap();
    }
    for (number, talk) in talks.iter_mut().enumerate() {
        match talk.next().await.unwrap() {
            Some(Frame::Message(message)) => assert_eq!(message.content, sessions[number % SESSIONS]),
            other => panic!("a message was due, not {other:?}"),
        }
    }

    let mut ends = JoinSet::new();
    for mut talk in talks {
        ends.spawn(async move { talk.end().await });
    }
    let begun = Instant::now();
    site.stopped(Daemon::Orchestrator).await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "within its budget, not after {:?}",
        begun.elapsed()
    );
    while let Some(end) = ends.join_next().await {
        let status: Status = end.unwrap().expect_err("a stop is no good end for a stream");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
}

/// Streams that come and go; each connection carries so many of them.
const MANY: usize = 20_000;
const EACH: usize = 500;

/// Memory of a process that is its own, in kB.
fn anonymous(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process runs");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let line = line.expect("the kernel counts anonymous memory");
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number of kB")
}

/// Opens streams, waits until each is heard, and closes them. Returns the memory while all were open.
async fn come_and_go(site: &Site, session: &str, streams: usize) -> u64 {
    let mut opening = JoinSet::new();
    for _ in 0..streams / EACH {
        let (connection, session) = (site.connect(), session.to_owned());
        opening.spawn(async move {
            let mut talks = Vec::new();
            for _ in 0..EACH {
                let mut talk = Talk::open(&connection, &session, None, false)
                    .await
                    .expect("a stream opens");
                talk.heartbeat().await;
                assert_eq!(talk.next().await.expect("the stream goes on"), Some(Frame::Heartbeat));
                talks.push(talk);
            }
            talks
        });
    }
    let open = opening.join_all().await;
    let peak = anonymous(site.pid(Daemon::Orchestrator));
    drop(open);
    peak
}

/// Attack: a caller opens 20,000 streams and leaves, and the daemon stays as large as it was with them.
#[tokio::test]
async fn the_memory_of_many_closed_streams_is_given_back() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let session = ask::create(&site.connect(), "many").await;
    let pid = site.pid(Daemon::Orchestrator);
    come_and_go(&site, &session, 2 * EACH).await;
    let before = anonymous(pid);
    let peak = come_and_go(&site, &session, MANY).await;
    assert!(peak > before, "{before} {peak}");
    let bound = before + (peak - before) / 5;
    let begun = Instant::now();
    while anonymous(pid) > bound {
        let now = anonymous(pid);
        assert!(
            begun.elapsed() < PATIENCE,
            "{before} kB before, {peak} with them, {now} after"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
