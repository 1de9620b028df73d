//! Every state there is: properties that hold for all observations, and the walks of the situations.

use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

prop_compose! {
    fn any_claim()(is_static: bool, keep in proptest::option::of(300u64..7200), deleting: bool, released: bool, forced in proptest::option::of(0..3u8)) -> ClaimView {
        let force_release = forced.map(|uid| format!("pod-{uid}"));
        ClaimView { is_static, keep: keep.map(Duration::from_secs), deleting, released, force_release }
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
        detached in proptest::option::of((0i64..5, 0i64..5_000)), node_gone: bool,
        expire_at in proptest::option::of(0i64..20_000), watched in 0u64..10_000,
    ) -> IpView {
        IpView {
            phase,
            node: Some(format!("node-{node}")),
            pod_uid: Some(format!("pod-{pod}")),
            epoch,
            detached: detached.map(|(epoch, second)| (epoch, at(second))),
            node_gone,
            expire_at: expire_at.map(at),
            watched_unused: Duration::from_secs(watched),
        }
    }
}

prop_compose! {
    fn any_observation()(
        claim in any_claim(), pod in proptest::option::of(any_pod()), ip in proptest::option::of(any_ip()), now in 5_000i64..10_000,
    ) -> Observation {
        Observation { claim, pod, ip, now: at(now) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// No second holder: an address that is bound, or whose holder is not fenced, is never bound to another
    /// pod and never released, unless someone named the holder's UID on a claim that is being deleted.
    #[test]
    fn an_unfenced_address_goes_nowhere(seen in any_observation()) {
        if let Some(ip) = &seen.ip
            && matches!(ip.phase, IpPhase::Bound | IpPhase::Detaching)
            && !(ip.phase == IpPhase::Detaching && (ip.node_gone || ip.detached.is_some_and(|(e, _)| e >= ip.epoch)))
        {
            let step = next_step(&seen);
            let released = step == Step::Release && is_forced_off(&seen);
            prop_assert!(released || matches!(step, Step::Bound | Step::Detach | Step::Wait { .. }), "{step:?}");
        }
    }

    /// A pod that lives and holds the address keeps it, whatever else happens: deletion of the claim, change
    /// of policy, expiry.
    #[test]
    fn a_live_holder_keeps_its_address(seen in any_observation()) {
        if let (Some(ip), Some(pod)) = (&seen.ip, &seen.pod)
            && ip.phase == IpPhase::Bound && ip.pod_uid.as_ref() == Some(&pod.uid) && !pod.finished
            && !is_forced_off(&seen)
        {
            let step = next_step(&seen);
            prop_assert!(matches!(step, Step::Bound | Step::Wait { reason: Wait::PodToEnd, .. }), "{step:?}");
        }
    }

    /// A static address is given back only when someone asked for it (deletion, policy) or its time is over.
    #[test]
    fn a_static_address_is_kept(seen in any_observation()) {
        if next_step(&seen) == Step::Release && seen.claim.is_static && !seen.claim.deleting {
            let ip = seen.ip.as_ref().unwrap();
            prop_assert_eq!(ip.phase, IpPhase::Retained);
            prop_assert!(ip.expire_at.is_some_and(|expire_at| expire_at <= seen.now));
            prop_assert!(ip.watched_unused >= seen.claim.keep.unwrap().min(retention::OBSERVATION));
        }
    }

    /// Only a claim without an address is deleted or forgotten, and a claim is forgotten only when asked for.
    #[test]
    fn a_claim_with_an_address_stays(seen in any_observation()) {
        let holds = seen.ip.as_ref().is_some_and(|ip| !matches!(ip.phase, IpPhase::Cooldown | IpPhase::Quarantined));
        match next_step(&seen) {
            Step::DeleteClaim => prop_assert!(!holds && !seen.claim.deleting && seen.pod.as_ref().is_none_or(|p| p.finished)),
            Step::Forget => prop_assert!(!holds && seen.claim.deleting),
            _ => {}
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
fn is_forced_off(seen: &Observation) -> bool {
    let named = seen.claim.force_release.as_ref().filter(|_| seen.claim.deleting);
    named.is_some()
        && named == seen.pod.as_ref().map(|pod| &pod.uid)
        && named == seen.ip.as_ref().and_then(|ip| ip.pod_uid.as_ref())
}

/// Applies steps to an observation until it rests, as the controller would.
fn walk(mut seen: Observation) -> (Vec<Step>, Observation) {
    let mut steps = Vec::new();
    loop {
        let step = next_step(&seen);
        let rests = matches!(step, Step::Bound | Step::Wait { .. } | Step::DeleteClaim | Step::Forget);
        match &step {
            Step::Bind { node, pod_uid } => {
                let epoch = seen.ip.as_ref().map_or(0, |ip| ip.epoch);
                seen.ip = Some(IpView {
                    phase: IpPhase::Bound,
                    node: Some(node.clone()),
                    pod_uid: Some(pod_uid.clone()),
                    epoch: epoch + 1,
                    detached: None,
                    node_gone: false,
                    expire_at: None,
                    watched_unused: Duration::ZERO,
                });
            }
            Step::Detach => seen.ip.as_mut().unwrap().phase = IpPhase::Detaching,
            Step::Retain { expire_at, .. } => {
                let ip = seen.ip.as_mut().unwrap();
                ip.phase = IpPhase::Retained;
                ip.expire_at = *expire_at;
            }
            Step::Release => {
                seen.ip = None;
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
    };
    Observation { claim, pod: pod("u1", "a"), ip: None, now: at(10_000) }
}

#[test]
fn a_static_pod_moves_only_after_the_old_node_has_let_go() {
    let (_, mut seen) = walk(new_claim(true));
    seen.pod = pod("u2", "b");
    let (steps, mut seen) = walk(seen);
    assert_eq!(steps, [Step::Detach, Step::Wait { reason: Wait::DetachForPod, again: None }]);
    seen.ip.as_mut().unwrap().detached = Some((0, at(10_001)));
    assert_eq!(walk(seen.clone()).0.len(), 1, "the acknowledgement of an older epoch counts for nothing");
    seen.ip.as_mut().unwrap().detached = Some((1, at(10_001)));
    let (steps, seen) = walk(seen);
    assert_eq!(steps, [Step::Bind { node: "b".into(), pod_uid: "u2".into() }, Step::Bound]);
    assert_eq!(seen.ip.unwrap().epoch, 2);
}

#[test]
fn retention_counts_from_the_acknowledgement_and_ends() {
    let (_, mut seen) = walk(new_claim(true));
    seen.pod = None;
    let (_, mut seen) = walk(seen);
    seen.ip.as_mut().unwrap().detached = Some((1, at(9_000)));
    let (steps, mut seen) = walk(seen);
    assert_eq!(steps[0], Step::Retain { detached_at: at(9_000), expire_at: Some(at(12_600)) });
    seen.now = at(13_000);
    assert!(
        matches!(next_step(&seen), Step::Wait { reason: Wait::Retained, again: Some(_) }),
        "not watched long enough"
    );
    seen.ip.as_mut().unwrap().watched_unused = retention::OBSERVATION;
    assert_eq!(walk(seen).0, [Step::Release, Step::DeleteClaim]);
}

#[test]
fn a_plain_pod_gives_its_address_back() {
    let (_, mut seen) = walk(new_claim(false));
    seen.pod = None;
    let (_, mut seen) = walk(seen);
    seen.ip.as_mut().unwrap().node_gone = true;
    assert_eq!(walk(seen).0, [Step::Release, Step::DeleteClaim]);
}

#[test]
fn deleting_the_claim_of_a_live_pod_waits_for_the_pod() {
    let (_, mut seen) = walk(new_claim(true));
    seen.claim.deleting = true;
    assert_eq!(walk(seen.clone()).0, [Step::Wait { reason: Wait::PodToEnd, again: None }]);
    seen.pod = None;
    let (_, mut seen) = walk(seen);
    seen.ip.as_mut().unwrap().detached = Some((1, at(10_001)));
    assert_eq!(walk(seen).0, [Step::Release, Step::Forget]);
}

#[test]
fn a_finished_static_pod_keeps_the_address_for_its_successor() {
    let (_, mut seen) = walk(new_claim(true));
    seen.pod.as_mut().unwrap().finished = true;
    let (_, mut seen) = walk(seen);
    seen.ip.as_mut().unwrap().detached = Some((1, at(10_001)));
    let (steps, _) = walk(seen);
    assert!(
        matches!(steps.as_slice(), [Step::Retain { .. }, Step::Wait { reason: Wait::Retained, .. }]),
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
