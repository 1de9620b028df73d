//! Filters of a clsact qdisc, which kernels without TCX need: replaced in place, adopted, and nothing of others touched.

use std::process::Command;

use ipam_agent::dataplane::{Attached, Attachment, Dataplane, Hook, LinkPin, Program, hook_programs};
use ipam_lab::lab::patience::patient;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::fixture::{Netns, PinDir};

/// A namespace with one veth.
struct Rig {
    netns: Netns,
    pins: PinDir,
    ifindex: u32,
}

impl Rig {
    fn new() -> Self {
        let (netns, pins) = (Netns::new(), PinDir::new());
        netns.ip("link add pod-a type veth peer name pod-a-peer");
        let ifindex = netns.ifindex("pod-a");
        Self { netns, pins, ifindex }
    }

    fn open(&self, attachment: Attachment) -> Dataplane {
        self.netns.scoped(|| Dataplane::open_with(self.pins.path(), attachment)).unwrap()
    }

    /// Attaches both programs of a pod's veth.
    fn attach(&self, dataplane: &mut Dataplane) -> [Attached; 2] {
        self.netns.scoped(|| {
            [
                dataplane.attach_to_pod(self.ifindex, "pod-a").unwrap(),
                dataplane.attach_pod(self.ifindex, "pod-a").unwrap(),
            ]
        })
    }

    /// The programs on both hooks.
    fn programs(&self) -> [Vec<String>; 2] {
        self.netns
            .scoped(|| [Hook::Ingress, Hook::Egress].map(|hook| hook_programs(self.ifindex, hook).unwrap()))
    }

    fn links(&self, dataplane: &Dataplane) -> Vec<LinkPin> {
        self.netns.scoped(|| dataplane.links()).unwrap()
    }

    /// Both links that [`Self::attach`] makes.
    fn both(&self) -> Vec<LinkPin> {
        [Program::FromPod, Program::ToPod]
            .map(|program| LinkPin { ifname: "pod-a".to_owned(), ifindex: self.ifindex, program })
            .into()
    }

    fn tc(&self, args: &str) -> String {
        self.netns.scoped(|| {
            let output = Command::new("tc").args(args.split(' ')).output().expect("iproute2");
            assert!(output.status.success(), "tc {args}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }
}

const NONE: [&str; 0] = [];

#[test]
fn a_second_agent_replaces_the_filters_in_place() {
    let rig = Rig::new();
    let mut first = rig.open(Attachment::Clsact);
    assert_eq!(rig.attach(&mut first), [Attached::New; 2]);
    assert_eq!(rig.attach(&mut first), [Attached::Unchanged; 2]);
    assert_eq!(rig.programs(), [["from_pod"], ["to_pod"]]);
    drop(first);
    assert_eq!(rig.programs(), [["from_pod"], ["to_pod"]], "while no agent runs");
    let handle = "handle 0x6970616d from_pod direct-action";
    assert!(rig.tc("filter show dev pod-a ingress").contains(handle));

    for _ in 0..3 {
        let mut next = rig.open(Attachment::Clsact);
        assert_eq!(rig.links(&next), rig.both());
        assert_eq!(rig.attach(&mut next), [Attached::Replaced; 2]);
        assert_eq!(rig.programs(), [["from_pod"], ["to_pod"]], "after attaching");
    }
    assert!(!rig.tc("filter show dev pod-a egress").contains("from_pod"));

    let mut last = rig.open(Attachment::Clsact);
    rig.netns.scoped(|| last.detach_link(&rig.both()[1])).unwrap();
    assert_eq!(rig.programs(), [vec!["from_pod".to_owned()], vec![]]);
    for _ in 0..2 {
        rig.netns.scoped(|| last.detach("pod-a")).unwrap();
        assert_eq!(rig.programs(), [NONE; 2]);
    }
    assert_eq!(rig.links(&last), []);
}

#[test]
fn filters_and_qdiscs_of_others_are_left_alone() {
    let rig = Rig::new();
    rig.tc("qdisc add dev pod-a clsact");
    rig.tc("filter add dev pod-a ingress prio 1 u32 match u32 0 0 classid 1:1");
    rig.tc("filter add dev pod-a ingress prio 2000 u32 match u32 0 0 classid 1:1");
    let mut dataplane = rig.open(Attachment::Clsact);
    assert_eq!(rig.attach(&mut dataplane), [Attached::New; 2]);
    assert_eq!(rig.links(&dataplane), rig.both());
    rig.netns.scoped(|| dataplane.detach("pod-a")).unwrap();
    assert_eq!(rig.links(&dataplane), []);
    let left = rig.tc("filter show dev pod-a ingress");
    assert!(left.contains("pref 1 u32") && left.contains("pref 2000 u32") && !left.contains("bpf"), "{left}");
    assert!(rig.tc("qdisc show dev pod-a").contains("clsact"));
}

#[test]
fn filters_that_were_wiped_are_missed_and_made_again() {
    let rig = Rig::new();
    let mut dataplane = rig.open(Attachment::Clsact);
    rig.attach(&mut dataplane);
    rig.tc("filter del dev pod-a egress");
    assert_eq!(rig.links(&dataplane), rig.both()[..1]);
    rig.tc("qdisc del dev pod-a clsact");
    assert_eq!(rig.links(&dataplane), []);
    assert_eq!(rig.attach(&mut dataplane), [Attached::New; 2]);
    assert_eq!(rig.programs(), [["from_pod"], ["to_pod"]]);
    rig.netns.ip("link del pod-a");
    assert_eq!(rig.links(&dataplane), []);
    rig.netns.scoped(|| dataplane.detach_link(&rig.both()[0])).unwrap();
}

#[test]
fn a_renamed_device_keeps_its_one_filter() {
    let rig = Rig::new();
    let mut dataplane = rig.open(Attachment::Clsact);
    rig.attach(&mut dataplane);
    rig.netns.ip("link set pod-a name after");
    let attached = rig.netns.scoped(|| dataplane.attach_pod(rig.ifindex, "after")).unwrap();
    assert_eq!(attached, Attached::Unchanged);
    assert_eq!(rig.programs(), [["from_pod"], ["to_pod"]]);
    assert!(rig.links(&dataplane).iter().all(|link| link.ifname == "after"));
    let error = rig.netns.scoped(|| dataplane.attach_pod(rig.ifindex, "pod-a")).unwrap_err();
    assert_eq!(error.to_string(), format!("interface {} is `after`, not `pod-a`", rig.ifindex));
}

#[test]
fn an_ingress_qdisc_which_would_run_egress_filters_on_ingress_is_refused() {
    let rig = Rig::new();
    rig.tc("qdisc add dev pod-a ingress");
    let mut dataplane = rig.open(Attachment::Clsact);
    let error = rig.netns.scoped(|| dataplane.attach_to_pod(rig.ifindex, "pod-a")).unwrap_err().to_string();
    assert!(error.contains("`to_pod` to `pod-a`: its qdisc for ingress is `ingress`"), "{error}");
    assert_eq!(rig.programs(), [NONE; 2]);
}

#[test]
fn a_kernel_that_has_learnt_tcx_gets_links_for_filters_and_the_way_back_works_too() {
    let rig = Rig::new();
    let mut old = rig.open(Attachment::Clsact);
    rig.attach(&mut old);
    drop(old);

    let mut new = rig.open(Attachment::Tcx);
    assert_eq!(rig.links(&new), rig.both(), "the filters, which nothing has replaced yet");
    assert_eq!(rig.programs(), [["from_pod"], ["to_pod"]]);
    assert_eq!(rig.attach(&mut new), [Attached::New; 2]);
    assert_eq!(rig.programs(), [["from_pod"], ["to_pod"]], "one each");
    assert_eq!(rig.tc("filter show dev pod-a ingress"), "");
    assert_eq!(rig.links(&new), rig.both());
    drop(new);

    let mut old = rig.open(Attachment::Clsact);
    assert_eq!(rig.attach(&mut old), [Attached::New; 2]);
    assert!(rig.tc("filter show dev pod-a egress").contains("to_pod"));
    assert_eq!(rig.links(&old), rig.both());
    // The kernel lets a link go a moment after its pin.
    let deadline = std::time::Instant::now() + patient(std::time::Duration::from_secs(5));
    while rig.programs() != [["from_pod"], ["to_pod"]] {
        assert!(std::time::Instant::now() < deadline, "the links are still there: {:?}", rig.programs());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_crash_between_the_link_and_the_removal_of_the_filter_is_mended_by_the_next_start() {
    let rig = Rig::new();
    let mut tcx = rig.open(Attachment::Tcx);
    rig.attach(&mut tcx);
    // As such a crash leaves it: links and filters. The pins are of another directory, so that nothing removes them.
    let others = PinDir::new();
    let mut filters = rig.netns.scoped(|| Dataplane::open_with(others.path(), Attachment::Clsact)).unwrap();
    rig.attach(&mut filters);
    assert_eq!(rig.programs(), [["from_pod"; 2], ["to_pod"; 2]]);
    let mut next = rig.open(Attachment::Tcx);
    assert_eq!(rig.attach(&mut next), [Attached::Replaced; 2]);
    assert_eq!(rig.programs(), [["from_pod"], ["to_pod"]]);
}

#[test]
fn this_kernel_is_probed_and_two_capabilities_are_enough() {
    let rig = Rig::new();
    let uname = rustix::system::uname();
    let numbers = uname.release().to_str().unwrap().split('.').map(str::parse::<u32>);
    let version: Vec<u32> = numbers.map_while(Result::ok).collect();
    let expected = if version >= vec![6, 6] { Attachment::Tcx } else { Attachment::Clsact };
    rig.netns.scoped(|| {
        let few = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        // Of this thread, which ends here.
        let sets = CapabilitySets { effective: few, permitted: few, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).unwrap();
        assert_eq!(Attachment::probe(), expected);
        let mut dataplane = Dataplane::open_with(rig.pins.path(), Attachment::Clsact).unwrap();
        assert_eq!(dataplane.attach_pod(rig.ifindex, "pod-a").unwrap(), Attached::New);
        dataplane.detach("pod-a").unwrap();
        dataplane.attach_pod(rig.ifindex, "pod-a").unwrap();
    });
    assert_eq!(rig.programs(), [vec!["from_pod".to_owned()], vec![]]);
}
