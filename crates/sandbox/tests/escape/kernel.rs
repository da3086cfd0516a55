//! What the kernel would do for a process that still had rights.

use crate::helper::{everybody, python, run, shell};

#[test]
fn every_right_is_given_up() {
    for user in everybody() {
        let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -s '\\t\\n' '  '; \
            sed 's/ .*//' /proc/1/status >/dev/null; ps -o sid= -p $$ 2>/dev/null | grep -q . ; echo";
        run(user, shell(script)).ran().prints(
            "CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000000 \
             CapAmb: 0000000000000000 NoNewPrivs: 1 Seccomp: 2",
        );
    }
}

#[test]
fn mounts_and_namespaces_are_refused() {
    for user in everybody() {
        let script = "mount -t tmpfs x /tmp 2>/dev/null && echo mounted; mount --bind / /tmp 2>/dev/null && echo bound; \
            umount /proc 2>/dev/null && echo unmounted; umount -l /proc/sys 2>/dev/null && echo unmounted; \
            unshare -U true 2>/dev/null && echo user; unshare -m true 2>/dev/null && echo mnt; \
            nsenter -t 1 -m true 2>/dev/null && echo entered; chroot / true 2>/dev/null && echo chroot; echo done";
        run(user, shell(script)).ran().prints("done");
    }
}

#[test]
fn devices_are_the_harmless_ones() {
    for user in everybody() {
        let script = "ls /dev | tr '\\n' ' '; mknod /tmp/c c 1 1 2>/dev/null && echo made; mknod /tmp/b b 8 0 2>/dev/null && echo made; \
            mkfifo /tmp/p || echo nofifo; head -c 3 /dev/zero | wc -c; echo x > /dev/null || echo null";
        run(user, shell(script))
            .ran()
            .prints("fd full null ptmx pts random shm stderr stdin stdout urandom zero 3");
    }
}

/// Calls the kernel by number, as no program of the system offers these.
const CALL: &str = "import ctypes,os,platform\nlibc=ctypes.CDLL(None,use_errno=True)\nx=platform.machine()=='x86_64'\n\
    def call(name,x86,arm,*a):\n ctypes.set_errno(0)\n r=libc.syscall(x86 if x else arm,*a)\n \
    print(name, 'done' if r>=0 else os.strerror(ctypes.get_errno()))\n";

#[test]
fn calls_that_reach_further_are_not_permitted() {
    for user in everybody() {
        let script = format!(
            "{CALL}\
             call('ptrace',101,117,16,os.getppid(),0,0)\n\
             call('traceme',101,117,0,0,0,0)\n\
             call('vm_readv',310,270,os.getppid(),0,0,0,0,0)\n\
             call('add_key',248,217,b'user',b'a',b'b',1,-3)\n\
             call('keyctl',250,219,0,-3,0)\n\
             call('request_key',249,218,b'user',b'a',0,0)\n\
             call('bpf',321,280,0,0,0)\n\
             call('perf',298,241,0,0,-1,-1,0)\n\
             call('io_uring',425,425,1,0)\n\
             call('userfaultfd',323,282,0)\n\
             call('open_by_handle',304,265,-100,0,0)\n\
             call('setns',308,268,0,0)\n\
             call('fsopen',430,430,b'tmpfs',0)\n\
             call('move_mount',429,429,-100,b'/',-100,b'/tmp',0)"
        );
        let done = run(user, python(&script)).ran();
        assert_eq!(done.stdout.lines().count(), 14, "{done:#?}");
        for line in done.stdout.lines() {
            assert!(line.ends_with("Operation not permitted"), "{user:?}: {line}");
        }
    }
}

#[test]
fn new_and_unknown_calls_do_not_exist() {
    for user in everybody() {
        // clone3 hides its flags from a filter; 9999 is nothing; 0x40000000 is the other call table of x86.
        let script =
            format!("{CALL}call('clone3',435,435,0,0)\ncall('unknown',9999,9999)\ncall('x32',0x40000027,9998)");
        let done = run(user, python(&script)).ran();
        assert_eq!(done.stdout.lines().count(), 3, "{done:#?}");
        for line in done.stdout.lines() {
            assert!(line.ends_with("Function not implemented"), "{user:?}: {line}");
        }
    }
}
