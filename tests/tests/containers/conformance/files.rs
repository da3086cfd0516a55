//! Its files, and the image that they come of.

use std::os::unix::fs::PermissionsExt;

use nexus_runtime::{Error, Mount, MountKind, PullPolicy};

use super::Bench;

pub async fn the_root_is_read_only(bench: &Bench) {
    let spec = bench.shell("touch /x && exit 1; touch /bin/x && exit 1; echo t > /tmp/x && cat /tmp/x");
    let (code, said) = bench.run(&spec).await;
    assert_eq!(code, 0, "{said}");
    assert!(
        said.starts_with("t\n") && said.to_lowercase().contains("read-only"),
        "{said}"
    );
    let mut spec = bench.shell("echo w > /tmp/../home/x && cat /home/x");
    spec.writable_rootfs = true;
    spec.user = "0:0".into();
    assert_eq!(bench.run(&spec).await, (0, "w\n".into()));
}

pub async fn a_mount_is_what_it_says(bench: &Bench) {
    let make = |name: &str| {
        let path = bench.directory.join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        path
    };
    let (open, shut) = (make("open"), make("shut"));
    std::fs::write(shut.join("there"), "before\n").unwrap();
    let bind = |path: &std::path::Path, target: &str, read_only| Mount {
        kind: MountKind::Bind(path.into()),
        target: target.into(),
        read_only,
    };
    let mut spec = bench.shell("cat /in/there; echo w > /in/x && exit 1; echo h > /out/x; echo m > /mem/x; df /mem | tail -1 | grep -q mem; echo $?");
    spec.mounts = vec![
        bind(&shut, "/in", true),
        bind(&open, "/out", false),
        Mount {
            kind: MountKind::Tmpfs { bytes: 1 << 20 },
            target: "/mem".into(),
            read_only: false,
        },
    ];
    let (code, said) = bench.run(&spec).await;
    assert!(code == 0 && said.starts_with("before\n0\n"), "{code} {said}");
    assert_eq!(std::fs::read_to_string(open.join("x")).unwrap(), "h\n");
    assert!(!shut.join("x").exists());
}

pub async fn a_working_directory_and_an_environment(bench: &Bench) {
    let mut spec = bench.shell("pwd; echo \"$A\"; id -u; id -g");
    spec.working_dir = "/home".into();
    spec.env = [("A".to_owned(), "b c=d".to_owned())].into();
    assert_eq!(bench.run(&spec).await, (0, "/home\nb c=d\n65534\n65534\n".into()));
}

pub async fn an_image_that_is_not_here_is_told(bench: &Bench) {
    let none = "localhost/nexus-none:1";
    let mut spec = bench.shell("true");
    spec.image = none.into();
    let told = bench.engine.create(&spec).await;
    assert!(matches!(told, Err(Error::ImageNotFound { .. })), "{told:?}");
    let told = bench.engine.pull(none, PullPolicy::Never, None, None).await;
    assert!(matches!(told, Err(Error::ImageNotFound { .. })), "{told:?}");
    let told = bench.engine.remove_image(none, false).await;
    assert!(matches!(told, Err(Error::ImageNotFound { .. })), "{told:?}");
}

pub async fn an_image_comes_and_goes(bench: &Bench) {
    let engine = &bench.engine;
    let tar = bench.directory.parent().unwrap().join("busybox.tar");
    let name = "localhost/nexus-other:2";
    let image = engine.import(&tar, name).await.unwrap();
    assert!(image.references.iter().any(|one| one == name), "{image:?}");
    let has = async || {
        let all = engine.images().await.unwrap();
        all.iter().any(|image| image.references.iter().any(|one| one == name))
    };
    assert!(has().await);
    let mut spec = bench.shell("echo of it");
    spec.image = name.into();
    assert_eq!(bench.run(&spec).await, (0, "of it\n".into()));
    engine.remove_image(name, true).await.unwrap();
    assert!(!has().await);
}
