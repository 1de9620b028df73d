//! Opening a pin directory that is there already: maps and links are adopted, strangers refused.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use ipam_agent::dataplane::{Attached, Dataplane, DataplaneError, Hook, LinkPin, Program, hook_programs};
use ipam_common::{Eni, Mac, PodStats};
use ipam_lab::lab::patience::patient;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::fixture::{MAC_A, Netns, POD_A, POD_B, PinDir, route};

fn open(pins: &PinDir) -> Dataplane {
    Dataplane::open(pins.path()).unwrap()
}

fn error_of(pins: &PinDir) -> DataplaneError {
    Dataplane::open(pins.path()).err().expect("a refusal")
}

fn programs(netns: &Netns, ifname: &str) -> Vec<String> {
    let ifindex = netns.ifindex(ifname);
    netns.run(move || hook_programs(ifindex, Hook::Ingress).unwrap())
}

/// The kernel lets a link go a moment after its pin.
#[track_caller]
fn assert_soon_without_programs(netns: &Netns, ifname: &str) {
    let deadline = Instant::now() + patient(Duration::from_secs(5));
    while !programs(netns, ifname).is_empty() {
        assert!(Instant::now() < deadline, "{ifname} still has programs");
        thread::sleep(Duration::from_millis(5));
    }
}

fn attach_pod(netns: &Netns, dataplane: &mut Dataplane, ifname: &str) -> Attached {
    let ifindex = netns.ifindex(ifname);
    netns.scoped(|| dataplane.attach_pod(ifindex, ifname)).unwrap()
}

fn bpftool(args: &[&str]) -> serde_json::Value {
    let output = Command::new("bpftool").arg("-j").args(args).output().expect("bpftool");
    assert!(output.status.success(), "bpftool {args:?}: {}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn a_second_agent_keeps_maps_and_replaces_programs() {
    let (netns, pins) = (Netns::new(), PinDir::new());
    netns.ip("link add pod-a type veth peer name pod-a-peer");
    let ifindex = netns.ifindex("pod-a");
    let eni = Eni { ifindex: 7, mtu: 1500, mac: MAC_A, gateway_mac: MAC_A, ..Eni::EMPTY };
    let cidrs = ["10.96.0.0/12".parse().unwrap(), "169.254.0.0/16".parse().unwrap()];

    let mut first = open(&pins);
    first.set_route(POD_A, &route(ifindex, MAC_A, 1)).unwrap();
    first.set_eni(1, &eni).unwrap();
    first.set_stack_cidrs(&cidrs).unwrap();
    assert_eq!(attach_pod(&netns, &mut first, "pod-a"), Attached::New);
    assert_eq!(attach_pod(&netns, &mut first, "pod-a"), Attached::Unchanged);
    drop(first);
    assert_eq!(programs(&netns, "pod-a"), ["from_pod"], "while no agent runs");

    for _ in 0..3 {
        let mut next = open(&pins);
        assert_eq!(next.routes().unwrap(), [(POD_A.into(), route(ifindex, MAC_A, 1))]);
        assert_eq!(next.enis().unwrap(), [(1, eni)]);
        assert_eq!(next.stack_cidrs().unwrap(), cidrs);
        assert_eq!(next.pod_stats(POD_A).unwrap(), Some(PodStats::default()));
        assert_eq!(programs(&netns, "pod-a"), ["from_pod"], "before attaching");
        assert_eq!(attach_pod(&netns, &mut next, "pod-a"), Attached::Replaced);
        assert_eq!(programs(&netns, "pod-a"), ["from_pod"], "after attaching");
        let pin = LinkPin { ifname: "pod-a".to_owned(), ifindex, program: Program::FromPod };
        assert_eq!(next.links().unwrap(), [pin]);
    }

    let mut last = open(&pins);
    last.detach("pod-a").unwrap();
    last.detach("pod-a").unwrap();
    assert_eq!(last.links().unwrap(), []);
    assert_soon_without_programs(&netns, "pod-a");
}

#[test]
fn a_device_that_comes_back_under_its_name_gets_a_program_of_its_own() {
    let (netns, pins) = (Netns::new(), PinDir::new());
    let mut dataplane = open(&pins);
    for _ in 0..2 {
        netns.ip("link add eth0.100 type veth peer name peer");
        assert_eq!(attach_pod(&netns, &mut dataplane, "eth0.100"), Attached::New);
        assert_eq!(programs(&netns, "eth0.100"), ["from_pod"]);
        assert_eq!(dataplane.links().unwrap().len(), 1);
        netns.ip("link del eth0.100");
    }
    // The very index may come back too.
    netns.ip("link add eth0.100 index 4242 type veth peer name peer");
    attach_pod(&netns, &mut dataplane, "eth0.100");
    netns.ip("link del eth0.100");
    netns.ip("link add eth0.100 index 4242 type veth peer name peer");
    assert_eq!(programs(&netns, "eth0.100"), [""; 0]);
    assert_eq!(attach_pod(&netns, &mut dataplane, "eth0.100"), Attached::New);
    assert_eq!(programs(&netns, "eth0.100"), ["from_pod"]);
    assert_eq!(dataplane.links().unwrap().len(), 1);
}

#[test]
fn a_renamed_device_keeps_its_one_program() {
    let (netns, pins) = (Netns::new(), PinDir::new());
    let mut dataplane = open(&pins);
    netns.ip("link add before type veth peer name peer");
    attach_pod(&netns, &mut dataplane, "before");
    netns.ip("link set before name after");
    assert_eq!(attach_pod(&netns, &mut dataplane, "after"), Attached::Unchanged);
    assert_eq!(programs(&netns, "after"), ["from_pod"]);
    let names: Vec<_> = dataplane.links().unwrap().into_iter().map(|pin| pin.ifname).collect();
    assert_eq!(names, ["after"]);
}

#[test]
fn an_interface_that_is_not_what_the_caller_thinks_is_refused() {
    let (netns, pins) = (Netns::new(), PinDir::new());
    let mut dataplane = open(&pins);
    netns.ip("link add pod-a type veth peer name pod-a-peer");
    let ifindex = netns.ifindex("pod-a");
    let other = netns.scoped(|| dataplane.attach_pod(ifindex, "pod-b")).unwrap_err();
    assert_eq!(other.to_string(), format!("interface {ifindex} is `pod-a`, not `pod-b`"));
    let gone = netns.scoped(|| dataplane.attach_eni(999, "eni-1")).unwrap_err();
    assert_eq!(gone.to_string(), "interface 999 is gone, not `eni-1`");
    assert_eq!(dataplane.links().unwrap(), []);
}

#[test]
fn a_map_of_another_shape_is_refused_and_kept() {
    let pins = PinDir::new();
    fs::create_dir(pins.path()).unwrap();
    let pin = pins.path().join("ENIS");
    let path = pin.to_str().unwrap();
    bpftool(&["map", "create", path, "type", "hash", "key", "4", "value", "8", "entries", "16", "name", "x"]);
    let error = error_of(&pins).to_string();
    assert!(matches!(error_of(&pins), DataplaneError::ForeignMap { .. }), "{error}");
    for part in [
        path,
        "found Hash of 16 entries, key 4 bytes, value 8 bytes",
        "expected Array of 64 entries, key 4 bytes, value 32 bytes",
        "remove the file",
    ] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    assert_eq!(names(pins.path()), ["ENIS", "links"], "nothing was made beside it");
}

#[test]
fn a_pin_that_is_no_map_is_refused_and_kept() {
    let (netns, owner, pins) = (Netns::new(), PinDir::new(), PinDir::new());
    netns.ip("link add pod-a type veth peer name pod-a-peer");
    let mut dataplane = open(&owner);
    attach_pod(&netns, &mut dataplane, "pod-a");
    let link = fs::read_dir(owner.path().join("links")).unwrap().next().unwrap().unwrap().path();
    fs::create_dir(pins.path()).unwrap();
    let pin = pins.path().join("DROPS");
    fs::hard_link(&link, &pin).unwrap();
    let text = format!("`{}` is not a pinned BPF map; remove it and start again", pin.display());
    assert_eq!(error_of(&pins).to_string(), text);
    fs::remove_file(&pin).unwrap();
    fs::create_dir(&pin).unwrap();
    assert_eq!(error_of(&pins).to_string(), text);
    fs::remove_dir(&pin).unwrap();
    open(&pins);
}

#[test]
fn a_stranger_under_the_name_of_a_link_is_refused() {
    let (netns, pins) = (Netns::new(), PinDir::new());
    netns.ip("link add pod-a type veth peer name pod-a-peer");
    let mut dataplane = open(&pins);
    let ifindex = netns.ifindex("pod-a");
    let pin = pins.path().join(format!("links/pod-a-{ifindex}-from_pod"));
    fs::hard_link(pins.path().join("ABI"), &pin).unwrap();
    let error = netns.scoped(|| dataplane.attach_pod(ifindex, "pod-a")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`{}` is not a pinned BPF link; remove it and start again", pin.display())
    );
}

#[test]
fn maps_of_another_abi_version_are_refused() {
    let pins = PinDir::new();
    drop(open(&pins));
    let map = Map::from_map_data(MapData::from_pin(pins.path().join("ABI")).unwrap()).unwrap();
    let mut abi: Array<_, u32> = map.try_into().unwrap();
    assert_eq!(abi.get(&0, 0).unwrap(), ipam_common::ABI_VERSION);
    abi.set(0, 99, 0).unwrap();
    let error = error_of(&pins).to_string();
    assert!(error.contains("ABI version 99, this agent reads versions 1 to 3"), "{error}");
    assert_eq!(abi.get(&0, 0).unwrap(), 99);
    // An agent that died before it wrote the version.
    abi.set(0, 0, 0).unwrap();
    drop(open(&pins));
    assert_eq!(abi.get(&0, 0).unwrap(), ipam_common::ABI_VERSION);
}

#[test]
fn two_capabilities_are_enough() {
    let (netns, pins) = (Netns::new(), PinDir::new());
    netns.ip("link add pod-a type veth peer name pod-a-peer");
    let (ifindex, path) = (netns.ifindex("pod-a"), pins.path().to_owned());
    netns.scoped(|| {
        let few = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        // Of this thread, which ends here.
        let sets = CapabilitySets { effective: few, permitted: few, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).unwrap();
        for attached in [Attached::New, Attached::Replaced] {
            let mut dataplane = Dataplane::open(&path).unwrap();
            assert_eq!(dataplane.attach_pod(ifindex, "pod-a").unwrap(), attached);
            dataplane.set_route(POD_A, &route(ifindex, MAC_A, 1)).unwrap();
            assert!(dataplane.remove_route(POD_A, None).unwrap());
        }
    });
    assert_eq!(programs(&netns, "pod-a"), ["from_pod"]);
}

#[test]
fn a_route_goes_only_if_it_still_leads_to_the_interface() {
    let pins = PinDir::new();
    let mut dataplane = open(&pins);
    dataplane.set_route(POD_A, &route(7, MAC_A, 1)).unwrap();
    assert!(!dataplane.remove_route(POD_A, Some(8)).unwrap());
    assert!(!dataplane.remove_route(POD_B, None).unwrap());
    assert_eq!(dataplane.route(POD_A).unwrap(), Some(route(7, MAC_A, 1)));
    assert!(dataplane.remove_route(POD_A, Some(7)).unwrap());
    assert!(!dataplane.remove_route(POD_A, Some(7)).unwrap());
    assert_eq!((dataplane.route(POD_A).unwrap(), dataplane.pod_stats(POD_A).unwrap()), (None, None));
}

#[test]
fn stack_cidrs_become_exactly_what_is_asked_for() {
    let pins = PinDir::new();
    let mut dataplane = open(&pins);
    let parse =
        |cidrs: &[&str]| cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect::<Vec<ipnet::IpNet>>();
    dataplane.set_stack_cidrs(&parse(&["10.96.0.1/12", "10.96.0.0/12", "10.0.0.1/32", "0.0.0.0/0"])).unwrap();
    assert_eq!(dataplane.stack_cidrs().unwrap(), parse(&["0.0.0.0/0", "10.0.0.1/32", "10.96.0.0/12"]));
    dataplane.set_stack_cidrs(&parse(&["10.96.0.0/12", "10.96.0.0/16"])).unwrap();
    assert_eq!(dataplane.stack_cidrs().unwrap(), parse(&["10.96.0.0/12", "10.96.0.0/16"]));

    let hosts = |first: u32| -> Vec<_> {
        (first..first + 1024).map(|ip| ipnet::Ipv4Net::new_assert(ip.into(), 32).into()).collect()
    };
    let (full, other) = (hosts(0x0b00_0000), hosts(0x0c00_0000));
    dataplane.set_stack_cidrs(&full).unwrap();
    dataplane.set_stack_cidrs(&other).unwrap();
    assert_eq!(dataplane.stack_cidrs().unwrap(), other);
    let too_many = [&other[..], &full[..1]].concat();
    assert_eq!(
        dataplane.set_stack_cidrs(&too_many).unwrap_err().to_string(),
        "1025 stack CIDRs: at most 1024 fit"
    );
    assert_eq!(dataplane.stack_cidrs().unwrap(), other);
    dataplane.set_stack_cidrs(&[]).unwrap();
    assert_eq!(dataplane.stack_cidrs().unwrap(), []);
}

#[test]
fn slots_outside_of_the_map_are_refused() {
    let pins = PinDir::new();
    let mut dataplane = open(&pins);
    for slot in [0, ipam_common::MAX_ENIS, u32::MAX] {
        let error = dataplane.set_eni(slot, &Eni::EMPTY).unwrap_err();
        assert_eq!(error.to_string(), format!("ENI slot {slot} is not within 1..=63"));
    }
}

#[test]
fn a_dump_of_the_maps_can_be_read() {
    let pins = PinDir::new();
    let mut dataplane = open(&pins);
    dataplane.set_route(POD_A, &route(7, MAC_A, 3)).unwrap();
    dataplane.set_stack_cidrs(&["10.96.0.0/12".parse().unwrap()]).unwrap();
    let eni = Eni {
        ifindex: 9,
        mtu: 1500,
        flags: 1,
        mac: MAC_A,
        gateway_mac: Mac { octets: [2, 0, 0, 0, 1, 1] },
        ..Eni::EMPTY
    };
    dataplane.set_eni(1, &eni).unwrap();
    let dump = |map: &str, index: usize| {
        bpftool(&["map", "dump", "pinned", pins.path().join(map).to_str().unwrap()])[index]["formatted"]
            .clone()
    };

    let route = dump("POD_ROUTES_V4", 0);
    assert_eq!(route["key"], serde_json::json!({"octets": [10, 0, 0, 5]}));
    let value = serde_json::json!({
        "ifindex": 7, "epoch": 1, "eni": 3, "flags": 0, "mac": {"octets": [2, 0, 0, 0, 0, 10]}, "reserved": [0, 0]
    });
    assert_eq!(route["value"], value);
    let eni = dump("ENIS", 1);
    assert_eq!(eni["value"]["gateway_mac"], serde_json::json!({"octets": [2, 0, 0, 0, 1, 1]}));
    assert_eq!(eni["value"]["mtu"], 1500);
    let cidr = dump("STACK_CIDRS", 0);
    assert_eq!(cidr["key"], serde_json::json!({"prefix_len": 12, "data": {"octets": [10, 96, 0, 0]}}));
    let stats = dump("POD_STATS", 0);
    assert_eq!(stats["key"], serde_json::json!({"octets": [10, 0, 0, 5]}));
    assert_eq!(stats["values"][0]["value"]["tx_packets"], 0);
}

#[test]
fn the_directory_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let pins = PinDir::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    drop(open(&pins));
    assert_eq!((mode(pins.path()), mode(&pins.path().join("links"))), (0o700, 0o700));
    fs::set_permissions(pins.path(), fs::Permissions::from_mode(0o755)).unwrap();
    drop(open(&pins));
    assert_eq!(mode(pins.path()), 0o700);
    rustix::fs::chown(pins.path(), Some(rustix::fs::Uid::from_raw(65534)), None).unwrap();
    let error = error_of(&pins).to_string();
    assert!(error.contains("belongs to user 65534, but this agent runs as user 0"), "{error}");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
