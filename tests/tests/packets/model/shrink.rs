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
    let worlds = simpler_worlds(world).map(|world| (world, case.clone()));
    let cases = simpler_cases(case).map(|case| (world.clone(), case));
    cases.chain(worlds)
}

fn simpler_worlds(world: &World) -> impl Iterator<Item = World> {
    let World { routes, enis, stack_cidrs } = world;
    let less_routes = (0..routes.len()).map(|n| World { routes: without(routes, n), ..world.clone() });
    let less_enis = (0..enis.len()).map(|n| World { enis: without(enis, n), ..world.clone() });
    let less_cidrs =
        (0..stack_cidrs.len()).map(|n| World { stack_cidrs: without(stack_cidrs, n), ..world.clone() });
    less_routes.chain(less_enis).chain(less_cidrs)
}

fn without<T: Clone>(items: &[T], n: usize) -> Vec<T> {
    [&items[..n], &items[n + 1..]].concat()
}

fn simpler_cases(case: &Case) -> impl Iterator<Item = Case> {
    let whole = (case.gso_size > 0).then(|| Case { gso_size: 0, ..case.clone() });
    let len = case.frame.len();
    let lengths = || [14, 34, 42, len / 2, len * 9 / 10, len - 1].into_iter().filter(move |cut| *cut < len);
    let shorter = lengths().map(|cut| case.frame[..cut].to_vec());
    // Most rules are asked only when the header says the truth about lengths.
    let shorter_ipv4 = lengths().filter(|cut| *cut >= 34).map(|cut| {
        let mut frame = case.frame[..cut].to_vec();
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&u16::try_from(cut - 14).expect("a short frame").to_be_bytes());
        frame
    });
    let zeros = |from: usize, to: usize| {
        let mut frame = case.frame.clone();
        frame[from..to].fill(0);
        frame
    };
    let duller =
        [64, 54, 42, 34].into_iter().filter(move |from| *from < len).map(move |from| zeros(from, len));
    let zeroed = (0..len.min(64)).map(move |at| zeros(at, at + 1));
    let frames = shorter.chain(shorter_ipv4).chain(duller).chain(zeroed).map(Case::acceptable);
    let frames = frames.filter(|frame| weight(frame) < weight(&case.frame));
    whole.into_iter().chain(frames.map(|frame| Case { frame, ..case.clone() }))
}

/// What shrinking makes less: bytes, and bytes other than zero.
fn weight(frame: &[u8]) -> usize {
    frame.len() + frame.iter().filter(|byte| **byte != 0).count()
}
