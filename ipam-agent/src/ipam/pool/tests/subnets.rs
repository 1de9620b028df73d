//! Subnets that are reserved, closed or only for some; and warm addresses.

use super::*;

/// A subnet in which so many ENIs of 1 + `ips` addresses are.
fn reserved(id: &str, cidr: &str, enis: u64, ips: u64) -> SubnetView {
    let reservation = Some(Reservation { enis, addresses: enis * (ips + 1) });
    SubnetView { reservation, ..subnet(id, "z1", cidr) }
}

fn bare_node(max_ips_per_eni: usize) -> NodeView {
    NodeView { max_ips_per_eni, ..node(Vec::new()) }
}

/// The seed's example: nodes of 29 + 1 addresses, a subnet of /23.
#[test]
fn a_subnet_of_23_is_full_with_17_nodes_of_30_addresses() {
    let with = |enis| {
        place(
            &bare_node(29),
            &[reserved("s1", "10.0.0.0/23", enis, 29)],
            &BTreeSet::new(),
            &Wish::default(),
            7,
        )
    };
    for there in 0..17 {
        assert_eq!(new_eni(with(there)), "s1", "node {}", there + 1);
    }
    let words = with(17).unwrap_err().to_string();
    assert_eq!(
        words,
        "no free address: subnet s1 (10.0.0.0/23) has 512 addresses, of which 17 ENIs reserve 510; one more ENI \
         reserves 30 (1 of its own and 29 for pods): add a subnet, or do without --reserve-eni-quota"
    );
    let two = [reserved("s1", "10.0.0.0/23", 17, 29), reserved("s2", "10.0.2.0/24", 0, 29)];
    assert_eq!(new_eni(place(&bare_node(29), &two, &BTreeSet::new(), &Wish::default(), 7)), "s2");
}

proptest! {
    /// However many nodes come in whatever order and size: what is reserved never exceeds the subnet, and the largest
    /// node that is refused would have exceeded it.
    #[test]
    fn reserved_quotas_never_exceed_their_subnet(sizes in proptest::collection::vec(1usize..60, 1..60), salt: u64) {
        let mut reservation = Reservation::default();
        let mut taken = BTreeSet::new();
        for ips in sizes {
            let view = SubnetView { reservation: Some(reservation), ..subnet("s1", "z1", "10.0.1.0/24") };
            match place(&bare_node(ips), &[view], &taken, &Wish::default(), salt) {
                Ok(Placement::NewEni { primary, .. }) => {
                    prop_assert!(taken.insert(primary), "an address twice");
                    reservation.enis += 1;
                    reservation.addresses += ips as u64 + 1;
                    prop_assert!(reservation.addresses <= 256);
                }
                Ok(other) => prop_assert!(false, "{other:?}"),
                Err(_) => prop_assert!(reservation.addresses + ips as u64 + 1 > 256),
            }
        }
    }
}

#[test]
fn a_subnet_for_nominated_use_is_given_to_nobody_else() {
    let only = SubnetView { nominated_only: true, ..subnet("s2", "z1", "10.0.2.0/23") };
    let subnets = [subnet("s1", "z1", "10.0.1.0/24"), only.clone()];
    let ask =
        |subnets: &[SubnetView], wish: &Wish| place(&node(Vec::new()), subnets, &BTreeSet::new(), wish, 3);
    assert_eq!(new_eni(ask(&subnets, &Wish::default())), "s1", "though the other has more");
    let by_name = Wish { subnets: vec!["s2".into()], ..Wish::default() };
    assert_eq!(new_eni(ask(&subnets, &by_name)), "s2");
    let by_address = Wish { nominated: vec![address("10.0.2.9")], ..Wish::default() };
    assert_eq!(new_eni(ask(&subnets, &by_address)), "s2");
    let held = Wish { held: vec![address("10.0.2.9")], ..Wish::default() };
    assert_eq!(new_eni(ask(&subnets, &held)), "s2");
    let words = ask(&[only], &Wish::default()).unwrap_err().to_string();
    assert_eq!(words, "no free address: no subnet of zone z1 is configured; add one");
}

#[test]
fn a_closed_subnet_serves_what_it_has_and_nothing_new() {
    let closed = SubnetView { closed: true, ..subnet("s1", "z1", "10.0.1.0/24") };
    let subnets = [closed, subnet("s2", "z1", "10.0.2.0/24")];
    let taken = [ip(7)].into();
    let held = Wish { held: vec![ip(7)], homes: vec![(ip(7), "s1".into())], ..Wish::default() };
    let there = node(vec![eni("eni-a", "s1", [ip(7)])]);
    let placed = place(&there, &subnets, &taken, &held, 1);
    assert!(matches!(&placed, Ok(Placement::OnEni { ips, .. }) if *ips == [ip(7)]), "{placed:?}");
    // It also moves to another ENI of that subnet, but no ENI is made for it.
    let moved = place(&node(vec![eni("eni-b", "s1", [])]), &subnets, &taken, &held, 1);
    assert!(matches!(&moved, Ok(Placement::OnEni { eni_id, .. }) if eni_id == "eni-b"), "{moved:?}");
    let elsewhere = place(&node(vec![eni("eni-c", "s2", [])]), &subnets, &taken, &held, 1).unwrap_err();
    assert_eq!(elsewhere, Shortage::SubnetRemoved(ip(7), "s1".into()));
    // Somebody new gets an address of the other subnet, though the closed one's ENI is fuller.
    let both = node(vec![eni("eni-a", "s1", [ip(7), ip(8)]), eni("eni-c", "s2", [])]);
    let fresh = place(&both, &subnets, &taken, &Wish::default(), 1);
    assert!(matches!(&fresh, Ok(Placement::OnEni { eni_id, .. }) if eni_id == "eni-c"), "{fresh:?}");
    // One that nobody knows any more, and one whose CIDR has become smaller than what is held.
    let gone = place(&there, &subnets[1..], &taken, &held, 1).unwrap_err();
    assert_eq!(gone, Shortage::SubnetRemoved(ip(7), "s1".into()));
    let shrunk = [subnet("s1", "z1", "10.0.1.128/25"), subnets[1].clone()];
    let placed = place(&there, &shrunk, &taken, &held, 1);
    assert!(matches!(&placed, Ok(Placement::OnEni { ips, .. }) if *ips == [ip(7)]), "{placed:?}");
}

#[test]
fn warm_addresses_are_given_before_any_that_costs_a_call() {
    let subnets = [subnet("s1", "z1", "10.0.1.0/24")];
    let mut warm = eni("eni-b", "s1", [ip(20), ip(21)]);
    warm.warm = [ip(21)].into();
    let fuller = eni("eni-a", "s1", (2..5).map(ip));
    let taken = (2..5).map(ip).chain([ip(20), ip(21)]).collect();
    let placed = place(&node(vec![fuller.clone(), warm.clone()]), &subnets, &taken, &Wish::default(), 1);
    assert!(matches!(&placed, Ok(Placement::OnEni { ips, .. }) if *ips == [ip(21)]), "{placed:?}");
    // An ENI that is full has room for the one that is there already.
    let mut full = eni("eni-b", "s1", (20..24).map(ip));
    full.warm = [ip(22)].into();
    let taken = (20..24).map(ip).collect();
    let one = NodeView { max_enis: 1, ..node(vec![full]) };
    let placed = place(&one, &subnets, &taken, &Wish::default(), 1);
    assert!(matches!(&placed, Ok(Placement::OnEni { ips, .. }) if *ips == [ip(22)]), "{placed:?}");
    // Whoever wants a certain address gets that one.
    let wish = Wish { nominated: vec![ip(77)], ..Wish::default() };
    let placed = place(&node(vec![warm]), &subnets, &[ip(20), ip(21)].into(), &wish, 1);
    assert!(matches!(&placed, Ok(Placement::OnEni { ips, .. }) if *ips == [ip(77)]), "{placed:?}");
}

#[test]
fn what_the_cloud_keeps_is_never_picked() {
    // Four at the beginning, as AWS has it, and the last: three are left.
    let net = NetView { reserved: 4, ..net("10.0.0.0/29") };
    let mut taken = BTreeSet::new();
    for salt in 0..3 {
        assert_eq!(net.free(&taken), 3 - salt);
        taken.insert(net.pick(&taken, salt).unwrap());
    }
    let usable: BTreeSet<IpAddr> = (4..7).map(|last| IpAddr::from([10, 0, 0, last])).collect();
    assert_eq!(taken, usable);
    assert_eq!((net.pick(&taken, 0), net.free(&taken)), (None, 0));
}
