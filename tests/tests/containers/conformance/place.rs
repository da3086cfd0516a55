//! What it finds around itself.

use super::Bench;

pub async fn it_has_no_network(bench: &Bench) {
    let (code, said) = bench
        .run(
            &bench.shell("cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' ' | grep -v '^lo$' && exit 1; exit 0"),
        )
        .await;
    assert_eq!(code, 0, "{said}");
}

pub async fn it_has_no_rights(bench: &Bench) {
    let mut spec = bench.shell("grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status");
    for user in ["65534:65534", "0:0"] {
        spec.user = user.into();
        let (code, said) = bench.run(&spec).await;
        let found: Vec<&str> = said.split_whitespace().collect();
        let none = "0000000000000000";
        let wanted = ["CapEff:", none, "CapBnd:", none, "NoNewPrivs:", "1", "Seccomp:", "2"];
        assert!(code == 0 && found == wanted, "{user}: {said}");
    }
}
