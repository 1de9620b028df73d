//! Makes a failing case small: whatever can go while the judges still differ, goes.

use ipam_common::model::Rules;

use super::{
    judge::{Bench, Case, Mismatch},
    world::World,
};

/// The smallest mismatch that the steps below lead to. Each accepted step takes something away, so there is an end.
pub fn minimise(bench: &mut Bench<'_>, rules: &dyn Rules, found: &Mismatch) -> Mismatch {
    let mut small = found.clone();
    loop {
        let differs = |(world, case): (World, Case)| {
            bench.install(&world);
            bench.compare(rules, &case).err()
        };
        let Some(smaller) = simpler(&small.world, &small.case).find_map(differs) else { return small };
        small = *smaller;
    }
}

/// Everything that is a little simpler, the boldest first.
fn simpler<'a>(world: &'a World, case: &'a Case) -> impl Iterator<Item = (World, Case)> {
    let worlds = simpler_worlds(world).into_iter().map(|world| (world, case.clone()));
    let cases = simpler_cases(case).map(|case| (world.clone(), case));
    worlds.chain(cases)
}

fn simpler_worlds(world: &World) -> Vec<World> {
    let World { routes, enis, stack_cidrs, node_addrs, flows, talks: _ } = world;
    let mut simpler = Vec::new();
    let mut less = |without: fn(&mut World, usize), len: usize| {
        simpler.extend((0..len).map(|n| {
            let mut world = world.clone();
            without(&mut world, n);
            world
        }));
    };
    less(|world, n| _ = world.flows.remove(n), flows.len());
    less(|world, n| _ = world.routes.remove(n), routes.len());
    less(|world, n| _ = world.enis.remove(n), enis.len());
    less(|world, n| _ = world.stack_cidrs.remove(n), stack_cidrs.len());
    less(|world, n| _ = world.node_addrs.remove(n), node_addrs.len());
    simpler
}

fn simpler_cases(case: &Case) -> impl Iterator<Item = Case> {
    let whole = (case.gso_size > 0).then(|| Case { gso_size: 0, ..case.clone() });
    let len = case.frame.len();
    let lengths = || {
        let cuts = [14, 34, 42, 54, 62, len / 2, len * 9 / 10, len.saturating_sub(8), len - 1];
        cuts.into_iter().filter(move |cut| *cut < len)
    };
    let shorter = lengths().map(|cut| case.frame[..cut].to_vec());
    let honest = lengths().filter_map(|cut| honest(case.frame[..cut].to_vec()));
    let zeros = |from: usize, to: usize| {
        let mut frame = case.frame.clone();
        frame[from..to].fill(0);
        frame
    };
    let duller = [94, 74, 62, 54, 42, 34].into_iter().filter(move |from| *from < len);
    let duller = duller.map(move |from| zeros(from, len));
    let zeroed = (0..len.min(150)).map(move |at| zeros(at, at + 1));
    let frames = shorter.chain(honest).chain(duller).chain(zeroed).map(Case::acceptable);
    let frames = frames.filter(|frame| weight(frame) < weight(&case.frame));
    whole.into_iter().chain(frames.map(|frame| Case { frame, ..case.clone() }))
}

/// The frame with a header that says the truth about lengths, for most rules are asked only of such. `None`: it has no IP
/// header.
fn honest(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    let len = u16::try_from(frame.len()).expect("a short frame");
    let (at, len) = match frame.get(12..14)? {
        [0x08, 0x00] if len >= 34 => {
            frame[14] = 0x45;
            (16, len - 14)
        }
        [0x86, 0xdd] if len >= 54 => (18, len - 54),
        _ => return None,
    };
    frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
    Some(frame)
}

/// What shrinking makes less: bytes, and bytes other than zero.
fn weight(frame: &[u8]) -> usize {
    frame.len() + frame.iter().filter(|byte| **byte != 0).count()
}
