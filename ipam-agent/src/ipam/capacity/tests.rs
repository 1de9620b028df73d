//! The count is what placing pod after pod comes to.

use proptest::prelude::*;

use super::*;
use crate::ipam::pool::{NetView, Placement, Reservation, Wish, place};

fn subnet(number: u8, zone: &str, available: u64, available_v6: Option<u64>) -> SubnetView {
    let net = |cidr: String, gateway: String, available| NetView {
        cidr: cidr.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        reserved: 2,
        available,
    };
    let v4 = net(format!("10.0.{number}.0/28"), format!("10.0.{number}.1"), available);
    let v6 = available_v6.map(|free| net(format!("fd00:0:0:{number}::/64"), "fe80::1".into(), free));
    SubnetView {
        id: format!("subnet-{number}"),
        zone: zone.into(),
        nets: [v4].into_iter().chain(v6).collect(),
        ..SubnetView::default()
    }
}

/// Full quotas are not reserved, or so many addresses are.
fn reserved() -> impl Strategy<Value = Option<Reservation>> {
    proptest::option::of((0u64..16).prop_map(|addresses| Reservation { enis: 1, addresses }))
}

fn world() -> impl Strategy<Value = (Vec<SubnetView>, NodeView, Families)> {
    let subnets = proptest::collection::vec(
        (
            (prop_oneof![3 => Just("a"), 1 => Just("b")], 0u64..14, 0u64..8, any::<bool>()),
            (
                prop_oneof![5 => Just((false, false)), 1 => Just((true, false)), 1 => Just((false, true))],
                reserved(),
            ),
        ),
        0..4,
    );
    let families = prop_oneof![Just("ipv4"), Just("ipv4,ipv6"), Just("ipv6")];
    (subnets, 0usize..4, 1usize..6, families).prop_map(|(subnets, max_enis, max_ips_per_eni, families)| {
        let subnets = subnets
            .into_iter()
            .zip(1u8..)
            .map(|(((zone, free, v6, dual), ((closed, nominated_only), reservation)), number)| SubnetView {
                closed,
                nominated_only,
                reservation,
                ..subnet(number, zone, free, dual.then_some(v6))
            })
            .collect();
        let node = NodeView { zone: "a".into(), max_enis, max_ips_per_eni, enis: Vec::new() };
        (subnets, node, families.parse().unwrap())
    })
}

/// The world as it goes on: pods come until one cannot.
struct Filling {
    subnets: Vec<SubnetView>,
    node: NodeView,
    families: Families,
    taken: BTreeSet<IpAddr>,
}

impl Filling {
    fn take(&mut self, ip: IpAddr) {
        self.taken.insert(ip);
        for net in self.subnets.iter_mut().flat_map(|subnet| &mut subnet.nets) {
            if net.cidr.contains(&ip) {
                net.available = net.available.saturating_sub(1);
            }
        }
    }

    /// Whether one more pod has its addresses now.
    fn pod(&mut self) -> bool {
        let wish = Wish { families: self.families.clone(), ..Wish::default() };
        loop {
            match place(&self.node, &self.subnets, &self.taken, &wish, 7) {
                Err(_) => return false,
                Ok(Placement::OnEni { eni_id, ips, .. }) => {
                    let eni = self.node.enis.iter_mut().find(|eni| eni.id == eni_id).unwrap();
                    eni.ips.extend(ips.iter().copied());
                    ips.into_iter().for_each(|ip| self.take(ip));
                    return true;
                }
                Ok(Placement::NewEni { subnet_id, primary }) => {
                    self.take(primary);
                    let quota = self.node.max_ips_per_eni as u64 + 1;
                    let subnet = self.subnets.iter_mut().find(|subnet| subnet.id == subnet_id).unwrap();
                    subnet.reservation =
                        subnet.reservation.map(|it| Reservation { addresses: it.addresses + quota, ..it });
                    let id = format!("eni-{}", self.node.enis.len());
                    self.node.enis.push(EniView {
                        id,
                        subnet_id,
                        ips: BTreeSet::new(),
                        warm: BTreeSet::new(),
                        assignable: None,
                    });
                }
            }
        }
    }

    fn capacity(&self) -> Capacity {
        let rooms: Vec<SubnetRoom> =
            self.subnets.iter().map(|subnet| SubnetRoom::of(subnet, &self.taken)).collect();
        capacity(&self.node, &rooms, &self.taken, &self.families, None)
    }
}

proptest! {
    /// At every point on the way the number is the same, and it is how many pods there are in the end.
    #[test]
    fn the_count_is_what_placing_comes_to((subnets, node, families) in world()) {
        let mut filling = Filling { subnets, node, families, taken: BTreeSet::new() };
        let promised = filling.capacity();
        let mut pods = 0;
        loop {
            prop_assert_eq!(&filling.capacity().pods, &promised.pods, "after {} pods", pods);
            if !filling.pod() {
                break;
            }
            pods += 1;
        }
        prop_assert_eq!(pods, promised.pods);
        prop_assert!(pods <= promised.limit);
        prop_assert_eq!(promised.below.is_some(), promised.pods < promised.limit);
    }

    /// A cloud that gives no further ENI leaves what the node has, and its words are told.
    #[test]
    fn without_another_eni_there_is_what_the_enis_hold((subnets, node, families) in world(), pods in 0usize..6) {
        let mut filling = Filling { subnets, node, families, taken: BTreeSet::new() };
        for _ in 0..pods {
            filling.pod();
        }
        let rooms: Vec<SubnetRoom> = filling.subnets.iter().map(|subnet| SubnetRoom::of(subnet, &filling.taken)).collect();
        let count = |node: &NodeView, words| capacity(node, &rooms, &filling.taken, &filling.families, words);
        let stuck = count(&filling.node, Some("quota"));
        let mut full = filling.node.clone();
        full.max_enis = full.enis.len();
        prop_assert_eq!(stuck.pods, count(&full, None).pods);
        if stuck.pods < stuck.limit {
            prop_assert_eq!(stuck.below, Some(Limit::Enis("quota".into())));
        }
    }
}

#[test]
fn listed_addresses_are_counted_and_no_eni_is_expected() {
    let list: BTreeSet<IpAddr> = ["10.0.1.3", "10.0.1.4", "10.0.1.5"].map(|ip| ip.parse().unwrap()).into();
    let held: IpAddr = "10.0.1.3".parse().unwrap();
    let eni = EniView {
        id: "eni".into(),
        subnet_id: "subnet-1".into(),
        ips: [held].into(),
        warm: BTreeSet::new(),
        assignable: Some(list),
    };
    let node = NodeView { zone: "a".into(), max_enis: 3, max_ips_per_eni: 9, enis: vec![eni] };
    let rooms = [SubnetRoom::of(&subnet(1, "a", 2, None), &[held].into())];
    let counted = capacity(&node, &rooms, &[held].into(), &Families::ipv4(), None);
    assert_eq!((counted.pods, counted.limit), (3, 27));
}

#[test]
fn the_sentence_has_the_numbers() {
    let node = NodeView { zone: "a".into(), max_enis: 1, max_ips_per_eni: 5, enis: Vec::new() };
    let count = |subnets: &[SubnetRoom]| {
        capacity(&node, subnets, &BTreeSet::new(), &Families::ipv4(), None).to_string()
    };
    let rooms = [SubnetRoom::of(&subnet(1, "a", 3, None), &BTreeSet::new())];
    let of = "pods can have an address, of 5 that the node's limits allow";
    assert_eq!(count(&rooms), format!("2 {of}: subnet subnet-1 has 3 free"));
    assert_eq!(count(&[]), format!("0 {of}: no subnet of zone a is configured"));
}
