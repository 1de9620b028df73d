//! Samples of drops.

use std::{
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use ipam_agent::dataplane::{Program::FromPod, TestFrame};
use ipam_common::{DropEvent, DropReason, drops::DROP_SAMPLE_INTERVAL_NS};
use ipam_lab::lab::patience::patient;
use ipam_lab::packets::{Ipv4Frame, VLAN, ethernet, ipv6::Ipv6Frame};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use crate::fixture::{Expect, HOST, MAC_A, Node, POD_A, POD_A6, TC_ACT_SHOT, VPC_HOST, VPC_HOST6};

/// The interval between samples is by CPU.
fn stay_on_this_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu());
    sched_setaffinity(None, &cpus).unwrap();
}

fn wait_for_the_next_sample() {
    thread::sleep(Duration::from_nanos(DROP_SAMPLE_INTERVAL_NS + 1_000_000));
}

/// Takes what is in the ring buffer.
fn events(buffer: &mut RingBuf<MapData>) -> Vec<DropEvent> {
    std::iter::from_fn(|| {
        let item = buffer.next()?;
        assert_eq!(item.len(), size_of::<DropEvent>());
        // SAFETY: as long as the event, which is valid for every bit pattern.
        Some(unsafe { item.as_ptr().cast::<DropEvent>().read_unaligned() })
    })
    .collect()
}

#[test]
fn an_event_shows_the_head_of_the_dropped_frame() {
    let mut node = Node::new();
    let mut buffer = node.dataplane.take_drop_events().unwrap();
    let spoofed = |len| {
        let source = [10, 0, 0, 99].into();
        let payload = vec![0xee; len];
        Ipv4Frame { source, payload, ..Ipv4Frame::udp(MAC_A, HOST, POD_A, VPC_HOST) }.build()
    };
    let packet = spoofed(0);
    let tagged = ethernet(HOST, MAC_A, VLAN, &[&[0, 5], &packet[12..]].concat());
    let spoofed6 = Ipv6Frame::udp(MAC_A, HOST, [0xfd; 16].into(), VPC_HOST6).build();
    let mut last = None;
    for (frame, reason) in [
        (spoofed(0), DropReason::UnknownSource),
        (spoofed(61), DropReason::UnknownSource),
        (spoofed(62), DropReason::UnknownSource),
        (spoofed(63), DropReason::UnknownSource),
        (spoofed(1400), DropReason::UnknownSource),
        (spoofed6, DropReason::UnknownSource),
        (tagged.clone(), DropReason::VlanTagged),
        (tagged[..14].to_vec(), DropReason::VlanTagged),
    ] {
        wait_for_the_next_sample();
        let before = Instant::now();
        node.check(FromPod, node.pod_a, &frame, Expect::drop(reason));
        let events = events(&mut buffer);
        let [event] = events[..] else { panic!("{events:?}") };
        // The clock is the one of `Instant`.
        if let Some((started, ended, time_ns)) = last.replace((before, Instant::now(), event.time_ns)) {
            let between = Duration::from_nanos(event.time_ns - time_ns);
            assert!((before - ended..started.elapsed()).contains(&between), "{between:?}");
        }
        let mut head = [0; 96];
        let captured = frame.len().min(96);
        head[..captured].copy_from_slice(&frame[..captured]);
        let wanted = DropEvent {
            time_ns: event.time_ns,
            ifindex: node.pod_a,
            reason: reason as u32,
            len: frame.len().try_into().unwrap(),
            captured: captured.try_into().unwrap(),
            head,
        };
        assert_eq!(event, wanted);
    }
}

#[test]
fn of_a_flood_one_packet_of_each_reason_and_interval_is_shown() {
    let mut node = Node::new();
    let mut buffer = node.dataplane.take_drop_events().unwrap();
    let spoofed = Ipv4Frame { source: [10, 0, 0, 99].into(), ..Ipv4Frame::udp(MAC_A, HOST, POD_A, VPC_HOST) };
    let lost = Ipv6Frame::udp(MAC_A, HOST, POD_A6, std::net::Ipv6Addr::LOCALHOST);
    let (spoofed, lost) = (spoofed.build(), lost.build());
    let pod_a = node.pod_a;
    let drops_before = node.dataplane.drops().unwrap();
    let started = Instant::now();
    let (mut runs, mut events) = (0, Vec::new());
    node.in_netns(|dataplane| {
        stay_on_this_cpu();
        while events.len() < 10 && started.elapsed() < patient(Duration::from_secs(20)) {
            for bytes in [&spoofed, &lost] {
                let frame = TestFrame { bytes, ifindex: pod_a, gso_size: 0, repeat: 20 };
                dataplane.test_run(FromPod, &frame).unwrap();
            }
            runs += 20;
            events.extend(self::events(&mut buffer));
        }
    });
    let elapsed = u64::try_from(started.elapsed().as_nanos()).unwrap();
    for reason in [DropReason::UnknownSource, DropReason::InvalidDestination] {
        let times: Vec<_> =
            events.iter().filter(|event| event.reason == reason as u32).map(|event| event.time_ns).collect();
        let most = elapsed / DROP_SAMPLE_INTERVAL_NS + 1;
        assert!((4..=most).contains(&u64::try_from(times.len()).unwrap()), "{reason:?}: {times:?}");
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= DROP_SAMPLE_INTERVAL_NS), "{times:?}");
        // All are counted all the same.
        let index = reason as usize;
        let counted = node.dataplane.drops().unwrap()[index].1.packets - drops_before[index].1.packets;
        assert_eq!(counted, runs);
    }
    // Of each run of 20 the clock lets through one at most.
    assert!(u64::try_from(events.len()).unwrap() <= runs / 10, "{} of {runs}", events.len());
}

#[test]
fn without_a_reader_the_buffer_fills_and_drops_are_counted_all_the_same() {
    const DROPS: usize = 2_100;
    let mut node = Node::new();
    let samples =
        Map::from_map_data(MapData::from_pin(node.pins.path().join("DROP_SAMPLES")).unwrap()).unwrap();
    let mut samples: PerCpuArray<_, u64> = samples.try_into().unwrap();
    let never = || PerCpuValues::try_from(vec![0; aya::util::nr_cpus().unwrap()]).unwrap();
    let spoofed = Ipv4Frame { source: [10, 0, 0, 99].into(), ..Ipv4Frame::udp(MAC_A, HOST, POD_A, VPC_HOST) };
    let (bytes, pod_a) = (spoofed.build(), node.pod_a);
    let frame = TestFrame { bytes: &bytes, ifindex: pod_a, gso_size: 0, repeat: 1 };
    node.in_netns(|dataplane| {
        for _ in 0..DROPS {
            samples.set(DropReason::UnknownSource as u32, never(), 0).unwrap();
            assert_eq!(dataplane.test_run(FromPod, &frame).unwrap().action, TC_ACT_SHOT);
        }
    });
    assert_eq!(node.dataplane.drops().unwrap()[DropReason::UnknownSource as usize].1.packets, DROPS as u64);
    // 256 KiB of events with a header of eight bytes each.
    let mut buffer = node.dataplane.take_drop_events().unwrap();
    assert!((2_000..=2_048).contains(&events(&mut buffer).len()));
    samples.set(DropReason::UnknownSource as u32, never(), 0).unwrap();
    node.check(FromPod, pod_a, &bytes, Expect::drop(DropReason::UnknownSource));
    assert_eq!(events(&mut buffer).len(), 1, "what was read makes room");
}
