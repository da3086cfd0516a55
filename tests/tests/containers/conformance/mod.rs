//! The suite, and the engines that it is run on. One test for each engine: starting one takes longer than a case.

mod files;
mod life;
mod limits;
mod output;
mod place;
mod rights;

pub use output::written;

use std::sync::Arc;
use std::time::Duration;

use nexus_runtime::{Choice, Config, ContainerSpec, Engine, Probe, PullPolicy, choose};
use nexus_tests::engines::{Machine, busybox, holders};
use nexus_tests::{binary, skipped};

/// What a case works with.
pub struct Bench {
    pub engine: Arc<dyn Engine>,
    pub probe: Probe,
    pub image: String,
    /// For files of the host.
    pub directory: std::path::PathBuf,
    pub case: &'static str,
}

impl Bench {
    /// A container of the test image that runs this in a shell.
    pub fn shell(&self, script: &str) -> ContainerSpec {
        ContainerSpec {
            name: format!(
                "nexus-test-{}-{:x}",
                self.case,
                script.len() * 31 + script.bytes().map(usize::from).sum::<usize>()
            ),
            image: self.image.clone(),
            entrypoint: ["/bin/sh", "-c"].map(String::from).into(),
            args: vec![script.into()],
            labels: [("nexus.test".to_owned(), self.case.to_owned())].into(),
            user: "65534:65534".into(),
            ..ContainerSpec::default()
        }
    }

    pub async fn start(&self, spec: &ContainerSpec) -> String {
        let id = self.engine.create(spec).await.unwrap();
        self.engine.start(&id).await.unwrap();
        id
    }

    /// Runs it to its end; its exit code, and what it wrote on both.
    pub async fn run(&self, spec: &ContainerSpec) -> (i32, String) {
        let id = self.start(spec).await;
        let exit = self.engine.wait(&id).await.unwrap();
        let (out, err) = output::read(self, &id, Default::default()).await;
        self.engine.remove(&id, false).await.unwrap();
        (exit.code, format!("{out}{err}"))
    }
}

macro_rules! cases {
    ($($module:ident::$case:ident),+ $(,)?) => {
        async fn suite(bench: Bench) -> Vec<String> {
            let mut failed = Vec::new();
            let bench = Arc::new(bench);
            $({
                let name = stringify!($case);
                let bench = Arc::new(Bench {
                    engine: bench.engine.clone(),
                    probe: bench.probe.clone(),
                    image: bench.image.clone(),
                    directory: bench.directory.clone(),
                    case: name,
                });
                let begun = std::time::Instant::now();
                let case = tokio::spawn(async move { $module::$case(&bench).await });
                let ended = tokio::time::timeout(Duration::from_secs(60), case).await;
                let how = match ended {
                    Ok(Ok(())) => "ok".to_owned(),
                    Ok(Err(panicked)) => { failed.push(format!("{name}: {panicked}")); "FAILED".to_owned() }
                    Err(_) => { failed.push(format!("{name}: still not over")); "HANGS".to_owned() }
                };
                println!("  {name} {how} in {:?}", begun.elapsed());
            })+
            failed
        }
    };
}

cases![
    life::it_lives_and_ends,
    life::it_runs_again,
    life::a_stop_waits_and_then_kills,
    life::a_stop_lets_it_end_by_itself,
    life::a_stop_is_over_when_it_returns,
    life::a_signal_reaches_it,
    life::what_runs_is_removed_only_by_force,
    life::a_command_that_is_not_there_is_told,
    life::it_is_listed_by_label,
    life::what_happens_is_told,
    life::what_is_not_there_is_not_found,
    output::stdout_and_stderr_are_kept_apart,
    output::a_flood_is_complete,
    output::a_follower_sees_it_come,
    output::the_newest_lines_alone,
    output::one_more_command_runs_inside,
    output::one_more_command_ends_with_all_of_it,
    output::what_it_uses_is_known,
    files::the_root_is_read_only,
    files::a_mount_is_what_it_says,
    files::a_working_directory_and_an_environment,
    files::an_image_that_is_not_here_is_told,
    files::an_image_comes_and_goes,
    limits::memory_is_limited_and_its_lack_told,
    limits::processes_are_limited,
    limits::the_processor_is_limited,
    place::it_has_no_network,
    place::it_has_no_rights,
    rights::no_call_sets_rights_on_a_file_of_the_host,
    rights::ordinary_programs_run,
];

fn open_to_all(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

async fn conforms(test: &str, config: Config) {
    let directory = tempfile::tempdir().unwrap();
    let tar = match busybox(directory.path()) {
        Ok(tar) => tar,
        Err(missing) => return skipped(test, &missing),
    };
    let found = choose(&config).await.unwrap();
    let image = "localhost/nexus-test:1";
    found.engine.import(&tar, image).await.unwrap();
    let here = found.engine.pull(image, PullPolicy::Missing, None, None).await.unwrap();
    assert!(!here.fetched);
    println!("{:?}", found.probe);
    // Others may read what is mounted.
    open_to_all(directory.path());
    let shared = directory.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let failed = suite(Bench {
        engine: found.engine,
        probe: found.probe,
        image: image.into(),
        directory: shared,
        case: "",
    })
    .await;
    assert!(failed.is_empty(), "{failed:#?}");
}

fn machine(test: &str, machine: Result<Machine, String>) -> Option<Machine> {
    machine.map_err(|missing| skipped(test, &missing)).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_conforms() {
    let Some(docker) = machine("docker_conforms", Machine::docker()) else {
        return;
    };
    let config = Config {
        backend: Choice::Docker,
        host: docker.host(),
        ..Config::default()
    };
    conforms("docker_conforms", config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_conforms() {
    let Some(podman) = machine("podman_conforms", Machine::podman()) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        backend: Choice::Podman,
        host: podman.host(),
        directory: directory.path().join("containers"),
        ..Config::default()
    };
    conforms("podman_conforms", config).await;
}

/// Without a daemon of root's anywhere.
#[test]
fn podman_conforms_for_an_ordinary_user() {
    let name = "podman_conforms_for_an_ordinary_user";
    crate::ordinary::runs(name, &["conformance::podman_conforms"]);
}

fn sandbox(directory: &std::path::Path) -> Config {
    Config {
        backend: Choice::Sandbox,
        directory: directory.join("state"),
        helper: Some(binary("nexus-sandbox")),
        ..Config::default()
    }
}

/// As whoever runs the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let config = sandbox(directory.path());
    let probe = choose(&config).await.unwrap().probe;
    assert_eq!(probe.rootless, !nix::unistd::geteuid().is_root());
    // What does not hold is said in words too.
    for limit in &probe.unenforced {
        let said = probe.notes.iter().any(|note| note.contains(limit.name()));
        assert!(said, "{probe:?}");
    }
    conforms("sandbox_conforms", config.clone()).await;
    let left = std::fs::read_dir(config.directory.join("containers"));
    assert_eq!(left.map_or(0, Iterator::count), 0, "directories of containers are left");
    assert_eq!(holders(directory.path()), Vec::<String>::new(), "processes are left");
}

#[test]
fn sandbox_conforms_for_an_ordinary_user() {
    let name = "sandbox_conforms_for_an_ordinary_user";
    crate::ordinary::runs(name, &["conformance::sandbox_conforms"]);
}
