//! From the order to make a container that runs `true` until its end is known, for each backend that works here: the
//! sandbox beside bwrap and `unshare`, and CreateContainer beside the same backend asked without an orchestrator.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nexus_client::{Address, Connection, Options};
use nexus_proto::orchestrator::v1::{
    ContainerConfig, ContainerLogsRequest, CreateContainerRequest, RemoveContainerRequest,
    container_service_client::ContainerServiceClient,
};
use nexus_runtime::{Choice, Config, ContainerSpec, Engine, Found, Limits, choose};

use super::{Run, create_session};
use crate::{
    daemons::TempRoot,
    figures::{Figure, Goal, median},
};

const ROW: &str = "containers";
const IMAGE: &str = "localhost/nexus-bench:1";

pub async fn run(run: &Run) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (choice, name) in [
        (Choice::Sandbox, "sandbox"),
        (Choice::Docker, "docker"),
        (Choice::Podman, "podman"),
    ] {
        let place = TempRoot::new(&run.bin, &run.dir)?;
        let config = Config {
            backend: choice,
            host: String::new(),
            directory: place.path().join("direct"),
            helper: Some(run.bin.join("nexus-sandbox")),
            ..Config::default()
        };
        match choose(&config).await {
            Ok(found) => figures.extend(backend(run, &place, name, &found).await?),
            Err(error) => eprintln!("  {name} is left out: {error}"),
        }
    }
    Ok(figures)
}

async fn backend(run: &Run, place: &TempRoot, name: &'static str, found: &Found) -> Result<Vec<Figure>> {
    let rounds = match (run.quick, name) {
        (true, _) => 5,
        (false, "sandbox") => 100,
        (false, _) => 15,
    };
    let image = if name == "sandbox" {
        String::new()
    } else {
        let tar = rootfs(place.path())?;
        found.engine.import(&tar, IMAGE).await?;
        IMAGE.to_owned()
    };
    settings(place, name, &found.probe.place)?;
    let orchestrator = place.start("orchestrator").await?;
    let options = Options {
        rpc_timeout: Duration::from_secs(60),
        ..Options::default()
    };
    let connection = Connection::lazy(&Address::Unix(orchestrator.socket.clone()), &options);
    let session = create_session(&orchestrator.socket).await?;

    let mut figures = Vec::new();
    if name == "sandbox" {
        for (program, args) in YARDSTICKS {
            let mut pairs = Vec::new();
            for round in 0..=rounds {
                let Some(beside) = program_takes(program, args)? else {
                    eprintln!("  {program} does not work here");
                    break;
                };
                let ours = direct(&found.engine, &image, round).await?;
                if round > 0 {
                    pairs.push((ours, beside));
                }
            }
            let figure = Figure::pairs(
                ROW,
                format!("sandbox : {program}, create to exit of true, p50"),
                "ms",
                &pairs,
            );
            figures.push(match *program {
                "bwrap" => figure.goal(Goal::AtMost(1.0)),
                _ => figure,
            });
        }
    }
    let (mut pairs, mut more) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let beside = direct(&found.engine, &image, 1000 + round).await?;
        let ours = called(&connection, &session, &image).await?;
        if round > 0 {
            pairs.push((ours, beside));
            more.push(ours - beside);
        }
    }
    let what = format!("CreateContainer : {name} asked directly, to exit of true, p50");
    figures.push(Figure::pairs(ROW, what, "ms", &pairs));
    let what = format!("CreateContainer, {name}, more than asked directly");
    let more = Figure::alone(ROW, what, "ms", median(more));
    figures.push(match name {
        "sandbox" => more.goal(Goal::AtMost(3.0)),
        _ => more,
    });
    Ok(figures)
}

type Yardstick = (&'static str, &'static [&'static str]);

const YARDSTICKS: &[Yardstick] = &[
    ("unshare", &["-Urmpfniu", "--mount-proc", "/bin/true"]),
    (
        "bwrap",
        &[
            "--unshare-all",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "/bin/true",
        ],
    ),
];

/// `None` where it is not installed, or may not do what it does.
fn program_takes(program: &str, args: &[&str]) -> Result<Option<f64>> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let begin = Instant::now();
    match command.status() {
        Ok(status) => Ok(status.success().then(|| milliseconds(begin))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to run {program}")),
    }
}

/// With the limits that the orchestrator sets where nobody asks for any.
async fn direct(engine: &Arc<dyn Engine>, image: &str, round: usize) -> Result<f64> {
    let spec = ContainerSpec {
        name: format!("nexus-bench-{}-{round}", std::process::id()),
        image: image.to_owned(),
        entrypoint: vec!["/bin/true".to_owned()],
        user: "65534:65534".to_owned(),
        limits: Limits {
            memory_bytes: 512 << 20,
            memory_swap_bytes: 0,
            nano_cpus: 1_000_000_000,
            pids: 256,
        },
        ..ContainerSpec::default()
    };
    let begin = Instant::now();
    let id = engine.create(&spec).await?;
    engine.start(&id).await?;
    let exit = engine.wait(&id).await?;
    let took = milliseconds(begin);
    engine.remove(&id, true).await?;
    ensure!(exit.code == 0, "true ended with {}", exit.code);
    Ok(took)
}

/// Until the stream of what it wrote ends, which it does with the container.
async fn called(connection: &Connection, session: &str, image: &str) -> Result<f64> {
    let config = ContainerConfig {
        image: image.to_owned(),
        command: vec!["/bin/true".to_owned()],
        ..ContainerConfig::default()
    };
    let request = CreateContainerRequest {
        session_id: session.to_owned(),
        config: Some(config),
    };
    let mut containers = ContainerServiceClient::new(connection.channel());
    let begin = Instant::now();
    let made = connection.orchestrator().create_container(request).await?.into_inner();
    let container_id = made.container.context("no container in the answer")?.id;
    let logs = ContainerLogsRequest {
        container_id: container_id.clone(),
        follow: true,
        ..ContainerLogsRequest::default()
    };
    let mut pieces = containers.container_logs(logs).await?.into_inner();
    while pieces.message().await?.is_some() {}
    let took = milliseconds(begin);
    let remove = RemoveContainerRequest {
        container_id,
        force: true,
    };
    connection.orchestrator().remove_container(remove).await?;
    Ok(took)
}

fn settings(place: &TempRoot, backend: &str, at: &str) -> Result<()> {
    let dir = place.path().join("state/nexus");
    fs::create_dir_all(&dir)?;
    let host = if backend == "sandbox" { "" } else { at };
    let text = format!("[orchestrator]\ncontainer_backend = \"{backend}\"\ncontainer_host = \"{host}\"\n");
    fs::write(dir.join("config.toml"), text).context("failed to write the settings")
}

/// A root filesystem that has nothing but `true`, of a busybox that needs no library.
fn rootfs(dir: &Path) -> Result<PathBuf> {
    let busybox = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join("busybox"))
        .find(|file| file.is_file())
        .context("no busybox (static) to make an image of")?;
    let root = dir.join("rootfs");
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("workspace"))?;
    fs::create_dir_all(root.join("tmp"))?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", root.join("bin/true"))?;
    let tar = dir.join("rootfs.tar");
    let made = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    if !made.is_ok_and(|status| status.success()) {
        bail!("tar made no image");
    }
    Ok(tar)
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}
