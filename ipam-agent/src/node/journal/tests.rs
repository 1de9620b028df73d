use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use kube::ResourceExt as _;
use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::{
    api::{IpPhase, VpcIP, VpcIPSpec, VpcIPStatus, VpcIPType},
    node::contact::Heard,
};

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
        ip: Ipv4Addr::new(10, 0, 0, 5).into(),
        epoch: id.into(),
        eni_id: "eni-1".into(),
        eni_slot: 1,
        more: Vec::new(),
        host_ifname: format!("ipam{id}"),
        host_ifindex: None,
        host_mac: "02:00:00:00:00:01".into(),
        pod_mac: "02:00:00:00:00:02".into(),
        mtu: 1500,
        netns: "/run/netns/pod".into(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// What a new journal holds.
fn new_book() -> Book {
    Book { rebuilding: true, ..Book::default() }
}

fn begin(id: u8) -> Change {
    Change::Begin(Box::new(record(id)))
}

fn commit(id: u8) -> Change {
    Change::Commit { key: key(id), host_ifindex: 100 + u32::from(id) }
}

fn adopt(id: u8, known: bool) -> Change {
    let record = Record { state: State::Committed, host_ifindex: Some(7), ..record(id) };
    Change::Adopt { was: known.then(|| key(id)), record: Box::new(record) }
}

fn binding(name: &str, epoch: i64) -> Arc<VpcIP> {
    let spec = VpcIPSpec { type_: VpcIPType::Pod, ip: name.into(), subnet_id: "s".into(), claim_ref: None };
    let mut object = VpcIP::new(name, spec);
    object.metadata.uid = Some(format!("uid of {name}"));
    object.status = Some(VpcIPStatus { phase: IpPhase::Bound, epoch, ..Default::default() });
    Arc::new(object)
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
            gateway_v6: None,
        })),
        id.clone().prop_map(|slot| Change::ForgetEni(slot.into())),
        (id.clone(), any::<bool>()).prop_map(|(id, known)| adopt(id, known)),
        prop::collection::btree_map("10.0.0.[1-4]", 0..3i64, 0..3).prop_map(|epochs| {
            let bindings = epochs.into_iter().map(|(name, epoch)| (name.clone(), binding(&name, epoch)));
            Change::SetBindings(bindings.collect())
        }),
        (id.clone(), 0..3i64).prop_map(|(id, epoch)| Change::Unbind(binding(&format!("10.0.0.{id}"), epoch))),
        (id.clone(), 0..3i64).prop_map(|(id, epoch)| Change::Rebind(binding(&format!("10.0.0.{id}"), epoch))),
        any::<u64>().prop_map(|millis| Change::Heard(Heard { boot_id: "boot".into(), millis })),
        id.prop_map(|_| Change::Rebuilt),
    ]
}

/// What may follow what, as a table of its own.
fn allowed(state: Option<State>, change: &Change) -> (bool, Option<State>) {
    match (change, state) {
        (Change::Begin(_), None) => (true, Some(State::Intent)),
        (Change::Commit { .. }, Some(State::Intent)) => (true, Some(State::Committed)),
        (Change::Detach(_), Some(_)) => (true, Some(State::Detaching)),
        (Change::Forget(_), Some(State::Intent | State::Detaching)) => (true, None),
        (Change::Adopt { was: None, .. }, None) => (true, Some(State::Committed)),
        (Change::Adopt { was: Some(_), .. }, Some(State::Committed)) => (true, Some(State::Committed)),
        (Change::Begin(_) | Change::Commit { .. } | Change::Forget(_) | Change::Detach(_), state) => {
            (false, state)
        }
        (Change::Adopt { .. }, state) => (false, state),
        (_, state) => (true, state),
    }
}

fn key_of(change: &Change) -> Option<AttachmentKey> {
    match change {
        Change::Begin(record) => Some(record.key.clone()),
        Change::Commit { key, .. } | Change::Detach(key) | Change::Forget(key) => Some(key.clone()),
        Change::Adopt { record, .. } => Some(record.key.clone()),
        _ => None,
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
        let mut before = new_book();
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
            gateway_v6: None,
            };
            runtime.block_on(journal.change(Change::SetEni(eni))).unwrap();
            before = Book::clone(&journal.book());
        }
    }
}

proptest! {
    /// Whatever the API says while it does not know yet: what was over is bound again only with a later epoch, or when the
    /// agent takes it back.
    #[test]
    fn what_is_over_stays_so(changes in prop::collection::vec(change(), 0..24)) {
        let (mut book, mut over) = (Book::default(), BTreeMap::<String, i64>::new());
        for change in changes {
            match &change {
                // The API knows.
                Change::SetBindings(bindings) => over.retain(|name, over| {
                    bindings.get(name).is_some_and(|vpc_ip| vpc_ip.state().epoch <= *over)
                }),
                Change::Unbind(vpc_ip) => {
                    let over = over.entry(vpc_ip.name_any()).or_default();
                    *over = vpc_ip.state().epoch.max(*over);
                }
                Change::Rebind(vpc_ip) => _ = over.remove(&vpc_ip.name_any()),
                _ => {}
            }
            // Refused or not.
            let _ = book.apply(change);
            for (name, vpc_ip) in &book.bindings {
                prop_assert!(over.get(name).is_none_or(|over| vpc_ip.state().epoch > *over), "{}", name);
            }
        }
    }
}

#[test]
fn a_binding_that_was_acknowledged_does_not_come_back_with_an_older_word_of_the_api() {
    let all = |epoch| Change::SetBindings([("10.0.0.5".into(), binding("10.0.0.5", epoch))].into());
    let mut book = Book::default();
    book.apply(all(2)).unwrap();
    book.apply(Change::Unbind(binding("10.0.0.5", 2))).unwrap();
    book.apply(all(2)).unwrap();
    assert!(book.bindings.is_empty(), "the acknowledgement is on its way");
    book.apply(all(3)).unwrap();
    assert_eq!(book.bindings.len(), 1, "the next pod's");
    book.apply(Change::Unbind(binding("10.0.0.5", 3))).unwrap();
    book.apply(Change::Rebind(binding("10.0.0.5", 3))).unwrap();
    book.apply(all(3)).unwrap();
    assert_eq!(book.bindings.len(), 1, "it was not over");
    book.apply(Change::Unbind(binding("10.0.0.5", 3))).unwrap();
    book.apply(Change::SetBindings(BTreeMap::new())).unwrap();
    assert!(book.over.is_empty(), "the API knows it");
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
    let ip = Ipv4Addr::new(10, 0, 0, 5).into();
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
    assert!(journal.book().uses(Ipv4Addr::new(10, 0, 0, 5).into(), "vip", 1), "yet it counts at once");
    journal.change(Change::Forget(key(1))).await.unwrap();
    journal.change(begin(1)).await.unwrap();
    assert!(fs::read(&path).unwrap() == before);
    drop(journal);
    assert_eq!(*open_when_free(&path).book(), new_book());
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

/// A record as the build before two families wrote it.
const FORMER: &str = r#"{
    "key": { "network": "net", "container_id": "c1", "ifname": "eth0" }, "state": "Committed", "sequence": 7,
    "pod_namespace": "default", "pod_name": "pod-1", "pod_uid": "uid-1", "owns_pod": false,
    "vpc_ip": "10.0.0.5", "vpc_ip_uid": "vip", "ip": "10.0.0.5", "epoch": 1, "eni_id": "eni-1", "eni_slot": 1,
    "host_ifname": "ipam1", "host_ifindex": 101, "host_mac": "02:00:00:00:00:01", "pod_mac": "02:00:00:00:00:02",
    "mtu": 1500, "netns": "/run/netns/pod", "created_at": "1970-01-01T00:00:00Z"
}"#;

#[test]
fn a_record_of_a_build_that_knew_one_address_is_read_and_written_alike() {
    let read: Record = serde_json::from_str(FORMER).unwrap();
    let committed = Record { state: State::Committed, sequence: 7, host_ifindex: Some(101), ..record(1) };
    assert_eq!(read, committed);
    assert_eq!(read.ips().collect::<Vec<_>>(), [read.ip]);
    let former: serde_json::Value = serde_json::from_str(FORMER).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), former, "that build reads it back");
    let eni = r#"{ "slot": 1, "id": "eni-1", "mac": "02:00:00:00:00:03", "gateway": "10.0.0.1", "primary_ip": "10.0.0.2" }"#;
    let read: EniRecord = serde_json::from_str(eni).unwrap();
    assert_eq!(read.gateway_v6, None);
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::from_str::<serde_json::Value>(eni).unwrap());
}

#[test]
fn every_address_of_an_attachment_counts() {
    let second = BoundAddress {
        vpc_ip: VpcIP::name_of("fd00::5".parse().unwrap()),
        vpc_ip_uid: "vip6".into(),
        ip: "fd00::5".parse().unwrap(),
        epoch: 9,
        eni_id: "eni-2".into(),
        eni_slot: 2,
    };
    let dual = Record { more: vec![second], ..record(1) };
    let text = serde_json::to_vec(&dual).unwrap();
    assert_eq!(serde_json::from_slice::<Record>(&text).unwrap(), dual);
    assert_eq!(dual.addresses().iter().map(|address| address.eni_slot).collect::<Vec<_>>(), [1, 2]);
    assert!(dual.uses_slot(1) && dual.uses_slot(2) && !dual.uses_slot(3));
    let mut book = Book::default();
    book.apply(Change::Begin(Box::new(dual))).unwrap();
    let v6 = "fd00::5".parse().unwrap();
    assert!(book.uses(v6, "vip6", 9) && !book.uses(v6, "vip6", 8));
    assert!(book.owner_of(v6).is_none());
    book.apply(commit(1)).unwrap();
    assert_eq!(book.owner_of(v6).unwrap().key, key(1));
}

/// The tables of a build before there were bindings, with an attachment, as that build left them.
fn journal_of_former_build(path: &Path) {
    let database = redb::Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let attachments = redb::TableDefinition::<&str, &[u8]>::new("attachments");
        let key = serde_json::to_string(&key(1)).unwrap();
        transaction.open_table(attachments).unwrap().insert(key.as_str(), FORMER.as_bytes()).unwrap();
        transaction.open_table(redb::TableDefinition::<u32, &[u8]>::new("enis")).unwrap();
        let meta = redb::TableDefinition::<&str, u64>::new("node-journal");
        transaction.open_table(meta).unwrap().insert("format", 1).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_journal_of_a_build_before_bindings_is_read_and_is_not_taken_for_a_new_one() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("node.redb");
    journal_of_former_build(&path);
    let journal = open_when_free(&path);
    let book = journal.book();
    assert_eq!((book.attachments.len(), book.bindings.len(), book.rebuilding), (1, 0, false));
    journal.change(Change::SetBindings([("10.0.0.5".into(), binding("10.0.0.5", 2))].into())).await.unwrap();
    assert_eq!(book.heard, None);
    journal.change(Change::Heard(Heard { boot_id: "boot".into(), millis: 5 })).await.unwrap();
    let after = journal.book();
    drop((journal, book));
    assert_eq!(*open_when_free(&path).book(), *after);
}

#[tokio::test]
async fn a_binding_that_cannot_be_read_does_not_keep_the_agent_from_starting() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("node.redb");
    let journal = open_when_free(&path);
    journal.change(Change::SetBindings([("10.0.0.5".into(), binding("10.0.0.5", 2))].into())).await.unwrap();
    journal.change(Change::Heard(Heard { boot_id: "boot".into(), millis: 5 })).await.unwrap();
    drop(journal);
    drop(open_when_free(&path));
    let database = loop {
        if let Ok(database) = redb::Database::open(&path) {
            break database;
        }
    };
    let transaction = database.begin_write().unwrap();
    let bindings = redb::TableDefinition::<&str, &[u8]>::new("bindings");
    transaction.open_table(bindings).unwrap().insert("10.0.0.6", b"{ of a later build }".as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let names: Vec<_> = open_when_free(&path).book().bindings.keys().cloned().collect();
    assert_eq!(names, ["10.0.0.5"]);
}
