//! Speaks to a registry of images: the two calls of the OCI distribution specification that fetch an image.
//!
//! ```text
//!  Client::open(name) ─▶ document(digest or tag)   a manifest or an index, in memory
//!                     └▶ blob(descriptor, file)    a config or a layer, on disk, resumed where it broke off
//!        each: reach ─▶ login ─▶ redirects one by one, each judged ─▶ a body read within its bound
//! ```
//!
//! No library does it: `oci-client` 0.18 reads manifests, tokens and the bodies of errors whole, whatever their size,
//! follows redirects and servers for tokens wherever they lead, and does not resume a blob.

mod address;
mod auth;
mod blob;
mod body;
mod failure;

use std::sync::Arc;
use std::time::Duration;

use oci_spec::distribution::Reference;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE};
use reqwest::{RequestBuilder, Response, StatusCode, Url, redirect};

use self::address::{Guard, Kind, Reach};
use self::auth::Challenge;
pub use self::blob::ProgressReport;
pub use self::failure::Failure;
use super::layers;
use crate::Credentials;

const CONNECT: Duration = Duration::from_secs(15);
/// Longest without a byte.
const SILENCE: Duration = Duration::from_secs(60);
/// The largest manifest or index, in bytes; registries take no larger ones.
const MAX_DOCUMENT: u64 = 4 << 20;
/// How often one request may be sent elsewhere.
const MAX_REDIRECTS: u32 = 5;
/// Pauses before a request is tried again.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// What a manifest or an index may be.
const DOCUMENTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";

/// One repository of a registry.
pub struct Client {
    http: reqwest::Client,
    reach: Arc<Reach>,
    /// Where the registry is: scheme, host and port.
    origin: Url,
    repository: String,
    login: Option<Credentials>,
    /// How the registry wants to be told who asks, once it said so.
    entry: Mutex<Option<Entry>>,
}

#[derive(Clone)]
enum Entry {
    Password,
    Token(HeaderValue),
}

/// A manifest or an index, and what it hashes to.
pub struct Document {
    pub bytes: Vec<u8>,
    pub digest: String,
}

impl Client {
    /// Makes itself ready to ask the registry of this name; asks nothing yet.
    pub async fn open(name: &Reference, login: Option<&Credentials>) -> Result<Client, Failure> {
        let origin = origin(name.resolve_registry())?;
        let reach = Reach::of(&origin).await;
        Client::within(reach, origin, name, login)
    }

    fn within(reach: Reach, origin: Url, name: &Reference, login: Option<&Credentials>) -> Result<Client, Failure> {
        // Someone else in this process may have chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let reach = Arc::new(reach);
        let mut http = reqwest::Client::builder()
            .user_agent("nexus")
            .redirect(redirect::Policy::none())
            .dns_resolver(Guard(Arc::clone(&reach)))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // A body is counted as it comes, and hashed as it is stored.
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd();
        if origin.scheme() == "http" {
            http = http.no_proxy();
        }
        Ok(Client {
            http: http.build().map_err(Failure::from)?,
            reach,
            origin,
            repository: name.repository().to_owned(),
            login: login.cloned(),
            entry: Mutex::default(),
        })
    }

    /// A manifest or an index by its tag or digest. One that was asked for by its digest has that digest.
    pub async fn document(&self, which: &str) -> Result<Document, Failure> {
        let path = format!("manifests/{which}");
        let mut pauses = PAUSES.iter();
        let bytes = loop {
            match self.get(&path).await {
                Err(Failure::Passing(why)) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(Failure::Passing(why)),
                },
                done => break done?,
            }
        };
        let digest = layers::digest(&bytes);
        if which.contains(':') && which != digest {
            return Err(Failure::Final(format!(
                "the registry gave a manifest with digest {digest} for {which}"
            )));
        }
        Ok(Document { bytes, digest })
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let response = self.ask(path, |request| request.header(ACCEPT, DOCUMENTS)).await?;
        match response.status() {
            StatusCode::OK => body::read(response, MAX_DOCUMENT).await,
            _ => Err(failure::answered("the manifest", response).await),
        }
    }

    /// What the registry, or whom it leads to, answers in the end: anything but a redirect and the wish for a login that
    /// can be fulfilled.
    async fn ask(&self, path: &str, with: impl Fn(RequestBuilder) -> RequestBuilder) -> Result<Response, Failure> {
        let first = self
            .origin
            .join(&format!("v2/{}/{path}", self.repository))
            .map_err(|_| Failure::Final("the name of the image makes no URL".into()))?;
        let mut url = first.clone();
        let (mut entered, mut redirects) = (false, 0);
        loop {
            let own = url.origin() == self.origin.origin();
            let mut request = with(self.http.get(url.clone()));
            if own {
                request = self.entered(request);
            }
            let response = self.send(&url, request).await?;
            match response.status() {
                status if status.is_redirection() => {
                    redirects += 1;
                    url = self.redirected(&url, &response, redirects)?;
                }
                StatusCode::UNAUTHORIZED if own && !entered => {
                    entered = true;
                    self.enter(&response).await?;
                    url = first.clone();
                }
                _ => return Ok(response),
            }
        }
    }

    async fn send(&self, url: &Url, request: RequestBuilder) -> Result<Response, Failure> {
        self.reach.check(url)?;
        Ok(request.send().await?)
    }

    fn redirected(&self, from: &Url, response: &Response, count: u32) -> Result<Url, Failure> {
        if count > MAX_REDIRECTS {
            return Err(Failure::Final(format!(
                "the registry redirects more than {MAX_REDIRECTS} times"
            )));
        }
        let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
        to.and_then(|to| from.join(to).ok())
            .ok_or_else(|| Failure::Final("the registry redirects to an invalid URL".into()))
    }

    fn entered(&self, request: RequestBuilder) -> RequestBuilder {
        match (&*self.entry.lock(), &self.login) {
            (Some(Entry::Token(token)), _) => request.header(AUTHORIZATION, token.clone()),
            (Some(Entry::Password), Some(login)) => request.basic_auth(&login.username, Some(&login.password)),
            _ => request,
        }
    }

    /// Does what the registry asks of who wants in.
    async fn enter(&self, response: &Response) -> Result<(), Failure> {
        let entry = match auth::challenge(response.headers(), &self.repository)? {
            Challenge::Basic if self.login.is_some() => Entry::Password,
            Challenge::Basic => {
                return Err(Failure::Final(
                    "the registry wants a login, and there is none (docker login, podman login)".into(),
                ));
            }
            Challenge::Bearer(realm) => Entry::Token(self.token(realm).await?),
        };
        *self.entry.lock() = Some(entry);
        Ok(())
    }

    async fn token(&self, realm: Url) -> Result<HeaderValue, Failure> {
        let (mut url, mut redirects) = (realm.clone(), 0);
        loop {
            let mut request = self.http.get(url.clone());
            // The password is for the server that the registry named, and for nobody that one leads to.
            if let Some(login) = self.login.as_ref().filter(|_| url.origin() == realm.origin()) {
                request = request.basic_auth(&login.username, Some(&login.password));
            }
            let response = self.send(&url, request).await?;
            match response.status() {
                status if status.is_redirection() => {
                    redirects += 1;
                    url = self.redirected(&url, &response, redirects)?;
                }
                StatusCode::OK => return auth::bearer(&body::read(response, auth::MAX_TOKEN).await?),
                _ => return Err(failure::answered("a token", response).await),
            }
        }
    }

    /// The rest of a blob, from this byte on.
    async fn rest_of_blob(&self, digest: &str, from: u64) -> Result<Response, Failure> {
        let path = format!("blobs/{digest}");
        self.ask(&path, |request| match from {
            0 => request,
            from => request.header(RANGE, format!("bytes={from}-")),
        })
        .await
    }
}

/// Plain HTTP is for this host only.
fn origin(registry: &str) -> Result<Url, Failure> {
    let wrong = || Failure::Final(format!("{registry:?} is not the address of a registry"));
    let url: Url = format!("https://{registry}/").parse().map_err(|_| wrong())?;
    let host = url.host_str().ok_or_else(wrong)?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    if host == "localhost" || address.is_ok_and(|address| address::kind(address) == Kind::Loopback) {
        return format!("http://{registry}/").parse().map_err(|_| wrong());
    }
    Ok(url)
}

#[cfg(test)]
mod tests;
