//! Limits that limit. What a host cannot enforce has to be named by the probe.

use std::time::{Duration, Instant};

use nexus_runtime::Limit;

use super::Bench;

fn enforced(bench: &Bench, limit: Limit) -> bool {
    let enforced = !bench.probe.unenforced.contains(&limit);
    if !enforced {
        println!("    {} is not enforced here, and said so", limit.name());
    }
    enforced
}

pub async fn memory_is_limited_and_its_lack_told(bench: &Bench) {
    if !enforced(bench, Limit::Memory) {
        return;
    }
    let mut spec = bench.shell("x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo survived");
    spec.limits.memory_bytes = 32 << 20;
    // The whole of it: a shell in between would live on and say something else.
    spec.args = vec!["exec awk 'BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }'".into()];
    let id = bench.start(&spec).await;
    let exit = bench.engine.wait(&id).await.unwrap();
    let (out, err) = super::output::read(bench, &id, Default::default()).await;
    assert_eq!(
        (exit.oom, exit.code),
        (bench.probe.tells_oom, 137),
        "{exit:?} {out} {err}"
    );
    assert!(
        exit.oom || bench.probe.notes.iter().any(|note| note.contains("memory")),
        "{:?}",
        bench.probe
    );
    assert_eq!(bench.engine.inspect(&id).await.unwrap().exit, Some(exit));
    bench.engine.remove(&id, true).await.unwrap();
}

pub async fn processes_are_limited(bench: &Bench) {
    if !enforced(bench, Limit::Pids) {
        return;
    }
    let mut spec = bench.shell("i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo all; exit 0");
    spec.limits.pids = 16;
    let (_, said) = bench.run(&spec).await;
    assert!(!said.contains("all") && said.contains("can't fork"), "{said}");
}

pub async fn the_processor_is_limited(bench: &Bench) {
    if !enforced(bench, Limit::Cpu) {
        return;
    }
    let mut spec = bench.shell("i=0; while :; do i=$((i+1)); done");
    spec.limits.nano_cpus = 200_000_000;
    let begun = Instant::now();
    let id = bench.start(&spec).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = bench.engine.stats(&id).await.unwrap().cpu;
    let share = used.as_secs_f64() / begun.elapsed().as_secs_f64();
    bench.engine.remove(&id, true).await.unwrap();
    assert!(share < 0.4 && !used.is_zero(), "a fifth of a core was {share}");
}
