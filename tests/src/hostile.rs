//! A registry that answers whatever a test wants it to: endless, broken off, leading elsewhere. It speaks HTTP/1.1 on
//! loopback, from threads of its own, and closes each connection after its answer.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// What it answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With this status, more headers (each ended by CR LF), and a body.
    Whole(u16, String, Vec<u8>),
    /// Promises so many bytes, sends these, and closes the connection.
    Broken(usize, Vec<u8>),
    /// A body that never ends.
    Endless,
}

/// One that runs until the test ends.
#[derive(Debug)]
pub struct Hostile {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hostile {
    /// `answers` is given the head of each request, in lower case, and how many came before it.
    pub fn start(answers: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let hostile = Hostile {
            address: listener.local_addr().expect("it was bound"),
            asked: Arc::default(),
        };
        let asked = Arc::clone(&hostile.asked);
        let answers = Arc::new(answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
                std::thread::spawn(move || {
                    let Some(head) = head(&stream) else { return };
                    let count = {
                        let mut asked = asked.lock().expect("no test panics while it holds this");
                        asked.push(head.clone());
                        asked.len() - 1
                    };
                    // Whoever asked may have gone.
                    let _gone = reply(&stream, answers(&head, count));
                });
            }
        });
        hostile
    }

    /// One that has images, and answers some requests otherwise.
    pub fn with(
        content: Content,
        otherwise: impl Fn(&str, usize) -> Option<Answer> + Send + Sync + 'static,
    ) -> Hostile {
        Hostile::start(move |head, count| otherwise(head, count).unwrap_or_else(|| content.reply_to(head)))
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The heads of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test panics while it holds this").clone()
    }
}

fn head(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head.to_lowercase())
}

fn reply(mut stream: &TcpStream, answer: Answer) -> std::io::Result<()> {
    match answer {
        Answer::Whole(status, headers, body) => {
            let length = body.len();
            let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body)
        }
        Answer::Broken(length, bytes) => {
            let head = format!("HTTP/1.1 200 x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.write_all(&bytes)
        }
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 x\r\nconnection: close\r\n\r\n")?;
            let piece = [b' '; 64 << 10];
            loop {
                stream.write_all(&piece)?;
            }
        }
    }
}

/// Manifests and blobs by their paths.
#[derive(Clone, Debug, Default)]
pub struct Content {
    files: BTreeMap<String, Vec<u8>>,
}

impl Content {
    /// What a registry that just has it answers.
    pub fn reply_to(&self, head: &str) -> Answer {
        let path = head.split(' ').nth(1).unwrap_or_default();
        match self.files.get(path) {
            Some(bytes) => Answer::Whole(200, String::new(), bytes.clone()),
            None => Answer::Whole(404, String::new(), Vec::new()),
        }
    }

    /// A blob of this repository; returns its digest.
    pub fn blob(&mut self, repository: &str, bytes: Vec<u8>) -> String {
        let digest = digest(&bytes);
        self.files.insert(format!("/v2/{repository}/blobs/{digest}"), bytes);
        digest
    }

    /// A manifest or an index of this repository under its digest and a tag; returns its digest.
    pub fn document(&mut self, repository: &str, tag: &str, document: &serde_json::Value) -> String {
        let bytes = document.to_string().into_bytes();
        let digest = digest(&bytes);
        for name in [tag, &digest] {
            let path = format!("/v2/{repository}/manifests/{name}");
            self.files.insert(path, bytes.clone());
        }
        digest
    }

    /// An image of gzip layers, each with the digest of what it unpacks to; returns the digest of its manifest.
    pub fn image(&mut self, repository: &str, architecture: &str, layers: &[(Vec<u8>, String)]) -> String {
        let diff_ids: Vec<&String> = layers.iter().map(|(_, diff_id)| diff_id).collect();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let config_size = config.len();
        let config = self.blob(repository, config);
        let layers: Vec<_> = layers
            .iter()
            .map(|(bytes, _)| {
                let digest = self.blob(repository, bytes.clone());
                serde_json::json!({ "digest": digest, "size": bytes.len(),
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip" })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "digest": config, "size": config_size,
                "mediaType": "application/vnd.oci.image.config.v1+json" },
            "layers": layers,
        });
        self.document(repository, architecture, &manifest)
    }
}

/// A tar archive as a gzip layer, with the digest of the archive.
pub fn layer(archive: &[u8]) -> (Vec<u8>, String) {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(archive).expect("memory takes it");
    (packed.finish().expect("memory takes it"), digest(archive))
}

/// A tar archive of plain files.
pub fn archive<'a>(files: impl IntoIterator<Item = (String, &'a [u8])>) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        let mut head = [0; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[100..107].copy_from_slice(b"0000755");
        head[108..115].copy_from_slice(b"0000000");
        head[116..123].copy_from_slice(b"0000000");
        head[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        head[136..147].copy_from_slice(b"00000000000");
        head[148..156].copy_from_slice(b"        ");
        head[156] = b'0';
        head[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&head);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// `sha256:...` of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// As images name the architecture of this machine.
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}
