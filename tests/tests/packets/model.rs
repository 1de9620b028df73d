//! Same packet, two judges: the programs in the kernel, and `ipam_common::model`.
//!
//! Compared for each case: the verdict's number and every byte of the frame afterwards; and for each world, in which
//! some cases run one after the other, what was added to each counter and which flows are marked afterwards.
//!
//! `BPF_PROG_TEST_RUN` neither shows the interface of a redirect nor lets a VLAN tag or a `tc_index` lie beside the
//! frame ([`bugs::blind`] proves it): `delivery` sees these with real veths. Which entry of `ENIS` a packet leaves by
//! and which pod it is for is compared all the same, by the MACs and by the counters. Nor does it make frames of IPv4
//! below 34 bytes, of IPv6 below 54, or ones whose headers lie in page fragments. Samples of drops are not compared.
//!
//! `IPAM_CASES=1000000` makes a longer run, `SEED=…` repeats one.

mod bugs;
mod counters;
mod frames;
mod judge;
mod shrink;
mod world;

use std::{collections::BTreeMap, env, fmt::Display, str::FromStr, time::Instant};

use ipam_common::{
    DropReason,
    model::{Hook, Outcome, Rules, Specified, Verdict},
};
use rand::{SeedableRng as _, rngs::StdRng};

use self::{
    frames::Generator,
    judge::{Bench, Case, Mismatch, Rig, program_of},
    world::World,
};

/// Cases of the ordinary run.
const CASES: usize = 50_000;
/// Cases on one state of the maps.
const CASES_PER_WORLD: usize = 64;
/// Cases within which a planted bug must be noticed.
const CASES_PER_BUG: usize = 40_000;
/// Frames that are cut at every length …
const WHOLE_FRAMES: usize = 150;
/// … up to this one, in bytes.
const LONGEST_CUT: usize = 220;

/// The value of a variable of the environment, which must be right if it is set.
fn from_env<T: FromStr<Err: Display>>(name: &str) -> Option<T> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

fn seed() -> u64 {
    let seed = from_env("SEED").unwrap_or_else(rand::random);
    println!("SEED={seed}");
    seed
}

/// How often each verdict was right.
type Tally = BTreeMap<Fate, usize>;

/// Program, family and what became of the packet.
type Fate = (&'static str, &'static str, String);

/// Runs up to `cases` random cases. The number of those that agreed, and the first that did not.
fn campaign(
    bench: &mut Bench<'_>,
    rules: &dyn Rules,
    rng: &mut StdRng,
    cases: usize,
    tally: &mut Tally,
) -> (usize, Option<Mismatch>) {
    let mut agreed = 0;
    while agreed < cases {
        let world = World::random(rng, bench.devices());
        let mut generator = Generator { rng, world: &world, devices: bench.devices() };
        let batch: Vec<_> = (0..CASES_PER_WORLD.min(cases - agreed)).map(|_| generator.case()).collect();
        let (outcomes, mismatch) = bench.compare_all(rules, &world, &batch);
        for (case, outcome) in batch.iter().zip(&outcomes) {
            *tally.entry(fate(case, outcome)).or_default() += 1;
        }
        agreed += outcomes.len();
        if mismatch.is_some() {
            return (agreed, mismatch);
        }
    }
    (agreed, None)
}

fn fate(case: &Case, outcome: &Outcome) -> Fate {
    let family = match case.frame.get(12..14) {
        Some([0x08, 0x00]) => "IPv4",
        Some([0x86, 0xdd]) => "IPv6",
        _ => "other",
    };
    let what = match outcome.verdict {
        Verdict::Stack => "stack".to_owned(),
        Verdict::Pass => "passes".to_owned(),
        Verdict::Drop(reason) => format!("drop {}", reason.name()),
        Verdict::Out(_) => "out of an ENI".to_owned(),
        Verdict::IntoPod(_) => "into a pod".to_owned(),
    };
    let marked = if outcome.marks.iter().next().is_some() { ", marks" } else { "" };
    (program_of(case.hook).name(), family, what + marked)
}

/// Every fate that a packet must have had under test.
fn all_fates() -> Vec<Fate> {
    let mut fates = Vec::new();
    let mut add = |program, family, fate: &str| fates.push((program, family, fate.to_owned()));
    for family in ["IPv4", "IPv6"] {
        for (program, what) in [
            ("from_pod", "stack"),
            ("from_pod", "out of an ENI"),
            ("from_pod", "into a pod"),
            ("from_eni", "stack"),
            ("from_eni", "into a pod"),
            ("to_pod", "passes"),
            ("to_pod", "passes, marks"),
            ("to_eni", "passes"),
            ("to_eni", "passes, marks"),
            ("to_eni", "out of an ENI"),
            ("to_eni", "out of an ENI, marks"),
        ] {
            add(program, family, what);
        }
    }
    for reason in DropReason::ALL {
        let families: &[_] = match reason {
            DropReason::ArpSpoof | DropReason::VlanTagged | DropReason::UnsupportedEtherType => &["other"],
            DropReason::NdSpoof | DropReason::RouterAdvertisement => &["IPv6"],
            DropReason::Malformed
            | DropReason::UnknownSource
            | DropReason::WrongInterface
            | DropReason::WrongSourceMac
            | DropReason::EniNotReady
            | DropReason::DhcpServer
            | DropReason::InvalidDestination => &["IPv4", "IPv6"],
        };
        for family in families {
            add("from_pod", family, &format!("drop {}", reason.name()));
        }
    }
    fates
}

/// Panics with the mismatch made small.
fn explain(bench: &mut Bench<'_>, seed: u64, number: usize, mismatch: &Mismatch) -> ! {
    let small = shrink::minimise(bench, &Specified, mismatch);
    panic!("SEED={seed}: program and model differ in case {number}, here made as small as it goes\n{small}");
}

#[test]
fn program_and_model_agree() {
    let (seed, cases) = (seed(), from_env("IPAM_CASES").unwrap_or(CASES));
    let started = Instant::now();
    Rig::new().run(|bench| {
        let mut tally = Tally::new();
        let mut rng = StdRng::seed_from_u64(seed);
        let (agreed, mismatch) = campaign(bench, &Specified, &mut rng, cases, &mut tally);
        if let Some(mismatch) = mismatch {
            explain(bench, seed, agreed, &mismatch);
        }
        println!("{cases} cases agree, {:.1} s:", started.elapsed().as_secs_f64());
        for ((program, family, what), count) in &tally {
            println!("{count:9} {program} {family} {what}");
        }
        // A run that never meets a fate says nothing about it.
        for fate in all_fates() {
            let count = tally.get(&fate).copied().unwrap_or(0);
            assert!(count >= cases / 2_000, "SEED={seed}: only {count} of {cases} cases: {fate:?}");
        }
    });
}

#[test]
fn frames_cut_at_every_length_are_judged_alike() {
    let seed = seed();
    Rig::new().run(|bench| {
        let mut rng = StdRng::seed_from_u64(seed);
        for number in 0..WHOLE_FRAMES {
            let world = World::random(&mut rng, bench.devices());
            let hook = [Hook::FromPod, Hook::FromPod, Hook::FromEni, Hook::ToPod, Hook::ToEni][number % 5];
            let whole =
                Generator { rng: &mut rng, world: &world, devices: bench.devices() }.well_formed(hook);
            let lengths = 14..=whole.frame.len().min(LONGEST_CUT);
            let cut = |len| Case { frame: Case::acceptable(whole.frame[..len].to_vec()), ..whole.clone() };
            let cases: Vec<_> = lengths.map(cut).collect();
            if let (agreed, Some(mismatch)) = bench.compare_all(&Specified, &world, &cases) {
                explain(bench, seed, agreed.len(), &mismatch);
            }
        }
    });
}

#[test]
fn every_planted_bug_is_noticed() {
    let seed = seed();
    Rig::new().run(|bench| {
        let mut missed = Vec::new();
        for (name, bug) in bugs::planted() {
            let mut rng = StdRng::seed_from_u64(seed);
            match campaign(bench, bug, &mut rng, CASES_PER_BUG, &mut Tally::new()) {
                (agreed, Some(_)) => println!("{name}: noticed in case {}", agreed + 1),
                (_, None) => missed.push(name),
            }
        }
        assert!(missed.is_empty(), "SEED={seed}: not noticed within {CASES_PER_BUG} cases: {missed:?}");
    });
}

/// If one of these fails, the comparison sees more than it did: move the bug to the others.
#[test]
fn what_a_test_run_cannot_show_is_known() {
    let seed = seed();
    Rig::new().run(|bench| {
        for (name, bug) in bugs::blind::ALL {
            let mut rng = StdRng::seed_from_u64(seed);
            let (_, mismatch) = campaign(bench, *bug, &mut rng, 2_000, &mut Tally::new());
            assert!(mismatch.is_none(), "SEED={seed}: {name} is noticed now");
        }
    });
}

#[test]
fn a_failing_case_is_made_small_and_shown() {
    let seed = seed();
    Rig::new().run(|bench| {
        let mut rng = StdRng::seed_from_u64(seed);
        let (_, mismatch) =
            campaign(bench, &bugs::checks::MacIgnored, &mut rng, CASES_PER_BUG, &mut Tally::new());
        let small = shrink::minimise(bench, &bugs::checks::MacIgnored, &mismatch.expect("a noticed bug"));
        let report = small.to_string();
        // One pod's route makes a wrong MAC; nothing else is needed, and no payload.
        assert_eq!(small.world.routes.len(), 1, "SEED={seed}\n{report}");
        let World { enis, stack_cidrs, node_addrs, flows, .. } = &small.world;
        let rest = [enis.len(), stack_cidrs.len(), node_addrs.len(), flows.len()];
        assert_eq!(rest, [0; 4], "SEED={seed}\n{report}");
        assert!(small.case.frame.len() <= 54, "SEED={seed}\n{report}");
        for part in ["from_pod", "POD_ROUTES", "0000  ", "program:", "model:"] {
            assert!(report.contains(part), "no {part:?} in\n{report}");
        }
    });
}
