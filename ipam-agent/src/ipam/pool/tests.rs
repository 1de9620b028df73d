//! Placement against its rules, on all kinds of nodes and subnets.

use proptest::prelude::*;

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::*;

mod subnets;

fn net(cidr: &str) -> NetView {
    let cidr: IpNet = cidr.parse().unwrap();
    let gateway = match cidr.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + 1).into()),
        IpAddr::V6(_) => "fe80::1".parse().unwrap(),
    };
    NetView { cidr, gateway, reserved: 2, available: 1 << 20 }
}

fn subnet(id: &str, zone: &str, cidr: &str) -> SubnetView {
    SubnetView {
        id: id.into(),
        zone: zone.into(),
        nets: cidr.split(' ').map(net).collect(),
        ..SubnetView::default()
    }
}

fn eni(id: &str, subnet: &str, ips: impl IntoIterator<Item = IpAddr>) -> EniView {
    EniView {
        id: id.into(),
        subnet_id: subnet.into(),
        ips: ips.into_iter().collect(),
        warm: BTreeSet::new(),
        assignable: None,
    }
}

fn node(enis: Vec<EniView>) -> NodeView {
    NodeView { zone: "z1".into(), max_enis: 3, max_ips_per_eni: 4, enis }
}

/// The subnet of the ENI that is needed.
fn new_eni(placed: Result<Placement, Shortage>) -> String {
    match placed {
        Ok(Placement::NewEni { subnet_id, .. }) => subnet_id,
        other => panic!("{other:?}"),
    }
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 1, last).into()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

prop_compose! {
    fn any_case()(
        used in proptest::collection::vec(proptest::collection::btree_set(2u8..30, 0..5), 0..4),
        foreign in proptest::collection::btree_set(2u8..31, 0..29),
        salt: u64, held in proptest::option::of(2u8..30), available in 0u64..30,
    ) -> (NodeView, Vec<SubnetView>, BTreeSet<IpAddr>, Wish, u64) {
        let mut seen = BTreeSet::new();
        let enis: Vec<EniView> = used.into_iter().enumerate()
            .map(|(n, ips)| eni(&format!("eni-{n}"), "s1", ips.into_iter().map(ip).filter(|ip| seen.insert(*ip)).collect::<Vec<_>>()))
            .collect();
        let mut taken: BTreeSet<IpAddr> = foreign.into_iter().map(ip).collect();
        taken.extend(&seen);
        let held = held.map(ip);
        taken.extend(held);
        let mut s1 = subnet("s1", "z1", "10.0.1.0/27");
        s1.nets[0].available = available;
        (node(enis), vec![s1, subnet("s2", "z2", "10.0.2.0/24")], taken, Wish { held: held.into_iter().collect(), ..Wish::default() }, salt)
    }
}

proptest! {
    /// Whatever is placed is in the ENI's subnet, usable, and free or already held; the ENI has room; the
    /// ENI is the fullest that has.
    #[test]
    fn placements_keep_the_rules((node, subnets, taken, wish, salt) in any_case()) {
        match place(&node, &subnets, &taken, &wish, salt) {
            Ok(Placement::OnEni { eni_id, subnet_id, ips }) => {
                prop_assert_eq!(ips.len(), 1);
                let ip = ips[0];
                let eni = node.enis.iter().find(|eni| eni.id == eni_id).unwrap();
                prop_assert_eq!(&subnet_id, "s1");
                prop_assert!(subnets[0].nets[0].is_usable(ip));
                if wish.held == [ip] {
                    prop_assert!(eni.ips.contains(&ip) || eni.ips.len() < node.max_ips_per_eni);
                } else {
                    prop_assert!(!taken.contains(&ip));
                    prop_assert!(eni.ips.len() < node.max_ips_per_eni);
                    let fullest = node.enis.iter().map(|e| e.ips.len()).filter(|n| *n < node.max_ips_per_eni).max();
                    prop_assert_eq!(Some(eni.ips.len()), fullest);
                }
                prop_assert!(wish.held.is_empty() || wish.held == [ip]);
            }
            Ok(Placement::NewEni { subnet_id, primary }) => {
                prop_assert_eq!(subnet_id, "s1");
                prop_assert!(subnets[0].nets[0].is_usable(primary) && !taken.contains(&primary));
                prop_assert!(node.enis.len() < node.max_enis);
                if !wish.held.is_empty() {
                    prop_assert!(node.enis.iter().all(|eni| eni.ips.len() >= node.max_ips_per_eni));
                }
            }
            Err(Shortage::NodeFull { .. }) => prop_assert!(node.enis.len() >= node.max_enis),
            Err(Shortage::SubnetsExhausted { .. }) => prop_assert!(subnets[0].free(&taken) < 2),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// With as many addresses as pods, every pod gets one: nothing is stranded, whatever the order.
    #[test]
    fn addresses_equal_to_pods_all_find_a_place(salts in proptest::collection::vec(any::<u64>(), 10)) {
        let mut node = NodeView { zone: "z1".into(), max_enis: 1, max_ips_per_eni: 10, enis: vec![eni("eni-0", "s1", [])] };
        let subnets = [subnet("s1", "z1", "10.0.1.0/28")];
        let mut taken: BTreeSet<IpAddr> = [ip(2), ip(3), ip(4)].into();
        for salt in salts {
            match place(&node, &subnets, &taken, &Wish::default(), salt) {
                Ok(Placement::OnEni { ips, .. }) => {
                    prop_assert!(taken.insert(ips[0]));
                    node.enis[0].ips.insert(ips[0]);
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
    assert_eq!(new_eni(place(&full, &subnets, &taken, &Wish::default(), 9)), "s3");
}

#[test]
fn a_held_address_stays_in_its_subnet() {
    let subnets = [
        subnet("s1", "z1", "10.0.1.0/24"),
        subnet("s3", "z1", "10.0.4.0/22"),
        subnet("s2", "z2", "10.0.2.0/24"),
    ];
    let taken = [ip(7), address("10.0.2.9")].into();
    let held = |ip| Wish { held: vec![ip], ..Wish::default() };
    let other = node(vec![eni("eni-x", "s3", [])]);
    assert_eq!(new_eni(place(&other, &subnets, &taken, &held(ip(7)), 1)), "s1");
    let error = place(&other, &subnets, &taken, &held(address("10.0.2.9")), 1).unwrap_err();
    assert_eq!(error.to_string(), "address 10.0.2.9 belongs to subnet s2 of zone z2, the node is in zone z1");
}

#[test]
fn nominated_addresses_are_refused_with_the_remedy() {
    let subnets = [subnet("s1", "z1", "10.0.1.0/24")];
    let taken = [ip(7)].into();
    let nominate = |nominated| {
        let wish = Wish { nominated: vec![nominated], ..Wish::default() };
        place(&node(vec![eni("eni-a", "s1", [])]), &subnets, &taken, &wish, 5)
    };
    assert!(matches!(nominate(ip(8)), Ok(Placement::OnEni { ips: found, .. }) if found == [ip(8)]));
    assert_eq!(
        nominate(ip(7)).unwrap_err().to_string(),
        "address 10.0.1.7 is taken; nominate another or release its owner (kubectl get vip 10.0.1.7)"
    );
    assert!(nominate(ip(1)).unwrap_err().to_string().contains("reserved by the cloud"));
    assert!(
        nominate(address("192.168.0.1")).unwrap_err().to_string().contains("nominate one of 10.0.1.0/24")
    );
}

fn v6(last: u16) -> IpAddr {
    std::net::Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, last).into()
}

fn dual() -> Wish {
    Wish { families: "ipv4,ipv6".parse().unwrap(), ..Wish::default() }
}

prop_compose! {
    /// A node and subnets of both families in all degrees of fullness.
    fn any_dual_case()(
        used in proptest::collection::vec((proptest::collection::btree_set(2u8..30, 0..5), proptest::collection::btree_set(2u16..14, 0..5)), 0..4),
        foreign in proptest::collection::btree_set(2u8..31, 0..29), foreign_v6 in proptest::collection::btree_set(2u16..15, 0..14),
        held in proptest::option::of(2u8..30), held_v6 in proptest::option::of(2u16..14), salt: u64,
    ) -> (NodeView, Vec<SubnetView>, BTreeSet<IpAddr>, Wish, u64) {
        let mut seen = BTreeSet::new();
        let mut enis = Vec::new();
        for (n, (ips, ips_v6)) in used.into_iter().enumerate() {
            let ips: Vec<IpAddr> = ips.into_iter().map(ip).chain(ips_v6.into_iter().map(v6)).filter(|ip| seen.insert(*ip)).collect();
            enis.push(eni(&format!("eni-{n}"), "s1", ips));
        }
        let held: Vec<IpAddr> = held.map(ip).into_iter().chain(held_v6.map(v6)).collect();
        let taken = foreign.into_iter().map(ip).chain(foreign_v6.into_iter().map(v6)).chain(seen).chain(held.clone()).collect();
        let subnets = vec![subnet("s1", "z1", "10.0.1.0/27 fd00:0:0:1::/124"), subnet("s4", "z1", "10.0.4.0/24")];
        (node(enis), subnets, taken, Wish { held, ..dual() }, salt)
    }
}

proptest! {
    /// All or none: whoever is placed has one address of each family, in the subnet of one ENI that has room for them.
    #[test]
    fn two_families_are_placed_together((node, subnets, taken, wish, salt) in any_dual_case()) {
        match place(&node, &subnets, &taken, &wish, salt) {
            Ok(Placement::OnEni { eni_id, subnet_id, ips }) => {
                let eni = node.enis.iter().find(|eni| eni.id == eni_id).unwrap();
                prop_assert_eq!(&subnet_id, &eni.subnet_id);
                prop_assert_eq!(ips.iter().map(|ip| Family::of(*ip)).collect::<Vec<_>>(), [Family::V4, Family::V6]);
                for ip in ips {
                    let family = Family::of(ip);
                    prop_assert!(subnets[0].net(family).unwrap().is_usable(ip));
                    prop_assert!(eni.ips.contains(&ip) || eni.count(family) < node.max_ips_per_eni);
                    let held = wish.held.iter().find(|held| Family::of(**held) == family);
                    prop_assert!(held.map_or(!taken.contains(&ip), |held| *held == ip));
                }
            }
            Ok(Placement::NewEni { subnet_id, .. }) => {
                prop_assert_eq!(subnet_id, "s1", "the one with both families");
                prop_assert!(node.enis.len() < node.max_enis);
            }
            Err(Shortage::NodeFull { .. }) => prop_assert!(node.enis.len() >= node.max_enis),
            Err(Shortage::SubnetsExhausted { family, .. }) => {
                let family = family.unwrap();
                let net = subnets[0].net(family).unwrap();
                let needs = u64::from(family == Family::V4) + u64::from(wish.held.iter().all(|ip| Family::of(*ip) != family));
                prop_assert!(net.free(&taken) < needs, "{family} is not short");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn a_shortage_names_the_family() {
    let one_left = subnet("s1", "z1", "10.0.1.0/24 fd00:0:0:1::/125");
    let taken: BTreeSet<IpAddr> = (2..7).map(v6).collect();
    let error = |subnets: &[SubnetView], taken, wish: &Wish| {
        place(&node(vec![eni("eni-a", "s1", [])]), subnets, taken, wish, 7).unwrap_err().to_string()
    };
    assert_eq!(
        error(&[one_left], &taken, &dual()),
        "no free IPv6 address: subnet s1 (fd00:0:0:1::/125) has 0 free, an ENI and its pod need 1"
    );
    let only_v4 = [subnet("s1", "z1", "10.0.1.0/24")];
    assert_eq!(
        error(&only_v4, &taken, &dual()),
        "no free IPv6 address: subnet s1 has no IPv6 CIDR; add one, or choose another subnet"
    );
    let nominate = |ips: &[IpAddr], wish: Wish| Wish { nominated: ips.to_vec(), ..wish };
    let subnets = [
        subnet("s1", "z1", "10.0.1.0/24 fd00:0:0:1::/64"),
        subnet("s2", "z1", "10.0.2.0/24 fd00:0:0:2::/64"),
    ];
    let apart = error(&subnets, &taken, &nominate(&[ip(9), address("fd00:0:0:2::9")], dual()));
    assert!(
        apart.starts_with("address 10.0.1.9 belongs to subnet s1 and fd00:0:0:2::9 to subnet s2"),
        "{apart}"
    );
    let taken = error(&subnets, &taken, &nominate(&[v6(2)], dual()));
    assert!(taken.contains("kubectl get vip fd00-0000-0000-0001-0000-0000-0000-0002"), "{taken}");
    let family = error(&only_v4, &BTreeSet::new(), &nominate(&[v6(2)], Wish::default()));
    assert!(family.contains("--ip-families ipv4"), "{family}");
}

#[test]
fn a_held_address_of_one_family_gets_its_fellow_beside_it() {
    let subnets = [
        subnet("s1", "z1", "10.0.1.0/24 fd00:0:0:1::/64"),
        subnet("s2", "z1", "10.0.2.0/24 fd00:0:0:2::/64"),
    ];
    let taken = [ip(7)].into();
    let two = node(vec![eni("eni-a", "s2", [address("10.0.2.9")]), eni("eni-b", "s1", [ip(7)])]);
    let wish = Wish { held: vec![ip(7)], ..dual() };
    let Ok(Placement::OnEni { eni_id, ips, .. }) = place(&two, &subnets, &taken, &wish, 1 << 40) else {
        panic!("there is room")
    };
    assert_eq!((eni_id.as_str(), ips[0]), ("eni-b", ip(7)));
    assert!(subnets[0].net(Family::V6).unwrap().cidr.contains(&ips[1]));
    // The ENI that has the one is full of the other: both go to the next.
    let full = (2..6).map(v6).chain([ip(7)]);
    let crowded = node(vec![eni("eni-b", "s1", full), eni("eni-c", "s1", [])]);
    let placed = place(&crowded, &subnets, &taken, &wish, 1 << 40);
    assert!(matches!(placed, Ok(Placement::OnEni { eni_id, .. }) if eni_id == "eni-c"));
}
