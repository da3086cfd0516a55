//! The system call filter as Docker and Podman take it: the JSON of their seccomp profiles, which libseccomp compiles.
//!
//! It answers as the sandbox does to a command without a writable root. What the profile does not name is refused; the
//! calls of [`MISSING`] are not implemented. It names no processors, so that it holds for that of the engine's machine:
//! a program of another kind (32 bits) is ended.

use serde::Serialize;

use crate::calls::{self, MISSING, Verdict};

const ENOSYS: u32 = 38;
const LOW_HALF: u32 = u32::MAX;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: &'static str,
    syscalls: Vec<Rule>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<&'static str>,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    /// All of them have to hold. No engine takes two for one argument.
    args: Vec<Condition>,
}

/// That of the argument `index`, the bits of the mask `value` are `value_two`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    index: u32,
    value: u64,
    value_two: u64,
    op: &'static str,
}

/// A profile in JSON, the same text for every call.
pub fn profile() -> String {
    let mut syscalls = vec![Rule {
        names: MISSING.to_vec(),
        action: "SCMP_ACT_ERRNO",
        errno_ret: Some(ENOSYS),
        args: Vec::new(),
    }];
    let mut plain = Vec::new();
    for (call, verdict) in calls::verdicts(false) {
        let conditions = match verdict {
            Verdict::Allow => {
                plain.push(call.name);
                continue;
            }
            // As everything else that has no rule.
            Verdict::Refuse | Verdict::Missing => continue,
            Verdict::Only(index, values) => values.iter().map(|value| bits(index, LOW_HALF, *value)).collect(),
            Verdict::Except(index, values) => other_than(index, &values),
            Verdict::Without(index, mask) => vec![bits(index, mask, 0)],
            Verdict::WithoutBoth((first, some), (second, more)) => vec![bits(first, some, 0), bits(second, more, 0)],
        };
        // One of them is enough.
        syscalls.extend(
            conditions
                .into_iter()
                .map(|condition| allow(vec![call.name], vec![condition])),
        );
    }
    syscalls.push(allow(plain, Vec::new()));
    let profile = Profile {
        default_action: "SCMP_ACT_ERRNO",
        syscalls,
    };
    serde_json::to_string(&profile).expect("text and numbers can always be written as JSON")
}

fn allow(names: Vec<&'static str>, args: Vec<Condition>) -> Rule {
    Rule {
        names,
        action: "SCMP_ACT_ALLOW",
        errno_ret: None,
        args,
    }
}

/// Holds if of the bits in `mask` exactly those of `value` are set. The high half of an argument, which the kernel does
/// not look at either, counts for nothing.
fn bits(index: u32, mask: u32, value: u32) -> Condition {
    Condition {
        index,
        value: mask.into(),
        value_two: (value & mask).into(),
        op: "SCMP_CMP_MASKED_EQ",
    }
}

/// Conditions of which one holds exactly if the argument's low half is none of these values. "Not equal" would compare the
/// high half too, and could be said of one value only.
fn other_than(index: u32, values: &[u32]) -> Vec<Condition> {
    let Some(first) = values.first() else {
        return vec![bits(index, 0, 0)];
    };
    let differing = values.iter().fold(0, |all, value| all | (value ^ first));
    // A bit that all of them have alike is another one.
    let alike = (0..32).map(|bit| 1_u32 << bit).filter(|bit| differing & bit == 0);
    let mut all: Vec<Condition> = alike.map(|bit| bits(index, bit, !first & bit)).collect();
    // Or the bits in which they differ are as in none of them. Each subset of those bits, from none to all:
    let mut subset = 0_u32;
    loop {
        if values.iter().all(|value| value & differing != subset) {
            all.push(bits(index, differing, subset));
        }
        if subset == differing {
            return all;
        }
        subset = subset.wrapping_sub(differing) & differing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &Condition, argument: u64) -> bool {
        argument & condition.value == condition.value_two
    }

    #[test]
    fn everything_but_these_values_is_let_through() {
        for values in [vec![0x5412, 0x541c], vec![7], vec![0, 1, 2, 3], vec![1, 2, 4], vec![]] {
            let conditions = other_than(1, &values);
            let numbers = (0..0x1_0000_u64).chain((0..32).map(|bit| 0x5412 ^ 1 << bit));
            for number in numbers.chain([u32::MAX.into()]) {
                let expected = !values.contains(&(number as u32));
                for argument in [number, number | 1 << 32] {
                    let passes = conditions.iter().any(|condition| holds(condition, argument));
                    assert_eq!(passes, expected, "{argument:#x} of {values:?}");
                }
            }
        }
    }

    /// What the sandbox's own filter answers, the profile answers.
    #[test]
    fn the_profile_answers_as_the_filter_does() {
        let profile: serde_json::Value = serde_json::from_str(&profile()).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let rules = profile["syscalls"].as_array().unwrap();
        let of = |name: &str| -> Vec<&serde_json::Value> {
            let has = |rule: &&serde_json::Value| rule["names"].as_array().unwrap().iter().any(|one| one == name);
            rules.iter().filter(has).collect()
        };
        for (call, verdict) in calls::verdicts(false) {
            let rules = of(call.name);
            match verdict {
                Verdict::Refuse | Verdict::Missing => assert!(rules.is_empty(), "{}", call.name),
                Verdict::Allow => assert_eq!((rules.len(), &rules[0]["args"]), (1, &serde_json::json!([]))),
                _ => {
                    for rule in &rules {
                        assert_eq!(rule["action"], "SCMP_ACT_ALLOW");
                        assert_eq!(rule["args"].as_array().unwrap().len(), 1, "{}", call.name);
                    }
                }
            }
        }
        for name in MISSING {
            let [rule] = of(name)[..] else { panic!("{name}") };
            assert_eq!(
                (&rule["action"], &rule["errnoRet"]),
                (&"SCMP_ACT_ERRNO".into(), &ENOSYS.into())
            );
        }
        let passes = |name: &str, arguments: [u64; 4]| {
            of(name).iter().any(|rule| {
                let number = |field: &serde_json::Value| field.as_u64().unwrap();
                let conditions = rule["args"].as_array().unwrap().iter();
                let mut met = conditions.map(|one| {
                    arguments[number(&one["index"]) as usize] & number(&one["value"]) == number(&one["valueTwo"])
                });
                met.all(|met| met)
            })
        };
        for (name, index) in [
            ("chmod", 1),
            ("fchmod", 1),
            ("fchmodat", 2),
            ("fchmodat2", 2),
            ("creat", 1),
            ("mknod", 1),
        ] {
            let with = |mode| {
                let mut arguments = [0; 4];
                arguments[index] = mode;
                arguments
            };
            assert!(passes(name, with(0o1777)), "{name}");
            assert!(!passes(name, with(0o4755)) && !passes(name, with(0o2755)), "{name}");
        }
        assert!(!passes("mknodat", [0, 0, 0o2_0644, 0]) && !passes("mknodat", [0, 0, 0o6_0644, 0]));
        assert!(passes("mknodat", [0, 0, 0o1_0644, 0]));
        assert!(!passes("openat", [0, 0, 0o101, 0o4755]) && !passes("openat", [0, 0, 0o2020_0001, 0o4755]));
        // Without a file to make the mode is whatever lay around.
        assert!(passes("openat", [0, 0, 0o20_0000, 0o7777]) && passes("openat", [0, 0, 0o101, 0o1666]));
    }
}
