//! Binds what a daemon listens on: an inherited socket, else its own Unix socket, and TCP if asked.
//!
//! The socket file is 0600 from the moment it exists: on Linux its mode is put on the socket before the bind, which the
//! kernel copies to the file. Two starters are kept apart by a lock on `<socket>.lock`, held while listening and removed
//! with the socket. Never removed: what is not a socket, not ours, or answers.

use std::{
    fs::DirBuilder,
    io::{self, ErrorKind},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{getsockopt, sockopt},
    unistd::{Gid, Group, geteuid},
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::{
    activation,
    daemon::chain,
    socket_file::{self, Lock, SocketFile},
    tls,
};

pub use nexus_config::MAX_SOCKET_PATH;
const BACKLOG: i32 = 1024;

/// Where a daemon listens.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// The path of its Unix socket.
    pub socket: PathBuf,
    /// 0o600 unless a group is to reach it.
    pub mode: u32,
    /// A group's name or number that the socket file is given to.
    pub group: Option<String>,
    /// TCP beside it.
    pub tcp: Option<SocketAddr>,
    /// Certificate chain and key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Loopback TCP without a token.
    pub allow_anonymous_loopback: bool,
}

/// Why a daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there already.
    #[error("{} is in use by {}; {hint}", path.display(), owner(*uid, *pid))]
    Taken {
        /// The user that listens.
        uid: Option<u32>,
        /// The process that listens.
        pid: Option<i32>,
        /// The path of the socket.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// Something else is at the path.
    #[error("{} exists and is not a socket; move it away or set another socket_path", path.display())]
    NotSocket {
        /// The path.
        path: PathBuf,
    },
    /// The file is another user's.
    #[error("{} belongs to uid {uid}, we are uid {}; set another socket_path", path.display(), geteuid())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// The user it belongs to.
        uid: u32,
    },
    /// The kernel takes no path of this length.
    #[error("socket path {} has {len} bytes, at most {max} fit; set a shorter socket_path, or a shorter NEXUS_ROOT", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
        /// The longest that fits, in bytes.
        max: usize,
    },
    /// The group does not exist.
    #[error("no group {0:?} on this host")]
    NoGroup(String),
    /// TCP beyond loopback without TLS.
    #[error("{0} is reachable from other hosts: set a TLS certificate and key, or use a loopback address")]
    Insecure(SocketAddr),
    /// Certificate or key cannot be used.
    #[error("failed to load the TLS certificate or key")]
    Tls(#[from] tls::TlsError),
    /// The socket that was passed in cannot be used.
    #[error("socket activation: {0}")]
    Activation(String),
    /// The system refused something.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file it was tried on.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TCP address cannot be bound.
    #[error("failed to listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn owner(uid: Option<u32>, pid: Option<i32>) -> String {
    match (uid, pid) {
        (Some(uid), Some(pid)) => format!("uid {uid}, pid {pid}"),
        (Some(uid), None) => format!("uid {uid}"),
        (None, Some(pid)) => format!("pid {pid}"),
        (None, None) => "another process".into(),
    }
}

/// Bound and listening; dropping it removes the socket file if it is still ours.
pub struct Listeners {
    pub(crate) unix: UnixListener,
    pub(crate) tcp: Option<Tcp>,
    path: PathBuf,
    mode: u32,
    group: Option<String>,
    file: File,
}

/// What stands at the path of the socket.
enum File {
    Own(SocketFile),
    /// Whoever made the socket removes its file, which at first was `id`.
    Inherited {
        id: Option<(u64, u64)>,
        /// What was said when it was gone.
        told: Option<String>,
    },
}

/// Whether clients find the socket at its path.
pub(crate) enum Restored {
    There,
    /// It was bound again. What connected to the old listener, which is this, is still to be accepted.
    Again(UnixListener),
    /// They do not, for this reason.
    Lost(String),
}

pub(crate) struct Tcp {
    pub listener: TcpListener,
    pub tls: Option<tokio_rustls::TlsAcceptor>,
    pub anonymous: bool,
}

impl Listeners {
    /// The path of the socket that is bound.
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// The TCP address as bound (port 0 resolved).
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.listener.local_addr().ok())
    }

    /// Binds the path of the socket again if its file is gone. Connections that are open stay open.
    pub(crate) fn restore(&mut self) -> Restored {
        let path = self.path.clone();
        if let File::Inherited { id, told } = &mut self.file {
            if id.is_none() || socket_file::id(&path) == *id {
                return Restored::There;
            }
            if told.is_none() {
                *told = activation::unit().map(|unit| unit.restart(&path));
            }
            if let Some(told) = told {
                return Restored::Lost(told.clone());
            }
        }
        let own = match &mut self.file {
            File::Own(file) if file.is_there() => return Restored::There,
            File::Own(file) => Some(file),
            // The supervisor passed it in, and binds the path again only when it starts us again.
            File::Inherited { .. } => None,
        };
        match rebind(&path, self.mode, self.group.as_deref(), own) {
            Ok((unix, file)) => {
                if let Some(file) = file {
                    self.file = File::Own(file);
                }
                Restored::Again(std::mem::replace(&mut self.unix, unix))
            }
            Err(error) => Restored::Lost(format!("{} is gone: {}", path.display(), chain(&error))),
        }
    }
}

/// Binds all of `options`, or nothing.
///
/// # Errors
/// See [`BindError`]; each names the path or address and what to change.
pub async fn bind(options: &ListenOptions) -> Result<Listeners, BindError> {
    let tcp = match options.tcp {
        Some(address) => Some(bind_tcp(address, options).await?),
        None => None,
    };
    if let Some((unix, path)) = inherited(options)? {
        return Ok(Listeners {
            unix,
            tcp,
            file: File::Inherited {
                id: socket_file::id(&path),
                told: None,
            },
            mode: options.mode,
            group: options.group.clone(),
            path,
        });
    }
    let (unix, file) = bind_unix(&options.socket, options.mode, options.group.as_deref())?;
    Ok(Listeners {
        unix,
        tcp,
        path: options.socket.clone(),
        mode: options.mode,
        group: options.group.clone(),
        file: File::Own(file),
    })
}

async fn bind_tcp(address: SocketAddr, options: &ListenOptions) -> Result<Tcp, BindError> {
    if !address.ip().is_loopback() && options.tls.is_none() {
        return Err(BindError::Insecure(address));
    }
    let tls = match &options.tls {
        Some((chain, key)) => Some(tls::acceptor(chain, key)?),
        None => None,
    };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| BindError::Tcp { address, source })?;
    let anonymous = options.allow_anonymous_loopback && address.ip().is_loopback();
    Ok(Tcp {
        listener,
        tls,
        anonymous,
    })
}

/// The socket systemd or launchd made for us, if one did.
fn inherited(options: &ListenOptions) -> Result<Option<(UnixListener, PathBuf)>, BindError> {
    let mut fds = listenfd::ListenFd::from_env();
    if fds.len() == 0 {
        return Ok(None);
    }
    if fds.len() > 1 {
        return Err(BindError::Activation(format!(
            "{} sockets passed in, this daemon takes one",
            fds.len()
        )));
    }
    let listener = fds
        .take_unix_listener(0)
        .map_err(|error| BindError::Activation(format!("the socket passed in is not a Unix stream socket: {error}")))?
        .ok_or_else(|| BindError::Activation("the socket passed in was taken already".into()))?;
    // What we start must not get it.
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|error| BindError::Activation(format!("the socket passed in cannot be kept to us: {error}")))?;
    let listens = getsockopt(&listener, sockopt::AcceptConn)
        .map_err(|error| BindError::Activation(format!("the socket passed in cannot be asked: {error}")))?;
    if !listens {
        return Err(BindError::Activation("the socket passed in does not listen".into()));
    }
    let address = listener
        .local_addr()
        .map_err(|error| BindError::Activation(error.to_string()))?;
    let path = address
        .as_pathname()
        .map_or_else(|| options.socket.clone(), Path::to_path_buf);
    if path != options.socket {
        tracing::warn!(passed = %path.display(), configured = %options.socket.display(), "the socket passed in is another than the configured one");
    }
    let unix = tokio_listener(listener, &path)?;
    Ok(Some((unix, path)))
}

fn tokio_listener(listener: std::os::unix::net::UnixListener, path: &Path) -> Result<UnixListener, BindError> {
    let at = |action| failed(action, path);
    listener.set_nonblocking(true).map_err(at("make nonblocking"))?;
    UnixListener::from_std(listener).map_err(at("listen on"))
}

/// A Unix socket that listens and is kept for the daemon that accepts on it, as systemd keeps one. Those who connect
/// while no daemon runs wait for the next one. Dropping it removes the socket file, if it is still ours.
pub struct Kept {
    listener: std::os::unix::net::UnixListener,
    file: SocketFile,
}

impl Kept {
    /// Binds by the rules of this module.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn bind(path: &Path, mode: u32, group: Option<&str>) -> Result<Kept, BindError> {
        let (listener, file) = bind_std(path, mode, group)?;
        Ok(Kept { listener, file })
    }

    /// Keeps a listener that exists already, and is the one at `path`.
    ///
    /// # Errors
    /// Somebody else has it, or its file is gone.
    pub fn of(listener: std::os::unix::net::UnixListener, path: &Path) -> Result<Kept, BindError> {
        let lock = Lock::take(path)?;
        let file = SocketFile::of(path, Some(lock))?;
        Ok(Kept { listener, file })
    }

    /// The listener itself.
    pub fn listener(&self) -> &std::os::unix::net::UnixListener {
        &self.listener
    }

    /// Whether its file still stands where clients look for it.
    pub fn is_there(&self) -> bool {
        self.file.is_there()
    }
}

/// Binds one Unix socket: see the module for the rules.
pub(crate) fn bind_unix(path: &Path, mode: u32, group: Option<&str>) -> Result<(UnixListener, SocketFile), BindError> {
    let (listener, file) = bind_std(path, mode, group)?;
    Ok((tokio_listener(listener, path)?, file))
}

/// Binds a path whose file is gone. `file` is the one we had: it becomes the new one, under the same lock if that is
/// still in its place. Without one, whoever passed us the socket holds the lock, and a file without a lock is returned.
fn rebind(
    path: &Path,
    mode: u32,
    group: Option<&str>,
    mut file: Option<&mut SocketFile>,
) -> Result<(UnixListener, Option<SocketFile>), BindError> {
    make_parent(path)?;
    if let Some(file) = &mut file {
        file.renew_lock()?;
    }
    clear_stale(path)?;
    let listener = tokio_listener(bind_locked(path, mode, group)?, path)?;
    match file {
        Some(file) => file.renew().map(|()| (listener, None)),
        None => Ok((listener, Some(SocketFile::of(path, None)?))),
    }
}

fn bind_std(
    path: &Path,
    mode: u32,
    group: Option<&str>,
) -> Result<(std::os::unix::net::UnixListener, SocketFile), BindError> {
    check_length(path)?;
    make_parent(path)?;
    let lock = Lock::take(path)?;
    clear_stale(path)?;
    let listener = bind_locked(path, mode, group)?;
    Ok((listener, SocketFile::of(path, Some(lock))?))
}

fn check_length(path: &Path) -> Result<(), BindError> {
    let len = path.as_os_str().len();
    if len > MAX_SOCKET_PATH {
        return Err(BindError::TooLong {
            path: path.into(),
            len,
            max: MAX_SOCKET_PATH,
        });
    }
    Ok(())
}

fn make_parent(path: &Path) -> Result<(), BindError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(failed("create", parent))?;
    }
    Ok(())
}

/// Binds and listens; the lock of the path is held, and nothing is at the path.
fn bind_locked(path: &Path, mode: u32, group: Option<&str>) -> Result<std::os::unix::net::UnixListener, BindError> {
    let group = group.map(find_group).transpose()?;
    let at = |action| failed(action, path);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(at("make a socket for"))?;
    let address = SockAddr::unix(path).map_err(at("name"))?;
    bind_private(&socket, &address).map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => taken(path, None, None),
        _ => failed("bind", path)(source),
    })?;
    if let Some(gid) = group {
        std::os::unix::fs::lchown(path, None, Some(gid.as_raw())).map_err(at("give the group"))?;
    }
    if mode != 0o600 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(at("set the mode of"))?;
    }
    socket.listen(BACKLOG).map_err(at("listen on"))?;
    Ok(socket.into())
}

#[cfg(target_os = "linux")]
fn bind_private(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    nix::sys::stat::fchmod(socket, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    socket.bind(address)
}

/// Elsewhere only the umask can do it; files that other threads make meanwhile come out stricter, never looser.
#[cfg(not(target_os = "linux"))]
fn bind_private(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = socket.bind(address);
    nix::sys::stat::umask(before);
    bound
}

fn find_group(name: &str) -> Result<Gid, BindError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) | Err(_) => Err(BindError::NoGroup(name.into())),
    }
}

/// Removes a socket file nobody answers on, if it is ours; anything else that is there is an error.
fn clear_stale(path: &Path) -> Result<(), BindError> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotSocket { path: path.into() });
    }
    match probe(path) {
        Ok((uid, pid)) => return Err(taken(path, uid.or(Some(found.uid())), pid)),
        // A full backlog means that somebody listens.
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(taken(path, Some(found.uid()), None)),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(BindError::NotOurs {
                path: path.into(),
                uid: found.uid(),
            });
        }
        Err(error) => return Err(failed("try", path)(error)),
    }
    if found.uid() != geteuid().as_raw() {
        return Err(BindError::NotOurs {
            path: path.into(),
            uid: found.uid(),
        });
    }
    std::fs::remove_file(path).map_err(failed("remove the stale", path))?;
    tracing::info!(socket = %path.display(), "removed a stale socket that no process listened on");
    Ok(())
}

/// Connects without waiting, and asks who listens there.
pub(crate) fn probe(path: &Path) -> io::Result<(Option<u32>, Option<i32>)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    #[cfg(target_os = "linux")]
    {
        let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
        Ok((Some(peer.uid()), (peer.pid() != 0).then_some(peer.pid())))
    }
    #[cfg(not(target_os = "linux"))]
    Ok((None, None))
}

pub(crate) fn taken(path: &Path, uid: Option<u32>, pid: Option<i32>) -> BindError {
    let hint = match uid {
        Some(uid) if uid != geteuid().as_raw() => "another user runs one here: set another socket_path in config.toml",
        _ => "stop that one (nexus down), or give this one another NEXUS_ROOT and another socket_path in config.toml",
    };
    BindError::Taken {
        uid,
        pid,
        path: path.into(),
        hint: hint.into(),
    }
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError + use<> {
    let path = path.to_path_buf();
    move |source| BindError::Io { action, path, source }
}
