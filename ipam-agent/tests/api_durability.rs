//! The file of the embedded API: restarts, crashes, damage. And the limits of what is kept in memory.

#[path = "api_seam/suite.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "the cases run in api_conformance")]
mod suite;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use ipam_agent::api::{VpcIP, VpcIPClaim};
use ipam_agent::embedded::{CustomKind, EmbeddedApi, Options};
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, VersionMatch, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use suite::watches::Events;
use suite::{claim, created, merge, refusal, refused, revision, soon};

fn default_claims(client: &Client) -> Api<VpcIPClaim> {
    Api::namespaced(client.clone(), "default")
}

fn open_small(path: &Path) -> EmbeddedApi {
    let options = Options { log_capacity: 4, bookmark_period: Duration::from_millis(50) };
    EmbeddedApi::open_with(path, vec![CustomKind::of::<VpcIP>(), CustomKind::of::<VpcIPClaim>()], options)
        .expect("opens")
}

/// Everything is there after a restart, and revisions go on; but watches of old ones have to list again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("api.redb");
    let api = EmbeddedApi::open(&path).expect("opens");
    let claims = default_claims(&api.client());
    let first = created(&claims, "web-0").await;
    created(&claims, "web-1").await;
    let last = merge(&claims, "web-0", json!({ "spec": { "deletePolicy": "Never" } })).await.expect("patch");
    claims.delete("web-1", &Default::default()).await.expect("delete");
    let top =
        claims.list(&Default::default()).await.expect("list").metadata.resource_version.expect("revision");
    let mut events = Events::of(&claims, &WatchParams::default(), &top).await;
    api.close().await;
    assert!(events.next().await.is_none(), "closing ends the watches");
    assert_eq!(refusal(claims.get("web-0").await).0, 503);

    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    let api = EmbeddedApi::open(&path).expect("opens again");
    let claims = default_claims(&api.client());
    let list = claims.list(&Default::default()).await.expect("list");
    assert_eq!(list.items, [last]);
    assert_eq!(list.metadata.resource_version.as_deref(), Some(top.as_str()), "reading counts nothing");
    let mut resumed = Events::of(&claims, &WatchParams::default(), &top).await;
    let mut old =
        Events::of(&claims, &WatchParams::default(), &first.resource_version().expect("revision")).await;
    assert_eq!(old.short().await, "ERROR 410");
    let next = created(&claims, "web-2").await;
    assert!(revision(&next) > top.parse().expect("number"));
    assert_eq!(resumed.short().await, "ADDED web-2", "the newest revision can be resumed");
    let mut future = Events::of(&claims, &WatchParams::default(), "900000").await;
    assert_eq!(future.short().await, "ERROR 410", "a revision of another file");
    // Not in the conformance suite: kube's own client repeats a request that was answered 504, for minutes.
    let ahead = ListParams::default().at("900000").matching(VersionMatch::NotOlderThan);
    assert_eq!(refusal(claims.list(&ahead).await), refused(504, "Timeout"));
}

/// A file that cannot be written any more is said to be so, and is used again from the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_ends_the_api_and_loses_nothing_that_was_answered() {
    const CHILD: &str = "EMBEDDED_API_SMALL_FILES";
    if std::env::var_os(CHILD).is_none() {
        // The limit of a file's size is that of a process.
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "a_write_that_fails_ends_the_api_and_loses_nothing_that_was_answered"])
            .env(CHILD, "1")
            .output()
            .expect("child");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    }
    // A write beyond the limit raises SIGXFSZ; when that does not end the process, it fails as on a full disk.
    let kind = tokio::signal::unix::SignalKind::from_raw(25);
    let _handled = tokio::signal::unix::signal(kind).expect("handler");
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("api.redb");
    let api = EmbeddedApi::open(&path).expect("opens");
    let claims = default_claims(&api.client());
    let size = std::fs::metadata(&path).expect("file").len();
    let unlimited = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(size), ..unlimited }).expect("limit");
    let mut written = 0;
    let refused = loop {
        match claims.create(&PostParams::default(), &claim(&format!("web-{written}"))).await {
            Ok(_) => written += 1,
            Err(error) => break error.to_string(),
        }
        assert!(written < 100_000, "never full");
    };
    assert!(refused.contains("write failed"), "{refused}");
    let why = soon("the failure", api.failed()).await.to_string();
    assert!(why.contains(&path.display().to_string()) && why.contains("check the disk"), "{why}");
    assert_eq!(refusal(claims.get("web-0").await).0, 503);
    setrlimit(Resource::Fsize, unlimited).expect("limit");
    let api = EmbeddedApi::open(&path).expect("opens again");
    let claims = default_claims(&api.client());
    assert_eq!(claims.list(&Default::default()).await.expect("list").items.len(), written);
    created(&claims, "another").await;
}

/// A watch behind the log is told so, and told nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_behind_the_log_is_gone() {
    let directory = tempfile::tempdir().expect("directory");
    let api = open_small(&directory.path().join("api.redb"));
    let claims = default_claims(&api.client());
    let first = created(&claims, "web-0").await;
    let start = first.resource_version().expect("revision");
    let page = claims.list(&ListParams::default().limit(1)).await.expect("list");
    assert_eq!(page.metadata.continue_.unwrap_or_default(), "", "one object is one page");
    created(&claims, "web-1").await;
    let page =
        claims.list(&ListParams::default().limit(1)).await.expect("list").metadata.continue_.expect("token");
    let mut events = Events::of(&claims, &WatchParams::default(), &start).await;
    assert_eq!(events.short().await, "ADDED web-1");
    for index in 0..6 {
        created(&claims, &format!("more-{index}")).await;
    }
    let mut late = Events::of(&claims, &WatchParams::default(), &start).await;
    match late.next().await {
        Some(WatchEvent::Error(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
        }
        other => panic!("{other:?}"),
    }
    assert!(late.next().await.is_none());
    let params = ListParams::default().limit(1).continue_token(&page);
    assert_eq!(refusal(claims.list(&params).await), refused(410, "Expired"));
}

/// Bookmarks move on with the revision although nothing that the watch selects happens.
#[tokio::test(flavor = "multi_thread")]
async fn bookmarks_come_by_themselves() {
    let directory = tempfile::tempdir().expect("directory");
    let api = open_small(&directory.path().join("api.redb"));
    let claims = default_claims(&api.client());
    let none = WatchParams::default().labels("never=matches");
    let mut events = Events::of(&claims, &none, "0").await;
    let target = revision(&created(&claims, "web-0").await);
    loop {
        match events.next().await {
            Some(WatchEvent::Bookmark(bookmark)) => {
                if bookmark.metadata.resource_version.parse::<u64>().expect("number") >= target {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_come_with_their_first_object_and_go_when_empty() {
    let directory = tempfile::tempdir().expect("directory");
    let api = EmbeddedApi::open(&directory.path().join("api.redb")).expect("opens");
    let namespaces = Api::<Namespace>::all(api.client());
    let names = async || {
        let list = namespaces.list(&Default::default()).await.expect("list");
        list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["default", "kube-system"]);
    let claims = Api::<VpcIPClaim>::namespaced(api.client(), "team");
    created(&claims, "web-0").await;
    assert_eq!(names().await, ["default", "kube-system", "team"]);
    assert_eq!(refusal(namespaces.delete("team", &Default::default()).await), refused(409, "Conflict"));
    claims.delete("web-0", &Default::default()).await.expect("delete");
    namespaces.delete("team", &Default::default()).await.expect("delete");
    assert_eq!(names().await, ["default", "kube-system"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_bounded() {
    let directory = tempfile::tempdir().expect("directory");
    let api = EmbeddedApi::open(&directory.path().join("api.redb")).expect("opens");
    let events = Api::<Event>::namespaced(api.client(), "default");
    let create = |index: usize| {
        let events = events.clone();
        async move {
            let event: Event = serde_json::from_value(json!({
                "metadata": { "name": format!("e{index:04}") }, "involvedObject": { "kind": "Pod", "name": "p" },
            }))
            .expect("event");
            events.create(&PostParams::default(), &event).await.expect("create");
        }
    };
    create(0).await;
    futures::stream::iter(1..1_100).for_each_concurrent(200, create).await;
    let list = events.list(&ListParams::default()).await.expect("list");
    assert_eq!(list.items.len(), 1_000);
    assert_eq!(refusal(events.get("e0000").await).0, 404, "the oldest went first");
}

/// Many writers of one object: each write is based on the one before, none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let api = EmbeddedApi::open(&directory.path().join("api.redb")).expect("opens");
    let claims = default_claims(&api.client());
    created(&claims, "web-0").await;
    let writers = (0..16).map(|_| {
        let claims = claims.clone();
        async move {
            for _ in 0..10 {
                loop {
                    let mut claim = claims.get_status("web-0").await.expect("get");
                    claim.status.get_or_insert_default().epoch += 1;
                    match claims.replace_status("web-0", &PostParams::default(), &claim).await {
                        Ok(_) => break,
                        conflict => assert_eq!(refusal(conflict).0, 409),
                    }
                }
            }
        }
    });
    soon("160 increments", futures::future::join_all(writers)).await;
    assert_eq!(claims.get("web-0").await.expect("get").status.expect("status").epoch, 160);
}

/// What the child of the crash test does: writes for ever, and says each that was acknowledged.
async fn write_until_killed(path: &str) {
    let api = EmbeddedApi::open(Path::new(path)).expect("opens");
    let claims = default_claims(&api.client());
    let run = std::process::id();
    let write = |index: usize| {
        let (claims, name) = (claims.clone(), format!("r{run}-{index}"));
        async move {
            let made = claims.create(&PostParams::default(), &claim(&name)).await.expect("create");
            println!("wrote {name} {}", made.resource_version().expect("revision"));
        }
    };
    futures::stream::iter(0..).for_each_concurrent(8, write).await;
}

/// `kill -9` in the midst of writes, several times on one file: every acknowledged write is there afterwards,
/// and no revision is given twice.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_no_acknowledged_write() {
    const FILE: &str = "EMBEDDED_API_CRASH_FILE";
    if let Ok(path) = std::env::var(FILE) {
        return write_until_killed(&path).await;
    }
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("api.redb");
    let mut acknowledged = BTreeSet::new();
    let mut revisions = BTreeSet::new();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "kill_9_loses_no_acknowledged_write", "--nocapture"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut seen = 0;
        while let Some(Ok(line)) = lines.next() {
            // The harness prints the name of the test in front of the first line.
            let Some((_, words)) = line.split_once("wrote ") else { continue };
            let (name, revision) = words.split_once(' ').expect("name and revision");
            acknowledged.insert(name.to_owned());
            assert!(revisions.insert(revision.parse::<u64>().expect("number")), "given twice: {revision}");
            seen += 1;
            if seen == 60 {
                child.kill().expect("kill");
            }
        }
        child.wait().expect("wait");
        assert!(seen >= 60, "the child wrote");
    }
    let api = EmbeddedApi::open(&path).expect("opens");
    let list = default_claims(&api.client()).list(&Default::default()).await.expect("list");
    let there: BTreeSet<_> = list.items.iter().map(ResourceExt::name_any).collect();
    let lost: Vec<_> = acknowledged.difference(&there).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let top = list.metadata.resource_version.expect("revision").parse::<u64>().expect("number");
    assert!(top >= *revisions.last().expect("some"));
}

/// The message of an open that must fail, which must leave the file as it was.
fn open_fails(path: &Path) -> String {
    let before = std::fs::read(path).expect("file");
    let error = match EmbeddedApi::open(path) {
        Ok(_) => panic!("{} should be refused", path.display()),
        Err(error) => format!("{error:#}"),
    };
    assert!(error.contains(&path.display().to_string()), "names the file: {error}");
    assert!(before == std::fs::read(path).expect("file"), "the file was changed: {error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_use_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("api.redb");
    let api = EmbeddedApi::open(&path).expect("opens");
    let error = EmbeddedApi::open(&path).err().expect("is refused");
    assert!(format!("{error:#}").contains("another process has it open"), "{error:#}");
    api.close().await;
    EmbeddedApi::open(&path).expect("opens").close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_ours_are_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("api.redb");
    for (content, problem) in [
        (b"".to_vec(), "is empty"),
        (b"kind: Config\n".repeat(1_000), "is no database"),
        (b"redb".to_vec(), "is no database"),
    ] {
        std::fs::write(&path, content).expect("write");
        let error = open_fails(&path);
        assert!(error.contains(problem), "{error}");
    }
    std::fs::remove_file(&path).expect("remove");
    {
        let other = redb::Database::create(&path).expect("create");
        let write = other.begin_write().expect("write");
        write.open_table(redb::TableDefinition::<u32, u32>::new("theirs")).expect("table");
        write.commit().expect("commit");
    }
    let error = EmbeddedApi::open(&path).err().expect("is refused");
    assert!(format!("{error:#}").contains("not of this program"), "{error:#}");
    std::fs::remove_file(&path).expect("remove");
    {
        let newer = redb::Database::create(&path).expect("create");
        let write = newer.begin_write().expect("write");
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        write.open_table(meta).expect("table").insert("format", 2).expect("insert");
        write.commit().expect("commit");
    }
    let error = EmbeddedApi::open(&path).err().expect("is refused");
    assert!(format!("{error:#}").contains("meta.format is Some(2)"), "{error:#}");
    let error = EmbeddedApi::open(directory.path()).err().expect("is refused");
    assert!(format!("{error:#}").contains("no regular file"), "{error:#}");
    let error = EmbeddedApi::open(&directory.path().join("no/such/dir")).err().expect("is refused");
    assert!(format!("{error:#}").contains("cannot be created"), "{error:#}");
}

/// Truncated anywhere, or with a page overwritten: refused, or all the content is there; never some of it.
#[tokio::test(flavor = "multi_thread")]
async fn torn_files_are_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("api.redb");
    let api = EmbeddedApi::open(&path).expect("opens");
    let claims = default_claims(&api.client());
    futures::stream::iter(0..300)
        .for_each_concurrent(100, |index| {
            let claims = claims.clone();
            async move {
                let name = format!("web-{index}");
                created(&claims, &name).await;
                let patch =
                    Patch::Merge(json!({ "metadata": { "annotations": { "fill": "x".repeat(1_000) } } }));
                claims.patch(&name, &PatchParams::default(), &patch).await.expect("patch");
            }
        })
        .await;
    let whole = claims.list(&Default::default()).await.expect("list");
    api.close().await;
    let content = std::fs::read(&path).expect("file");
    let torn = directory.path().join("torn.redb");
    let mut refusals = 0;
    let cuts = [100, 4_096, 8_192, content.len() / 2, content.len() - 4_096, content.len() - 1];
    for cut in cuts {
        std::fs::write(&torn, &content[..cut]).expect("write");
        assert!(!open_fails(&torn).is_empty());
    }
    for page in (1..content.len() / 4_096).step_by(7) {
        let mut damaged = content.clone();
        damaged[page * 4_096..(page + 1) * 4_096].fill(0xA5);
        std::fs::write(&torn, &damaged).expect("write");
        match EmbeddedApi::open(&torn) {
            Err(error) => {
                refusals += 1;
                assert!(format!("{error:#}").contains("torn.redb: is damaged"), "{error:#}");
            }
            Ok(api) => {
                let list = default_claims(&api.client()).list(&Default::default()).await.expect("list");
                assert!(list.items == whole.items, "page {page}: something is missing");
                api.close().await;
            }
        }
    }
    assert!(refusals > 0, "no damaged page held anything");
}
