//! Both judges at one bench.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use ipam_agent::dataplane::{Dataplane, Program, TestFrame};
use ipam_common::{
    DropCount, DropReason, Eni, PodStats,
    model::{Arrival, Hook, Outcome, Rules, Verdict, decide},
};
use ipnet::Ipv4Net;

use super::world::{Device, World};
use crate::fixture::{Netns, PinDir, TC_ACT_OK, TC_ACT_REDIRECT, TC_ACT_SHOT};

/// A frame and how it comes in.
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
pub struct Judgement {
    action: u32,
    bytes: Vec<u8>,
    drops: Vec<(DropReason, DropCount)>,
    pods: BTreeMap<Ipv4Addr, PodStats>,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, bytes, drops, pods } = self;
        writeln!(f, "action {action}, {} bytes, first {:02x?}", bytes.len(), &bytes[..bytes.len().min(14)])?;
        for (reason, count) in drops.iter().filter(|(_, count)| *count != DropCount::default()) {
            writeln!(f, "  {}: {count:?}", reason.name())?;
        }
        for (pod, stats) in pods.iter().filter(|(_, stats)| **stats != PodStats::default()) {
            writeln!(f, "  {pod}: {stats:?}")?;
        }
        Ok(())
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
        write!(f, "{world}program: {program}model: {outcome:?}\n  {model}")
    }
}

fn program_of(hook: Hook) -> Program {
    match hook {
        Hook::FromPod => Program::FromPod,
        Hook::FromEni => Program::FromEni,
    }
}

/// A node without pods, for any number of worlds.
pub struct Rig {
    netns: Netns,
    dataplane: Dataplane,
    devices: Vec<Device>,
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
        Self { netns, dataplane, devices, _pins: pins }
    }

    /// Runs `job` in the namespace of the devices.
    pub fn run<T: Send>(mut self, job: impl FnOnce(&mut Bench<'_>) -> T + Send) -> T {
        let (dataplane, devices) = (&mut self.dataplane, &self.devices);
        self.netns.scoped(|| {
            let world = World { routes: Vec::new(), enis: Vec::new(), stack_cidrs: Vec::new() };
            let counters = Counters::read(dataplane, &world);
            job(&mut Bench { dataplane, devices, world, counters })
        })
    }
}

/// Every counter there is.
#[derive(Clone)]
struct Counters {
    drops: Vec<(DropReason, DropCount)>,
    pods: BTreeMap<Ipv4Addr, PodStats>,
}

impl Counters {
    fn read(dataplane: &Dataplane, world: &World) -> Self {
        let stats = |addr: Ipv4Addr| dataplane.pod_stats(addr).unwrap().expect("counters of every pod");
        let addrs = world.routes.iter().map(|(addr, _)| Ipv4Addr::from(*addr));
        Self { drops: dataplane.drops().unwrap(), pods: addrs.map(|addr| (addr, stats(addr))).collect() }
    }
}

/// Where cases are compared, one world at a time.
pub struct Bench<'a> {
    dataplane: &'a mut Dataplane,
    devices: &'a [Device],
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
            assert!(self.dataplane.remove_route(Ipv4Addr::from(*addr), None).unwrap());
        }
        for (slot, _) in &self.world.enis {
            self.dataplane.set_eni(*slot, &Eni::EMPTY).unwrap();
        }
        for (addr, route) in &world.routes {
            self.dataplane.set_route(Ipv4Addr::from(*addr), route).unwrap();
        }
        for (slot, eni) in &world.enis {
            self.dataplane.set_eni(*slot, eni).unwrap();
        }
        let cidrs: Vec<_> = world
            .stack_cidrs
            .iter()
            .map(|(network, prefix_len)| {
                Ipv4Net::new(Ipv4Addr::from(*network), u8::try_from(*prefix_len).unwrap()).unwrap()
            })
            .collect();
        self.dataplane.set_stack_cidrs(&cidrs).unwrap();
        self.world = world.clone();
        self.counters = Counters::read(self.dataplane, world);
    }

    /// Has both judge the case. The verdict if they agree in everything that can be seen.
    pub fn compare(&mut self, rules: &dyn Rules, case: &Case) -> Result<Verdict, Box<Mismatch>> {
        let program = self.program(case);
        let (outcome, model) = self.model(rules, case);
        if program == model {
            return Ok(outcome.verdict);
        }
        let (world, case) = (self.world.clone(), case.clone());
        Err(Box::new(Mismatch { world, case, program, model, outcome }))
    }

    fn program(&mut self, case: &Case) -> Judgement {
        let Case { hook, device, gso_size, ref frame } = *case;
        let test = TestFrame { bytes: frame, ifindex: device.ifindex, gso_size, repeat: 1 };
        let verdict = self
            .dataplane
            .test_run(program_of(hook), &test)
            .unwrap_or_else(|error| panic!("the kernel refuses the frame: {error}\n{case:02x?}"));
        let before = std::mem::replace(&mut self.counters, Counters::read(self.dataplane, &self.world));
        let drops = self.counters.drops.iter().zip(before.drops).map(|((reason, now), (_, then))| {
            let (packets, bytes) = (now.packets - then.packets, now.bytes - then.bytes);
            (*reason, DropCount { packets, bytes })
        });
        let pods = self.counters.pods.iter().map(|(addr, now)| {
            let then = before.pods[addr];
            let delta = PodStats {
                rx_packets: now.rx_packets - then.rx_packets,
                rx_bytes: now.rx_bytes - then.rx_bytes,
                tx_packets: now.tx_packets - then.tx_packets,
                tx_bytes: now.tx_bytes - then.tx_bytes,
            };
            (*addr, delta)
        });
        Judgement {
            action: verdict.action,
            bytes: verdict.bytes,
            drops: drops.collect(),
            pods: pods.collect(),
        }
    }

    fn model(&self, rules: &dyn Rules, case: &Case) -> (Outcome, Judgement) {
        let arrival = Arrival {
            hook: case.hook,
            ifindex: case.device.ifindex,
            to_host: case.to_host(),
            tag_beside: false,
            gso_size: case.gso_size,
        };
        let mut bytes = case.frame.clone();
        let outcome = decide(rules, &self.world.maps(), &arrival, &mut bytes);
        let action = match outcome.verdict {
            Verdict::Stack => TC_ACT_OK,
            Verdict::Drop(_) => TC_ACT_SHOT,
            Verdict::Out(_) | Verdict::IntoPod(_) => TC_ACT_REDIRECT,
        };
        let drops = DropReason::ALL.map(|reason| (reason, outcome.drop_delta(reason))).into();
        let routes = self.world.routes.iter();
        let pods = routes.map(|(addr, _)| (Ipv4Addr::from(*addr), outcome.pod_delta(*addr))).collect();
        (outcome, Judgement { action, bytes, drops, pods })
    }
}
