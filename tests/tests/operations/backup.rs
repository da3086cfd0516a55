//! A backup that is taken while messages are written has every one that was acknowledged before it began.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use nexus_proto::orchestrator::v1::MessageRole;
use nexus_tests::{Daemon, PATIENCE, Site, ask};
use tokio::{sync::watch, time::timeout};

use crate::ends;

type Acknowledged = Arc<Mutex<BTreeMap<String, String>>>;

/// Stores messages one after the other until it is told to stop.
async fn write(
    site_dial: nexus_tests::Dial,
    session: String,
    acknowledged: Acknowledged,
    stop: watch::Receiver<bool>,
    count: watch::Sender<usize>,
) {
    let connection = site_dial.connection();
    let mut number = 0;
    while !*stop.borrow() {
        let (id, content) = (format!("m-{number}"), format!("the words of {number}"));
        let message = ask::message(&id, MessageRole::System, &content);
        let stored = ask::send(&connection, &session, message).await.unwrap();
        assert_eq!(stored, id);
        acknowledged.lock().unwrap().insert(id, content);
        number += 1;
        count.send_replace(number);
    }
}

async fn at_least(count: &mut watch::Receiver<usize>, number: usize) {
    timeout(PATIENCE, count.wait_for(|count| *count >= number))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn every_acknowledged_message_comes_back() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let session = ask::create(&site.connect(), "kept").await;
    let acknowledged = Acknowledged::default();
    let (stop, stopped) = watch::channel(false);
    let (counted, mut count) = watch::channel(0);
    let writer = tokio::spawn(write(
        site.dial(Daemon::Orchestrator),
        session.clone(),
        acknowledged.clone(),
        stopped,
        counted,
    ));
    at_least(&mut count, 50).await;

    let file = site.folder().path().join("backup.tar.gz");
    let file = file.to_str().unwrap();
    let before = acknowledged.lock().unwrap().clone();
    ends(&site, &["backup", "create", "--output", file], 0).await;
    let during = acknowledged.lock().unwrap().len();
    at_least(&mut count, during + 20).await;
    stop.send_replace(true);
    writer.await.unwrap();
    assert!(
        acknowledged.lock().unwrap().len() > before.len(),
        "nothing was written beside the backup"
    );

    let (said, _) = ends(&site, &["backup", "verify", file, "--json"], 0).await;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let files = said["manifest"]["files"].as_array().unwrap();
    assert!(
        files
            .iter()
            .any(|file| file["path"] == "state/db/orchestrator.db" && file["database"].is_object())
    );

    let (_, refused) = ends(&site, &["backup", "restore", file, "--force"], 1).await;
    assert!(
        refused.contains("while daemons run: orchestrator") && refused.contains("nexus down"),
        "{refused}"
    );
    site.stopped(Daemon::Orchestrator).await;
    let (_, refused) = ends(&site, &["backup", "restore", file], 1).await;
    assert!(
        refused.contains("not empty") && refused.contains("--force"),
        "{refused}"
    );
    let (said, _) = ends(&site, &["backup", "restore", file, "--force", "--json"], 0).await;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let aside = std::path::PathBuf::from(said["aside"][0].as_str().unwrap());
    assert!(aside.join("db/orchestrator.db").is_file(), "the old state is kept");

    site.up(&[Daemon::Orchestrator]).await;
    let restored = ask::messages(&site.connect(), &session).await;
    ask::in_order(&restored);
    let found: BTreeMap<String, String> = restored.into_iter().map(|one| (one.id, one.content)).collect();
    for (id, content) in &before {
        assert_eq!(
            found.get(id),
            Some(content),
            "{id} was acknowledged before the backup began"
        );
    }
    let all = acknowledged.lock().unwrap().clone();
    assert!(
        found.iter().all(|(id, content)| all.get(id) == Some(content)),
        "nothing that was never said"
    );
    // It goes on where it is.
    let next = ask::message("after", MessageRole::System, "and on");
    ask::send(&site.connect(), &session, next).await.unwrap();
    timeout(Duration::from_secs(30), site.stopped(Daemon::Orchestrator))
        .await
        .unwrap();
}
