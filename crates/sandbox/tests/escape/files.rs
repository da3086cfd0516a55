//! Files of the host, by name, by link, by mount.

use std::fs;
use std::os::unix::fs::symlink;

use nexus_sandbox::Rootfs;

use crate::helper::{As, everybody, mount, own, own_dir, place, python, run, shell};

#[test]
fn files_of_the_host_are_not_there() {
    for user in everybody() {
        let (_dir, secret) = own_dir(user);
        let file = secret.join("mine").display().to_string();
        let script = format!(
            "for f in {file} /proc/self/root{file} /proc/self/cwd{file} /../../..{file} /etc/shadow /etc/gshadow \
             /etc/ssh /etc/sudoers /root/.ssh /root/.bashrc /sys/kernel /boot /var/lib /proc/1/root{file}; do \
             [ -e $f ] && echo found $f; done; ls -A /root /home /sys 2>/dev/null | grep -v : | grep . ; echo done"
        );
        run(user, shell(&script)).ran().prints("done");
    }
}

#[test]
fn the_root_cannot_be_written() {
    for user in everybody() {
        let script = "for d in / /usr /etc /bin /lib /home /root /var /proc/sys/kernel /proc/sys/vm; do \
            touch $d/x 2>/dev/null && echo wrote $d; done; echo h > /proc/sys/kernel/hostname && echo wrote; \
            echo 0 > /proc/sysrq-trigger && echo triggered; \
            for d in /tmp /var/tmp /run /dev/shm; do touch $d/x || echo cannot $d; done; echo done";
        run(user, shell(script)).ran().prints("done");
    }
}

#[test]
fn what_is_written_to_a_writable_root_stays_inside() {
    for user in everybody() {
        let mut wanted = shell("echo x > /usr/nexus-escape && cat /usr/nexus-escape && mkdir /made && ls -d /made");
        wanted.writable_rootfs = true;
        run(user, wanted).ran().prints("x\n/made");
        assert!(!fs::exists("/usr/nexus-escape").unwrap());
        assert!(!fs::exists("/made").unwrap());
    }
}

#[test]
fn a_mount_is_as_writable_as_it_was_given_and_belongs_to_the_user_inside() {
    for user in everybody() {
        let (_dir, path) = own_dir(user);
        let mut wanted = shell("cat mine; echo out > out; stat -c %u mine");
        wanted.caller = Some(own(user));
        wanted.workdir = "/workspace".into();
        wanted.mounts = vec![mount(&path, "/workspace", false)];
        run(user, wanted.clone()).ran().prints("mine\n1000");
        assert_eq!(fs::read_to_string(path.join("out")).unwrap(), "out\n");
        let owner = |name| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path.join(name)).unwrap());
        assert_eq!(
            owner("out"),
            owner("mine"),
            "what is made inside belongs to whom the directory belongs"
        );

        wanted.mounts[0].read_only = true;
        wanted.command[2] = "echo no > mine || echo refused; rm mine || echo refused; \
            mount -o remount,rw /workspace 2>/dev/null || echo refused"
            .into();
        run(user, wanted).ran().prints("refused\nrefused\nrefused");
        assert_eq!(fs::read_to_string(path.join("mine")).unwrap(), "mine\n");
    }
}

#[test]
fn a_mount_source_over_a_link_is_refused_wherever_the_link_is() {
    for user in everybody() {
        let (_dir, path) = own_dir(user);
        let links = place();
        let links_path = links.path().canonicalize().unwrap();
        symlink(&path, links_path.join("swapped")).unwrap();
        symlink("/", links_path.join("up")).unwrap();
        for source in [
            links_path.join("swapped"),
            links_path.join("up").join("etc"),
            links_path.join("nothing"),
            "/proc/self/root/etc".into(),
            "relative".into(),
        ] {
            let mut wanted = shell("true");
            wanted.mounts = vec![mount(&source, "/workspace", true)];
            assert_eq!(run(user, wanted).failed(), "mount", "{user:?} {}", source.display());
        }
    }
}

#[test]
fn links_inside_an_image_lead_nowhere_else() {
    for user in everybody() {
        let (_dir, outside) = own_dir(user);
        let image = place();
        let root = image.path().canonicalize().unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| fs::exists(path).unwrap());
        let Some(busybox) = busybox else {
            println!("skipped: busybox (static) is missing");
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "nothing may be skipped here: busybox-static"
            );
            return;
        };
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy(busybox, root.join("bin/sh")).unwrap();
        fs::create_dir_all(root.join("inside")).unwrap();
        // A mount point that the image turned into a link to the host, and a link that climbs.
        symlink("/inside", root.join("workspace")).unwrap();
        symlink(&outside, root.join("host")).unwrap();
        symlink("../../../../../../../../etc/shadow", root.join("climb")).unwrap();
        let (_data, data) = own_dir(user);
        let mut wanted = shell("cat /inside/mine; cat /host/mine; cat /climb; echo done");
        wanted.rootfs = Rootfs::Directory(root.clone());
        wanted.mounts = vec![mount(&data, "/workspace", true)];
        run(user, wanted.clone()).ran().prints("mine\ndone");

        // Made where the link leads inside, never where it leads outside.
        wanted.mounts = vec![mount(&data, "/host/x", true)];
        wanted.command[2] = "true".into();
        let _ = run(user, wanted);
        assert!(!fs::exists(outside.join("x")).unwrap());
    }
}

#[test]
fn hard_links_do_not_carry_files_out_of_a_read_only_mount() {
    for user in everybody() {
        let (_dir, path) = own_dir(user);
        let mut wanted = python(
            "import os\nfor to in ('/tmp/x', '/data/x', '/run/x'):\n try:\n  os.link('/data/mine', to); print('linked', to)\n \
             except OSError: pass\nprint('done')",
        );
        wanted.mounts = vec![mount(&path, "/data", true)];
        run(user, wanted).ran().prints("done");
    }
}

#[test]
fn the_sandboxs_own_places_cannot_be_mounted_over() {
    let user = As::Ordinary;
    for target in ["/", "/proc", "/proc/sys", "/dev/null", "/sys", "/a/../proc", "relative"] {
        let mut wanted = shell("true");
        wanted.mounts = vec![mount("/usr".as_ref(), target, true)];
        assert_eq!(run(user, wanted).failed(), "spec", "{target}");
    }
}
