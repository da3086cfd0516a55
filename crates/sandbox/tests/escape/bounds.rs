//! Limits that limit. Every test stays harmless if its limit does not: see `helper::command`.

use std::time::{Duration, Instant};

use nexus_sandbox::{Report, Run};

use crate::helper::{As, Done, everybody, python, run, shell};

fn unenforced(done: &Done) -> Vec<String> {
    match &done.reports[0] {
        Report::Started(started) => started.unenforced.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fork_bomb_meets_its_limit() {
    for user in everybody() {
        let mut wanted = python(
            "import os,time\nn=0\n\
             for i in range(300):\n try:\n  if os.fork()==0: time.sleep(60); os._exit(0)\n  n+=1\n except OSError: break\n\
             print('forked', n < 300 and n > 5, n <= 40)",
        );
        wanted.limits.pids = Some(40);
        let done = run(user, wanted).ran();
        assert!(!unenforced(&done).contains(&"pids".to_string()));
        done.prints("forked True True");
    }
}

#[test]
fn threads_count_too() {
    for user in everybody() {
        let mut wanted = python(
            "import threading,time\nn=0\n\
             for i in range(300):\n try: threading.Thread(target=time.sleep,args=(60,),daemon=True).start(); n+=1\n except RuntimeError: break\n\
             print(n < 300 and n <= 40, flush=True)\nimport os; os._exit(0)",
        );
        wanted.limits.pids = Some(40);
        run(user, wanted).ran().prints("True");
    }
}

#[test]
fn descriptors_run_out_inside_only() {
    for user in everybody() {
        let mut wanted = python(
            "import os\nn=0\n\
             try:\n  while n < 5000: os.open('/dev/null',0); n+=1\nexcept OSError as e: print(os.strerror(e.errno), n <= 64)",
        );
        wanted.limits.nofile = 64;
        run(user, wanted).ran().prints("Too many open files True");
    }
}

#[test]
fn everything_writable_comes_out_of_one_bound() {
    for user in everybody() {
        let mut wanted = shell(
            "for d in /tmp /var/tmp /run /dev/shm; do head -c 8000000 /dev/zero > $d/full 2>/dev/null; done; \
             cat /tmp/full /var/tmp/full /run/full /dev/shm/full | wc -c | xargs test 1100000 -ge && echo bytes; \
             rm /tmp/full /var/tmp/full /run/full /dev/shm/full; mkdir /tmp/d; i=0; \
             while [ $i -lt 3000 ] && true > /tmp/d/$i; do i=$((i+1)); done 2>/dev/null; test $i -lt 3000 && echo files; \
             head -c 30000000 /dev/zero > /dev/mqueue 2>/dev/null; echo done",
        );
        wanted.limits.scratch = 1 << 20;
        run(user, wanted).ran().prints("bytes\nfiles\ndone");
    }
}

#[test]
fn a_file_grows_to_its_limit() {
    for user in everybody() {
        let mut wanted = shell("trap '' XFSZ; head -c 9000000 /dev/zero > /tmp/f; stat -c %s /tmp/f");
        wanted.limits.fsize = Some(100_000);
        run(user, wanted).ran().prints("100000");
    }
}

fn hungry() -> Run {
    let mut wanted = python("x=bytearray(400<<20)\nfor i in range(0,len(x),4096): x[i]=1\nprint('had it')");
    wanted.limits.memory = Some(64 << 20);
    wanted
}

#[test]
fn memory_is_limited_or_the_lack_of_a_limit_is_told() {
    for user in everybody() {
        let done = run(user, hungry()).ran();
        assert!(!done.stdout.contains("had it"), "{done:#?}");
        let Some(Report::Exited(ended)) = done.reports.last() else {
            panic!("{done:#?}")
        };
        if unenforced(&done).contains(&"memory".to_string()) {
            // Held for each process: it is told so by its allocator.
            assert!(done.stderr.contains("MemoryError"), "{done:#?}");
        } else {
            assert_eq!((ended.oom, ended.code), (true, 137), "{done:#?}");
        }
    }
}

#[test]
fn one_process_too_large_inside_is_told_as_such_though_the_first_lives() {
    if !everybody().contains(&As::Root) {
        return;
    }
    let mut wanted = hungry();
    wanted.command = vec![
        "sh".into(),
        "-c".into(),
        format!("python3 -c \"{}\"; echo survived", wanted.command[2]),
    ];
    let done = run(As::Root, wanted).ran();
    let oom = matches!(done.reports.last(), Some(Report::Exited(ended)) if ended.oom && ended.code == 0);
    if unenforced(&done).is_empty() {
        assert!(oom, "{done:#?}");
    }
    done.prints("survived");
}

#[test]
fn a_limit_that_is_required_and_cannot_be_set_is_refused() {
    let mut wanted = shell("true");
    wanted.cgroup = nexus_sandbox::Cgroup::None;
    wanted.limits.memory = Some(64 << 20);
    wanted.limits.required = true;
    for user in everybody() {
        assert_eq!(run(user, wanted.clone()).failed(), "limits");
    }
}

#[test]
fn the_cpu_is_rationed() {
    use crate::helper::{command, send};
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    for user in everybody() {
        let mut wanted = shell("while :; do :; done");
        wanted.limits.nano_cpus = Some(100_000_000);
        let state = crate::helper::own_dir(user);
        wanted.state = Some(state.1.clone());
        let mut child = command(user)
            .args(["--status-fd", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        send(&mut child, &nexus_sandbox::Request::Run(Box::new(wanted)));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let Report::Started(started) = serde_json::from_str(&line).unwrap() else {
            panic!("{line}")
        };
        let verdict = match started.cgroups.get("cpu") {
            None => started.unenforced == ["cpu"],
            Some(dir) => {
                let deadline = Instant::now() + Duration::from_secs(30);
                let held = || {
                    let stat = std::fs::read_to_string(format!("{dir}/cpu.stat")).unwrap();
                    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
                    throttled.is_some_and(|count| count != "0")
                };
                loop {
                    if held() {
                        break true;
                    }
                    if Instant::now() > deadline {
                        break false;
                    }
                    std::thread::yield_now();
                }
            }
        };
        crate::life::kill(started.init.pid);
        child.wait().unwrap();
        assert!(verdict, "{started:?}");
    }
}
