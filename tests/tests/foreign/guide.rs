//! `docs/GRPC.md`: every block on the page is run against the four daemons, as one reads it.
//!
//! A fence says what becomes of its block: `run` in its language (the blocks of `sh` are one script, those of `python`
//! one program, the others one each), `out` for lines that the block before must have printed. There is no third kind.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use nexus_tests::{Daemon, Site, binary};

use crate::kit::{checkout, has, made, run, which, with};

const SOCKET: &str = "/tmp/baaaht-grpc.sock";
const DEADLINE: Duration = Duration::from_secs(180);

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let page = checkout().join("docs/GRPC.md");
    Page::read(&fs::read_to_string(page).expect("the page can be read"))
});

/// Blocks by language, each with the lines that it must print.
#[derive(Debug, Default, PartialEq)]
struct Page(BTreeMap<String, Vec<(String, Vec<String>)>>);

impl Page {
    fn read(text: &str) -> Page {
        let mut page = Page::default();
        let mut last = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(fence) = line.trim_start().strip_prefix("```") else {
                continue;
            };
            let block: Vec<&str> = lines
                .by_ref()
                .take_while(|line| !line.trim_start().starts_with("```"))
                .collect();
            match fence.split_once(' ') {
                Some((language, "run")) => {
                    last = language.to_owned();
                    page.0
                        .entry(last.clone())
                        .or_default()
                        .push((block.join("\n") + "\n", Vec::new()));
                }
                Some(("text", "out")) => {
                    let (_, out) = page
                        .0
                        .get_mut(&last)
                        .and_then(|blocks| blocks.last_mut())
                        .expect("a block before");
                    out.extend(block.into_iter().map(str::to_owned));
                }
                _ => panic!("a block that no test runs: {line}"),
            }
        }
        page
    }

    fn blocks(&self, language: &str) -> &[(String, Vec<String>)] {
        let blocks = self.0.get(language).map(Vec::as_slice).unwrap_or_default();
        assert!(!blocks.is_empty(), "the page has nothing in {language}");
        blocks
    }
}

/// The daemons, and a directory with what a reader has: a checkout's `proto`.
struct Reader {
    site: Site,
    place: PathBuf,
}

impl Reader {
    fn new() -> Reader {
        let site = with(&[Daemon::Llm, Daemon::Gateway, Daemon::Agent]);
        let place = site.folder().path().join("desk");
        fs::create_dir(&place).expect("a directory can be made");
        std::os::unix::fs::symlink(checkout().join("proto"), place.join("proto")).expect("a link can be made");
        Reader { site, place }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.place.join(name);
        let socket = self.site.socket(Daemon::Orchestrator);
        fs::write(&path, text.replace(SOCKET, socket.to_str().expect("it is text"))).expect("a file can be written");
        path
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let ours = binary("nexus-orchestrator")
            .parent()
            .expect("it lies in a folder")
            .to_path_buf();
        let rest = env::var_os("PATH").unwrap_or_default();
        let path = [made("bin"), ours].into_iter().chain(env::split_paths(&rest));
        command
            .current_dir(&self.place)
            .env("PATH", env::join_paths(path).expect("no colons in it"))
            .env("HOME", self.site.folder().path());
        command
    }
}

fn printed(said: &str, expected: &[String]) {
    for line in expected {
        assert!(said.lines().any(|said| said == line), "{line:?} is not among:\n{said}");
    }
}

#[test]
fn a_block_that_no_test_runs_is_noticed() {
    let page = Page::read("a\n```sh run\none\ntwo\n```\nb\n```text out\nthree\n```\n");
    assert_eq!(page.blocks("sh"), [("one\ntwo\n".to_owned(), vec!["three".to_owned()])]);
    let forgotten = std::panic::catch_unwind(|| Page::read("```sh\nrm\n```\n"));
    assert!(forgotten.is_err());
    let languages: Vec<&str> = PAGE.0.keys().map(String::as_str).collect();
    assert_eq!(languages, ["go", "js", "python", "rust", "sh"], "each has a test below");
}

#[test]
fn the_shell_lines_work() {
    let needs = [
        (made("bin/grpcurl"), "grpcurl"),
        (made("bin/protoc"), "protoc (grpcio-tools has it)"),
        (made("bin/protoc-gen-go-grpc"), "protoc-gen-go-grpc"),
        (which("go"), "go"),
        (which("bash"), "bash"),
    ];
    if !has(&needs) {
        return;
    }
    let desk = Reader::new();
    let blocks = PAGE.blocks("sh");
    let mut script = String::from("set -euo pipefail\n");
    for (block, _) in blocks {
        script += &format!("{block}echo '=== end of block'\n");
    }
    let script = desk.write("lines.sh", &script);
    // Go's own caches are where they always are, wherever HOME points.
    let mut command = desk.command("bash");
    for name in ["GOCACHE", "GOPATH"] {
        let value = Command::new("go").args(["env", name]).output().expect("go runs").stdout;
        command.env(name, String::from_utf8(value).expect("it is text").trim());
    }
    let said = run(command.arg(script), DEADLINE);
    let parts: Vec<&str> = said.split("=== end of block\n").collect();
    assert_eq!(parts.len(), blocks.len() + 1, "{said}");
    for ((_, expected), said) in blocks.iter().zip(parts) {
        printed(said, expected);
    }
}

#[test]
fn the_python_program_works() {
    let python = made("venv/bin/python");
    if !has(&[(python.clone(), "python3 with grpcio")]) {
        return;
    }
    let desk = Reader::new();
    let program: Vec<&str> = PAGE.blocks("python").iter().map(|(block, _)| block.as_str()).collect();
    let path = desk.write("program.py", &program.join("\n"));
    let said = run(desk.command(python).arg("-B").arg(path), DEADLINE);
    for words in [
        "stored as number 1",
        "hello from Python",
        "stopped after",
        "session.created",
        "message.sent",
    ] {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
}

#[test]
fn the_go_program_works() {
    let needs = [(which("go"), "go"), (made("bin/protoc-gen-go-grpc"), "the Go client")];
    if !has(&needs) {
        return;
    }
    let desk = Reader::new();
    crate::go::build();
    for (block, _) in PAGE.blocks("go") {
        let source = desk.write("main.go", block);
        let program = desk.place.join("guide");
        let mut build = Command::new("go");
        build
            .current_dir(checkout().join("tests/foreign/go"))
            .env("GOPROXY", "off");
        run(
            build.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(source),
            DEADLINE,
        );
        let said = run(&mut desk.command(&program), DEADLINE);
        assert!(
            said.contains("the whole answer: ") && said.contains("hello from Go"),
            "{said}"
        );
    }
}

#[test]
fn the_node_program_works() {
    let modules = checkout().join("tests/foreign/node/node_modules");
    let needs = [
        (which("node"), "node"),
        (modules.join("@grpc/grpc-js"), "@grpc/grpc-js"),
    ];
    if !has(&needs) {
        return;
    }
    let desk = Reader::new();
    for (block, _) in PAGE.blocks("js") {
        let program = desk.write("program.js", block);
        let said = run(desk.command("node").arg(program).env("NODE_PATH", &modules), DEADLINE);
        assert!(
            said.contains("the whole answer: ") && said.contains("hello from Node"),
            "{said}"
        );
    }
}

/// Compiled from a file of its own, which is the page's block to the letter.
#[test]
fn the_rust_program_works() {
    let block = &PAGE.blocks("rust")[0].0;
    assert_eq!(
        include_str!("../../foreign/rust/ask.rs"),
        block,
        "foreign/rust/ask.rs and the page differ"
    );
    let desk = Reader::new();
    let mut program = desk.command(env!("CARGO_BIN_EXE_grpc-guide-rust"));
    program.env("GRPC_SOCKET_PATH", desk.site.socket(Daemon::Orchestrator));
    let said = run(&mut program, DEADLINE);
    assert!(
        said.contains("the whole answer: ") && said.contains("hello from Rust"),
        "{said}"
    );
}
