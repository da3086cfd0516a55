//! What a look at the services costs beside the same look by `systemctl`. Printed, for those who want to know.

use crate::container::{Container, Who};

/// Milliseconds of each run of a line, in turn with the other's; the shell that measures is the same for both.
fn beside(container: &Container, ours: &str, theirs: &str) -> Vec<(f64, f64)> {
    let line = format!(
        "i=0; while [ $i -lt 25 ]; do i=$((i+1)); a=$(date +%s%N); {ours} >/dev/null 2>&1; b=$(date +%s%N); \
         {theirs} >/dev/null 2>&1; c=$(date +%s%N); echo $((b-a)) $((c-b)); done"
    );
    let said = container.run(Who::Ada, &line);
    let number = |text: Option<&str>| text.unwrap().parse::<f64>().unwrap() / 1e6;
    let pair = |line: &str| {
        let mut words = line.split(' ');
        (number(words.next()), number(words.next()))
    };
    said.lines().map(pair).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn a_status_beside_systemctls() {
    let Some(container) = Container::boot("status::a_status_beside_systemctls") else {
        return;
    };
    let theirs = "systemctl --user status --no-pager nexus-orchestrator nexus-llm nexus-agent@assistant nexus-agent@worker nexus-gateway";
    container.run(Who::Ada, "nexus services install");
    for when in ["up", "down"] {
        if when == "down" {
            container.run(Who::Ada, "nexus down");
        }
        let pairs = beside(&container, "nexus services status", theirs);
        assert_eq!(pairs.len(), 25);
        println!(
            "all {when}: nexus services status {:.1} ms, systemctl status {:.1} ms, {:.2} of it",
            median(pairs.iter().map(|pair| pair.0).collect()),
            median(pairs.iter().map(|pair| pair.1).collect()),
            median(pairs.iter().map(|pair| pair.0 / pair.1).collect()),
        );
    }
}
