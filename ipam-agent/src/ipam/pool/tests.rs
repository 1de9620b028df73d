//! Placement against its rules, on all kinds of nodes and subnets.

use proptest::prelude::*;

use super::*;

fn subnet(id: &str, zone: &str, cidr: &str) -> SubnetView {
    let cidr: Ipv4Net = cidr.parse().unwrap();
    let gateway = Ipv4Addr::from(u32::from(cidr.network()) + 1);
    SubnetView { id: id.into(), zone: zone.into(), cidr, gateway, available: 1 << 20 }
}

fn eni(id: &str, subnet: &str, ips: impl IntoIterator<Item = Ipv4Addr>) -> EniView {
    EniView { id: id.into(), subnet_id: subnet.into(), ips: ips.into_iter().collect(), assignable: None }
}

fn node(enis: Vec<EniView>) -> NodeView {
    NodeView { zone: "z1".into(), max_enis: 3, max_ips_per_eni: 4, enis }
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, last)
}

prop_compose! {
    fn any_case()(
        used in proptest::collection::vec(proptest::collection::btree_set(2u8..30, 0..5), 0..4),
        foreign in proptest::collection::btree_set(2u8..31, 0..29),
        salt: u64, held in proptest::option::of(2u8..30), available in 0u64..30,
    ) -> (NodeView, Vec<SubnetView>, BTreeSet<Ipv4Addr>, Wish, u64) {
        let mut seen = BTreeSet::new();
        let enis: Vec<EniView> = used.into_iter().enumerate()
            .map(|(n, ips)| eni(&format!("eni-{n}"), "s1", ips.into_iter().map(ip).filter(|ip| seen.insert(*ip)).collect::<Vec<_>>()))
            .collect();
        let mut taken: BTreeSet<Ipv4Addr> = foreign.into_iter().map(ip).collect();
        taken.extend(&seen);
        let held = held.map(ip);
        taken.extend(held);
        let mut s1 = subnet("s1", "z1", "10.0.1.0/27");
        s1.available = available;
        (node(enis), vec![s1, subnet("s2", "z2", "10.0.2.0/24")], taken, Wish { held, ..Wish::default() }, salt)
    }
}

proptest! {
    /// Whatever is placed is in the ENI's subnet, usable, and free or already held; the ENI has room; the
    /// ENI is the fullest that has.
    #[test]
    fn placements_keep_the_rules((node, subnets, taken, wish, salt) in any_case()) {
        match place(&node, &subnets, &taken, &wish, salt) {
            Ok(Placement::OnEni { eni_id, subnet_id, ip }) => {
                let eni = node.enis.iter().find(|eni| eni.id == eni_id).unwrap();
                prop_assert_eq!(&subnet_id, "s1");
                prop_assert!(subnets[0].is_usable(ip));
                if wish.held == Some(ip) {
                    prop_assert!(eni.ips.contains(&ip) || eni.ips.len() < node.max_ips_per_eni);
                } else {
                    prop_assert!(!taken.contains(&ip));
                    prop_assert!(eni.ips.len() < node.max_ips_per_eni);
                    let fullest = node.enis.iter().map(|e| e.ips.len()).filter(|n| *n < node.max_ips_per_eni).max();
                    prop_assert_eq!(Some(eni.ips.len()), fullest);
                }
                prop_assert!(wish.held.is_none_or(|held| held == ip));
            }
            Ok(Placement::NewEni { subnet_id }) => {
                prop_assert_eq!(subnet_id, "s1");
                prop_assert!(node.enis.len() < node.max_enis);
                if wish.held.is_some() {
                    prop_assert!(node.enis.iter().all(|eni| eni.ips.len() >= node.max_ips_per_eni));
                }
            }
            Err(Shortage::NodeFull { .. }) => prop_assert!(node.enis.len() >= node.max_enis),
            Err(Shortage::SubnetsExhausted(_)) => prop_assert!(subnets[0].free(&taken) < 2),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// With as many addresses as pods, every pod gets one: nothing is stranded, whatever the order.
    #[test]
    fn addresses_equal_to_pods_all_find_a_place(salts in proptest::collection::vec(any::<u64>(), 10)) {
        let mut node = NodeView { zone: "z1".into(), max_enis: 1, max_ips_per_eni: 10, enis: vec![eni("eni-0", "s1", [])] };
        let subnets = [subnet("s1", "z1", "10.0.1.0/28")];
        let mut taken: BTreeSet<Ipv4Addr> = [ip(2), ip(3), ip(4)].into();
        for salt in salts {
            match place(&node, &subnets, &taken, &Wish::default(), salt) {
                Ok(Placement::OnEni { ip, .. }) => {
                    prop_assert!(taken.insert(ip));
                    node.enis[0].ips.insert(ip);
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert!(place(&node, &subnets, &taken, &Wish::default(), 0).is_err());
    }
}

#[test]
fn the_fullest_eni_comes_first_then_a_new_one_in_the_freest_subnet() {
    let subnets = [subnet("s1", "z1", "10.0.1.0/24"), subnet("s3", "z1", "10.0.4.0/22")];
    let taken = (2..7).map(ip).collect();
    let two = node(vec![eni("eni-a", "s1", [ip(2)]), eni("eni-b", "s1", [ip(3), ip(4)])]);
    let on = place(&two, &subnets, &taken, &Wish::default(), 9).unwrap();
    assert!(matches!(&on, Placement::OnEni { eni_id, .. } if eni_id == "eni-b"), "{on:?}");
    let full = node(vec![eni("eni-a", "s1", (2..6).map(ip))]);
    assert_eq!(
        place(&full, &subnets, &taken, &Wish::default(), 9),
        Ok(Placement::NewEni { subnet_id: "s3".into() })
    );
}

#[test]
fn a_held_address_stays_in_its_subnet() {
    let subnets = [
        subnet("s1", "z1", "10.0.1.0/24"),
        subnet("s3", "z1", "10.0.4.0/22"),
        subnet("s2", "z2", "10.0.2.0/24"),
    ];
    let taken = [ip(7), Ipv4Addr::new(10, 0, 2, 9)].into();
    let held = |ip| Wish { held: Some(ip), ..Wish::default() };
    let other = node(vec![eni("eni-x", "s3", [])]);
    assert_eq!(
        place(&other, &subnets, &taken, &held(ip(7)), 1),
        Ok(Placement::NewEni { subnet_id: "s1".into() })
    );
    let error = place(&other, &subnets, &taken, &held(Ipv4Addr::new(10, 0, 2, 9)), 1).unwrap_err();
    assert_eq!(error.to_string(), "address 10.0.2.9 belongs to subnet s2 of zone z2, the node is in zone z1");
}

#[test]
fn nominated_addresses_are_refused_with_the_remedy() {
    let subnets = [subnet("s1", "z1", "10.0.1.0/24")];
    let taken = [ip(7)].into();
    let nominate = |nominated| {
        let wish = Wish { nominated_ip: Some(nominated), ..Wish::default() };
        place(&node(vec![eni("eni-a", "s1", [])]), &subnets, &taken, &wish, 5)
    };
    assert!(matches!(nominate(ip(8)), Ok(Placement::OnEni { ip: found, .. }) if found == ip(8)));
    assert_eq!(
        nominate(ip(7)).unwrap_err().to_string(),
        "address 10.0.1.7 is taken; nominate another or release its owner (kubectl get vip 10.0.1.7)"
    );
    assert!(nominate(ip(1)).unwrap_err().to_string().contains("reserved by the cloud"));
    assert!(
        nominate(Ipv4Addr::new(192, 168, 0, 1))
            .unwrap_err()
            .to_string()
            .contains("nominate one of 10.0.1.0/24")
    );
}
