//! Maps of another version become ours, and ours another's: entries are kept, links run the new programs, and a crash at
//! any point is mended by whoever starts next.

use std::{fs, path::Path, process::Command};

use aya::maps::{Array, Map, MapData};
use ipam_agent::dataplane::{Attached, Attachment, Dataplane, DataplaneError, Hook, hook_programs};
use ipam_common::{ABI_VERSION, Eni, Mac, PodRoute, maps::LAYOUT_LINE_BYTES};

use crate::fixture::{MAC_A, MAC_B, Netns, POD_A, PinDir, route};

/// A line of `LAYOUT` as an agent of the next version might write it: fields in other places, one more, and one that this
/// version has is gone.
const NEXT_ENIS: &str =
    "ENIS array 64 | value:0+4 | speed:0+8 gateway_mac:8+6 mac:14+6 mtu:20+4 ifindex:24+4 flags:28+4";
/// Bytes of such a value.
const NEXT_ENI: usize = 32;

const ENI: Eni = Eni { ifindex: 7, mtu: 9001, mac: MAC_A, gateway_mac: MAC_B, ..Eni::EMPTY };

fn array<const N: usize>(path: &Path) -> Array<MapData, [u8; N]> {
    Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap().try_into().unwrap()
}

fn set_version(dir: &Path, version: u32) {
    array::<4>(&dir.join("ABI")).set(0, version.to_ne_bytes(), 0).unwrap();
}

fn version(dir: &Path) -> u32 {
    u32::from_ne_bytes(array::<4>(&dir.join("ABI")).get(&0, 0).unwrap())
}

/// Puts `line` in the place of the one of that map.
fn set_line(dir: &Path, map: &str, line: &str) {
    let mut lines = array::<LAYOUT_LINE_BYTES>(&dir.join("LAYOUT"));
    let found =
        lines.iter().position(|text| text.unwrap().starts_with(format!("{map} ").as_bytes())).unwrap();
    let mut text = [0; LAYOUT_LINE_BYTES];
    text[..line.len()].copy_from_slice(line.as_bytes());
    lines.set(u32::try_from(found).unwrap(), text, 0).unwrap();
}

/// Makes a map and pins it, in the place of the one that was.
fn make(dir: &Path, name: &str, kind: &str, [key, value, entries]: [usize; 3]) {
    let path = dir.join(name);
    let _ = fs::remove_file(&path);
    let sizes = [key, value, entries].map(|number| number.to_string());
    let path = path.to_str().unwrap();
    let mut args = vec!["map", "create", path, "type", kind, "key", &sizes[0], "value", &sizes[1]];
    args.extend(["entries", &sizes[2], "name", "x"]);
    if kind == "lpm_trie" {
        args.extend(["flags", "1"]);
    }
    let output = Command::new("bpftool").args(&args).output().expect("bpftool");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sets an entry of a map of any type.
fn update(dir: &Path, name: &str, key: &[u8], value: &[u8]) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    let output = Command::new("bpftool")
        .args(["map", "update", "pinned"])
        .arg(dir.join(name))
        .args(["key", "hex"])
        .args(hex(key))
        .args(["value", "hex"])
        .args(hex(value))
        .output()
        .expect("bpftool");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Turns a directory of ours into one of the next version, whose `ENIS` is another.
fn make_next(dir: &Path) {
    make(dir, "ENIS", "array", [4, NEXT_ENI, 64]);
    set_line(dir, "ENIS", NEXT_ENIS);
    let mut value = [0; NEXT_ENI];
    value[..8].fill(0xee);
    value[8..14].copy_from_slice(&ENI.gateway_mac.octets);
    value[14..20].copy_from_slice(&ENI.mac.octets);
    value[20..24].copy_from_slice(&ENI.mtu.to_ne_bytes());
    value[24..28].copy_from_slice(&ENI.ifindex.to_ne_bytes());
    array::<NEXT_ENI>(&dir.join("ENIS")).set(1, value, 0).unwrap();
    set_version(dir, ABI_VERSION + 1);
}

fn open(pins: &PinDir) -> Dataplane {
    Dataplane::open(pins.path()).unwrap()
}

/// The ways of attaching programs that this kernel has.
fn attachments() -> Vec<Attachment> {
    let probed = Attachment::probe();
    if probed == Attachment::Tcx { vec![Attachment::Clsact, probed] } else { vec![probed] }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn migrate_what_is_attached(attachment: Attachment) {
    let (netns, pins) = (Netns::new(), PinDir::new());
    netns.ip("link add pod-a type veth peer name pod-a-peer");
    let ifindex = netns.ifindex("pod-a");
    // Filters, unlike links, are found by the interfaces of the namespace.
    let open = || netns.scoped(|| Dataplane::open_with(pins.path(), attachment)).unwrap();
    let mut dataplane = open();
    dataplane.set_route(POD_A, &route(ifindex, MAC_A, 1)).unwrap();
    netns.scoped(|| dataplane.attach_pod(ifindex, "pod-a")).unwrap();
    drop(dataplane);
    make_next(pins.path());
    let before = names(pins.path());
    make(pins.path(), "OF_THE_NEXT", "hash", [4, 4, 1]);
    let free = |dir: &Path| {
        let mut lines = array::<LAYOUT_LINE_BYTES>(&dir.join("LAYOUT"));
        let line = b"OF_THE_NEXT hash 1 | value:0+4 | value:0+4";
        let mut text = [0; LAYOUT_LINE_BYTES];
        text[..line.len()].copy_from_slice(line);
        lines.set(63, text, 0).unwrap();
    };
    free(pins.path());

    let mut dataplane = open();
    assert_eq!(dataplane.enis().unwrap(), [(1, ENI)]);
    assert_eq!(
        dataplane.routes().unwrap(),
        [(POD_A.into(), route(ifindex, MAC_A, 1))],
        "a map of the same layout"
    );
    assert_eq!(version(pins.path()), ABI_VERSION);
    assert_eq!(names(pins.path()), before, "nothing of the other version is left");
    let again = netns.scoped(|| dataplane.attach_pod(ifindex, "pod-a")).unwrap();
    assert_eq!(again, Attached::Unchanged, "the migration has put our program there");
    let programs = netns.scoped(|| hook_programs(ifindex, Hook::Ingress)).unwrap();
    assert_eq!(programs, ["from_pod"]);
}

#[test]
fn maps_of_the_next_version_are_read_by_their_fields_and_links_run_our_programs() {
    attachments().into_iter().for_each(migrate_what_is_attached);
}

#[test]
fn maps_of_version_1_are_ours_after_it() {
    let pins = PinDir::new();
    let dir = pins.path();
    fs::create_dir(dir).unwrap();
    for (name, kind, sizes) in [
        ("POD_ROUTES_V4", "hash", [4, 20, 4096]),
        ("ENIS", "array", [4, 24, 64]),
        ("STACK_CIDRS", "lpm_trie", [8, 4, 1024]),
        ("STACK_FLOWS", "lru_hash", [40, 4, 65536]),
        ("NODE_ADDRS", "hash", [4, 4, 1024]),
        ("POD_STATS", "percpu_hash", [4, 32, 4096]),
        ("DROPS", "percpu_array", [4, 16, 8]),
        ("ABI", "array", [4, 4, 1]),
    ] {
        make(dir, name, kind, sizes);
    }
    let mut pod_route = Vec::new();
    for word in [7_u32, 3] {
        pod_route.extend(word.to_ne_bytes());
    }
    pod_route.extend([1_u16, 0].map(u16::to_ne_bytes).concat());
    pod_route.extend(MAC_A.octets);
    pod_route.extend([0; 2]);
    update(dir, "POD_ROUTES_V4", &POD_A.octets(), &pod_route);
    let mut eni = [ENI.ifindex, ENI.mtu, 0].map(u32::to_ne_bytes).concat();
    eni.extend(ENI.mac.octets);
    eni.extend(ENI.gateway_mac.octets);
    update(dir, "ENIS", &1_u32.to_ne_bytes(), &eni);
    let cpus = aya::util::nr_cpus().unwrap();
    update(dir, "DROPS", &2_u32.to_ne_bytes(), &[5_u64, 300].map(u64::to_ne_bytes).concat());
    update(dir, "STACK_CIDRS", &[12_u32.to_ne_bytes(), [10, 96, 0, 0]].concat(), &1_u32.to_ne_bytes());
    set_version(dir, 1);

    let dataplane = open(&pins);
    let expected = PodRoute { ifindex: 7, epoch: 3, eni: 1, mac: MAC_A, ..PodRoute::EMPTY };
    assert_eq!(dataplane.routes().unwrap(), [(POD_A.into(), expected)]);
    assert_eq!(dataplane.enis().unwrap(), [(1, ENI)]);
    assert_eq!(dataplane.enis().unwrap()[0].1.gateway_mac_v6, Mac::ZERO);
    assert_eq!(dataplane.stack_cidrs().unwrap(), ["10.96.0.0/12".parse().unwrap()]);
    let drops = dataplane.drops().unwrap()[2].1;
    // bpftool sets the value of every CPU.
    let cpus = u64::try_from(cpus).unwrap();
    assert_eq!((drops.packets, drops.bytes), (5 * cpus, 300 * cpus));
    assert_eq!(version(dir), ABI_VERSION);
    assert!(!dir.join("next").exists());
}

/// What is pinned must be as it was after a refusal.
#[track_caller]
fn assert_refused(pins: &PinDir, parts: &[&str]) {
    let before = (names(pins.path()), version(pins.path()));
    let error = Dataplane::open(pins.path()).err().expect("a refusal");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(
        matches!(error, DataplaneError::Unreadable { .. } | DataplaneError::ForeignMap { .. }),
        "{error:?}"
    );
    assert_eq!((names(pins.path()), version(pins.path())), before);
}

#[test]
fn what_cannot_be_converted_is_refused_and_kept() {
    let pins = PinDir::new();
    drop(open(&pins));
    make_next(pins.path());
    let enis = "ENIS array 64 | value:0+4 |";
    set_line(
        pins.path(),
        "ENIS",
        &format!("{enis} speed:0+8 gateway_mac:8+6 mac:14+6 mtu:20+4 index:24+4 f:28+4"),
    );
    assert_refused(&pins, &["`ENIS` has no field `ifindex`", "run the agent that made them"]);
    set_line(pins.path(), "ENIS", &format!("{enis} ifindex:0+8 gateway_mac:8+6 mac:14+6 mtu:20+4 f:24+8"));
    assert_refused(&pins, &["`ENIS.ifindex` has 8 bytes, not 4"]);
    set_line(pins.path(), "ENIS", &format!("{enis} ifindex:0+4"));
    assert_refused(&pins, &["found Array of 64 entries, key 4 bytes, value 32 bytes", "value 4 bytes"]);
    set_line(pins.path(), "ENIS", NEXT_ENIS);
    set_version(pins.path(), ABI_VERSION);
    assert_refused(
        &pins,
        &["ENIS", "found ENIS array 64 | value:0+4 | speed:0+8", "expected ENIS array 64 | value:0+4 | if"],
    );
    set_version(pins.path(), ABI_VERSION + 1);
    set_line(pins.path(), "ENIS", "ENIS: what is this?");
    assert_refused(&pins, &["the line `ENIS: what is this?`"]);
    fs::remove_file(pins.path().join("LAYOUT")).unwrap();
    assert_refused(&pins, &["says nothing about version"]);
}

fn give_up_a_migration(attachment: Attachment) {
    let (netns, pins) = (Netns::new(), PinDir::new());
    netns.ip("link add pod-a type veth peer name pod-a-peer");
    let ifindex = netns.ifindex("pod-a");
    let open = || netns.scoped(|| Dataplane::open_with(pins.path(), attachment)).unwrap();
    let mut dataplane = open();
    dataplane.set_eni(1, &ENI).unwrap();
    netns.scoped(|| dataplane.attach_pod(ifindex, "pod-a")).unwrap();
    drop(dataplane);
    // The other version had made its maps and crashed.
    let next = pins.path().join("next");
    fs::create_dir(&next).unwrap();
    make(&next, "ENIS", "array", [4, NEXT_ENI, 64]);
    make(&next, "ABI", "array", [4, 4, 1]);
    let mut dataplane = open();
    assert!(!next.exists());
    assert_eq!(dataplane.enis().unwrap(), [(1, ENI)]);
    let attached = netns.scoped(|| dataplane.attach_pod(ifindex, "pod-a")).unwrap();
    assert_eq!(attached, Attached::Unchanged, "its programs may have been in place");
}

#[test]
fn a_migration_that_was_not_committed_is_given_up_by_the_version_that_was() {
    attachments().into_iter().for_each(give_up_a_migration);
}

#[test]
fn a_migration_that_was_not_committed_is_begun_again_by_the_version_that_is_to_be() {
    let pins = PinDir::new();
    drop(open(&pins));
    make_next(pins.path());
    // What an attempt of this version leaves, from which it takes nothing for granted.
    let other = PinDir::new();
    let mut half = open(&other);
    half.set_eni(2, &ENI).unwrap();
    drop(half);
    let next = pins.path().join("next");
    fs::create_dir(&next).unwrap();
    for name in ["ENIS", "LAYOUT"] {
        fs::rename(other.path().join(name), next.join(name)).unwrap();
    }
    assert_eq!(
        open(&pins).enis().unwrap(),
        [(1, ENI)],
        "slot 2 was filled by the attempt, and is empty in the source"
    );
    assert!(!next.exists());
}

#[test]
fn a_migration_that_was_committed_is_finished_wherever_it_stopped() {
    // After the commit and no rename, some, all but `LAYOUT`, all but `ABI`, and all.
    for stop in [0, 7, 14, 15, 16] {
        let (pins, other) = (PinDir::new(), PinDir::new());
        let mut new = open(&other);
        new.set_eni(1, &ENI).unwrap();
        drop(new);
        drop(open(&pins));
        make_next(pins.path());
        array::<NEXT_ENI>(&pins.path().join("ENIS")).set(1, [0; NEXT_ENI], 0).unwrap();
        let next = pins.path().join("next");
        fs::create_dir(&next).unwrap();
        let mut order: Vec<_> = names(other.path()).into_iter().filter(|name| name != "links").collect();
        order.sort_by_key(|name| (name == "ABI", name == "LAYOUT"));
        for name in &order {
            fs::rename(other.path().join(name), next.join(name)).unwrap();
        }
        assert_eq!((order[14].as_str(), order[15].as_str(), order.len()), ("LAYOUT", "ABI", 16));
        for name in order.iter().take(stop) {
            fs::rename(next.join(name), pins.path().join(name)).unwrap();
        }
        let dataplane = open(&pins);
        assert_eq!(dataplane.enis().unwrap(), [(1, ENI)], "stopped after {stop}");
        assert_eq!((version(pins.path()), next.exists()), (ABI_VERSION, false), "stopped after {stop}");
    }
}
