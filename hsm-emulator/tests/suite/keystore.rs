//! What every keystore has to do, whatever database holds it. Each test runs with each of them.

use std::sync::OnceLock;
use std::thread;

use crate::common::database::Database;
use hsm_emulator::keystore::{Effect, Error, Expect, Keystore, Location, Mode, Result, Write, snapshot};
use tempfile::TempDir;

/// Where a test's keystores are.
struct Place {
    dir: TempDir,
    database: Option<&'static Database>,
}

impl Place {
    fn sqlite() -> Self {
        Self { dir: tempfile::tempdir().expect("dir"), database: None }
    }

    fn postgres() -> Self {
        // It stops with the process.
        static DATABASE: OnceLock<Database> = OnceLock::new();
        Self { dir: tempfile::tempdir().expect("dir"), database: Some(DATABASE.get_or_init(Database::start)) }
    }

    fn location(&self, name: &str) -> Location {
        match self.database {
            Some(database) => database.create(),
            None => Location::File(self.dir.path().join(name)),
        }
    }

    fn open(&self) -> Keystore {
        Keystore::open(&self.location("k")).expect("open")
    }
}

macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $test() { super::$test(&super::Place::sqlite()); })*
        }
        mod postgres {
            $(#[test] fn $test() { super::$test(&super::Place::postgres()); })*
        }
    };
}

contract!(
    a_batch_is_written_whole_or_not_at_all,
    the_change_log_tells_each_record_once,
    a_long_log_comes_in_pieces,
    a_write_that_keeps_only_checks,
    a_transaction_is_written_whole_or_not_at_all,
    a_transaction_that_panics_leaves_nothing,
    deleting_what_is_not_there_changes_nothing,
    concurrent_commits_are_all_there_and_none_is_lost,
    several_processes_write_one_log,
    names_are_ordered_by_their_bytes,
    only_who_knows_the_fence_writes,
    a_gap_is_left_once,
    what_is_kept_beside_the_records_is_in_no_log,
    a_follower_has_the_same_records_at_the_same_places,
    a_follower_of_the_other_kind_has_them_too,
    what_has_changed_often_is_sent_once_and_no_piece_looks_at_all_of_it,
    a_copy_has_everything_but_the_pair,
);

fn write(id: &str, expect: Expect, body: Option<&[u8]>) -> Write {
    let effect = body.map_or(Effect::Delete, |body| Effect::Put(body.into()));
    Write { kind: "k".into(), id: id.into(), expect, effect }
}

fn a_batch_is_written_whole_or_not_at_all(place: &Place) {
    let keystore = place.open();
    keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("first");
    let batch = vec![write("b", Expect::Absent, Some(b"2")), write("a", Expect::Version(7), Some(b"3"))];
    assert!(matches!(keystore.commit(batch), Err(Error::Conflict { .. })));
    assert!(keystore.get("k", "b").expect("read").is_none());
    assert_eq!(keystore.get("k", "a").expect("read").map(|r| r.body), Some(b"1".to_vec()));
}

fn the_change_log_tells_each_record_once(place: &Place) {
    let location = place.location("k");
    let keystore = Keystore::open(&location).expect("open");
    keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("1");
    let seen = keystore.changes("k", 0).expect("all").revision;
    keystore.commit(vec![write("a", Expect::Version(1), Some(b"2"))]).expect("2");
    keystore.commit(vec![write("b", Expect::Absent, Some(b"1"))]).expect("3");
    keystore.commit(vec![write("b", Expect::Present, None)]).expect("4");
    // A second process sees the same.
    let other = Keystore::open(&location).expect("open again");
    let found = other.changes("k", seen).expect("changes");
    let changes = found.changes;
    assert_eq!((found.revision, found.more), (4, false));
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[0].record.as_ref().map(|r| (r.version, r.body.clone())), Some((2, b"2".to_vec())));
    assert_eq!((changes[1].id.as_str(), &changes[1].record), ("b", &None));
    assert!(other.changes("k", 4).expect("none").changes.is_empty());
    let all = other.changes("k", 0).expect("all");
    assert_eq!(all.changes.len(), 1, "who starts anew need not hear of what is gone");
    assert_eq!((all.revision, all.more), (4, false));
}

fn a_long_log_comes_in_pieces(place: &Place) {
    let keystore = place.open();
    let body = vec![7; 3 << 20];
    for i in 0..20 {
        keystore.commit(vec![write(&i.to_string(), Expect::Absent, Some(&body))]).expect("commit");
    }
    let (mut since, mut ids, mut pieces) = (0, Vec::new(), 0);
    loop {
        let found = keystore.changes("k", since).expect("changes");
        assert!(found.changes.len() < 10);
        ids.extend(found.changes.into_iter().map(|change| change.id));
        (since, pieces) = (found.revision, pieces + 1);
        if !found.more {
            break;
        }
    }
    assert_eq!((ids.len(), since), (20, 20));
    assert!(pieces > 2);
}

fn a_write_that_keeps_only_checks(place: &Place) {
    let keystore = place.open();
    keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("first");
    let keep = |expect| Write { kind: "k".into(), id: "a".into(), expect, effect: Effect::Keep };
    keystore.commit(vec![keep(Expect::Version(1)), write("b", Expect::Absent, Some(b"2"))]).expect("holds");
    let refused = keystore.commit(vec![keep(Expect::Version(2)), write("c", Expect::Absent, Some(b"3"))]);
    assert!(matches!(refused, Err(Error::Conflict { .. })));
    assert_eq!(keystore.get("k", "a").expect("read").map(|record| record.version), Some(1));
}

fn a_transaction_is_written_whole_or_not_at_all(place: &Place) {
    let keystore = place.open();
    keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("first");
    let attempt = |expect| {
        keystore.transaction(|transaction| {
            assert_eq!(transaction.get("k", "a")?.map(|a| a.version), Some(1));
            transaction.write(&write("b", Expect::Absent, Some(b"2")))?;
            transaction.write(&write("a", expect, Some(b"3")))
        })
    };
    assert!(matches!(attempt(Expect::Version(7)), Err(Error::Conflict { .. })));
    assert_eq!(keystore.ids("k").expect("ids"), ["a"]);
    attempt(Expect::Version(1)).expect("holds");
    assert_eq!(keystore.ids("k").expect("ids"), ["a", "b"]);
    assert_eq!(keystore.kinds().expect("kinds"), ["k"]);
    assert!(keystore.any("k", |record| record.body == b"3").expect("any"));
    assert!(!keystore.any("k", |record| record.body == b"1").expect("any"));
}

fn a_transaction_that_panics_leaves_nothing(place: &Place) {
    let keystore = place.open();
    let panicked = thread::scope(|scope| {
        let panics = scope.spawn(|| {
            keystore.transaction(|transaction| {
                transaction.write(&write("a", Expect::Absent, Some(b"1")))?;
                if keystore.ids("k")?.is_empty() {
                    panic!("on purpose");
                }
                Ok::<_, Error>(())
            })
        });
        panics.join().is_err()
    });
    assert!(panicked);
    keystore.commit(vec![write("b", Expect::Absent, Some(b"1"))]).expect("nobody waits for it");
    assert_eq!(keystore.ids("k").expect("ids"), ["b"]);
}

fn deleting_what_is_not_there_changes_nothing(place: &Place) {
    let keystore = place.open();
    let a = write("a", Expect::Absent, Some(b"1"));
    let revision = keystore.commit(vec![a, write("b", Expect::Any, None)]).expect("commit");
    assert_eq!(revision, 1);
    assert_eq!(keystore.changes("k", 0).expect("changes").revision, 1);
}

fn concurrent_commits_are_all_there_and_none_is_lost(place: &Place) {
    let keystore = place.open();
    thread::scope(|scope| {
        for thread in 0..8 {
            let keystore = &keystore;
            scope.spawn(move || {
                for i in 0..50 {
                    let id = format!("{thread}-{i}");
                    keystore.commit(vec![write(&id, Expect::Absent, Some(b"x"))]).expect("commit");
                }
            });
        }
    });
    assert_eq!(keystore.scan("k").expect("scan").len(), 400);
}

/// Whoever follows the log misses nothing: a place in it is never seen before an earlier one.
fn several_processes_write_one_log(place: &Place) {
    let location = place.location("k");
    let processes: Vec<_> = (0..4).map(|_| Keystore::open(&location).expect("open")).collect();
    let follower = Keystore::open(&location).expect("open");
    let (mut since, mut ids) = (0, Vec::new());
    thread::scope(|scope| {
        let writers: Vec<_> = processes
            .iter()
            .enumerate()
            .map(|(process, keystore)| {
                scope.spawn(move || {
                    for i in 0..50 {
                        let id = format!("{process}-{i}");
                        keystore.commit(vec![write(&id, Expect::Absent, Some(b"x"))]).expect("commit");
                        keystore.commit(vec![write("count", Expect::Any, Some(b"x"))]).expect("commit");
                    }
                })
            })
            .collect();
        loop {
            let done = writers.iter().all(thread::ScopedJoinHandle::is_finished);
            let found = follower.changes("k", since).expect("changes");
            ids.extend(found.changes.into_iter().map(|change| change.id).filter(|id| id != "count"));
            since = found.revision;
            if done && !found.more {
                break;
            }
        }
    });
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), since), (200, 400));
    assert_eq!(follower.get("k", "count").expect("get").map(|record| record.version), Some(200));
}

fn names_are_ordered_by_their_bytes(place: &Place) {
    let keystore = place.open();
    let names = ["B", "Z", "_", "a", "a-b", "aB", "ab", "é"];
    for name in names.iter().rev() {
        keystore.commit(vec![write(name, Expect::Absent, Some(name.as_bytes()))]).expect("commit");
    }
    assert_eq!(keystore.ids("k").expect("ids"), names);
    let scanned = keystore.scan("k").expect("scan");
    assert_eq!(scanned.iter().map(|record| record.id.as_str()).collect::<Vec<_>>(), names);
}

fn only_who_knows_the_fence_writes(place: &Place) {
    let location = place.location("k");
    let keystore = Keystore::open(&location).expect("open");
    keystore.transaction_here(|transaction| transaction.set_fence(3)).expect("fence");
    keystore.gate().set(Mode::Alone, 3);
    keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("knows it");
    let other = Keystore::open(&location).expect("open");
    let refused = other.commit(vec![write("b", Expect::Absent, Some(b"1"))]);
    assert!(matches!(refused, Err(Error::NotPrimary)));
    let refused: Result<()> = other.transaction(|_| Ok(()));
    assert!(matches!(refused, Err(Error::NotPrimary)));
}

fn a_gap_is_left_once(place: &Place) {
    let keystore = place.open();
    assert_eq!(keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("commit"), 1);
    keystore.transaction_here(|transaction| transaction.leave_gap()).expect("gap");
    assert_eq!(keystore.head().expect("head"), 1);
    let after = keystore.commit(vec![write("b", Expect::Absent, Some(b"1"))]).expect("commit");
    assert_eq!(after, (1 << 32) + 2);
    assert_eq!(keystore.commit(vec![write("c", Expect::Absent, Some(b"1"))]).expect("commit"), after + 1);
}

fn what_is_kept_beside_the_records_is_in_no_log(place: &Place) {
    let location = place.location("k");
    let keystore = Keystore::open(&location).expect("open");
    let set = |value: &'static [u8]| {
        keystore.transaction_here(|transaction| transaction.set_local("note", value)).expect("set");
    };
    set(b"1");
    set(b"2");
    let other = Keystore::open(&location).expect("open");
    assert_eq!(other.local("note").expect("local").as_deref(), Some(&b"2"[..]));
    assert_eq!(other.head().expect("head"), 0);
    other.transaction_here(|transaction| transaction.remove_local("note")).expect("remove");
    assert_eq!(keystore.local("note").expect("local"), None);
}

/// Everything of one keystore in another, piece by piece, from where that one is.
fn follow(from: &Keystore, to: &Keystore) -> usize {
    let (mut pieces, mut since) = (0, to.head().expect("head"));
    let mut inflow = to.inflow().expect("inflow");
    loop {
        let piece = from.piece(since).expect("piece");
        piece.changes.iter().for_each(|change| inflow.apply(change).expect("apply"));
        (pieces, since) = (pieces + 1, piece.revision);
        if !piece.more {
            inflow.commit().expect("commit");
            return pieces;
        }
    }
}

fn a_follower_has_the_same_records_at_the_same_places(place: &Place) {
    let from = place.open();
    let to = Keystore::open(&place.location("to")).expect("open");
    check_follower(&from, &to);
}

fn a_follower_of_the_other_kind_has_them_too(place: &Place) {
    let other = if place.database.is_some() { Place::sqlite() } else { Place::postgres() };
    check_follower(&place.open(), &other.open());
}

fn check_follower(from: &Keystore, to: &Keystore) {
    let body = vec![7; 300 << 10];
    for i in 0..10 {
        from.commit(vec![write(&i.to_string(), Expect::Absent, Some(&body))]).expect("commit");
    }
    from.commit(vec![write("3", Expect::Present, None), write("1", Expect::Version(1), Some(b"2"))])
        .expect("commit");
    assert!(follow(from, to) > 1);
    assert_eq!(follow(from, to), 1, "nothing is left to follow");
    from.commit(vec![write("1", Expect::Version(2), Some(b"3"))]).expect("commit");
    follow(from, to);
    assert_eq!(from.scan("k").expect("scan"), to.scan("k").expect("scan"));
    assert_eq!(to.head().expect("head"), 13);
    let changes = |keystore: &Keystore| keystore.changes("k", 10).expect("changes").changes;
    assert_eq!(changes(from), changes(to));
    // What is not committed is not there.
    let mut inflow = to.inflow().expect("inflow");
    inflow.clear().expect("clear");
    drop(inflow);
    assert_eq!(to.scan("k").expect("scan").len(), 9);
    // Whoever followed goes on where it was.
    assert_eq!(to.commit(vec![write("new", Expect::Absent, Some(b"1"))]).expect("commit"), 14);
}

fn what_has_changed_often_is_sent_once_and_no_piece_looks_at_all_of_it(place: &Place) {
    let from = place.open();
    let to = Keystore::open(&place.location("to")).expect("open");
    for _ in 0..2 * MAX_PIECE_CHANGES / 256 {
        from.commit((0..256).map(|_| write("a", Expect::Any, Some(b"1"))).collect()).expect("commit");
    }
    let first = from.piece(0).expect("piece");
    assert_eq!((first.changes.len(), first.revision, first.more), (0, MAX_PIECE_CHANGES, true));
    assert_eq!(follow(&from, &to), 2);
    assert_eq!(from.scan("k").expect("scan"), to.scan("k").expect("scan"));
    assert_eq!(from.head().expect("head"), to.head().expect("head"));
}

fn a_copy_has_everything_but_the_pair(place: &Place) {
    let location = place.location("k");
    let keystore = Keystore::open(&location).expect("open");
    for i in 0..100 {
        keystore.commit(vec![write(&i.to_string(), Expect::Absent, Some(&[7; 20_000]))]).expect("commit");
    }
    keystore.commit(vec![write("7", Expect::Present, None)]).expect("commit");
    keystore.transaction_here(|transaction| transaction.set_local("pair", b"1")).expect("local");
    let path = place.dir.path().join("copy");
    snapshot::take(&location, &path).expect("take");
    let copy = Keystore::open(&Location::File(path)).expect("open");
    assert_eq!(copy.scan("k").expect("scan"), keystore.scan("k").expect("scan"));
    assert_eq!(copy.head().expect("head"), keystore.head().expect("head"));
    assert_eq!(copy.local("pair").expect("local"), None);
    // And back.
    let anew = Keystore::open(&place.location("anew")).expect("open");
    snapshot::copy(&copy, &anew).expect("copy");
    assert_eq!(anew.scan("k").expect("scan"), keystore.scan("k").expect("scan"));
}

/// Places of the log that one piece looks at.
const MAX_PIECE_CHANGES: u64 = 16_384;
