//! The lab itself: whether its VPC is one, and whether it leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ipam_lab::{
    lab::{
        Lab,
        fabric::FABRIC_MAC,
        netns::kube_client,
        node::LabNode,
        rtnl::host_route,
        scope,
        traffic::{TcpEcho, UdpReport, ping, ping_sized, tcp_roundtrip, udp_stream},
    },
    world::{World, WorldEni},
};
use netlink_packet_route::link::LinkAttribute;

const SECOND: Duration = Duration::from_secs(1);
/// For what must not be answered.
const SHORT: Duration = Duration::from_millis(150);
const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 20);

fn lab(test: &str, mtu: u32) -> Lab {
    let builder = Lab::builder(test).mtu(mtu);
    let builder = builder.subnet("subnet-a", "zone-1", "10.0.1.0/24");
    builder.subnet("subnet-b", "zone-2", "10.0.2.0/24").build().expect("the lab needs root and nftables")
}

/// A secondary ENI in the first subnet with a primary address and others.
fn eni(id: &str, last: u8, others: &[Ipv4Addr]) -> WorldEni {
    let ips = [Ipv4Addr::new(10, 0, 1, last)].iter().chain(others).map(|ip| (*ip).into()).collect();
    let mac = format!("20:90:6f:00:00:{last:02x}");
    WorldEni { id: id.to_owned(), mac, gateway: Ipv4Addr::new(10, 0, 1, 1), gateway_v6: None, ips }
}

/// Attaches an ENI and gives its interface an address by hand, with a route by the ENI for what comes from there.
fn attach(lab: &Lab, node: &LabNode, eni: &WorldEni, ip: Ipv4Addr) -> String {
    lab.fabric().attach(&node.instance_id(), eni).unwrap();
    let (instance, ifname) = lab.fabric().location(&eni.id).unwrap();
    assert_eq!(instance, node.instance_id());
    configure(node, &ifname, ip);
    lab.fabric().wait_up(&eni.id).unwrap();
    ifname
}

fn configure(node: &LabNode, ifname: &str, ip: Ipv4Addr) {
    let rtnl = node.ns().rtnl();
    rtnl.add_address(rtnl.index(ifname).unwrap(), ip, 32).unwrap();
    rtnl.up(ifname).unwrap();
    let ip_tool =
        |args: &[&str]| assert!(node.command("ip").args(args).status().unwrap().success(), "{args:?}");
    ip_tool(&["rule", "add", "from", &ip.to_string(), "table", "100"]);
    ip_tool(&["route", "replace", "default", "via", "10.0.1.1", "dev", ifname, "onlink", "table", "100"]);
}

#[test]
fn machines_reach_each_other() {
    let start = Instant::now();
    let lab = lab("machines_reach_each_other", 1500);
    let (a, b) = (lab.node("node-a", "zone-1").unwrap(), lab.node("node-b", "zone-2").unwrap());
    println!("a lab with two nodes took {:.2?}", start.elapsed());
    let host = lab.host("host", "zone-1").unwrap();
    for (from, to) in [(a.ns(), b.ip()), (b.ns(), host.ip()), (host.ns(), a.ip()), (a.ns(), lab.ctl().ip())] {
        ping(from, to, SECOND).unwrap();
    }
    for gateway in lab.subnets().iter().map(|subnet| subnet.gateway) {
        ping(a.ns(), gateway, SECOND).unwrap();
    }
    // A neighbour in the same subnet is reached through the fabric too, by proxied ARP.
    let neighbours = a.command("ip").args(["neigh", "show", &host.ip().to_string()]).output().unwrap();
    let neighbours = String::from_utf8(neighbours.stdout).unwrap();
    let mac = FABRIC_MAC.map(|octet| format!("{octet:02x}")).join(":");
    assert!(neighbours.contains(&mac), "{neighbours}");
    // An address of nobody: no answer, and no ICMP error either.
    let error = ping(a.ns(), Ipv4Addr::new(10, 0, 2, 77), SHORT).unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error:#}");

    let echo = TcpEcho::start(b.ns(), SocketAddr::from((b.ip(), 0))).unwrap();
    tcp_roundtrip(host.ns(), echo.address().unwrap(), &[7; 50_000], SECOND).unwrap();
    assert_eq!(echo.peers()[0].ip(), host.ip());
}

#[test]
fn an_eni_carries_its_addresses_only() {
    let lab = lab("an_eni_carries_its_addresses_only", 1500);
    let node = lab.node("node-a", "zone-1").unwrap();
    let host = lab.host("host", "zone-2").unwrap();
    let ifname = attach(&lab, &node, &eni("eni-one", 10, &[POD]), POD);
    assert_eq!(ifname, "eth1");
    let link = node.ns().rtnl().link("eth1").unwrap().unwrap();
    assert!(link.attributes.contains(&LinkAttribute::Address(vec![0x20, 0x90, 0x6f, 0, 0, 10])));
    assert!(link.attributes.contains(&LinkAttribute::Mtu(1500)));

    let before = lab.fabric().counters("eni-one").unwrap();
    ping(host.ns(), POD, SECOND).unwrap();
    let after = lab.fabric().counters("eni-one").unwrap();
    assert!(after.from_eni.packets > before.from_eni.packets && after.to_eni.bytes > before.to_eni.bytes);
    assert_eq!(lab.fabric().from_eni("eni-one", POD).unwrap().packets, 1);
    assert_eq!(lab.fabric().from_eni(&node.primary().id, POD).unwrap().packets, 0);
    assert_eq!(lab.fabric().to_eni("eni-one", POD).unwrap().packets, 1);

    // The answer of an address that the cloud does not know on this ENI is dropped and counted.
    let foreign = Ipv4Addr::new(10, 0, 1, 66);
    lab.fabric().assign("eni-one", foreign.into()).unwrap();
    configure(&node, "eth1", foreign);
    ping(host.ns(), foreign, SECOND).unwrap();
    lab.fabric().unassign("eni-one", foreign.into()).unwrap();
    ping_from(&node, foreign, host.ip()).unwrap_err();
    assert_eq!(lab.fabric().foreign("eni-one", foreign).unwrap().packets, 1);
    assert_eq!(lab.fabric().all_foreign().unwrap().len(), 1);
    assert_eq!(lab.fabric().owner(foreign), None);

    // So is what an ENI's own address sends by another ENI. (The ping finds the gateway's MAC: an ARP request
    // from a foreign address gets no answer.)
    ping(node.ns(), node.subnet().gateway, SECOND).unwrap();
    assert!(node.command("ip").args(["rule", "del", "from", &POD.to_string()]).status().unwrap().success());
    ping_from(&node, POD, host.ip()).unwrap_err();
    assert_eq!(lab.fabric().foreign(&node.primary().id, POD).unwrap().packets, 1);
}

#[test]
fn sources_are_checked_without_accounting_too() {
    let builder = Lab::builder("without_accounting").without_accounting();
    let lab = builder.subnet("subnet-a", "zone-1", "10.0.1.0/24").build().unwrap();
    let node = lab.node("node-a", "zone-1").unwrap();
    let rtnl = node.ns().rtnl();
    rtnl.add_address(rtnl.index("eth0").unwrap(), POD, 32).unwrap();
    ping(node.ns(), lab.ctl().ip(), SECOND).unwrap();
    let dropped = || {
        let text = lab.fabric().ns().read("/proc/net/netstat").unwrap();
        let rows: Vec<Vec<&str>> = text.lines().take(2).map(|l| l.split_whitespace().collect()).collect();
        let column = rows[0].iter().position(|name| *name == "IPReversePathFilter").unwrap();
        rows[1][column].parse::<u64>().unwrap()
    };
    let before = dropped();
    ping_from(&node, POD, lab.ctl().ip()).unwrap_err();
    assert_eq!(dropped() - before, 1);
    assert!(lab.fabric().all_foreign().is_err(), "nothing counts per address");
}

/// One echo request with a source address, by the `ping` tool.
fn ping_from(node: &LabNode, source: Ipv4Addr, to: Ipv4Addr) -> Result<(), String> {
    let args = ["-n", "-c1", "-W0.2", "-I", &source.to_string(), &to.to_string()];
    let output = node.command("ping").args(args).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
}

/// The kernel has no reverse path filter for IPv6, so that the fabric must check sources itself.
#[test]
fn ipv6_is_forwarded_by_address_and_its_sources_are_checked() {
    let lab = Lab::builder("fabric_ipv6").subnet("subnet-a", "zone-1", "10.0.1.0/24,fd00:0:0:1::/64");
    let lab = lab.subnet("subnet-b", "zone-2", "10.0.2.0/24,fd00:0:0:2::/64").build().unwrap();
    let node = lab.node("node-a", "zone-1").unwrap();
    let host = lab.host("host", "zone-2").unwrap();
    let (here, there) = (node.ip_v6().unwrap(), host.ip_v6().unwrap());
    ping(node.ns(), there, SECOND).unwrap();
    ping(host.ns(), here, SECOND).unwrap();
    let eni = &node.primary().id;
    // Neighbour discovery may add to it.
    assert!(lab.fabric().from_eni(eni, here).unwrap().packets >= 2);
    assert!(lab.fabric().to_eni(eni, here).unwrap().packets >= 2);
    assert_eq!(lab.fabric().all_foreign_v6().unwrap(), []);

    let foreign: std::net::Ipv6Addr = "fd00:0:0:1::bad".parse().unwrap();
    let rtnl = node.ns().rtnl();
    rtnl.add_address(rtnl.index("eth0").unwrap(), foreign, 128).unwrap();
    let ping_as_stranger = || {
        let args = ["-6", "-n", "-c1", "-W0.3", "-I", &foreign.to_string(), &there.to_string()];
        node.command("ping").args(args).output().unwrap().status.success()
    };
    assert!(!ping_as_stranger());
    assert_eq!(lab.fabric().foreign(eni, foreign).unwrap().packets, 1);
    lab.fabric().assign(eni, foreign.into()).unwrap();
    assert!(ping_as_stranger(), "now it is this ENI's");
    // A host that is no more: what goes there vanishes.
    lab.fabric().unassign(&host.primary().id, there.into()).unwrap();
    assert!(ping(node.ns(), there, SHORT).is_err());
}

#[test]
fn migrating_moves_traffic_at_once() {
    let lab = lab("migrating_moves_traffic_at_once", 1500);
    let (a, b) = (lab.node("node-a", "zone-1").unwrap(), lab.node("node-b", "zone-1").unwrap());
    let host = lab.host("host", "zone-2").unwrap();
    attach(&lab, &a, &eni("eni-one", 10, &[POD]), POD);
    attach(&lab, &b, &eni("eni-two", 11, &[]), POD);
    ping(host.ns(), POD, SECOND).unwrap();
    for round in 1..=5 {
        for eni in ["eni-two", "eni-one"] {
            lab.fabric().assign(eni, POD.into()).unwrap();
            ping(host.ns(), POD, SECOND).unwrap();
            assert_eq!(lab.fabric().owner(POD).as_deref(), Some(eni));
        }
        assert_eq!(lab.fabric().from_eni("eni-two", POD).unwrap().packets, round);
        assert_eq!(lab.fabric().from_eni("eni-one", POD).unwrap().packets, round + 1);
    }
    // The old ENI's unassign, come late, takes nothing away.
    lab.fabric().unassign("eni-two", POD.into()).unwrap();
    ping(host.ns(), POD, SECOND).unwrap();
    lab.fabric().unassign("eni-one", POD.into()).unwrap();
    ping(host.ns(), POD, SHORT).unwrap_err();
}

#[test]
fn enis_come_and_go() {
    let lab = lab("enis_come_and_go", 1500);
    let (a, b) = (lab.node("node-a", "zone-1").unwrap(), lab.node("node-b", "zone-1").unwrap());
    let fabric = lab.fabric();
    let (one, two) = (eni("eni-one", 10, &[POD]), eni("an-eni-with-a-long-name", 11, &[]));
    fabric.attach(&a.instance_id(), &one).unwrap();
    fabric.attach(&a.instance_id(), &one).unwrap();
    fabric.attach(&a.instance_id(), &two).unwrap();
    assert_eq!(fabric.location(&two.id).unwrap().1, "eth2");
    let error = fabric.attach(&b.instance_id(), &one).unwrap_err();
    assert!(format!("{error:#}").contains("it is on ins-node-a"), "{error:#}");

    fabric.detach(&one.id).unwrap();
    fabric.detach(&one.id).unwrap();
    assert!(a.ns().rtnl().link("eth1").unwrap().is_none());
    assert_eq!(fabric.owner(POD), None);
    fabric.assign(&one.id, POD.into()).unwrap_err();
    fabric.unassign(&one.id, POD.into()).unwrap();

    fabric.attach(&b.instance_id(), &one).unwrap();
    assert_eq!(fabric.location(&one.id), Some((b.instance_id(), "eth1".to_owned())));
    let error = fabric.attach("ins-nobody", &eni("eni-three", 12, &[])).unwrap_err();
    assert!(format!("{error:#}").contains("attach eni-three to ins-nobody: no such instance"), "{error:#}");
    let bad = WorldEni { mac: "20:90:6f".to_owned(), ..eni("eni-four", 13, &[]) };
    assert!(format!("{:#}", fabric.attach(&a.instance_id(), &bad).unwrap_err()).contains("MAC \"20:90:6f\""));

    drop(a);
    assert_eq!(fabric.location(&two.id), None);
    let fabric_links = fabric.ns().rtnl().links().unwrap().len();
    assert_eq!(fabric_links, 1 + 1 + 2, "lo, ctl's, and node-b's two");
}

#[test]
fn mtus_hold() {
    for mtu in [1500, 9001] {
        let lab = lab("mtus_hold", mtu);
        let (a, b) = (lab.node("node-a", "zone-1").unwrap(), lab.node("node-b", "zone-2").unwrap());
        let largest = mtu as usize - 28;
        for (bytes, packets) in [(largest, 1), (largest + 1, 2)] {
            let before = lab.fabric().from_eni(&a.primary().id, a.ip()).unwrap();
            ping_sized(a.ns(), b.ip(), bytes, SECOND).unwrap();
            let after = lab.fabric().from_eni(&a.primary().id, a.ip()).unwrap();
            assert_eq!(after.packets - before.packets, packets, "{bytes} bytes with an MTU of {mtu}");
        }
    }
}

/// What a stream sends it sends on time; when it ends depends on how busy the machine is.
fn in_time(report: &UdpReport, per_second: u32) {
    let due = f64::from(per_second) * report.duration.as_secs_f64();
    assert!((due * 0.9..=due + 2.).contains(&(report.sent as f64)), "{report}");
}

#[test]
fn a_stream_loses_nothing() {
    let lab = lab("a_stream_loses_nothing", 1500);
    let (a, b) = (lab.node("node-a", "zone-1").unwrap(), lab.node("node-b", "zone-2").unwrap());
    let to = SocketAddr::from((b.ip(), 4789));
    let report = udp_stream(a.ns(), b.ns(), to, 5_000, 2 * SECOND).unwrap();
    println!("{report}");
    assert_eq!((report.lost, report.send_errors, report.duplicates, report.longest_loss), (0, 0, 0, 0));
    in_time(&report, 5_000);

    let report = udp_stream(a.ns(), b.ns(), to, 10_000, SECOND).unwrap();
    println!("{report}");
    assert_eq!((report.lost, report.send_errors), (0, 0));
    in_time(&report, 10_000);

    // And it knows a loss when there is one.
    let stream = ipam_lab::lab::traffic::UdpStream::start(a.ns(), b.ns(), to, 5_000).unwrap();
    thread::sleep(SHORT);
    lab.fabric().unassign(&b.primary().id, b.ip().into()).unwrap();
    thread::sleep(SHORT);
    lab.fabric().assign(&b.primary().id, b.ip().into()).unwrap();
    thread::sleep(SHORT);
    let report = stream.stop().unwrap();
    println!("{report}");
    assert!(
        report.lost >= 100 && report.longest_loss == report.lost && report.longest_gap >= SHORT,
        "{report}"
    );
}

#[test]
fn labs_do_not_meet() {
    let one = |n: usize| {
        let lab = lab("labs_do_not_meet", 1500);
        let (a, b) = (lab.node("node-a", "zone-1").unwrap(), lab.node("node-b", "zone-2").unwrap());
        lab.fabric().attach(&a.instance_id(), &eni("eni-one", 10, &[POD])).unwrap();
        ping(a.ns(), b.ip(), 5 * SECOND).unwrap();
        let to = lab.fabric().to_eni(&b.primary().id, b.ip()).unwrap().packets;
        assert_eq!(to, 1, "lab {n} sees its own packets only");
        lab.scope().prefix().to_owned()
    };
    // 20 labs, 5 at a time.
    let prefixes: Vec<String> = thread::scope(|s| {
        let workers: Vec<_> =
            (0..5).map(|w| s.spawn(move || (0..4).map(|n| one(w * 4 + n)).collect())).collect();
        workers.into_iter().flat_map(|w| -> Vec<String> { w.join().unwrap() }).collect()
    });
    assert_eq!(prefixes.len(), 20);
    prefixes.iter().for_each(|prefix| assert_gone(prefix));
}

fn assert_gone(prefix: &str) {
    for dir in ["/run/netns", "/run/ipam-lab", "/sys/fs/bpf"] {
        let entries = fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().file_name());
        let left: Vec<_> = entries.filter(|name| name.to_string_lossy().starts_with(prefix)).collect();
        assert!(left.is_empty(), "{dir}: {left:?}");
    }
}

#[test]
fn a_panic_leaves_nothing() {
    let (mut prefix, mut pid, mut stray, mut namespace) = (String::new(), 0, String::new(), None);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let lab = lab("a_panic_leaves_nothing", 1500);
        let node = lab.node("node-a", "zone-1").unwrap();
        prefix = lab.scope().prefix().to_owned();
        namespace = Some(node.ns().path().to_owned());
        fs::create_dir_all(node.bpffs_dir()).unwrap();
        let mut sleep = node.command("sh");
        sleep.args(["-c", "echo the log of a process; exec sleep 1000"]);
        let mut process = node.start("sleeper", sleep).unwrap();
        pid = process.pid();
        while !process.log().contains("the log of a process") {
            assert!(process.is_running().unwrap());
        }
        // Another process in the namespace that nobody owns.
        let script = "sleep 1001 >/dev/null 2>&1 & echo $!";
        let output = node.command("sh").args(["-c", script]).output().unwrap();
        stray = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        assert!(is_running(&stray));
        assert!(namespace.as_ref().unwrap().exists());
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert_gone(&prefix);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!namespace.unwrap().exists());
    assert_ends(&stray);
}

fn is_running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn assert_ends(pid: &str) {
    let deadline = Instant::now() + 5 * SECOND;
    while is_running(pid) {
        assert!(Instant::now() < deadline, "process {pid} outlives its lab");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn processes_end_as_told() {
    let lab = lab("processes_end_as_told", 1500);
    let start = |script: &str| {
        let mut shell = lab.ctl().command("sh");
        shell.args(["-c", script]);
        lab.ctl().start("shell", shell).unwrap()
    };
    let mut polite = start("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    while !polite.log().contains("ready") {
        assert!(polite.is_running().unwrap());
    }
    assert_eq!(polite.terminate(5 * SECOND).unwrap().code(), Some(3));
    assert!(!polite.is_running().unwrap());

    let mut deaf = start("trap '' TERM; echo deaf; while :; do sleep 0.01; done");
    while !deaf.log().contains("deaf") {
        assert!(deaf.is_running().unwrap());
    }
    let error = deaf.terminate(SHORT).unwrap_err();
    assert!(error.to_string().contains("still runs"), "{error:#}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&deaf.kill9().unwrap()), Some(9));
    assert_eq!(deaf.log(), "ready\nbye\ndeaf\n", "a restart's output follows on");
}

#[test]
fn a_lab_can_be_kept() {
    let lab = lab("a_lab_can_be_kept", 1500);
    let prefix = lab.scope().prefix().to_owned();
    let mut sleep = lab.ctl().command("sleep");
    sleep.arg("1002");
    let process = lab.ctl().start("sleeper", sleep).unwrap();
    let pid = process.pid().to_string();
    lab.keep();
    drop((process, lab));
    scope::sweep();
    assert!(Path::new("/run/netns").join(format!("{prefix}-ctl")).exists() && is_running(&pid));
    assert!(scope::kept().contains(&prefix));
    scope::remove(&prefix);
    assert_gone(&prefix);
    assert_ends(&pid);
}

#[test]
fn a_lab_ends_though_its_fabric_is_held() {
    let lab = lab("its_fabric_is_held", 1500);
    let (fabric, prefix) = (lab.fabric().clone(), lab.scope().prefix().to_owned());
    drop(lab);
    assert_gone(&prefix);
    fabric.detach("eni-ctl").unwrap();
}

/// Not a test of its own: what [`a_killed_process_leaves_nothing_for_long`] runs in a process to be killed.
#[test]
#[ignore = "a part of a_killed_process_leaves_nothing_for_long, which starts it"]
fn child_builds_a_lab_and_waits() {
    let lab = lab("child", 1500);
    let node = lab.node("node-a", "zone-1").unwrap();
    let mut sleep = node.command("sleep");
    sleep.arg("1000");
    let process = node.start("sleeper", sleep).unwrap();
    println!("lab {} {}", lab.scope().prefix(), process.pid());
    thread::sleep(60 * SECOND);
}

#[test]
fn a_killed_process_leaves_nothing_for_long() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_builds_a_lab_and_waits", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find_map(|line| Some(line.split_once("lab ")?.1.to_owned()));
    let line = line.expect("the child built its lab");
    let (prefix, pid) = line.split_once(' ').unwrap();
    assert!(!scope::sweep().contains(&prefix.to_owned()), "a living lab is nobody's leftover");
    assert!(Path::new("/run/netns").join(format!("{prefix}-node-a")).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    // Another test process may sweep at the same time.
    scope::sweep();
    let deadline = Instant::now() + 5 * SECOND;
    while Path::new("/run/ipam-lab").join(format!("{prefix}.lock")).exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert_gone(prefix);
    assert_ends(pid);
}

#[test]
fn a_pod_calls_the_plugin_on_its_node() {
    let lab = lab("a_pod_calls_the_plugin", 1500);
    let node = lab.node("node-a", "zone-1").unwrap();
    let Ok(mut pod) = node.pod("web-0") else {
        panic!("ipam-cni must be built first: cargo build -p ipam-cni");
    };
    // A plugin of ours that tells what it was called with.
    let plugin = lab.dir().join("plugin");
    let script = "#!/bin/sh\nread -r conf\n[ \"$CNI_COMMAND\" = DEL ] && { echo '{\"code\":11,\"msg\":\"later\"}'; exit 1; }\n\
        echo \"{\\\"ips\\\":[{\\\"address\\\":\\\"10.0.1.20/32\\\"}],\\\"ns\\\":\\\"$(readlink /proc/self/ns/net)\\\",\
        \\\"args\\\":\\\"$CNI_ARGS\\\",\\\"netns\\\":\\\"$CNI_NETNS\\\",\\\"if\\\":\\\"$CNI_IFNAME\\\",\\\"conf\\\":$conf}\"\n";
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    pod.plugin = plugin;
    pod.uid = Some("u-1".to_owned());

    let conf = serde_json::json!({ "name": "net" });
    let added = pod.add(&conf).unwrap();
    let result = added.ok().unwrap();
    let inside = node.ns().run(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_eq!(result["ns"], inside.to_str().unwrap(), "the plugin runs on the node");
    assert_eq!(result["netns"], pod.ns().path().to_str().unwrap());
    assert_eq!(result["if"], "eth0");
    assert_eq!(result["conf"], conf);
    assert!(result["args"].as_str().unwrap().contains("K8S_POD_NAME=web-0;"), "{result}");
    assert!(result["args"].as_str().unwrap().ends_with(";K8S_POD_UID=u-1"), "{result}");
    assert_eq!(pod.ip(), Some(POD));
    assert_eq!(pod.check(&conf).unwrap().json["conf"]["prevResult"], *result);
    let deleted = pod.del(&conf).unwrap();
    assert_eq!(deleted.error().unwrap().code, 11);
    assert!(deleted.ok().unwrap_err().to_string().contains("later"));
}

#[tokio::test]
async fn a_client_connects_from_inside() {
    let lab = lab("a_client_connects_from_inside", 1500);
    let host = lab.host("host", "zone-2").unwrap();
    let listener = lab.ctl().ns().listen_tokio(SocketAddr::from((lab.ctl().ip(), 8080))).unwrap();
    let address = listener.local_addr().unwrap();
    let seen = axum::routing::get(|headers: http::HeaderMap| async move {
        let token = headers["authorization"].to_str().unwrap_or_default().to_owned();
        axum::Json(serde_json::json!({ "major": "1", "minor": "33", "gitVersion": token, "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "" }))
    });
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/version", seen)).await });

    let kubeconfig = lab.dir().join("kubeconfig");
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{ "name": "lab", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "lab", "user": { "token": "secret" } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
    });
    fs::write(&kubeconfig, text.to_string()).unwrap();
    let client = kube_client(host.ns(), &kubeconfig).await.unwrap();
    assert_eq!(client.apiserver_version().await.unwrap().git_version, "Bearer secret");
    assert!(lab.fabric().from_eni(&host.primary().id, host.ip()).unwrap().packets > 0);
}

#[test]
fn routes_and_neighbours_can_be_removed_twice() {
    let lab = lab("removed_twice", 1500);
    let rtnl = lab.ctl().ns().rtnl();
    let eth0 = rtnl.index("eth0").unwrap();
    for _ in 0..2 {
        rtnl.del_route(host_route(POD, eth0)).unwrap();
        rtnl.del_neighbour(eth0, POD).unwrap();
        rtnl.del_link("eth9").unwrap();
    }
    assert!(rtnl.up("eth9").is_err());
}
