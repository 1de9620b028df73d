//! Both judges at one bench.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    net::IpAddr,
};

use aya::maps::{HashMap, Map, MapData};
use ipam_agent::dataplane::{Dataplane, Program, TestFrame};
use ipam_common::{
    Eni, StackFlow,
    flow::STACK_FLOW_SEEN,
    maps::STACK_FLOWS,
    model::{Arrival, Hook, Outcome, Rules, Verdict, decide},
};
use ipnet::IpNet;

use super::{
    counters::Counters,
    world::{Device, World, show_flow},
};
use crate::fixture::{Netns, PinDir, TC_ACT_OK, TC_ACT_REDIRECT, TC_ACT_SHOT};

/// `linux/pkt_cls.h`.
const TC_ACT_UNSPEC: u32 = u32::MAX;

/// A frame and how it comes by.
#[derive(Clone, Debug)]
pub struct Case {
    pub hook: Hook,
    pub device: Device,
    pub gso_size: u32,
    pub frame: Vec<u8>,
}

impl Case {
    /// The shortest frame of its EtherType that `BPF_PROG_TEST_RUN` takes.
    fn min_len(frame: &[u8]) -> usize {
        match frame.get(12..14) {
            Some([0x08, 0x00]) => 34,
            Some([0x86, 0xdd]) => 54,
            _ => 14,
        }
    }

    /// Makes a frame one that the kernel takes: lengthened by zeros, or cut.
    pub fn acceptable(mut frame: Vec<u8>) -> Vec<u8> {
        frame.truncate(3500);
        while frame.len() < Self::min_len(&frame) {
            frame.resize(Self::min_len(&frame), 0);
        }
        frame
    }

    /// As the kernel decides it (`eth_type_trans`).
    fn to_host(&self) -> bool {
        self.frame.starts_with(&self.device.mac.octets)
    }
}

/// What a judge made of a case.
#[derive(Clone, PartialEq, Eq)]
struct Judgement {
    action: u32,
    bytes: Vec<u8>,
    /// What was added.
    counters: Counters,
    /// Flows newly marked.
    marks: HashSet<StackFlow>,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, bytes, counters, marks } = self;
        let head: String = bytes.iter().take(14).map(|byte| format!("{byte:02x}")).collect();
        writeln!(f, "action {}, {} bytes, first {head}", action.cast_signed(), bytes.len())?;
        write!(f, "{counters}")?;
        marks.iter().try_for_each(|flow| writeln!(f, "  marks {}", show_flow(flow)))
    }
}

/// A case on which the judges differ.
#[derive(Clone)]
pub struct Mismatch {
    pub world: World,
    pub case: Case,
    program: Judgement,
    model: Judgement,
    outcome: Outcome,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world, case, program, model, outcome } = self;
        let hook = program_of(case.hook).name();
        let Device { ifindex, mac } = case.device;
        writeln!(f, "{hook} at ifindex {ifindex} (mac {:02x?}), gso_size {}", mac.octets, case.gso_size)?;
        for (line, bytes) in case.frame.chunks(16).enumerate() {
            let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(f, "{:04x}  {}", line * 16, bytes.join(" "))?;
        }
        write!(f, "{world}program: {program}model: {:?}\n  {model}", outcome.verdict)
    }
}

pub fn program_of(hook: Hook) -> Program {
    match hook {
        Hook::FromPod => Program::FromPod,
        Hook::FromEni => Program::FromEni,
        Hook::ToPod => Program::ToPod,
        Hook::ToEni => Program::ToEni,
    }
}

/// A node without pods, for any number of worlds.
pub struct Rig {
    netns: Netns,
    dataplane: Dataplane,
    devices: Vec<Device>,
    flows: HashMap<MapData, StackFlow, u32>,
    _pins: PinDir,
}

impl Rig {
    pub fn new() -> Self {
        let (netns, pins) = (Netns::new(), PinDir::new());
        for n in 0..3 {
            netns.ip(&format!("link add a{n} type veth peer name b{n}"));
        }
        let names = ["a0", "b0", "a1", "b1", "a2", "b2"];
        let devices = names.map(|name| Device { ifindex: netns.ifindex(name), mac: netns.mac(name) }).into();
        let dataplane = Dataplane::open(pins.path()).expect("a dataplane (needs root and a bpffs)");
        // User space of production has no use for a flow of its own making.
        let flows = MapData::from_pin(pins.path().join(STACK_FLOWS)).unwrap();
        let flows = Map::from_map_data(flows).and_then(HashMap::try_from).unwrap();
        Self { netns, dataplane, devices, flows, _pins: pins }
    }

    /// Runs `job` in the namespace of the devices.
    pub fn run<T: Send>(mut self, job: impl FnOnce(&mut Bench<'_>) -> T + Send) -> T {
        let Self { netns, dataplane, devices, flows, .. } = &mut self;
        netns.scoped(|| {
            let world = World::default();
            let counters = Counters::read(dataplane, &world);
            job(&mut Bench { dataplane, devices, flows, world, counters })
        })
    }
}

/// Where cases are compared, one world at a time.
pub struct Bench<'a> {
    dataplane: &'a mut Dataplane,
    devices: &'a [Device],
    flows: &'a mut HashMap<MapData, StackFlow, u32>,
    /// What the maps hold; its flows grow with each case that agrees.
    world: World,
    counters: Counters,
}

impl<'a> Bench<'a> {
    pub fn devices(&self) -> &'a [Device] {
        self.devices
    }

    /// Makes the maps what the world says, with counters of pods at zero.
    pub fn install(&mut self, world: &World) {
        for (addr, _) in &self.world.routes {
            assert!(self.dataplane.remove_route(*addr, None).unwrap());
        }
        for (slot, _) in &self.world.enis {
            self.dataplane.set_eni(*slot, &Eni::EMPTY).unwrap();
        }
        for flow in self.marked() {
            self.flows.remove(&flow).unwrap();
        }
        for (addr, route) in &world.routes {
            self.dataplane.set_route(*addr, route).unwrap();
        }
        for (slot, eni) in &world.enis {
            self.dataplane.set_eni(*slot, eni).unwrap();
        }
        for flow in &world.flows {
            self.flows.insert(flow, STACK_FLOW_SEEN, 0).unwrap();
        }
        let cidr =
            |(network, len): &(IpAddr, u32)| IpNet::new(*network, u8::try_from(*len).unwrap()).unwrap();
        let cidrs: Vec<_> = world.stack_cidrs.iter().map(cidr).collect();
        self.dataplane.set_stack_cidrs(&cidrs).unwrap();
        let node_addrs: BTreeMap<_, _> = world.node_addrs.iter().copied().collect();
        self.dataplane.set_node_addrs(&node_addrs).unwrap();
        self.world = world.clone();
        self.counters = Counters::read(self.dataplane, world);
    }

    /// Has both judge the cases one after the other in the world, in which the flows that one marks are there for the
    /// next. Verdicts and bytes are compared for each case, counters and flows for all together: should they differ,
    /// the cases are judged again one by one. How many agreed, and the first that did not.
    pub fn compare_all(
        &mut self,
        rules: &dyn Rules,
        world: &World,
        cases: &[Case],
    ) -> (Vec<Outcome>, Option<Mismatch>) {
        self.install(world);
        let mut wanted = self.counters.clone();
        let mut outcomes = Vec::new();
        for case in cases {
            let (outcome, model) = self.model(rules, case);
            let (action, bytes) = self.run(case);
            if (action, &bytes) != (model.action, &model.bytes) {
                return self.compare_each(rules, world, cases);
            }
            wanted.add(&model.counters);
            self.world.flows.extend(model.marks);
            outcomes.push(outcome);
        }
        let flows: BTreeSet<_> = self.world.flows.iter().map(show_flow).collect();
        let marked: BTreeSet<_> = self.marked().iter().map(show_flow).collect();
        if Counters::read(self.dataplane, &self.world) == wanted && marked == flows {
            return (outcomes, None);
        }
        self.compare_each(rules, world, cases)
    }

    fn compare_each(
        &mut self,
        rules: &dyn Rules,
        world: &World,
        cases: &[Case],
    ) -> (Vec<Outcome>, Option<Mismatch>) {
        self.install(world);
        let mut outcomes = Vec::new();
        for case in cases {
            match self.compare(rules, case) {
                Ok(outcome) => outcomes.push(outcome),
                Err(mismatch) => return (outcomes, Some(*mismatch)),
            }
        }
        panic!(
            "a difference in {} cases of this world went away when they were judged again:\n{world}",
            cases.len()
        );
    }

    /// Has both judge the case, and compares everything that can be seen.
    pub fn compare(&mut self, rules: &dyn Rules, case: &Case) -> Result<Outcome, Box<Mismatch>> {
        let (outcome, model) = self.model(rules, case);
        let (action, bytes) = self.run(case);
        let now = Counters::read(self.dataplane, &self.world);
        let counters = now.since(&std::mem::replace(&mut self.counters, now.clone()));
        let marks = self.marked().into_iter().filter(|flow| !self.world.flows.contains(flow)).collect();
        let program = Judgement { action, bytes, counters, marks };
        if program == model {
            self.world.flows.extend(model.marks);
            return Ok(outcome);
        }
        let (world, case) = (self.world.clone(), case.clone());
        Err(Box::new(Mismatch { world, case, program, model, outcome }))
    }

    fn run(&mut self, case: &Case) -> (u32, Vec<u8>) {
        let Case { hook, device, gso_size, ref frame } = *case;
        let test = TestFrame { bytes: frame, ifindex: device.ifindex, gso_size, repeat: 1 };
        let verdict = self
            .dataplane
            .test_run(program_of(hook), &test)
            .unwrap_or_else(|error| panic!("the kernel refuses the frame: {error}\n{case:02x?}"));
        (verdict.action, verdict.bytes)
    }

    fn marked(&self) -> Vec<StackFlow> {
        self.dataplane.stack_flows().unwrap()
    }

    fn model(&self, rules: &dyn Rules, case: &Case) -> (Outcome, Judgement) {
        let arrival = Arrival {
            hook: case.hook,
            ifindex: case.device.ifindex,
            to_host: case.to_host(),
            tag_beside: false,
            redirected: false,
            gso_size: case.gso_size,
        };
        let mut bytes = case.frame.clone();
        let outcome = decide(rules, &self.world.maps(), &arrival, &mut bytes);
        let action = match outcome.verdict {
            Verdict::Stack => TC_ACT_OK,
            Verdict::Pass => TC_ACT_UNSPEC,
            Verdict::Drop(_) => TC_ACT_SHOT,
            Verdict::Out(_) | Verdict::IntoPod(_) => TC_ACT_REDIRECT,
        };
        let counters = Counters::of(&outcome, &self.world);
        let marks = outcome.marks.iter().copied().collect();
        (outcome, Judgement { action, bytes, counters, marks })
    }
}
