use std::{fs, net::Ipv4Addr};

use proptest::prelude::*;
use tempfile::tempdir;

use super::*;

fn key(id: u8) -> AttachmentKey {
    AttachmentKey { network: "net".into(), container_id: format!("c{id}"), ifname: "eth0".into() }
}

fn record(id: u8) -> Record {
    Record {
        key: key(id),
        state: State::Intent,
        sequence: 0,
        pod_namespace: "default".into(),
        pod_name: format!("pod-{id}"),
        pod_uid: Some(format!("uid-{id}")),
        owns_pod: false,
        vpc_ip: "10.0.0.5".into(),
        vpc_ip_uid: "vip".into(),
        ip: Ipv4Addr::new(10, 0, 0, 5),
        epoch: id.into(),
        eni_id: "eni-1".into(),
        eni_slot: 1,
        host_ifname: format!("ipam{id}"),
        host_ifindex: None,
        host_mac: "02:00:00:00:00:01".into(),
        pod_mac: "02:00:00:00:00:02".into(),
        mtu: 1500,
        netns: "/run/netns/pod".into(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn begin(id: u8) -> Change {
    Change::Begin(Box::new(record(id)))
}

fn commit(id: u8) -> Change {
    Change::Commit { key: key(id), host_ifindex: 100 + u32::from(id) }
}

fn change() -> impl Strategy<Value = Change> {
    let id = 0..4u8;
    prop_oneof![
        id.clone().prop_map(begin),
        id.clone().prop_map(commit),
        id.clone().prop_map(|id| Change::Detach(key(id))),
        id.clone().prop_map(|id| Change::Forget(key(id))),
        id.clone().prop_map(|slot| Change::SetEni(EniRecord {
            slot: slot.into(),
            id: format!("eni-{slot}"),
            mac: "02:00:00:00:00:03".into(),
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            primary_ip: Ipv4Addr::new(10, 0, 0, 2),
        })),
        id.prop_map(|slot| Change::ForgetEni(slot.into())),
    ]
}

/// What may follow what, as a table of its own.
fn allowed(state: Option<State>, change: &Change) -> (bool, Option<State>) {
    match (change, state) {
        (Change::Begin(_), None) => (true, Some(State::Intent)),
        (Change::Commit { .. }, Some(State::Intent)) => (true, Some(State::Committed)),
        (Change::Detach(_), Some(_)) => (true, Some(State::Detaching)),
        (Change::Forget(_), Some(State::Intent | State::Detaching)) => (true, None),
        (Change::SetEni(_) | Change::ForgetEni(_), state) => (true, state),
        (_, state) => (false, state),
    }
}

fn key_of(change: &Change) -> Option<AttachmentKey> {
    match change {
        Change::Begin(record) => Some(record.key.clone()),
        Change::Commit { key, .. } | Change::Detach(key) | Change::Forget(key) => Some(key.clone()),
        Change::SetEni(_) | Change::ForgetEni(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is changed, refused, and however often the agent restarts in between: each change does what the table
    /// says, and the journal is the same after a restart.
    #[test]
    fn it_remembers(runs in prop::collection::vec(prop::collection::vec(change(), 0..12), 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let directory = tempdir().unwrap();
        let path = directory.path().join("node.redb");
        let mut before = Book::default();
        for run in runs {
            let journal = open_when_free(&path);
            prop_assert_eq!(&*journal.book(), &before);
            for change in run {
                let key = key_of(&change);
                let state = |journal: &Journal| key.as_ref().and_then(|key| journal.get(key)).map(|r| r.state);
                let (fits, after) = allowed(state(&journal), &change);
                let result = runtime.block_on(journal.change(change));
                prop_assert_eq!(result.is_ok(), fits, "{:?}", result);
                prop_assert_eq!(state(&journal), after);
            }
            // What only began is forgotten, unless another change took it to the disk.
            let eni = EniRecord {
                slot: 98,
                id: "eni".into(),
                mac: "02:00:00:00:00:03".into(),
                gateway: Ipv4Addr::new(10, 0, 0, 1),
                primary_ip: Ipv4Addr::new(10, 0, 0, 2),
            };
            runtime.block_on(journal.change(Change::SetEni(eni))).unwrap();
            before = Book::clone(&journal.book());
        }
    }
}

/// The writer closes the file moments after the last handle is gone.
fn open_when_free(path: &Path) -> Journal {
    for _ in 0..1000 {
        match Journal::open(path) {
            Err(JournalError::Unusable { problem, .. }) if problem.contains("has it open") => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            other => return other.unwrap(),
        }
    }
    panic!("the journal was never closed");
}

#[tokio::test]
async fn the_last_committed_attachment_has_the_address_and_any_attachment_uses_it() {
    let directory = tempdir().unwrap();
    let journal = Journal::open(&directory.path().join("node.redb")).unwrap();
    let ip = Ipv4Addr::new(10, 0, 0, 5);
    for change in [begin(1), commit(1), begin(2)] {
        journal.change(change).await.unwrap();
    }
    assert_eq!(journal.book().owner_of(ip).unwrap().key, key(1), "the other is not committed");
    journal.change(commit(2)).await.unwrap();
    assert_eq!(journal.book().owner_of(ip).unwrap().key, key(2));
    journal.change(Change::Detach(key(2))).await.unwrap();
    assert_eq!(journal.book().owner_of(ip).unwrap().key, key(1));
    journal.change(Change::Detach(key(1))).await.unwrap();
    assert!(journal.book().owner_of(ip).is_none());
    assert!(journal.book().uses(ip, "vip", 1), "epoch 1 is still there, if only on its way out");
    assert!(!journal.book().uses(ip, "vip", 0), "epochs 1 and 2 are later than that");
    assert!(journal.book().uses(ip, "another object of this address", 0));
    journal.change(Change::Forget(key(1))).await.unwrap();
    journal.change(Change::Forget(key(2))).await.unwrap();
    assert!(!journal.book().uses(ip, "vip", 9));
}

#[tokio::test]
async fn many_changes_at_once_are_all_written() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("node.redb");
    let journal = Journal::open(&path).unwrap();
    for changes in [begin, commit] {
        let results = futures::future::join_all((0..32).map(|id| journal.change(changes(id)))).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    assert_eq!(journal.book().attachments.len(), 32);
    let mut sequences: Vec<_> = journal.book().attachments.values().map(|record| record.sequence).collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 32, "no two have the same");
    drop(journal);
    assert_eq!(open_when_free(&path).book().attachments.len(), 32);
}

#[tokio::test]
async fn an_add_that_only_began_is_gone_after_a_crash_and_costs_no_write() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("node.redb");
    let journal = Journal::open(&path).unwrap();
    let before = fs::read(&path).unwrap();
    journal.change(begin(1)).await.unwrap();
    assert!(journal.book().uses(Ipv4Addr::new(10, 0, 0, 5), "vip", 1), "yet it counts at once");
    journal.change(Change::Forget(key(1))).await.unwrap();
    journal.change(begin(1)).await.unwrap();
    assert!(fs::read(&path).unwrap() == before);
    drop(journal);
    assert_eq!(*open_when_free(&path).book(), Book::default());
}

#[tokio::test]
async fn a_second_agent_is_refused() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("node.redb");
    let _journal = Journal::open(&path).unwrap();
    let error = Journal::open(&path).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "journal `{}`: another process has it open; stop the other agent, or give another path",
            path.display()
        )
    );
}

#[tokio::test]
async fn torn_and_foreign_files_are_refused_and_left_alone() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("node.redb");
    let journal = Journal::open(&path).unwrap();
    journal.change(begin(1)).await.unwrap();
    journal.change(commit(1)).await.unwrap();
    drop(journal);
    drop(open_when_free(&path));
    // The second opening's writer has ended when a third can open it.
    drop(open_when_free(&path));
    let whole = loop {
        if let Ok((file, _)) = JournalFile::open(&path) {
            drop(file);
            break fs::read(&path).unwrap();
        }
    };
    let refused = |content: &[u8], what: &str| {
        fs::write(&path, content).unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("journal `{}`: ", path.display())), "{what}: {error}");
        assert!(error.contains("; "), "{what}: no remedy in {error}");
        assert!(fs::read(&path).unwrap() == content, "{what}: the file was changed");
    };
    for length in
        [0, 1, 8, 9, 100, 4096, whole.len() / 4, whole.len() / 2, whole.len() - 4096, whole.len() - 1]
    {
        refused(&whole[..length], &format!("truncated to {length} of {}", whole.len()));
    }
    refused(b"{\"kind\": \"something else\"}\n", "foreign");
    let database = redb::Database::create(directory.path().join("other.redb")).unwrap();
    drop(database);
    refused(&fs::read(directory.path().join("other.redb")).unwrap(), "another program's database");
    let newer = redb::Database::create(directory.path().join("newer.redb")).unwrap();
    let transaction = newer.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("node-journal");
    transaction.open_table(meta).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(newer);
    refused(&fs::read(directory.path().join("newer.redb")).unwrap(), "of a newer version");
    assert!(
        Journal::open(&path).unwrap_err().to_string().contains("field format is 2, and this program reads 1")
    );
    fs::write(&path, &whole).unwrap();
    assert_eq!(Journal::open(&path).unwrap().book().attachments.len(), 1, "the whole file is still good");
}
