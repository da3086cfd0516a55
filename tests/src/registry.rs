//! A registry of the tests' own: Debian's, on loopback, with one login. Only where that is packaged for: Linux.

#![cfg(target_os = "linux")]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flate2::{Compression, write::GzEncoder};
use nexus_runtime::Credentials;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::OciImageManifest;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};

use crate::{PATIENCE, Process, engines::which};

const USER: &str = "nexus";
const PASSWORD: &str = "open sesame";
/// The password as its file has it: bcrypt is all that the registry takes.
const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy";

#[derive(Debug)]
pub struct Registry {
    address: String,
    process: Process,
    _directory: tempfile::TempDir,
}

/// What was pushed, as it is asked for.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub reference: String,
    /// With the digest in place of the tag.
    pub by_digest: String,
}

impl Registry {
    /// One that wants to know who asks, or what is missing for that.
    pub fn start() -> Result<Registry, String> {
        let program =
            which("docker-registry").ok_or("needs docker-registry; tests/engines/setup.sh installs it".to_owned())?;
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = format!("127.0.0.1:{}", free.expect("a port is free").port());
        let path = |name: &str| directory.path().join(name);
        let logins = path("logins");
        std::fs::write(&logins, format!("{USER}:{HASH}\n")).expect("the directory is ours");
        let settings = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: \"{address}\"}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}}}\n\
             auth: {{htpasswd: {{realm: tests, path: \"{}\"}}}}\n",
            path("data").display(),
            logins.display()
        );
        std::fs::write(path("settings.yml"), settings).expect("the directory is ours");
        let mut command = Command::new(program);
        command.arg("serve").arg(path("settings.yml"));
        let mut process = Process::spawn(&mut command, &path("log")).expect("the registry can be executed");
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(&address).is_err() {
            let over = process.ended().is_some() || Instant::now() > until;
            assert!(!over, "the registry did not start:\n{}", process.tail(20));
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Registry {
            address,
            process,
            _directory: directory,
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The one login that it knows.
    pub fn login(&self) -> Credentials {
        Credentials {
            username: USER.into(),
            password: PASSWORD.into(),
        }
    }

    /// As `docker login` would leave it.
    pub fn login_file(&self) -> String {
        // Of `nexus:open sesame`.
        format!(
            r#"{{"auths": {{"{}": {{"auth": "bmV4dXM6b3BlbiBzZXNhbWU="}}}}}}"#,
            self.address
        )
    }

    /// An image of one layer, whose environment says which `VERSION` it is.
    pub async fn push(&self, name: &str, root: &Path, version: &str) -> Pushed {
        let root = std::fs::read(root).expect("the root is there");
        let says = digest(&root);
        self.push_as(name, root, &says, version).await
    }

    /// One whose config says another digest of its layer than that has: nobody may take it.
    pub async fn push_forged(&self, name: &str, root: &Path) -> Pushed {
        let root = std::fs::read(root).expect("the root is there");
        self.push_as(name, root, &digest(b"something else"), "forged").await
    }

    async fn push_as(&self, name: &str, root: Vec<u8>, says: &str, version: &str) -> Pushed {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&root).expect("memory takes it");
        let packed = packed.finish().expect("memory takes it");
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Entrypoint": ["/bin/sh", "-c"],
                "Cmd": ["echo version $VERSION in $(pwd)"],
                "Env": [format!("VERSION={version}"), "PATH=/bin"],
                "WorkingDir": "/home",
            },
            "rootfs": { "type": "layers", "diff_ids": [says] },
        });
        let config = Config::oci_v1(config.to_string().into_bytes(), None);
        let layers = [ImageLayer::oci_v1_gzip(packed, None)];
        let mut manifest = OciImageManifest::build(&layers, &config, None);
        // Docker before 23 does not guess it.
        manifest.media_type = Some("application/vnd.oci.image.manifest.v1+json".into());
        let reference = format!("{}/{name}", self.address);
        let named: Reference = reference.parse().expect("it is a name");
        let auth = RegistryAuth::Basic(USER.into(), PASSWORD.into());
        let client = client();
        let pushed = client.push(&named, &layers, config, &auth, Some(manifest)).await;
        pushed.unwrap_or_else(|error| panic!("{error}\n{}", self.process.tail(20)));
        let digest = client.fetch_manifest_digest(&named, &auth).await;
        let digest = digest.expect("it was pushed just now");
        Pushed {
            by_digest: format!("{}/{}@{digest}", self.address, named.repository()),
            reference,
        }
    }
}

fn client() -> Client {
    let _another_was_first = rustls::crypto::ring::default_provider().install_default();
    Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
