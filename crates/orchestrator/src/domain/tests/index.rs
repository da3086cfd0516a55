//! Index documents: kept right by what changes the documents, and made again where a version without them wrote.

use bytes::Bytes;
use nexus_store::{Op, Read, Table};

use super::*;

/// The tables of documents that have an index, and those of the index.
const INDEXED: [Table; 3] = [Table(2), Table(8), Table(9)];
const INDEX: std::ops::RangeInclusive<u16> = 23..=30;

fn index(world: &mut World) -> Vec<(u16, Bytes)> {
    let scan = |table: u16| {
        let found = world
            .disk
            .read
            .clone()
            .scan(Table(table), &[], &[0xff; 9], usize::MAX)
            .unwrap();
        found.into_iter().map(move |(key, _)| (table, key)).collect::<Vec<_>>()
    };
    INDEX.flat_map(scan).collect()
}

/// Sessions of two callers, some closed and some deleted; tasks that moved, ended and are open.
fn lived() -> World {
    let mut world = World::new(Rules::default());
    let users = [caller(Role::User, 7), caller(Role::User, 8)];
    let mut sessions = Vec::new();
    for n in 0..8 {
        let metadata = SessionMetadata {
            owner_id: format!("owner {}", n % 3),
            ..SessionMetadata::default()
        };
        let by = &users[n % 2];
        let made = world.step(|state, step| state.create_session(step, by, metadata, None));
        sessions.push(made.unwrap());
    }
    for session in &sessions[..5] {
        world.must(|state, step| state.close_session(step, *session, "").unwrap());
    }
    world.must(|state, step| state.delete_session(step, sessions[0]).unwrap());
    world.must(|state, step| state.delete_session(step, sessions[7]).unwrap());
    let lost = world.register("a");
    let tasks: Vec<u64> = (0..4)
        .map(|_| world.task(None, TaskConfig::default()).unwrap())
        .collect();
    let other = world.register("b");
    world.must(|state, step| assert!(state.cancel_task(step, tasks[0], "", false)));
    for _ in 0..4 {
        world.pass(40 * SECOND);
        world.heartbeat(other);
    }
    assert!(
        world.state.tasks.iter().all(|task| task.agent != Some(lost)),
        "they moved"
    );
    world
}

#[test]
fn an_index_that_was_kept_is_the_one_that_would_be_made() {
    let mut world = lived();
    let kept = index(&mut world);
    assert!(kept.len() > 10);
    let total = world.state.usage.all_closed();
    // A version that knows no index writes, and then one that does opens the store.
    let touched = INDEXED.map(|table| {
        let key = Bytes::from_static(&[0; 8]);
        let value = Bytes::new();
        [
            Op::Put {
                table,
                key: key.clone(),
                value,
            },
            Op::Delete { table, key },
        ]
    });
    let cleared = INDEX.map(|table| Op::DeleteRange {
        table: Table(table),
        from: Bytes::new(),
        to: Bytes::from_static(&[0xff; 9]),
    });
    let junk = Op::Put {
        table: Table(23),
        key: Bytes::from_static(&[1; 8]),
        value: Bytes::new(),
    };
    let ops: Vec<Op> = touched.into_iter().flatten().chain(cleared).chain([junk]).collect();
    world.disk.raw(&ops);
    world.disk.prepare();
    assert_eq!(index(&mut world), kept);
    world.restart();
    assert_eq!(world.state.usage.all_closed(), total);
    assert_eq!(world.state.tasks.iter().count(), 3);
}

#[test]
fn an_index_that_is_known_to_be_right_is_not_made_again() {
    let mut world = lived();
    let missing = index(&mut world).remove(0);
    let gone = Op::Delete {
        table: Table(missing.0),
        key: missing.1.clone(),
    };
    world.disk.raw(&[gone]);
    world.disk.prepare();
    assert!(!index(&mut world).contains(&missing));
}

#[test]
fn a_damaged_key_is_an_error() {
    let mut world = World::new(Rules::default());
    let short = Op::Put {
        table: Table(1),
        key: Bytes::from_static(&[1, 2, 3]),
        value: Bytes::new(),
    };
    world.disk.raw(&[short]);
    let loaded = store::load(&mut world.disk.read, Rules::default(), 0);
    assert!(matches!(loaded, Err(nexus_store::Error::Damaged { .. })), "{loaded:?}");
}
