//! What systemd knows of units, asked over D-Bus in one go: a process of `systemctl` takes longer to start, and asks for
//! everything there is.
//!
//! It goes to systemd's own socket, where no bus needs to run. A peer connection of `zbus` cannot be used there: systemd
//! names itself `org.freedesktop.systemd1` as the sender of its answers, and `zbus` takes no sender but a unique name
//! (`zbus_names::UniqueName`, which begins with a colon) or `org.freedesktop.DBus`, so it refuses each answer as it reads
//! the header. No report of this was found among those of `zbus` (z-galaxy/zbus); once it accepts a well-known name from
//! a peer, its connection takes the place of [`Line`]. Its messages and its coding are used here already.

use std::{
    collections::HashMap,
    env, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};
use zbus::{
    Message,
    zvariant::{self, OwnedObjectPath, OwnedValue, serialized},
};

use super::{Ended, State};
use crate::{
    failure::{Exit, Failure},
    units::Scope,
};

const ASK: Duration = Duration::from_secs(10);
const NAME: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: [(&str, &str); 9] = [
    (UNIT, "UnitFileState"),
    (UNIT, "StateChangeTimestamp"),
    (SERVICE, "MainPID"),
    (SERVICE, "NRestarts"),
    (SERVICE, "Result"),
    (SERVICE, "ExecMainCode"),
    (SERVICE, "ExecMainStatus"),
    (SERVICE, "ExecMainExitTimestamp"),
    (SERVICE, "WatchdogTimestamp"),
];
/// An answer of ours has a few hundred bytes.
const LARGEST: usize = 1 << 20;

/// Of `ListUnitsByNames`: name, description, load state, active state, sub state, what it follows, path, and its job.
type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// Each a pair of units, the service and its socket; `None` for a service that has no unit.
pub async fn states(scope: Scope, units: &[(String, String)]) -> Result<Vec<Option<State>>, Failure> {
    let failed = |why: String| {
        let hint = "is it there? systemctl status; without systemd: nexus up";
        Failure::new(Exit::Failed, format!("systemd cannot be asked: {why}")).hint(hint)
    };
    match timeout(ASK, ask(scope, units)).await {
        Ok(states) => states.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {ASK:?}"))),
    }
}

async fn ask(scope: Scope, units: &[(String, String)]) -> zbus::Result<Vec<Option<State>>> {
    let mut line = Line::open(scope).await?;
    let names: Vec<&str> = units
        .iter()
        .flat_map(|(service, socket)| [service.as_str(), socket.as_str()])
        .collect();
    let list = line.call("/org/freedesktop/systemd1", MANAGER, "ListUnitsByNames", &(names,))?;
    let listed: Vec<Listed> = line.answers(&[list]).await?.remove(0).read()?;
    let find = |name: &String| listed.iter().find(|unit| unit.0 == *name);

    let known = |service: &String| find(service).filter(|unit| unit.2 == "loaded");
    let mut calls = Vec::new();
    for unit in units.iter().filter_map(|(service, _)| known(service)) {
        for (interface, name) in PROPERTIES {
            let body = (interface, name);
            calls.push(line.call(unit.6.as_str(), "org.freedesktop.DBus.Properties", "Get", &body)?);
        }
    }
    let mut values = line.answers(&calls).await?.into_iter();
    let states = units.iter().map(|(service, socket)| {
        let Some(unit) = known(service) else { return Ok(None) };
        let socket = find(socket).is_some_and(|socket| socket.3 == "active");
        state(unit, socket, &mut values).map(Some)
    });
    states.collect()
}

/// In the order of [`PROPERTIES`].
fn state(unit: &Listed, socket: bool, values: &mut impl Iterator<Item = Answer>) -> zbus::Result<State> {
    let file: String = value(values)?;
    let changed = value(values)?;
    let pid: u32 = value(values)?;
    let restarts = value(values)?;
    let result = value(values)?;
    let (how, status, ended) = (value(values)?, value(values)?, value(values)?);
    let fed = value(values)?;
    Ok(State {
        unit: unit.0.clone(),
        active: unit.3.clone(),
        sub: unit.4.clone(),
        enabled: file.starts_with("enabled"),
        pid: i32::try_from(pid).ok().filter(|pid| *pid > 0),
        since: time(changed),
        restarts,
        result,
        last_exit: Ended::new(how, status, time(ended)),
        fed: time(fed),
        socket,
    })
}

fn value<T>(values: &mut impl Iterator<Item = Answer>) -> zbus::Result<T>
where
    T: TryFrom<OwnedValue>,
    zbus::Error: From<T::Error>,
{
    let answer = values.next().ok_or(zbus::Error::InvalidReply)?;
    Ok(T::try_from(answer.read::<OwnedValue>()?)?)
}

/// Microseconds since 1970; none is never.
fn time(microseconds: u64) -> Option<SystemTime> {
    (microseconds > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_micros(microseconds))
}

/// A connection that only asks.
struct Line {
    stream: BufReader<UnixStream>,
    /// Nobody stands between us and systemd, so nobody is named.
    direct: bool,
}

impl Line {
    /// systemd's own socket, as `systemctl` does; who may not go there goes by the bus.
    async fn open(scope: Scope) -> zbus::Result<Line> {
        let session = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_default();
        let (own, bus) = match scope {
            Scope::User => (session.join("systemd/private"), session.join("bus")),
            Scope::System => ("/run/systemd/private".into(), "/run/dbus/system_bus_socket".into()),
        };
        if let Ok(line) = Line::to(&own, true).await {
            return Ok(line);
        }
        let mut line = Line::to(&bus, false).await?;
        let hello = Message::method_call("/org/freedesktop/DBus", "Hello")?
            .destination("org.freedesktop.DBus")?
            .interface("org.freedesktop.DBus")?
            .build(&())?;
        line.answers(&[hello]).await?;
        Ok(line)
    }

    async fn to(path: &Path, direct: bool) -> io::Result<Line> {
        let mut stream = BufReader::new(UnixStream::connect(path).await?);
        let uid = nix::unistd::geteuid().to_string();
        let uid = hex::encode(uid);
        // All of it before any message: systemd waits for more where a message came together with BEGIN.
        let hello = format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n");
        stream.write_all(hello.as_bytes()).await?;
        let mut said = String::new();
        stream.read_line(&mut said).await?;
        if !said.starts_with("OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it does not want us"));
        }
        Ok(Line { stream, direct })
    }

    fn call<B>(&self, path: &str, interface: &str, method: &str, body: &B) -> zbus::Result<Message>
    where
        B: serde::Serialize + zvariant::DynamicType,
    {
        let mut call = Message::method_call(path, method)?.interface(interface)?;
        if !self.direct {
            call = call.destination(NAME)?;
        }
        call.build(body)
    }

    /// All at once, in the order of the questions.
    async fn answers(&mut self, calls: &[Message]) -> zbus::Result<Vec<Answer>> {
        let all: Vec<u8> = calls.iter().flat_map(|call| call.data().bytes().to_vec()).collect();
        self.stream.write_all(&all).await.map_err(zbus::Error::from)?;
        let mut answers = HashMap::new();
        while answers.len() < calls.len() {
            let (reply_to, answer) = Answer::next(&mut self.stream).await?;
            if calls
                .iter()
                .any(|call| call.primary_header().serial_num().get() == reply_to)
            {
                answers.insert(reply_to, answer);
            }
        }
        let answer = |call: &Message| answers.remove(&call.primary_header().serial_num().get());
        calls
            .iter()
            .map(answer)
            .collect::<Option<_>>()
            .ok_or(zbus::Error::InvalidReply)
    }
}

/// What was answered; an error has a sentence for its body.
struct Answer {
    error: bool,
    body: serialized::Data<'static, 'static>,
}

const FIXED: usize = 16;
const ERROR: u8 = 3;
const REPLY_SERIAL: u8 = 5;

impl Answer {
    /// With the number of the question, 0 if it is no answer.
    async fn next(stream: &mut BufReader<UnixStream>) -> zbus::Result<(u32, Answer)> {
        let mut bytes = vec![0; FIXED];
        stream.read_exact(&mut bytes).await.map_err(zbus::Error::from)?;
        let endian = match bytes[0] {
            b'l' => zvariant::Endian::Little,
            _ => zvariant::Endian::Big,
        };
        let coding = zvariant::serialized::Context::new_dbus(endian, 0);
        let fixed = serialized::Data::new(bytes.clone(), coding);
        let ((_, kind, _, _, body, _, fields), _) = fixed.deserialize::<(u8, u8, u8, u8, u32, u32, u32)>()?;
        let fields = (FIXED + fields as usize).next_multiple_of(8);
        let whole = fields.saturating_add(body as usize);
        if whole > LARGEST {
            return Err(zbus::Error::ExcessData);
        }
        bytes.resize(whole, 0);
        stream
            .read_exact(&mut bytes[FIXED..])
            .await
            .map_err(zbus::Error::from)?;
        let body = serialized::Data::new(bytes.split_off(fields), coding);
        let head = serialized::Data::new(bytes, coding);
        type Head = (u8, u8, u8, u8, u32, u32, Vec<(u8, OwnedValue)>);
        let (head, _) = head.deserialize::<Head>()?;
        let reply_to = head.6.iter().find(|(field, _)| *field == REPLY_SERIAL);
        let reply_to = reply_to.and_then(|(_, value)| u32::try_from(value).ok()).unwrap_or(0);
        let error = kind == ERROR;
        Ok((reply_to, Answer { error, body }))
    }

    fn read<T: DeserializeOwned + zvariant::Type>(&self) -> zbus::Result<T> {
        if self.error {
            let said = self.body.deserialize::<String>().map(|(said, _)| said);
            return Err(zbus::Error::Failure(
                said.unwrap_or_else(|_| "no reason was given".into()),
            ));
        }
        Ok(self.body.deserialize::<T>()?.0)
    }
}
