//! Filling and draining, on all kinds of nodes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const PATIENCE: Duration = Duration::from_secs(120);

fn eni(n: u8, used: u8, warm: u8) -> EniView {
    let ip = |last| IpAddr::from(Ipv4Addr::new(10, 0, n, last));
    let warm: BTreeSet<IpAddr> = (100..100 + warm).map(ip).collect();
    let ips = (0..used).map(ip).chain(warm.iter().copied()).collect();
    EniView { id: format!("eni-{n}"), subnet_id: format!("s{}", n % 2), ips, warm, assignable: None }
}

prop_compose! {
    fn any_view()(
        enis in proptest::collection::vec((0u8..6, 0u8..6), 0..4), pods_to_come in 0usize..20,
        spare in (0u64..12, 0u64..12), others_wait: bool, long: bool,
    ) -> WarmView {
        WarmView {
            enis: (0..).zip(enis).map(|(n, (used, warm))| eni(n, used, warm)).collect(),
            max_ips_per_eni: 10,
            families: Families::ipv4(),
            pods_to_come,
            spare: vec![("s0".into(), spare.0), ("s1".into(), spare.1)],
            others_wait,
            surplus_for: if long { PATIENCE } else { Duration::ZERO },
        }
    }
}

/// What comes of a decision.
fn done(view: &WarmView, warming: &Warming) -> WarmView {
    let mut view = view.clone();
    match warming {
        Warming::Rest | Warming::Wait => {}
        Warming::Fill { eni_id, count } => {
            let eni = view.enis.iter_mut().find(|eni| eni.id == *eni_id).unwrap();
            for last in 0..*count {
                let ip: IpAddr = Ipv4Addr::new(10, 1, 0, u8::try_from(last).unwrap()).into();
                let ip = if eni.ips.contains(&ip) {
                    Ipv4Addr::new(10, 2, 0, u8::try_from(last).unwrap()).into()
                } else {
                    ip
                };
                eni.ips.insert(ip);
                eni.warm.insert(ip);
            }
            let spare = view.spare.iter_mut().find(|(id, _)| *id == eni.subnet_id).unwrap();
            spare.1 -= *count as u64;
        }
        Warming::Drain { eni_id, ips } => {
            let eni = view.enis.iter_mut().find(|eni| eni.id == *eni_id).unwrap();
            eni.ips.retain(|ip| !ips.contains(ip));
            eni.warm.retain(|ip| !ips.contains(ip));
        }
    }
    view
}

proptest! {
    /// What is done never overfills an ENI, never takes an address that somebody waits for or a pod has, and comes to rest
    /// in as many steps as there are ENIs, on each side.
    #[test]
    fn it_comes_to_rest_within_the_limits(view in any_view(), min in 0usize..12, more in 0usize..6) {
        let target = WarmTarget { min, max: min + more };
        let mut view = view;
        for _ in 0..=2 * view.enis.len() {
            let warming = decide(&view, target, PATIENCE);
            if let Warming::Drain { eni_id, ips } = &warming {
                let eni = view.enis.iter().find(|eni| eni.id == *eni_id).unwrap();
                prop_assert!(ips.iter().all(|ip| eni.warm.contains(ip)), "a pod has it");
                prop_assert!(view.others_wait || view.surplus_for >= PATIENCE, "too soon");
            }
            if let Warming::Fill { eni_id, count } = &warming {
                let eni = view.enis.iter().find(|eni| eni.id == *eni_id).unwrap();
                prop_assert!(*count > 0 && eni.ips.len() + count <= view.max_ips_per_eni);
                let spare = view.spare.iter().find(|(id, _)| *id == eni.subnet_id).unwrap().1;
                prop_assert!(*count as u64 <= spare, "somebody waits for it");
                prop_assert!(warm_pods(&view) + count <= view.pods_to_come, "for more pods than can come");
                prop_assert!(!view.others_wait);
            }
            if matches!(warming, Warming::Rest | Warming::Wait) {
                let warm = warm_pods(&view);
                if warming == Warming::Rest {
                    prop_assert!(warm <= target.max.min(view.pods_to_come));
                    let stuck = view.others_wait || view.enis.iter().all(|eni| {
                        eni.ips.len() == 10 || view.spare.iter().any(|(id, spare)| *id == eni.subnet_id && *spare == 0)
                    });
                    prop_assert!(warm >= target.min.min(view.pods_to_come) || stuck, "{warm} warm");
                }
                return Ok(());
            }
            view = done(&view, &warming);
        }
        prop_assert!(false, "it never rests");
    }

    /// Between the least and the most nothing moves, whatever pods come and go there.
    #[test]
    fn between_least_and_most_nothing_is_done(warm in 2u8..8, used in 0u8..3) {
        let view = WarmView { enis: vec![eni(0, used, warm)], ..rested() };
        prop_assert_eq!(decide(&view, WarmTarget { min: 2, max: 8 }, PATIENCE), Warming::Rest);
    }
}

fn rested() -> WarmView {
    WarmView {
        enis: Vec::new(),
        max_ips_per_eni: 10,
        families: Families::ipv4(),
        pods_to_come: 100,
        spare: vec![("s0".into(), 100)],
        others_wait: false,
        surplus_for: PATIENCE,
    }
}

#[test]
fn a_node_of_few_pods_keeps_few_warm() {
    let view = WarmView { enis: vec![eni(0, 1, 0)], pods_to_come: 3, ..rested() };
    let fill = decide(&view, WarmTarget { min: 8, max: 8 }, PATIENCE);
    assert_eq!(fill, Warming::Fill { eni_id: "eni-0".into(), count: 3 });
    let full = WarmView { enis: vec![eni(0, 1, 2)], pods_to_come: 0, ..rested() };
    assert!(
        matches!(decide(&full, WarmTarget { min: 8, max: 8 }, PATIENCE), Warming::Drain { ips, .. } if ips.len() == 2)
    );
}

#[test]
fn what_somebody_waits_for_elsewhere_is_given_back_at_once() {
    let view = WarmView { enis: vec![eni(0, 1, 4)], surplus_for: Duration::ZERO, ..rested() };
    let target = WarmTarget { min: 4, max: 6 };
    assert_eq!(decide(&view, target, PATIENCE), Warming::Rest);
    let waited_for = WarmView { others_wait: true, ..view };
    assert!(matches!(decide(&waited_for, target, PATIENCE), Warming::Drain { ips, .. } if ips.len() == 4));
}

#[test]
fn an_address_without_its_fellow_of_the_other_family_serves_nobody() {
    let mut odd = eni(0, 0, 2);
    let v6: IpAddr = "fd00::9".parse().unwrap();
    odd.ips.insert(v6);
    odd.warm.insert(v6);
    let view = WarmView { enis: vec![odd], families: "ipv4,ipv6".parse().unwrap(), ..rested() };
    assert_eq!(warm_pods(&view), 1);
    let drained = decide(&view, WarmTarget { min: 1, max: 1 }, PATIENCE);
    assert!(matches!(drained, Warming::Drain { ips, .. } if ips.len() == 1 && ips[0].is_ipv4()));
}
