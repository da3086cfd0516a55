use std::process::Command;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Kind, Offer, Subject, covers, named_files, offers, plain_words};
use crate::{Definition, Effects, Foreign, LockKind, Source, builtin};

const DIR: &str = "/workspace";

fn exec(arguments: &Value) -> Subject<'_> {
    Subject {
        tool: builtin("exec").unwrap(),
        arguments,
        directory: DIR,
    }
}

fn kinds(offers: &[Offer]) -> Vec<Kind> {
    offers.iter().map(|offer| offer.kind).collect()
}

fn prefix_of(command: &str) -> Option<String> {
    let arguments = json!({"command": command});
    offers(exec(&arguments), false)
        .into_iter()
        .find(|offer| offer.kind == Kind::Prefix)
        .map(|offer| offer.pattern)
}

#[test]
fn plain_commands_are_offered_their_first_words() {
    for (command, prefix) in [
        ("ls", r#"["ls"]"#),
        ("ls -la src", r#"["ls","-la","src"]"#),
        ("ls src docs", r#"["ls"]"#),
        ("git status", r#"["git","status"]"#),
        ("git log --oneline -n 5", r#"["git","log","--oneline","-n","5"]"#),
        ("git add src/a.rs 'b c.txt'", r#"["git","add"]"#),
        ("cargo test -p crate name", r#"["cargo","test","-p","crate"]"#),
        ("cargo build", r#"["cargo","build"]"#),
        ("  cat\tREADME.md  ", r#"["cat"]"#),
        ("wc -l \"a b\"", r#"["wc","-l","a b"]"#),
    ] {
        assert_eq!(prefix_of(command).as_deref(), Some(prefix), "{command}");
    }
}

#[test]
fn what_a_prefix_covers() {
    let covered = |pattern: &str, arguments: Value| covers(Kind::Prefix, pattern, exec(&arguments), false);
    for command in ["cargo test", "cargo test name", "cargo  test 'a name'"] {
        assert!(covered(r#"["cargo","test"]"#, json!({"command": command})), "{command}");
    }
    for command in [
        "cargo",
        "cargo build",
        "cargo testing",
        "cargo test --config x",
        "cargo test -- --nocapture",
        "cargo test a=b",
        "cargo test @file",
        "cargo test; rm -rf /",
        "cargo test && sh",
        "cargo test | sh",
        "cargo test > /etc/passwd",
        "cargo test $(sh)",
        "cargo test `sh`",
        "cargo test\nsh",
        "X=1 cargo test",
        "cargo test a &",
        "./cargo test",
        "'cargo' test",
        "cargo test +nightly",
        "sudo cargo test",
        "cargo test ''",
        "cargo test \u{a0}x",
        "cargo test ext::sh",
    ] {
        assert!(
            !covered(r#"["cargo","test"]"#, json!({"command": command})),
            "{command}"
        );
    }
    assert!(!covered(
        r#"["cargo","test"]"#,
        json!({"command": "cargo test", "stdin": "x"})
    ));
    assert!(!covered("cargo test", json!({"command": "cargo test"})));
    // A pattern that would not be offered covers nothing either.
    for pattern in [r#"[]"#, r#"["sh"]"#, r#"["cargo"]"#, r#"["git"]"#] {
        for command in ["sh x", "cargo test", "git status"] {
            assert!(!covered(pattern, json!({"command": command})), "{pattern} {command}");
        }
    }
    let arguments = json!({"command": "cargo test"});
    assert!(!covers(Kind::Prefix, r#"["cargo","test"]"#, exec(&arguments), true));
}

/// Each of these would let later commands do something else than the person saw.
#[test]
fn these_are_offered_exact_only() {
    let commands = [
        // shells
        "sh",
        "sh run.sh",
        "bash -c ls",
        "bash script.sh",
        "dash x",
        "zsh -c 'ls'",
        "ksh x",
        "fish x",
        "/bin/sh x",
        "busybox sh",
        "pwsh x",
        "csh x",
        "rbash x",
        "ash x",
        "mksh x",
        "xonsh x",
        "yash x",
        "tcsh x",
        // interpreters
        "python x.py",
        "python3 -c 'print(1)'",
        "python3.12 x",
        "perl -e 1",
        "ruby x",
        "node x.js",
        "node -e 1",
        "deno run x",
        "bun x",
        "php x",
        "lua x",
        "awk 1 f",
        "gawk 1",
        "sed -n 1p f",
        "tclsh x",
        "Rscript x",
        "java -jar x",
        "pypy3 x",
        "ts-node x",
        "groovy x",
        "julia x",
        "osascript x",
        "ghci x",
        "irb x",
        "iex x",
        "erl x",
        "jq . f",
        "bc x",
        "ed f",
        "vim -c q",
        "emacs x",
        "gdb x",
        "sqlite3 db",
        "psql db",
        "mysql db",
        // programs that execute others
        "env ls",
        "env X=1 ls",
        "sudo ls",
        "doas ls",
        "su root",
        "xargs ls",
        "find . -name a",
        "find . -exec rm",
        "timeout 5 ls",
        "nice ls",
        "nohup ls",
        "time ls",
        "watch ls",
        "strace ls",
        "chroot / ls",
        "unshare ls",
        "nsenter ls",
        "setsid ls",
        "stdbuf ls",
        "parallel ls",
        "flock f ls",
        "script x",
        "expect x",
        "screen ls",
        "tmux new",
        "at now",
        "crontab f",
        "systemd-run ls",
        "systemctl start x",
        "docker run x",
        "podman run x",
        "kubectl exec x",
        "ssh host ls",
        "rsync a b",
        "scp a b",
        "nc host",
        "socat a b",
        "curl https://a",
        "wget https://a",
        "ftp x",
        "make",
        "make all",
        "gmake x",
        "ninja x",
        "just x",
        "tar xf a",
        "zip a b",
        "openssl x",
        "tee f",
        "sort f",
        "split f",
        "rg x",
        "fd x",
        "watchexec ls",
        "entr ls",
        "gcc a.c",
        "cc a.c",
        "rustc a.rs",
        "go test",
        "patch f",
        "less f",
        "man ls -P sh",
        "ldd f",
        "valgrind ls",
        "perf record",
        "ionice ls",
        // builtins that evaluate
        "eval ls",
        "exec ls",
        "source f",
        ". f",
        "command ls",
        "builtin ls",
        "trap ls EXIT",
        "alias a",
        "export A",
        "cd src",
        "set x",
        "test x",
        "[ x ]",
        // git that is bare or executes
        "git",
        "git -c alias.x=sh x",
        "git -C dir status",
        "git --exec-path=. x",
        "git config x y",
        "git submodule foreach x",
        "git bisect run x",
        "git rebase main",
        "git clone x",
        "git fetch x",
        "git push origin",
        "git pull",
        "git difftool",
        "git filter-branch x",
        "git grep x",
        "git archive x",
        "git ls-remote x",
        "git worktree add x",
        "git apply f",
        "git am f",
        // package runners
        "npx x",
        "npm run x",
        "npm test",
        "npm exec x",
        "pnpm dlx x",
        "yarn dlx x",
        "yarn x",
        "bunx x",
        "uvx x",
        "uv run x",
        "pipx run x",
        "pip install x",
        "poetry run x",
        "cargo run",
        "cargo run x",
        "gem x",
        "bundle exec x",
        "nix run x",
        "apt install x",
        "apt-get update",
        "brew x",
        "corepack x",
        "dotnet run",
        "mvn x",
        "gradle x",
        "composer x",
        "conda run x",
        "rustup run x",
        "pre-commit run",
        "tox",
        "pytest",
        "pytest a",
        // destroys what is named
        "rm f",
        "rm -rf x",
        "mv a b",
        "cp a b",
        "dd x",
        "chmod x f",
        "chown x f",
        "ln a b",
        "truncate f",
        "shred f",
        "kill 1",
        "mkfs x",
        // operators
        "ls; ls",
        "ls && ls",
        "ls || ls",
        "ls | cat",
        "ls & ls",
        "ls &",
        "(ls)",
        "{ ls; }",
        "! ls",
        "ls\nls",
        "ls\r\nls",
        "ls |& cat",
        "ls ;; ls",
        // substitution
        "ls $HOME",
        "ls ${X}",
        "ls $(ls)",
        "ls `ls`",
        "ls \"$X\"",
        "ls \"`x`\"",
        "ls $'a'",
        "ls $\"a\"",
        "ls <(ls)",
        "ls >(ls)",
        "ls $((1))",
        "ls \\$X",
        "ls \"a\\b\"",
        "ls !!",
        "ls !$",
        "ls \"!x\"",
        "$X ls",
        "`x` ls",
        // redirects
        "ls > f",
        "ls >> f",
        "ls < f",
        "ls 2>&1",
        "ls &> f",
        "ls << E",
        "ls <<< x",
        "ls >| f",
        "ls <> f",
        "ls>f",
        // assignments
        "X=1",
        "X=1 ls",
        "PATH=. ls",
        "X+=1 ls",
        "X[0]=1 ls",
        "LD_PRELOAD=a ls",
        // patterns, braces, tilde, comments, escapes
        "ls *",
        "ls ?",
        "ls [a]",
        "ls {a,b}",
        "ls ~",
        "ls ~root",
        "ls # x",
        "#ls",
        "l\\s",
        "ls \\\n x",
        "ls a^b",
        // quoted, keyword, path, option or nothing as the program
        "'ls'",
        "\"ls\" x",
        "l's'",
        "if ls",
        "for x in y",
        "while ls",
        "case x",
        "function f",
        "then ls",
        "coproc ls",
        "[[ x",
        "./run.sh",
        "/usr/bin/git status",
        "../x",
        "bin/tool test",
        "-x",
        "--",
        "",
        "   ",
        "=ls",
        "%1",
        "a:b c",
        // what a person does not see
        "ls \u{202e}x",
        "ls\u{a0}x",
        "ls \u{200b}",
        "ls\u{0}x",
        "ls \x1b[2J",
        "ls \x08",
        "lѕ x",
        "gіt status",
        "ls\u{3000}x",
        "ls \x7f",
        "ls\u{2028}x",
        "ls\x0bx",
        // not closed
        "ls 'a",
        "ls \"a",
        "ls a'",
        "ls \\",
        // no subcommand, or one that executes
        "tool",
        "tool -x",
        "tool Test",
        "tool 1",
        "tool a.b",
        "tool a/b",
        "tool exec x",
        "tool run x",
        "tool shell x",
        "tool --version x",
        // words at the end that are more than words
        "git add a=b",
        "cargo test @args",
    ];
    assert!(commands.len() > 300);
    for command in commands {
        let arguments = json!({"command": command});
        let kinds = kinds(&offers(exec(&arguments), false));
        assert_eq!(kinds, [Kind::Exact], "{command:?}");
    }
    let stdin = json!({"command": "ls", "stdin": "x"});
    assert_eq!(kinds(&offers(exec(&stdin), false)), [Kind::Exact]);
    let long = format!("ls {}", "a ".repeat(3000));
    assert_eq!(prefix_of(&long), None);
}

/// The subcommand is a harmless word here: it is the program that takes the prefix away.
#[test]
fn these_programs_are_never_given_a_prefix() {
    let programs = "sh bash dash zsh ksh fish csh tcsh ash mksh busybox pwsh python python2 python3 python3.13 pypy3 perl perl5.36 ruby node nodejs \
        php lua lua5.4 luajit awk gawk mawk sed tclsh java jshell groovy scala julia Rscript osascript ghci irb iex erl elixir jq bc dc ed ex vi vim nvim emacs \
        nano gdb lldb sqlite3 psql mysql redis-cli env sudo doas su runuser setpriv xargs find fd parallel timeout nice ionice nohup time watch strace ltrace perf \
        valgrind chroot unshare nsenter bwrap setsid stdbuf flock script expect screen tmux at batch crontab systemd-run systemctl docker podman \
        nerdctl kubectl helm ssh scp sftp rsync nc ncat socat telnet curl wget ftp make gmake ninja just task rake ant gradle mvn tar zip unzip cpio openssl \
        tee sort split uniq rg gcc-13 g++ clang cc rustc go patch less more man eval exec source . command builtin trap alias export cd set test type npx npm pnpm \
        yarn bun bunx deno uv uvx pipx pip pip3 poetry pdm conda nix nix-shell gem bundle composer apt apt-get dnf yum brew snap flatpak rm mv cp dd ln chmod chown \
        truncate shred kill pkill mount umount iptables insmod shutdown xdg-open terraform ansible aws gcloud az gh";
    for program in programs.split_whitespace() {
        assert_eq!(prefix_of(&format!("{program} status")), None, "{program}");
    }
    assert!(prefix_of("cargo status").is_some());
}

#[test]
fn exact_means_every_argument_and_the_directory() {
    let arguments = json!({"command": "make", "timeout_s": 5});
    let pattern = offers(exec(&arguments), false)[0].pattern.clone();
    let covered = |arguments: &Value, directory: &str| {
        covers(
            Kind::Exact,
            &pattern,
            Subject {
                tool: builtin("exec").unwrap(),
                arguments,
                directory,
            },
            true,
        )
    };
    assert!(covered(&json!({"timeout_s": 5, "command": "make"}), DIR));
    assert!(!covered(&json!({"command": "make", "timeout_s": 6}), DIR));
    assert!(!covered(&json!({"command": "make"}), DIR));
    assert!(!covered(&json!({"command": "make", "timeout_s": 5, "stdin": ""}), DIR));
    assert!(!covered(&arguments, "/elsewhere"));
    let large = json!({"command": "x".repeat(60_000)});
    let pattern = offers(exec(&large), false)[0].pattern.clone();
    assert!(pattern.len() < 100 && covers(Kind::Exact, &pattern, exec(&large), false));
}

#[test]
fn strangers_content_takes_all_offers_away() {
    assert!(offers(exec(&json!({"command": "ls"})), true).is_empty());
}

#[test]
fn file_tools_are_offered_their_path() {
    let of = |tool: &str, arguments: Value| {
        let subject = Subject {
            tool: builtin(tool).unwrap(),
            arguments: &arguments,
            directory: DIR,
        };
        offers(subject, false)
            .into_iter()
            .find(|offer| offer.kind == Kind::Path)
            .map(|offer| offer.pattern)
    };
    assert_eq!(
        of("write_file", json!({"path": "./a//b", "content": "x"})).as_deref(),
        Some("a/b")
    );
    assert_eq!(of("write_file", json!({"path": "../b", "content": "x"})), None);
    assert_eq!(
        of(
            "apply_patch",
            json!({"patch": "*** Begin Patch\n*** Add File: a\n+x\n*** End Patch"})
        )
        .as_deref(),
        Some("a")
    );
    let two = "*** Begin Patch\n*** Add File: a\n+x\n*** Delete File: b\n*** End Patch";
    assert_eq!(of("apply_patch", json!({"patch": two})), None);
    let moved = "*** Begin Patch\n*** Update File: a\n*** Move to: b\n*** End Patch";
    assert_eq!(of("apply_patch", json!({"patch": moved})), None);
    let arguments = json!({"patch": two});
    let subject = Subject {
        tool: builtin("apply_patch").unwrap(),
        arguments: &arguments,
        directory: DIR,
    };
    assert!(!covers(Kind::Path, "a", subject, false));
}

#[test]
fn web_fetch_is_offered_its_host() {
    let of = |url: &str| {
        let arguments = json!({"url": url});
        let subject = Subject {
            tool: builtin("web_fetch").unwrap(),
            arguments: &arguments,
            directory: DIR,
        };
        offers(subject, false)
            .into_iter()
            .find(|offer| offer.kind == Kind::Host)
            .map(|offer| offer.pattern)
    };
    assert_eq!(of("https://Docs.RS/x?y").as_deref(), Some("docs.rs"));
    assert_eq!(of("http://bücher.example/").as_deref(), Some("xn--bcher-kva.example"));
    for url in [
        "https://a@b.example",
        "https://a:b@c.example",
        "https://a.example:8443/",
        "ftp://a.example",
        "not a url",
        "file:///etc/passwd",
    ] {
        assert_eq!(of(url), None, "{url}");
    }
    let arguments = json!({"url": "https://docs.rs.evil.example/docs.rs"});
    let subject = Subject {
        tool: builtin("web_fetch").unwrap(),
        arguments: &arguments,
        directory: DIR,
    };
    assert!(!covers(Kind::Host, "docs.rs", subject, false));
}

/// A server names its tool like one of ours.
#[test]
fn tools_of_others_are_offered_exact_only() {
    let tool = Definition::new(Foreign {
        name: "exec".to_owned(),
        description: String::new(),
        schema: json!({"type": "object"}),
        source: Source::Mcp("s".to_owned()),
        read_only: true,
        idempotent: true,
        effects: Effects::default(),
        lock: LockKind::Read,
    })
    .unwrap();
    let arguments = json!({"command": "ls", "path": "a", "url": "https://a.example"});
    assert_eq!(
        kinds(&offers(
            Subject {
                tool: &tool,
                arguments: &arguments,
                directory: DIR
            },
            false
        )),
        [Kind::Exact]
    );
}

#[test]
fn files_that_a_command_names_are_found() {
    for (command, expected) in [
        ("sh run.sh", vec!["sh", "run.sh"]),
        (
            "python3 'my script.py' --in=data.csv",
            vec!["python3", "my script.py", "data.csv"],
        ),
        ("cat <in >out 2>>err", vec!["cat", "in", "out", "2", "err"]),
        ("a&&b;c|d", vec!["a", "b", "c", "d"]),
        (
            "curl -d @body -ofile x\\ y",
            vec!["curl", "@body", "body", "file", "x y"],
        ),
        ("cat \"unclosed", vec!["cat", "unclosed "]),
    ] {
        assert_eq!(named_files(command, 16), expected, "{command}");
    }
    assert_eq!(named_files(&"x".repeat(10_000), 16), Vec::<String>::new());
    assert_eq!(
        named_files(&(0..100).map(|n| format!("f{n} ")).collect::<String>(), 17).len(),
        17
    );
}

/// Asks bash what it makes of the commands that count as plain: the same words, and nothing else happens.
#[test]
fn bash_reads_plain_commands_the_same_way() {
    let Ok(true) = Command::new("bash")
        .arg("-c")
        .arg("exit 0")
        .status()
        .map(|status| status.success())
    else {
        eprintln!("skipped: there is no bash");
        assert!(std::env::var_os("CI").is_none(), "bash is missing");
        return;
    };
    let pieces = [
        "a", "-x", "b=c", "'q r'", "\"s t\"", "''", "x'y'z", "./p", "@f", "1:2", "+a", "%", "--k=v", "a,b", "'$X'",
        "'`x`'", "'\\'", "'*'", "\"*\"", "\"'\"", "'\"'", "#", "~", "$X", "*", "{a,b}", "!", ";", "2", "=", ":", "'#'",
    ];
    let mut commands = Vec::new();
    for (n, first) in pieces.iter().enumerate() {
        for (m, second) in pieces.iter().enumerate() {
            commands.push(format!("cmd {first} {second}"));
            commands.push(format!("cmd {first}{second}\t{}", pieces[(n * 7 + m) % pieces.len()]));
        }
    }
    let plain: Vec<(String, Vec<String>)> = commands
        .into_iter()
        .filter_map(|command| plain_words(&command).map(|words| (command, words)))
        .collect();
    assert!(plain.len() > 500, "{}", plain.len());
    let mut script = String::from("cmd() { printf '%s\\0' cmd \"$@\"; printf '\\n\\0'; }\n");
    for (command, _) in &plain {
        script.push_str(command);
        script.push('\n');
    }
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", &script])
        .env_clear()
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let read: Vec<Vec<&str>> = text
        .split_terminator("\n\0")
        .map(|words| words.split_terminator('\0').collect())
        .collect();
    assert_eq!(read.len(), plain.len());
    for ((command, words), read) in plain.iter().zip(read) {
        assert_eq!(&read, words, "{command}");
    }
}

proptest! {
    /// Whatever is plain is one line of printable ASCII, and none of its unquoted characters means anything to a shell.
    #[test]
    fn plain_words_have_no_way_out(command in "[a-z '\"$`\\\\;|&<>(){}*?~#!=\n\t-]{0,24}") {
        if let Some(words) = plain_words(&command) {
            let mut unquoted = String::new();
            let mut quote = None;
            for c in command.chars() {
                match quote {
                    Some(open) if c == open => quote = None,
                    Some('"') => prop_assert!(!"$`\\!".contains(c)),
                    Some(_) => {}
                    None if c == '\'' || c == '"' => quote = Some(c),
                    None => unquoted.push(c),
                }
            }
            prop_assert!(quote.is_none());
            prop_assert!(!unquoted.contains(|c: char| "$`\\;|&<>(){}*?~#!\n".contains(c)), "{command:?}");
            prop_assert!(!words[0].contains('='));
        }
    }
}
