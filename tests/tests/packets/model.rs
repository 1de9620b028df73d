//! Same packet, two judges: the programs in the kernel, and `ipam_common::model`.
//!
//! Compared for each case: the verdict's number, every byte of the frame afterwards, and what was added to each
//! drop reason's and each pod's counters. `BPF_PROG_TEST_RUN` neither shows the interface of a redirect nor lets a
//! VLAN tag lie beside the frame ([`bugs::BLIND`] proves it): `delivery` sees both with real veths. Which entry of
//! `ENIS` a packet leaves by and which pod it is for is compared all the same, by the MACs and by the counters. Nor
//! does it make frames of IPv4 below 34 bytes, of IPv6 below 54, or ones whose headers lie in page fragments.
//!
//! `IPAM_CASES=1000000` makes a longer run, `SEED=…` repeats one.

mod bugs;
mod frames;
mod judge;
mod shrink;
mod world;

use std::{collections::BTreeMap, env, fmt::Display, str::FromStr, time::Instant};

use ipam_common::{
    DropReason,
    model::{Hook, Rules, Specified, Verdict},
};
use rand::{SeedableRng as _, rngs::StdRng};

use self::{
    frames::Generator,
    judge::{Bench, Mismatch, Rig},
    world::World,
};

/// Cases of the ordinary run.
const CASES: usize = 50_000;
/// Cases on one state of the maps.
const CASES_PER_WORLD: usize = 32;
/// Cases within which a planted bug must be noticed.
const CASES_PER_BUG: usize = 20_000;

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

/// How often each verdict was right, by hook.
type Tally = BTreeMap<(&'static str, String), usize>;

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
        bench.install(&world);
        for _ in 0..CASES_PER_WORLD.min(cases - agreed) {
            let case = Generator { rng, world: &world, devices: bench.devices() }.case();
            match bench.compare(rules, &case) {
                Ok(verdict) => *tally.entry(label(case.hook, verdict)).or_default() += 1,
                Err(mismatch) => return (agreed, Some(*mismatch)),
            }
            agreed += 1;
        }
    }
    (agreed, None)
}

fn label(hook: Hook, verdict: Verdict) -> (&'static str, String) {
    let what = match verdict {
        Verdict::Stack => "stack".to_owned(),
        Verdict::Drop(reason) => format!("drop {}", reason.name()),
        Verdict::Out(_) => "out of an ENI".to_owned(),
        Verdict::IntoPod(_) => "into a pod".to_owned(),
    };
    (if hook == Hook::FromPod { "from_pod" } else { "from_eni" }, what)
}

/// Every fate a packet can have under test.
fn all_labels() -> Vec<(&'static str, String)> {
    let pod = [Verdict::Stack, Verdict::Out(0), Verdict::IntoPod(0)];
    let drops = DropReason::ALL.map(Verdict::Drop);
    let from_pod = pod.into_iter().chain(drops).map(|verdict| label(Hook::FromPod, verdict));
    let from_eni = [Verdict::Stack, Verdict::IntoPod(0)].map(|verdict| label(Hook::FromEni, verdict));
    from_pod.chain(from_eni).collect()
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
            let small = shrink::minimise(bench, &Specified, &mismatch);
            panic!(
                "SEED={seed}: program and model differ in case {agreed}, here made as small as it goes\n{small}"
            );
        }
        println!("{cases} cases agree, {:.1} s:", started.elapsed().as_secs_f64());
        for ((hook, what), count) in &tally {
            println!("{count:9} {hook} {what}");
        }
        // A run that never meets a fate says nothing about it.
        for fate in all_labels() {
            let count = tally.get(&fate).copied().unwrap_or(0);
            assert!(count >= cases / 500, "SEED={seed}: only {count} of {cases} cases: {fate:?}");
        }
    });
}

#[test]
fn every_planted_bug_is_noticed() {
    let seed = seed();
    Rig::new().run(|bench| {
        let mut missed = Vec::new();
        for (name, bug) in bugs::PLANTED {
            let mut rng = StdRng::seed_from_u64(seed);
            match campaign(bench, *bug, &mut rng, CASES_PER_BUG, &mut Tally::new()) {
                (agreed, Some(_)) => println!("{name}: noticed in case {}", agreed + 1),
                (_, None) => missed.push(*name),
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
        for (name, bug) in bugs::BLIND {
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
        let (_, mismatch) = campaign(bench, &bugs::MacIgnored, &mut rng, CASES_PER_BUG, &mut Tally::new());
        let small = shrink::minimise(bench, &bugs::MacIgnored, &mismatch.expect("a noticed bug"));
        let report = small.to_string();
        // One pod's route makes a wrong MAC; nothing else is needed, and no payload.
        assert_eq!(small.world.routes.len(), 1, "SEED={seed}\n{report}");
        assert!(small.world.enis.is_empty() && small.world.stack_cidrs.is_empty(), "SEED={seed}\n{report}");
        assert!(small.case.frame.len() <= 42, "SEED={seed}\n{report}");
        for part in ["from_pod", "POD_ROUTES_V4", "0000  ", "program:", "model:"] {
            assert!(report.contains(part), "no {part:?} in\n{report}");
        }
    });
}
