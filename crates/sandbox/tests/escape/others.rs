//! Other processes, sockets and the network.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};

use crate::helper::{everybody, own_dir, python, run, shell};

#[test]
fn processes_of_the_host_are_neither_seen_nor_reached() {
    let mut victim = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    for user in everybody() {
        let pid = victim.id();
        let script = format!(
            "ls /proc | grep -cE '^[0-9]+$' | xargs test 6 -ge && echo few; kill -9 {pid} 2>/dev/null && echo killed; \
             kill -9 -1 2>/dev/null; ls /proc/{pid} 2>/dev/null; echo done"
        );
        // `kill -1` may take the shell along: then nothing after it is printed.
        let done = run(user, shell(&script));
        assert!(done.stdout.starts_with("few\n"), "{done:#?}");
        assert!(!done.stdout.contains("killed"), "{done:#?}");
        assert!(victim.try_wait().unwrap().is_none(), "the victim is alive");
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[test]
fn pid_1_cannot_be_looked_into_or_killed() {
    for user in everybody() {
        let script = "ls /proc/1/fd 2>/dev/null && echo fds; readlink /proc/1/exe 2>/dev/null && echo exe; \
            cat /proc/1/environ 2>/dev/null && echo env; head -c1 /proc/1/mem 2>/dev/null && echo mem; \
            kill -9 1; kill -STOP 1; echo alive";
        run(user, shell(script)).ran().prints("alive");
    }
}

#[test]
fn there_is_no_network_but_its_own_loopback() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let name = format!("nexus-escape-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    for user in everybody() {
        let script = format!(
            "import socket\n\
             def reach(family, kind, to):\n try:\n  s=socket.socket(family, kind); s.settimeout(3); s.connect(to); print('reached', to)\n \
             except OSError: pass\n\
             reach(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', {port}))\n\
             reach(socket.AF_INET, socket.SOCK_STREAM, ('1.1.1.1', 53))\n\
             reach(socket.AF_UNIX, socket.SOCK_STREAM, '\\0{name}')\n\
             reach(40, socket.SOCK_STREAM, (2, 22))\n\
             print(sorted(name for _, name in socket.if_nameindex()))\n\
             a=socket.socket(); a.bind(('127.0.0.1', 0)); a.listen(); b=socket.create_connection(a.getsockname(), 3); print('own')"
        );
        let done = run(user, python(&script)).ran();
        assert!(!done.stdout.contains("reached"), "{done:#?}");
        assert!(
            done.stdout.contains("'lo'") && !done.stdout.contains("eth"),
            "{done:#?}"
        );
        assert!(done.stdout.ends_with("own\n"), "{done:#?}");
    }
}

#[test]
fn our_unix_sockets_are_out_of_reach() {
    for user in everybody() {
        let (_dir, path) = own_dir(user);
        let socket = path.join("nexus.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let script = format!(
            "import socket,os\n\
             for base in ('', '/proc/self/root', '/proc/1/root', '/proc/self/cwd/..'):\n \
             try:\n  s=socket.socket(socket.AF_UNIX); s.connect(base + '{}'); print('reached')\n \
             except OSError: pass\nprint('done')",
            socket.display()
        );
        run(user, python(&script)).ran().prints("done");
    }
}

#[test]
fn nothing_of_the_caller_is_inherited() {
    for user in everybody() {
        // The one beyond the three is `ls` looking.
        run(user, shell("ls /proc/self/fd | tr '\\n' ' '; env | grep -c CARGO")).prints("0 1 2 3 0");
    }
}
