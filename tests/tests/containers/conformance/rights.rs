//! Rights that a file could give, and the system calls that programs need.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nexus_runtime::{ContainerSpec, Mount, MountKind};

use super::Bench;

/// This script in the Python of the host, whose programs and libraries are mounted for it.
fn python(bench: &Bench, script: &str) -> ContainerSpec {
    let mut spec = bench.shell("");
    spec.entrypoint = ["/usr/bin/python3", "-c"].map(String::from).into();
    spec.args = vec![script.into()];
    let there = ["/usr", "/lib", "/lib64"]
        .into_iter()
        .filter(|path| Path::new(path).exists());
    spec.mounts = there
        .map(|path| Mount {
            kind: MountKind::Bind(Path::new(path).canonicalize().unwrap()),
            target: path.into(),
            read_only: true,
        })
        .collect();
    spec
}

/// The attack: by every call that can set a mode, leave a set-user-id program or a device in a directory of the host.
pub async fn no_call_sets_rights_on_a_file_of_the_host(bench: &Bench) {
    const SCRIPT: &str = r#"
import ctypes, errno, os, stat
libc = ctypes.CDLL(None, use_errno=True)
SET = 0o4755
def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), 'syscall')
os.umask(0)
os.chdir('/out')
open('f', 'w').close()
fd, dd = os.open('f', os.O_RDONLY), os.open('.', os.O_RDONLY)
how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, SET, 0)
def tmpfile():
    made = os.open('.', os.O_TMPFILE | os.O_RDWR, SET)
    os.link(f'/proc/self/fd/{made}', 't', follow_symlinks=True)
ways = {
    'chmod': lambda: os.chmod('f', SET), 'setgid': lambda: os.chmod('f', 0o2755),
    'fchmod': lambda: os.fchmod(fd, SET), 'fchmodat': lambda: os.chmod('f', SET, dir_fd=dd),
    'fchmodat2': lambda: call(452, dd, b'f', SET, 0),
    'open': lambda: os.open('o', os.O_CREAT | os.O_WRONLY, SET),
    'openat': lambda: os.open('oa', os.O_CREAT | os.O_WRONLY, 0o2755, dir_fd=dd),
    'openat2': lambda: call(437, dd, b'two', how, 24), 'tmpfile': tmpfile,
    'creat': lambda: os.close(libc.creat(b'c', SET)),
    'mknod': lambda: os.mknod('n', stat.S_IFREG | SET), 'mknodat': lambda: os.mknod('na', stat.S_IFREG | SET, dir_fd=dd),
    'zero': lambda: os.mknod('z', stat.S_IFCHR | 0o666, os.makedev(0, 0)),
    'null': lambda: os.mknod('ch', stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    'block': lambda: os.mknod('bl', stat.S_IFBLK | 0o666, os.makedev(8, 0)),
    'capability': lambda: os.setxattr('f', 'security.capability', bytes.fromhex('0100000200000000000000000000000000000000')),
    'attribute': lambda: os.setxattr('f', 'security.nexus', b'x'),
}
for name, way in ways.items():
    try:
        way()
        print('done:', name)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EBADF, errno.EOPNOTSUPP):
            print('odd:', name, error)
os.mkdir('d', 0o1777)
os.mkfifo('p', 0o600)
print('end')
"#;
    for user in ["0:0", "65534:65534"] {
        let out = bench.directory.join(format!("rights-{}", user.replace(':', "-")));
        std::fs::create_dir_all(&out).unwrap();
        std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o777)).unwrap();
        let mut spec = python(bench, SCRIPT);
        spec.user = user.into();
        spec.mounts.push(Mount {
            kind: MountKind::Bind(out.clone()),
            target: "/out".into(),
            read_only: false,
        });
        let said = bench.run(&spec).await;
        assert_eq!(said, (0, "end\n".into()), "{user}");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&out).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let kind = metadata.file_type();
            let device = kind.is_char_device() || kind.is_block_device();
            let name = entry.file_name().into_string().unwrap();
            assert!(
                metadata.mode() & 0o6000 == 0 && !device,
                "{user}: {name} {:o}",
                metadata.mode()
            );
            names.push(name);
        }
        names.sort_unstable();
        // What is no right stays possible.
        assert_eq!(names, ["d", "f", "p"], "{user}");
    }
}

/// Threads, other processes, sockets, shared memory, a database: what images are full of.
pub async fn ordinary_programs_run(bench: &Bench) {
    const SCRIPT: &str = r#"
import asyncio, mmap, multiprocessing, os, shutil, socket, sqlite3, subprocess, tarfile, tempfile, threading
os.chdir('/tmp')
said = []
one = threading.Thread(target=lambda: said.append('thread'))
one.start(); one.join()
said.append(subprocess.run(['/bin/sh', '-c', 'echo words | sort | tr -d "\n"'], capture_output=True, text=True).stdout)
async def asynchronous():
    process = await asyncio.create_subprocess_exec('/bin/echo', 'later', stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    said.append(out.decode().strip())
asyncio.run(asynchronous())
left, right = socket.socketpair()
left.sendall(b'socket'); said.append(right.recv(6).decode())
shared = mmap.mmap(-1, 4096)
if os.fork() == 0:
    shared[:6] = b'shared'; os._exit(0)
os.wait(); said.append(shared[:6].decode())
database = sqlite3.connect('/tmp/d'); database.execute('create table t (x)'); database.execute('insert into t values (7)')
database.commit(); said.append(str(database.execute('select x from t').fetchone()[0]))
os.makedirs('tree/a'); os.chmod('tree', 0o1777); open('tree/a/f', 'w').write('x')
with tarfile.open('t.tar', 'w') as tar: tar.add('tree')
shutil.rmtree('tree')
with tarfile.open('t.tar') as tar: tar.extractall()
said.append(oct(os.stat('tree').st_mode & 0o7777)); said.append(open('tree/a/f').read())
print(' '.join(said))
"#;
    let (code, said) = bench.run(&python(bench, SCRIPT)).await;
    assert_eq!(
        (code, said.as_str()),
        (0, "thread words later socket shared 7 0o1777 x\n")
    );
    let script = "cd /tmp && mkdir -p a/b && cp /bin/busybox a/b && tar -cf a.tar a && rm -r a && tar -xf a.tar && \
                  find a -type f | xargs ls -l | wc -l && (sleep 0.01 & wait) && mkfifo p && ln -s a l && readlink l && \
                  chmod 1777 a && stat -c %a a && dd if=/dev/zero of=z bs=1k count=4 2>/dev/null && gzip z && ls z.gz";
    assert_eq!(bench.run(&bench.shell(script)).await, (0, "1\na\n1777\nz.gz\n".into()));
}
