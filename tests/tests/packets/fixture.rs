//! Namespaces, pin directories and a node whose every counter is watched.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use ipam_agent::dataplane::{Dataplane, Program, TestFrame};
use ipam_common::{DropCount, DropReason, Eni, Mac, PodRoute, PodStats};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, gettid, move_into_link_name_space, unshare_unsafe};

pub const TC_ACT_OK: u32 = 0;
pub const TC_ACT_SHOT: u32 = 2;
pub const TC_ACT_REDIRECT: u32 = 7;
pub const TC_ACT_UNSPEC: u32 = u32::MAX;

/// A directory on the bpffs, removed with everything in it.
pub struct PinDir(PathBuf);

impl PinDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/sys/fs/bpf/packets-test-{}-{count}", std::process::id())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace: a thread lives in it, and it goes with the thread.
pub struct Netns {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Netns {
    pub fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            // SAFETY: only the network namespace of this thread changes; no descriptors are involved.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network namespace (needs root)");
            ready.send(gettid().as_raw_nonzero().get()).unwrap();
            inbox.into_iter().for_each(|job| job());
        });
        let tid = started.recv().expect("the namespace's thread");
        let netns = Self { jobs: Some(jobs), thread: Some(thread), tid };
        netns.ip("link set lo up");
        // Neighbour discovery of IPv6 would come between the exact counts.
        netns.write("net/ipv6/conf/default/disable_ipv6", "1");
        netns.write("net/ipv6/conf/all/disable_ipv6", "1");
        netns.write("net/ipv4/ip_forward", "0");
        netns
    }

    /// Runs `job` in the namespace; a panic in it goes on here.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = done.send(outcome);
        };
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// As [`Self::run`], for a job that borrows: on a thread of its own.
    pub fn scoped<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(format!("/proc/self/task/{}/ns/net", self.tid)).unwrap();
        thread::scope(|scope| {
            let job = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                job()
            });
            job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip ARGS`.
    pub fn ip(&self, args: &str) {
        let args = args.to_owned();
        self.run(move || {
            let output = Command::new("ip").args(args.split(' ')).output().expect("iproute2");
            assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        });
    }

    /// Writes a sysctl of this namespace.
    pub fn write(&self, sysctl: &str, value: &'static str) {
        let path = format!("/proc/sys/{sysctl}");
        self.run(move || fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    pub fn ifindex(&self, ifname: &str) -> u32 {
        self.link(ifname)["ifindex"].as_u64().unwrap().try_into().unwrap()
    }

    pub fn mac(&self, ifname: &str) -> Mac {
        let link = self.link(ifname);
        let octets: Vec<u8> = link["address"]
            .as_str()
            .unwrap()
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16).unwrap())
            .collect();
        Mac { octets: octets.try_into().unwrap() }
    }

    fn link(&self, ifname: &str) -> serde_json::Value {
        let ifname = ifname.to_owned();
        let output =
            self.run(move || Command::new("ip").args(["-j", "link", "show", &ifname]).output().unwrap());
        let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        links[0].clone()
    }

    /// A veth pair: `name` here, `peer` in another namespace; both up.
    pub fn veth(&self, name: &str, other: &Self, peer: &str) {
        self.ip(&format!("link add {name} type veth peer name {peer} netns {}", other.tid));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {peer} up"));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().unwrap().join();
    }
}

pub const POD_A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
pub const POD_B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 6);
/// Behind pod A's interface, on the empty slot 3.
pub const POD_NO_ENI: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
/// Behind pod A's interface, on slot 4, whose gateway is not known.
pub const POD_NO_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 8);
pub const VPC_HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
/// The IPv6 addresses of the same pods, on the same slots; slot 4 knows the gateway of neither family.
pub const POD_A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
pub const POD_B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 6);
pub const POD_NO_ENI6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
pub const POD_NO_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 8);
pub const VPC_HOST6: Ipv6Addr = Ipv6Addr::new(0xfd09, 9, 0, 0, 0, 0, 0, 9);
/// The gateway of pods, and what a pod calls itself.
pub const LINK_LOCAL_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub const LINK_LOCAL_A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
/// The MAC of the pods' gateway: the node's end of a veth.
pub const HOST: Mac = Mac { octets: [2, 0, 0, 0, 0, 1] };
pub const MAC_A: Mac = Mac { octets: [2, 0, 0, 0, 0, 0xa] };
pub const MAC_B: Mac = Mac { octets: [2, 0, 0, 0, 0, 0xb] };
pub const GATEWAY_1: Mac = Mac { octets: [2, 0, 0, 0, 1, 1] };
/// IPv6's next hop behind the same ENI.
pub const GATEWAY_1_V6: Mac = Mac { octets: [2, 0, 0, 0, 1, 6] };
/// MTU of the ENI in slot 2.
pub const SMALL_MTU: u32 = 200;

/// A node with two pods and two ENIs, whose devices exist and carry nothing: for test runs.
pub struct Node {
    pub netns: Netns,
    pub dataplane: Dataplane,
    pub pod_a: u32,
    pub pod_b: u32,
    pub eni_1: u32,
    pub eni_1_mac: Mac,
    pub pins: PinDir,
}

/// What a program shall make of a frame. What is not named shall not change.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    pub action: u32,
    pub drop: Option<DropReason>,
    pub tx: Option<IpAddr>,
    pub rx: Option<IpAddr>,
    /// Entries made in the table of the stack's flows.
    pub marks: u64,
    /// Destination and source MAC, if they shall change.
    pub macs: Option<(Mac, Mac)>,
}

impl Expect {
    pub fn drop(reason: DropReason) -> Self {
        Self { action: TC_ACT_SHOT, drop: Some(reason), ..Self::default() }
    }

    pub fn stack() -> Self {
        Self { action: TC_ACT_OK, ..Self::default() }
    }

    pub fn redirect() -> Self {
        Self { action: TC_ACT_REDIRECT, ..Self::default() }
    }

    /// What an egress program says of a packet that stays where it is.
    pub fn pass() -> Self {
        Self { action: TC_ACT_UNSPEC, ..Self::default() }
    }

    pub fn tx(self, pod: impl Into<IpAddr>) -> Self {
        Self { tx: Some(pod.into()), ..self }
    }

    pub fn rx(self, pod: impl Into<IpAddr>) -> Self {
        Self { rx: Some(pod.into()), ..self }
    }

    pub fn marks(self, marks: u64) -> Self {
        Self { marks, ..self }
    }

    pub fn macs(self, destination: Mac, source: Mac) -> Self {
        Self { macs: Some((destination, source)), ..self }
    }
}

#[derive(Debug, PartialEq)]
struct Counters {
    drops: Vec<(DropReason, DropCount)>,
    pods: BTreeMap<IpAddr, PodStats>,
    marks: u64,
}

impl Node {
    pub fn new() -> Self {
        let (netns, pins) = (Netns::new(), PinDir::new());
        for name in ["pod-a", "pod-b", "eni-1", "eni-2"] {
            netns.ip(&format!("link add {name} type veth peer name {name}-peer"));
        }
        let [pod_a, pod_b, eni_1, eni_2] =
            ["pod-a", "pod-b", "eni-1", "eni-2"].map(|name| netns.ifindex(name));
        let eni_1_mac = netns.mac("eni-1");
        let mut dataplane = Dataplane::open(pins.path()).expect("a dataplane (needs root and a bpffs)");

        for (ip, ip6, ifindex, mac, eni) in [
            (POD_A, POD_A6, pod_a, MAC_A, 1),
            (POD_B, POD_B6, pod_b, MAC_B, 2),
            (POD_NO_ENI, POD_NO_ENI6, pod_a, MAC_A, 3),
            (POD_NO_GATEWAY, POD_NO_GATEWAY6, pod_a, MAC_A, 4),
        ] {
            dataplane.set_route(ip, &route(ifindex, mac, eni)).unwrap();
            dataplane.set_route(ip6, &route(ifindex, mac, eni)).unwrap();
        }
        let eni = Eni {
            ifindex: eni_1,
            mtu: 1500,
            mac: eni_1_mac,
            gateway_mac: GATEWAY_1,
            gateway_mac_v6: GATEWAY_1_V6,
            ..Eni::EMPTY
        };
        dataplane.set_eni(1, &eni).unwrap();
        dataplane.set_eni(2, &Eni { ifindex: eni_2, mtu: SMALL_MTU, ..eni }).unwrap();
        dataplane.set_eni(4, &Eni { gateway_mac: Mac::ZERO, gateway_mac_v6: Mac::ZERO, ..eni }).unwrap();
        let cidrs = ["10.96.0.0/12", "10.9.0.1/32", "fd96::/108", "fd09::1/128"];
        dataplane.set_stack_cidrs(&cidrs.map(|cidr| cidr.parse().unwrap())).unwrap();
        Self { netns, dataplane, pod_a, pod_b, eni_1, eni_1_mac, pins }
    }

    /// Runs `program` on `frame` and compares verdict, bytes and every counter.
    #[track_caller]
    pub fn check(&mut self, program: Program, ifindex: u32, bytes: &[u8], expect: Expect) {
        self.check_gso(program, ifindex, bytes, 0, expect);
    }

    #[track_caller]
    pub fn check_gso(&mut self, program: Program, ifindex: u32, bytes: &[u8], gso_size: u32, expect: Expect) {
        let mut wanted = self.counters();
        let frame = TestFrame { bytes, ifindex, gso_size, repeat: 1 };
        let verdict = self.test_run(program, &frame);
        let len = u64::try_from(bytes.len()).unwrap();
        if let Some(reason) = expect.drop {
            let (_, count) = &mut wanted.drops[reason as usize];
            count.packets += 1;
            count.bytes += len;
        }
        if let Some(pod) = expect.tx {
            let stats = wanted.pods.get_mut(&pod).unwrap();
            stats.tx_packets += 1;
            stats.tx_bytes += len;
        }
        if let Some(pod) = expect.rx {
            let stats = wanted.pods.get_mut(&pod).unwrap();
            stats.rx_packets += 1;
            stats.rx_bytes += len;
        }
        wanted.marks += expect.marks;
        let wanted_bytes = expect.macs.map_or(bytes.to_vec(), |(destination, source)| {
            ipam_lab::packets::with_macs(bytes, destination, source)
        });
        assert_eq!(verdict.0, expect.action, "action, {expect:?}, frame {bytes:02x?}");
        assert_eq!(verdict.1, wanted_bytes, "bytes, {expect:?}");
        assert_eq!(self.counters(), wanted, "counters, {expect:?}, frame {bytes:02x?}");
    }

    fn test_run(&mut self, program: Program, frame: &TestFrame<'_>) -> (u32, Vec<u8>) {
        let verdict = self.in_netns(|dataplane| dataplane.test_run(program, frame)).unwrap();
        (verdict.action, verdict.bytes)
    }

    /// Runs `job` in the node's namespace: that is where the kernel looks for the frame's interface.
    pub fn in_netns<T: Send>(&mut self, job: impl FnOnce(&mut Dataplane) -> T + Send) -> T {
        let dataplane = &mut self.dataplane;
        self.netns.scoped(|| job(dataplane))
    }

    fn counters(&self) -> Counters {
        let pods = self.dataplane.routes().unwrap().into_iter();
        Counters {
            drops: self.dataplane.drops().unwrap(),
            marks: self.dataplane.flow_stats().unwrap().inserted,
            pods: pods.map(|(ip, _)| (ip, self.dataplane.pod_stats(ip).unwrap().unwrap())).collect(),
        }
    }
}

pub fn route(ifindex: u32, mac: Mac, eni: u16) -> PodRoute {
    PodRoute { ifindex, epoch: 1, eni, flags: 0, mac, reserved: [0; 2] }
}
