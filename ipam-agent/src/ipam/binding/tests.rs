//! Every state there is: properties that hold for all observations, and the walks of the situations.

use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Expire), Just(Verdict::Keep), Just(Verdict::Release)]
}

prop_compose! {
    fn any_claim()(
        is_static: bool, keep in proptest::option::of(300u64..7200), deleting: bool, released: bool,
        forced in proptest::option::of(0..3u8), served in proptest::option::of(0..3u8),
        retained in proptest::option::of((0i64..5_000, proptest::option::of(0i64..20_000))),
        workload in any_verdict(), look_again in proptest::option::of(1u64..600),
    ) -> ClaimView {
        ClaimView {
            is_static,
            keep: keep.map(Duration::from_secs),
            deleting,
            released,
            force_release: forced.map(|uid| format!("pod-{uid}")),
            retained: retained.map(|(detached, expire)| Retention { detached_at: at(detached), expire_at: expire.map(at) }),
            workload,
            look_again: look_again.map(Duration::from_secs),
            served: served.map(|uid| format!("pod-{uid}")),
        }
    }
}

prop_compose! {
    fn any_pod()(uid in 0..3u8, node in proptest::option::of(0..2u8), finished: bool, deleting: bool) -> PodView {
        PodView { uid: format!("pod-{uid}"), node: node.map(|n| format!("node-{n}")), finished, deleting }
    }
}

fn any_phase() -> impl Strategy<Value = IpPhase> {
    prop_oneof![
        Just(IpPhase::Allocated),
        Just(IpPhase::Attaching),
        Just(IpPhase::Bound),
        Just(IpPhase::Detaching),
        Just(IpPhase::Retained),
        Just(IpPhase::Cooldown),
        Just(IpPhase::Quarantined),
    ]
}

prop_compose! {
    fn any_ip()(
        phase in any_phase(), node in 0..2u8, pod in 0..3u8, epoch in 1i64..5,
        detached in proptest::option::of(0i64..5), node_gone: bool,
        watched in 0u64..10_000,
    ) -> IpView {
        IpView {
            phase,
            node: Some(format!("node-{node}")),
            pod_uid: Some(format!("pod-{pod}")),
            epoch,
            detached,
            node_gone,
            watched_unused: Duration::from_secs(watched),
        }
    }
}

prop_compose! {
    fn any_observation()(
        claim in any_claim(), pod in proptest::option::of(any_pod()), ips in proptest::collection::vec(any_ip(), 0..3),
        incomplete: bool, now in 5_000i64..10_000, ahead in 0i64..5_000, clock_agrees: bool, patience in 0u64..10,
    ) -> Observation {
        let patience = Duration::from_secs(patience);
        let latest = at(now + ahead);
        Observation { claim, pod, ips, incomplete, now: at(now), latest, clock_agrees, patience, observation: retention::OBSERVATION }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// No second holder: an address that is bound, or whose holder is not fenced, is never bound to another
    /// pod and never released, unless someone named the holder's UID on a claim that is being deleted. One address of
    /// two that is not fenced holds back the other.
    #[test]
    fn an_unfenced_address_goes_nowhere(seen in any_observation()) {
        let step = next_step(&seen);
        for ip in seen.ips.iter().filter(|ip| is_in_use(ip)) {
            let its = step_of(&seen, ip);
            let released = its == Step::Release && is_forced_off(&seen, ip);
            prop_assert!(released || matches!(its, Step::Bound | Step::Detach | Step::Wait { .. }), "{its:?}");
            let stays = is_of(&seen, ip) || is_forced_off(&seen, ip);
            if !stays {
                prop_assert!(matches!(step, Step::Detach | Step::Wait { .. }), "{step:?}");
            }
        }
    }

    /// A pod that lives and holds the address keeps it, whatever else happens: deletion of the claim, change
    /// of policy, expiry, what becomes of the other address.
    #[test]
    fn a_live_holder_keeps_its_address(seen in any_observation()) {
        let step = next_step(&seen);
        for ip in seen.ips.iter().filter(|ip| ip.phase == IpPhase::Bound && is_of(&seen, ip) && !is_forced_off(&seen, ip)) {
            let its = step_of(&seen, ip);
            prop_assert!(matches!(its, Step::Bound | Step::Wait { reason: Wait::PodToEnd, .. }), "{its:?}");
            prop_assert!(step != Step::Release && !matches!(step, Step::Retain(_)), "{step:?}");
        }
    }

    /// A static address is given back only when someone asked for it (deletion, policy, the end of its workload) or its
    /// time is over by every clock there is, and for every other address of its claim.
    #[test]
    fn a_static_address_is_kept(seen in any_observation()) {
        if next_step(&seen) == Step::Release && seen.claim.is_static && !seen.claim.deleting {
            for ip in seen.ips.iter().filter(|ip| is_held(ip)) {
                prop_assert_eq!(ip.phase, IpPhase::Retained);
                let kept = seen.claim.retained.unwrap();
                let expired = seen.clock_agrees
                    && seen.claim.workload == Verdict::Expire
                    && kept.expire_at.is_some_and(|expire_at| expire_at <= seen.now)
                    && ip.watched_unused >= seen.claim.keep.unwrap().min(retention::OBSERVATION);
                prop_assert!(expired || seen.claim.workload == Verdict::Release);
            }
        }
    }

    /// A retention that begins now counts from now, whatever the addresses and the claim say of earlier.
    #[test]
    fn a_retention_begins_when_it_is_seen(mut seen in any_observation()) {
        seen.claim.retained = None;
        if let Step::Retain(retention) = next_step(&seen) {
            prop_assert_eq!(retention.detached_at, seen.latest);
            prop_assert_eq!(retention.expire_at, retention::expires_at(seen.latest, seen.claim.keep));
        }
    }

    /// A retention that has begun is never shortened, and is lengthened to what is asked for now.
    #[test]
    fn a_retention_only_grows(seen in any_observation()) {
        let asked = seen.claim.retained.map(|kept| (kept, retention::expires_at(kept.detached_at, seen.claim.keep)));
        for ip in seen.ips.iter().filter(|ip| ip.phase == IpPhase::Retained) {
            let Some((kept, asked)) = asked else { continue };
            let no_earlier = |end: Option<Timestamp>, than: Option<Timestamp>| end.is_none() || than.is_some_and(|than| end >= Some(than));
            match step_of(&seen, ip) {
                Step::Retain(longer) => {
                    prop_assert_eq!(longer.detached_at, kept.detached_at);
                    prop_assert_ne!(longer, kept);
                    prop_assert!(no_earlier(longer.expire_at, kept.expire_at) && no_earlier(longer.expire_at, asked));
                }
                Step::Wait { reason: Wait::Retained, .. } => prop_assert!(no_earlier(kept.expire_at, asked)),
                _ => {}
            }
        }
    }

    /// Only a claim without an address is deleted or forgotten, and a claim is forgotten only when asked for.
    #[test]
    fn a_claim_with_an_address_stays(seen in any_observation()) {
        let holds = seen.ips.iter().any(is_held);
        match next_step(&seen) {
            Step::DeleteClaim => prop_assert!(!holds && !seen.claim.deleting && seen.pod.as_ref().is_none_or(|p| p.finished)),
            Step::Forget => prop_assert!(!holds && seen.claim.deleting),
            _ => {}
        }
    }

    /// All or none: a claim is ready when every address that it holds is bound to its pod and, unless the pod was told
    /// of its addresses before, none is missing.
    #[test]
    fn a_claim_is_ready_with_all_its_addresses(seen in any_observation()) {
        if next_step(&seen) == Step::Bound {
            let pod = seen.pod.as_ref().unwrap();
            prop_assert!(seen.ips.iter().filter(|ip| is_held(ip)).all(|ip| ip.phase == IpPhase::Bound && is_of(&seen, ip)));
            prop_assert!(!seen.incomplete || seen.claim.served.as_ref() == Some(&pod.uid));
        }
    }

    /// The step is what at least one of the addresses needs, or there is none to take it for.
    #[test]
    fn a_step_is_taken_for_an_address(seen in any_observation()) {
        let step = next_step(&seen);
        if matches!(step, Step::Detach | Step::Retain(_) | Step::Release) {
            prop_assert!(seen.ips.iter().any(|ip| is_held(ip) && step_of(&seen, ip) == step));
        }
    }

    /// With one address and nothing missing, two families change nothing.
    #[test]
    fn one_address_decides_alone(mut seen in any_observation()) {
        seen.ips.truncate(1);
        seen.incomplete = false;
        if let [ip] = &seen.ips[..] && is_held(ip) {
            prop_assert_eq!(next_step(&seen), step_of(&seen, ip));
        }
    }

    /// An address is bound only to a pod that lives, on the node where it was scheduled.
    #[test]
    fn only_a_live_scheduled_pod_is_bound(seen in any_observation()) {
        if let Step::Bind { node, pod_uid } = next_step(&seen) {
            let pod = seen.pod.as_ref().unwrap();
            prop_assert!(!pod.finished && !pod.deleting && !seen.claim.deleting);
            prop_assert_eq!(Some(&node), pod.node.as_ref());
            prop_assert_eq!(&pod_uid, &pod.uid);
        }
    }
}

/// Whether the claim is being deleted and names the very pod that is there and holds the address.
fn is_forced_off(seen: &Observation, ip: &IpView) -> bool {
    let named = seen.claim.force_release.as_ref().filter(|_| seen.claim.deleting);
    named.is_some() && named == seen.pod.as_ref().map(|pod| &pod.uid) && named == ip.pod_uid.as_ref()
}

/// Whether a pod may be using the address.
fn is_in_use(ip: &IpView) -> bool {
    let fenced = ip.node_gone || ip.detached.is_some_and(|epoch| epoch >= ip.epoch);
    ip.phase == IpPhase::Bound || (ip.phase == IpPhase::Detaching && !fenced)
}

/// Whether the address is, or was last, the living pod's.
fn is_of(seen: &Observation, ip: &IpView) -> bool {
    ip.phase == IpPhase::Bound
        && seen.pod.as_ref().is_some_and(|pod| !pod.finished && ip.pod_uid.as_ref() == Some(&pod.uid))
}

fn is_held(ip: &IpView) -> bool {
    !matches!(ip.phase, IpPhase::Cooldown | IpPhase::Quarantined)
}

/// Applies steps to an observation until it rests, as the controller would, with so many families.
fn walk_with(families: usize, mut seen: Observation) -> (Vec<Step>, Observation) {
    let mut steps = Vec::new();
    loop {
        let step = next_step(&seen);
        let rests = matches!(step, Step::Bound | Step::Wait { .. } | Step::DeleteClaim | Step::Forget);
        let needs: Vec<bool> = seen.ips.iter().map(|ip| step_of(&seen, ip) == step).collect();
        let mut needed = needs.iter();
        match &step {
            Step::Bind { node, pod_uid } => {
                let epochs = (0..families).map(|at| seen.ips.get(at).map_or(0, |ip| ip.epoch));
                seen.ips = epochs
                    .map(|epoch| IpView {
                        phase: IpPhase::Bound,
                        node: Some(node.clone()),
                        pod_uid: Some(pod_uid.clone()),
                        epoch: epoch + 1,
                        detached: None,
                        node_gone: false,
                        watched_unused: Duration::ZERO,
                    })
                    .collect();
                seen.incomplete = false;
                seen.claim.served = Some(pod_uid.clone());
                seen.claim.retained = None;
            }
            Step::Detach => {
                for ip in seen.ips.iter_mut().filter(|_| *needed.next().unwrap()) {
                    ip.phase = IpPhase::Detaching;
                }
            }
            Step::Retain(retention) => {
                for ip in seen.ips.iter_mut().filter(|_| *needed.next().unwrap()) {
                    ip.phase = IpPhase::Retained;
                }
                seen.claim.retained = Some(*retention);
            }
            Step::Release => {
                seen.ips.retain(|_| !*needed.next().unwrap());
                seen.claim.released = true;
            }
            _ => {}
        }
        steps.push(step);
        if rests {
            return (steps, seen);
        }
        assert!(steps.len() < 10, "no rest: {steps:?}");
    }
}

fn walk(seen: Observation) -> (Vec<Step>, Observation) {
    walk_with(1, seen)
}

fn pod(uid: &str, node: &str) -> Option<PodView> {
    Some(PodView { uid: uid.into(), node: Some(node.into()), finished: false, deleting: false })
}

fn new_claim(is_static: bool) -> Observation {
    let claim = ClaimView {
        is_static,
        keep: Some(Duration::from_secs(3600)),
        deleting: false,
        released: false,
        force_release: None,
        retained: None,
        workload: Verdict::Expire,
        look_again: None,
        served: None,
    };
    Observation {
        claim,
        pod: pod("u1", "a"),
        ips: Vec::new(),
        incomplete: true,
        now: at(10_000),
        latest: at(10_000),
        clock_agrees: true,
        patience: Duration::ZERO,
        observation: retention::OBSERVATION,
    }
}

#[test]
fn a_static_pod_moves_only_after_the_old_node_has_let_go() {
    let (_, mut seen) = walk(new_claim(true));
    seen.pod = pod("u2", "b");
    let (steps, mut seen) = walk(seen);
    assert_eq!(steps, [Step::Detach, Step::Wait { reason: Wait::DetachForPod, again: None }]);
    seen.ips[0].detached = Some(0);
    assert_eq!(walk(seen.clone()).0.len(), 1, "the acknowledgement of an older epoch counts for nothing");
    seen.ips[0].detached = Some(1);
    let (steps, seen) = walk(seen);
    assert_eq!(steps, [Step::Bind { node: "b".into(), pod_uid: "u2".into() }, Step::Bound]);
    assert_eq!(seen.ips[0].epoch, 2);
}

#[test]
fn retention_counts_from_when_it_was_seen_and_ends() {
    let (_, mut seen) = walk(new_claim(true));
    seen.pod = None;
    let (_, mut seen) = walk(seen);
    seen.ips[0].detached = Some(1);
    let (steps, mut seen) = walk(seen);
    assert_eq!(steps[0], Step::Retain(Retention { detached_at: at(10_000), expire_at: Some(at(13_600)) }));
    seen.now = at(14_000);
    assert!(
        matches!(next_step(&seen), Step::Wait { reason: Wait::Retained, again: Some(_) }),
        "not watched long enough"
    );
    seen.ips[0].watched_unused = retention::OBSERVATION;
    assert_eq!(walk(seen).0, [Step::Release, Step::DeleteClaim]);
}

#[test]
fn a_retained_address_is_kept_for_longer_when_its_claim_says_so_and_not_for_less() {
    let (_, mut seen) = walk(new_claim(true));
    (seen.ips[0].phase, seen.ips[0].detached, seen.pod) = (IpPhase::Retained, Some(1), None);
    let (_, mut seen) = walk(seen);
    seen.claim.keep = Some(Duration::from_secs(600));
    assert!(matches!(walk(seen.clone()).0[..], [Step::Wait { reason: Wait::Retained, .. }]), "shorter");
    seen.claim.keep = Some(Duration::from_secs(7200));
    // Also when the time it had before is over.
    (seen.now, seen.latest, seen.ips[0].watched_unused) = (at(14_000), at(14_000), retention::OBSERVATION);
    let longer = Retention { detached_at: at(10_000), expire_at: Some(at(17_200)) };
    let waits = Step::Wait { reason: Wait::Retained, again: Some(Duration::from_secs(3_200)) };
    assert_eq!(walk(seen.clone()).0, [Step::Retain(longer), waits]);
    seen.claim.keep = None;
    let for_ever = Retention { expire_at: None, ..longer };
    let waits = Step::Wait { reason: Wait::Retained, again: None };
    assert_eq!(walk(seen).0, [Step::Retain(for_ever), waits]);
}

#[test]
fn a_plain_pod_gives_its_address_back() {
    let (_, mut seen) = walk(new_claim(false));
    seen.pod = None;
    let (_, mut seen) = walk(seen);
    seen.ips[0].node_gone = true;
    assert_eq!(walk(seen).0, [Step::Release, Step::DeleteClaim]);
}

#[test]
fn deleting_the_claim_of_a_live_pod_waits_for_the_pod() {
    let (_, mut seen) = walk(new_claim(true));
    seen.claim.deleting = true;
    assert_eq!(walk(seen.clone()).0, [Step::Wait { reason: Wait::PodToEnd, again: None }]);
    seen.pod = None;
    let (_, mut seen) = walk(seen);
    seen.ips[0].detached = Some(1);
    assert_eq!(walk(seen).0, [Step::Release, Step::Forget]);
}

#[test]
fn a_finished_static_pod_keeps_the_address_for_its_successor() {
    let (_, mut seen) = walk(new_claim(true));
    seen.pod.as_mut().unwrap().finished = true;
    let (_, mut seen) = walk(seen);
    seen.ips[0].detached = Some(1);
    let (steps, _) = walk(seen);
    assert!(
        matches!(steps.as_slice(), [Step::Retain(_), Step::Wait { reason: Wait::Retained, .. }]),
        "{steps:?}"
    );
}

#[test]
fn only_the_uid_of_the_live_pod_forces_its_address_away() {
    let (_, mut seen) = walk(new_claim(true));
    seen.claim.force_release = Some("u1".into());
    assert_eq!(walk(seen.clone()).0, [Step::Bound], "the claim is not being deleted");
    seen.claim.deleting = true;
    let (steps, _) = walk(seen.clone());
    assert_eq!(steps, [Step::Release, Step::Forget]);
    seen.claim.force_release = Some("u0".into());
    assert_eq!(walk(seen).0, [Step::Wait { reason: Wait::PodToEnd, again: None }]);
}

/// A pod of two families, bound to both.
fn dual_stack_pod() -> Observation {
    let (steps, seen) = walk_with(2, new_claim(true));
    assert_eq!(steps, [Step::Bind { node: "a".into(), pod_uid: "u1".into() }, Step::Bound]);
    assert_eq!(seen.ips.len(), 2);
    seen
}

#[test]
fn both_addresses_move_only_after_the_old_node_has_let_go_of_both() {
    let mut seen = dual_stack_pod();
    seen.pod = pod("u2", "b");
    let (steps, mut seen) = walk_with(2, seen);
    assert_eq!(steps, [Step::Detach, Step::Wait { reason: Wait::DetachForPod, again: None }]);
    assert!(seen.ips.iter().all(|ip| ip.phase == IpPhase::Detaching));
    seen.ips[1].detached = Some(1);
    assert_eq!(walk_with(2, seen.clone()).0.len(), 1, "one of two acknowledgements");
    seen.ips[0].detached = Some(1);
    let (steps, seen) = walk_with(2, seen);
    assert_eq!(steps, [Step::Bind { node: "b".into(), pod_uid: "u2".into() }, Step::Bound]);
    assert!(seen.ips.iter().all(|ip| ip.epoch == 2));
}

#[test]
fn both_addresses_are_kept_and_expire_together() {
    let mut seen = dual_stack_pod();
    seen.pod = None;
    let (_, mut seen) = walk_with(2, seen);
    seen.ips[0].detached = Some(1);
    seen.ips[1].detached = Some(1);
    let retention = Retention { detached_at: at(10_000), expire_at: Some(at(13_600)) };
    assert_eq!(next_step(&seen), Step::Retain(retention));
    // The controller dies between two writes, or one node was faster with its word: the end is the same.
    seen.ips[0].phase = IpPhase::Retained;
    assert_eq!(next_step(&seen), Step::Retain(retention));
    let (_, mut seen) = walk_with(2, seen);
    assert!(seen.ips.iter().all(|ip| ip.phase == IpPhase::Retained));
    assert_eq!(seen.claim.retained, Some(retention));
    seen.now = at(14_000);
    seen.ips[0].watched_unused = retention::OBSERVATION;
    assert!(
        matches!(next_step(&seen), Step::Wait { reason: Wait::Retained, again: Some(_) }),
        "the other was not watched"
    );
    seen.ips[1].watched_unused = retention::OBSERVATION;
    let (steps, seen) = walk_with(2, seen);
    assert_eq!(steps, [Step::Release, Step::DeleteClaim]);
    assert_eq!(seen.ips.len(), 0);
}

#[test]
fn a_pod_whose_second_address_is_not_there_yet_waits_and_goes_with_what_it_has() {
    let mut seen = dual_stack_pod();
    (seen.claim.served, seen.ips[1].phase) = (None, IpPhase::Attaching);
    assert!(matches!(next_step(&seen), Step::Bind { .. }), "one of two is no address");
    seen.pod.as_mut().unwrap().deleting = true;
    assert_eq!(next_step(&seen), Step::Wait { reason: Wait::Pod, again: None });
    seen.pod = None;
    let (steps, mut seen) = walk_with(2, seen);
    assert_eq!(steps, [Step::Detach, Step::Wait { reason: Wait::Detach, again: None }]);
    seen.ips[0].detached = Some(1);
    assert!(matches!(walk_with(2, seen).0[..], [Step::Retain(_), Step::Wait { reason: Wait::Retained, .. }]));
}

#[test]
fn a_running_pod_gets_the_family_it_lacks_with_its_next_start() {
    let (_, mut seen) = walk(new_claim(true));
    seen.incomplete = true;
    assert_eq!(next_step(&seen), Step::Bound);
    seen.pod = pod("u2", "a");
    let (_, mut seen) = walk_with(2, seen);
    seen.ips[0].detached = Some(1);
    let (steps, seen) = walk_with(2, seen);
    assert_eq!(steps, [Step::Bind { node: "a".into(), pod_uid: "u2".into() }, Step::Bound]);
    assert_eq!(seen.ips.iter().map(|ip| ip.epoch).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_node_that_says_by_itself_that_a_pod_is_gone_is_not_asked() {
    let (_, mut seen) = walk(new_claim(true));
    (seen.pod, seen.patience) = (None, Duration::from_secs(2));
    let waits = Step::Wait { reason: Wait::Word, again: Some(Duration::from_secs(2)) };
    assert_eq!(walk(seen.clone()).0, [waits]);
    let mut silent = seen.clone();
    silent.ips[0].watched_unused = Duration::from_secs(2);
    assert_eq!(next_step(&silent), Step::Detach);
    (seen.ips[0].phase, seen.ips[0].detached) = (IpPhase::Retained, Some(1));
    let (steps, seen) = walk(seen);
    assert_eq!(steps[0], Step::Retain(Retention { detached_at: at(10_000), expire_at: Some(at(13_600)) }));
    assert_eq!(seen.ips[0].phase, IpPhase::Retained);
}

#[test]
fn a_retention_begins_by_the_clock_that_is_ahead() {
    let (_, mut seen) = walk(new_claim(true));
    (seen.ips[0].phase, seen.ips[0].detached, seen.pod) = (IpPhase::Retained, Some(1), None);
    seen.latest = at(90_000);
    let retention = Retention { detached_at: at(90_000), expire_at: Some(at(93_600)) };
    assert_eq!(next_step(&seen), Step::Retain(retention));
}

#[test]
fn a_workload_that_is_gone_or_unreadable_decides_over_time() {
    let (_, mut seen) = walk(new_claim(true));
    (seen.ips[0].phase, seen.ips[0].detached, seen.pod) = (IpPhase::Retained, Some(1), None);
    let (_, mut seen) = walk(seen);
    seen.claim.workload = Verdict::Release;
    assert_eq!(walk(seen.clone()).0, [Step::Release, Step::DeleteClaim]);
    (seen.now, seen.ips[0].watched_unused) = (at(50_000), retention::OBSERVATION);
    seen.claim.workload = Verdict::Keep;
    seen.claim.look_again = Some(Duration::from_secs(60));
    assert_eq!(next_step(&seen), Step::Wait { reason: Wait::Retained, again: Some(Duration::from_secs(60)) });
    seen.claim.workload = Verdict::Expire;
    seen.clock_agrees = false;
    assert!(matches!(next_step(&seen), Step::Wait { reason: Wait::Retained, again: Some(_) }));
    seen.clock_agrees = true;
    assert_eq!(next_step(&seen), Step::Release);
}
