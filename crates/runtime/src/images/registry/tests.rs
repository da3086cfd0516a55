//! A registry that is hostile, or just breaks off.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::address::{Kind, Reach};
use super::{Client, Failure, ProgressReport};
use crate::images::document::Descriptor;
use crate::images::{layers, name};

/// What a server writes; the connection ends with it.
enum Answer {
    Whole(String),
    /// This again and again after the head.
    Endless(String),
}

fn answer(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Whole(format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"
    ))
}

/// A server that answers each request by its first line and headers, and what it was asked.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    sent: Arc<AtomicUsize>,
}

async fn serve(address: &str, answers: impl Fn(&str, usize) -> Answer + Send + 'static) -> Server {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        asked: Arc::default(),
        sent: Arc::default(),
    };
    let (asked, sent) = (Arc::clone(&server.asked), Arc::clone(&server.sent));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let count = asked.lock().len();
            asked.lock().push(head.clone());
            match answers(&head, count) {
                Answer::Whole(text) => {
                    sent.fetch_add(text.len(), Ordering::Relaxed);
                    let _gone = stream.write_all(text.as_bytes()).await;
                }
                Answer::Endless(head) => {
                    let _gone = stream.write_all(head.as_bytes()).await;
                    let piece = [b' '; 64 << 10];
                    while stream.write_all(&piece).await.is_ok() {
                        sent.fetch_add(piece.len(), Ordering::Relaxed);
                    }
                }
            }
        }
    });
    server
}

/// A client of this server that takes it for one at a public address: what it may lead to follows from that alone.
fn public(server: &Server) -> Client {
    let reach = Reach {
        host: server.address.ip().to_string(),
        own: vec![server.address.ip()],
        kind: Kind::Public,
        plain: true,
        proxies: Default::default(),
    };
    let named = name::parse(&format!("{}/tool:1", server.address)).unwrap();
    let origin = super::origin(&server.address.to_string()).unwrap();
    Client::within(reach, origin, &named, None).unwrap()
}

fn told() -> ProgressReport<'static> {
    ProgressReport {
        progress: None,
        what: String::new(),
        total: 0,
    }
}

async fn fetched(client: &Client, content: &str) -> Result<String, Failure> {
    let blob = Descriptor {
        digest: layers::digest(content.as_bytes()),
        size: content.len() as u64,
        ..Descriptor::default()
    };
    let mut file: File = tempfile::tempfile().unwrap();
    client.blob(&blob, &file, &told()).await?;
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    Ok(text)
}

/// A registry sends whoever fetches a manifest, a layer or a token to a service on loopback: by its address, by a name, and
/// where a token is to be had.
#[tokio::test]
async fn nobody_is_led_to_loopback() {
    let secret = serve("127.0.0.2", |_, _| answer("200 OK", "", "secret")).await;
    let port = secret.address.port();
    for to in [
        format!("http://127.0.0.2:{port}/x"),
        format!("http://localhost:{port}/x"),
        format!("https://127.0.0.2:{port}/x"),
        format!("//127.0.0.2:{port}/x"),
        format!("http://0x7f000002:{port}/x"),
        format!("http://[::ffff:127.0.0.2]:{port}/x"),
    ] {
        let location = format!("location: {to}\r\n");
        let registry = serve("127.0.0.3", move |_, _| answer("307 Temporary Redirect", &location, "")).await;
        let client = public(&registry);
        for failed in [
            client.document("1").await.map(drop).unwrap_err(),
            fetched(&client, "layer").await.map(drop).unwrap_err(),
        ] {
            assert!(
                matches!(&failed, Failure::Final(why) if why.contains("leads to")),
                "{to}: {failed:?}"
            );
        }
        let realm = format!("www-authenticate: Bearer realm=\"{to}\",service=\"s\"\r\n");
        let registry = serve("127.0.0.3", move |_, _| answer("401 Unauthorized", &realm, "")).await;
        let failed = public(&registry).document("1").await.map(drop).unwrap_err();
        let refused = matches!(&failed, Failure::Final(why) if why.contains("leads to") || why.contains("login"));
        assert!(refused, "{to}: {failed:?}");
    }
    assert_eq!(*secret.asked.lock(), Vec::<String>::new(), "nobody asked it anything");
    let circle = serve("127.0.0.3", |_, _| {
        answer("307 Temporary Redirect", "location: /again\r\n", "")
    })
    .await;
    let failed = public(&circle).document("1").await.map(drop).unwrap_err();
    assert!(
        matches!(&failed, Failure::Final(why) if why.contains("more than 5 times")),
        "{failed:?}"
    );
}

/// A registry answers without end: a manifest, a token, an error. Each is read within its bound.
#[tokio::test]
async fn bodies_without_end_are_refused() {
    let head = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\r\n");
    let registry = serve("127.0.0.1", move |_, _| Answer::Endless(head("200 OK"))).await;
    let failed = public(&registry).document("1").await.map(drop).unwrap_err();
    assert!(
        matches!(&failed, Failure::Final(why) if why.contains("4194304")),
        "{failed:?}"
    );
    // What lies in the buffers of both sockets is not read.
    let sent = registry.sent.load(Ordering::Relaxed);
    assert!(sent < 24 << 20, "{sent} bytes were sent");

    let head = move |status: &str| format!("HTTP/1.1 {status}\r\n\r\n");
    let registry = serve("127.0.0.1", move |_, _| Answer::Endless(head("404 Not Found"))).await;
    let failed = public(&registry).document("1").await.map(drop).unwrap_err();
    assert!(matches!(failed, Failure::Unknown(_)), "{failed:?}");
    assert!(registry.sent.load(Ordering::Relaxed) < 24 << 20);

    let address = Arc::new(Mutex::new(String::new()));
    let own = Arc::clone(&address);
    let registry = serve("127.0.0.1", move |asked, _| match asked.contains("/token") {
        true => Answer::Endless("HTTP/1.1 200 OK\r\n\r\n".into()),
        false => {
            let realm = format!("www-authenticate: Bearer realm=\"http://{}/token\"\r\n", own.lock());
            answer("401 Unauthorized", &realm, "")
        }
    })
    .await;
    *address.lock() = registry.address.to_string();
    let failed = public(&registry).document("1").await.map(drop).unwrap_err();
    assert!(
        matches!(&failed, Failure::Final(why) if why.contains("262144")),
        "{failed:?}"
    );

    // More than the manifest says of a layer.
    let registry = serve("127.0.0.1", |_, _| Answer::Endless("HTTP/1.1 200 OK\r\n\r\n".into())).await;
    let failed = fetched(&public(&registry), "short").await.unwrap_err();
    assert!(
        matches!(&failed, Failure::Final(why) if why.contains("larger than")),
        "{failed:?}"
    );
}

/// A registry hides what it wants to be shown in the bodies of its errors.
#[tokio::test]
async fn an_error_tells_no_foreign_words() {
    let body =
        r#"{"errors":[{"code":"DENIED","message":"\u001b[2J visit evil.example","detail":"x"},{"code":"EVIL WORDS"}]}"#;
    let registry = serve("127.0.0.1", move |_, _| answer("403 Forbidden", "", body)).await;
    let Failure::Final(why) = public(&registry).document("1").await.map(drop).unwrap_err() else {
        panic!("it is no use to ask again")
    };
    assert!(why.contains("403") && why.contains("DENIED"), "{why}");
    assert!(
        !why.contains("evil") && !why.contains("EVIL") && !why.contains('\u{1b}'),
        "{why}"
    );
}

/// A blob breaks off, and the registry fails once: the rest is asked for from where it broke off.
#[tokio::test]
async fn a_blob_that_breaks_off_is_resumed() {
    let content: String = (0..2_000).map(|n| format!("{n} ")).collect();
    let (half, length) = (content.len() / 2, content.len());
    let whole = content.clone();
    let registry = serve("127.0.0.1", move |asked, count| match count {
        0 => answer("503 Service Unavailable", "", "busy"),
        1 => Answer::Whole(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{}",
            &whole[..half]
        )),
        _ if asked.contains(&format!("range: bytes={half}-\r\n")) => {
            let range = format!("content-range: bytes {half}-{}/{length}\r\n", length - 1);
            answer("206 Partial Content", &range, &whole[half..])
        }
        _ => answer("400 Bad Request", "", ""),
    })
    .await;
    assert_eq!(fetched(&public(&registry), &content).await.unwrap(), content);
    assert_eq!(registry.asked.lock().len(), 3);

    // One that knows no ranges gives it from the start again.
    let whole = content.clone();
    let registry = serve("127.0.0.1", move |_, count| match count {
        0 => Answer::Whole(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{}",
            &whole[..half]
        )),
        _ => answer("200 OK", "", &whole),
    })
    .await;
    assert_eq!(fetched(&public(&registry), &content).await.unwrap(), content);

    // One that resumes with other bytes is found out by the digest.
    let whole = content.clone();
    let registry = serve("127.0.0.1", move |_, count| match count {
        0 => Answer::Whole(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{}",
            &whole[..half]
        )),
        _ => {
            let range = format!("content-range: bytes {half}-{}/{length}\r\n", length - 1);
            answer("206 Partial Content", &range, &"x".repeat(length - half))
        }
    })
    .await;
    let failed = fetched(&public(&registry), &content).await.unwrap_err();
    assert!(
        matches!(&failed, Failure::Final(why) if why.contains("digest")),
        "{failed:?}"
    );
}

#[tokio::test]
async fn what_stays_broken_ends_with_its_reason() {
    let registry = serve("127.0.0.1", |_, _| answer("500 Internal Server Error", "", "")).await;
    let started = std::time::Instant::now();
    let failed = fetched(&public(&registry), "content").await.unwrap_err();
    assert!(
        matches!(&failed, Failure::Passing(why) if why.contains("500") && why.contains("5 tries")),
        "{failed:?}"
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
    assert_eq!(registry.asked.lock().len(), 5);
}

/// A registry asks for a password, and sends on whoever has it: the password goes nowhere else.
#[tokio::test]
async fn a_password_is_for_its_registry_only() {
    let other = serve("127.0.0.1", |_, _| answer("200 OK", "", "content")).await;
    let to = format!("location: http://{}/blob\r\n", other.address);
    let registry = serve("127.0.0.1", move |asked, _| {
        match asked.contains("authorization: basic ") {
            true => answer("307 Temporary Redirect", &to, ""),
            false => answer("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", ""),
        }
    })
    .await;
    let named = name::parse(&format!("{}/tool:1", registry.address)).unwrap();
    let login = crate::Credentials {
        username: "user".into(),
        password: "password".into(),
    };
    let client = Client::open(&named, Some(&login)).await.unwrap();
    assert_eq!(fetched(&client, "content").await.unwrap(), "content");
    assert_eq!(registry.asked.lock().len(), 2);
    let asked = other.asked.lock();
    assert!(asked.len() == 1 && !asked[0].contains("authorization"), "{asked:?}");
}
