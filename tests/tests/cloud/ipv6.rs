//! IPv6 beside IPv4: actions of its own, the same strictness.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipam_agent::cloud::{CloudErrorKind, SubnetV6};
use ipam_lab::caller::Door;
use ipam_lab::cloud_server::{CloudConfig, Delays, FaultKind, GATEWAY_V6, When, ec2};

use super::rig::{Rig, at_both_doors, cloud_config, ip};

/// Address fd00:0:0:1::`last`.
fn v6(last: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, last).into()
}

fn dual_stack() -> CloudConfig {
    let mut config = cloud_config();
    config.subnets[0].cidr_v6 = Some("fd00:0:0:1::/64".parse().unwrap());
    config
}

async fn a_subnet_says_whether_it_has_ipv6(door: Door) {
    let rig = Rig::with(door, dual_stack());
    let subnets = rig.provider.subnets().await.unwrap();
    let ipv6 = SubnetV6 {
        cidr: "fd00:0:0:1::/64".parse().unwrap(),
        gateway: door.pick(GATEWAY_V6, ec2::GATEWAY_V6),
        available: u64::MAX,
    };
    assert_eq!((subnets[0].ipv6, subnets[1].ipv6), (Some(ipv6), None));
}

/// Both families come and go in one call of the provider, and an address moves to another ENI of its subnet.
async fn a_life(rig: &Rig) {
    let (a, b) = (rig.attached("a", "ins-a").await.id, rig.attached("b", "ins-b").await.id);
    rig.world.take();
    let both = [ip(20), v6(20), ip(21), v6(21)];
    for _ in 0..2 {
        rig.provider.assign_ips(&a, &both).await.unwrap();
        assert_eq!(rig.all_ips_of(&a), [ip(20), ip(21), v6(20), v6(21)]);
    }
    let enis = rig.provider.enis_of("ins-a").await.unwrap();
    let listed = enis.iter().find(|eni| eni.id == a).unwrap();
    assert_eq!(listed.secondary_ips.len(), 4);
    assert!(listed.secondary_ips.contains(&v6(21)));
    for _ in 0..2 {
        rig.provider.migrate_ip(&a, &b, v6(20)).await.unwrap();
        assert_eq!((rig.all_ips_of(&a), rig.all_ips_of(&b)), (vec![ip(20), ip(21), v6(21)], vec![v6(20)]));
    }
    let moved = [format!("unassign {} from {a}", v6(20)), format!("assign {} to {b}", v6(20))];
    assert_eq!(rig.world.take()[4..], moved);
    for _ in 0..2 {
        rig.provider.unassign_ips(&a, &both).await.unwrap();
        assert!(rig.all_ips_of(&a).is_empty());
    }
    assert_eq!(rig.cloud.snapshot().violations, [""; 0]);
}

async fn addresses_come_and_go_at_once_or_later(door: Door) {
    a_life(&Rig::with(door, dual_stack())).await;
    a_life(&Rig::with(door, CloudConfig { delays: Delays::all(Duration::from_millis(40)), ..dual_stack() }))
        .await;
}

/// More than one call takes, some of them there, half of them done.
async fn many_addresses_go_in_batches(door: Door) {
    let rig = Rig::with(door, dual_stack());
    let eni = rig.attached("a", "ins-a").await.id;
    rig.provider.assign_ips(&eni, &[v6(25), v6(33)]).await.unwrap();
    rig.cloud.faults().add(Some("AssignIpv6Addresses"), When::Nth(1), FaultKind::PartialBatch);
    let all: Vec<_> = (20..35).map(v6).collect();
    rig.provider.assign_ips(&eni, &all).await.unwrap();
    assert_eq!(rig.all_ips_of(&eni), all);
    rig.cloud.faults().add(Some("UnassignIpv6Addresses"), When::Nth(1), FaultKind::TimeoutAfterSuccess);
    rig.provider.unassign_ips(&eni, &all).await.unwrap();
    assert!(rig.all_ips_of(&eni).is_empty());
}

/// What the cloud refuses for IPv4 it refuses for IPv6, and the provider says which address it was.
async fn refusals_name_the_address(door: Door) {
    let rig = Rig::with(door, dual_stack());
    let (a, b) = (rig.attached("a", "ins-a").await.id, rig.attached("b", "ins-b").await.id);
    rig.provider.assign_ips(&a, &[v6(20)]).await.unwrap();
    rig.cloud.take_address(v6(21));
    let outside: IpAddr = "fd00:0:0:9::20".parse().unwrap();
    for (ip, kind, code) in [
        (v6(20), CloudErrorKind::AddressInUse, "ResourceInUse.Address"),
        (v6(21), CloudErrorKind::AddressInUse, "ResourceInUse.Address"),
        (
            v6(1),
            door.pick(CloudErrorKind::Invalid, CloudErrorKind::AddressInUse),
            "InvalidParameterValue.Reserved",
        ),
        (outside, CloudErrorKind::Invalid, "InvalidParameterValue.Range"),
    ] {
        let code = door.pick(code, "InvalidParameterValue");
        let error = rig.provider.assign_ips(&b, &[ip]).await.unwrap_err();
        assert_eq!((error.kind, error.code.as_str()), (kind, code), "{error}");
        assert!(error.message.starts_with(&format!("{ip}: ")), "{error}");
    }
    assert!(rig.all_ips_of(&b).is_empty());
    // The quota is one of each family: 19 secondary ones of IPv4 leave room for 20 of IPv6.
    let full: Vec<_> = (30..49).map(ip).chain((30..50).map(v6)).collect();
    rig.provider.assign_ips(&b, &full).await.unwrap();
    let error = rig.provider.assign_ips(&b, &[v6(60)]).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (CloudErrorKind::IpLimit, door.pick("LimitExceeded.Address", "PrivateIpAddressLimitExceeded"))
    );
    assert_eq!(rig.all_ips_of(&b).len(), 39);
}

/// A subnet without an IPv6 CIDR has no such address.
async fn a_subnet_without_ipv6_gives_none(door: Door) {
    let rig = Rig::new(door);
    let eni = rig.attached("a", "ins-a").await.id;
    let error = rig.provider.assign_ips(&eni, &[ip(20), v6(20)]).await.unwrap_err();
    assert_eq!(
        error.code,
        door.pick("UnsupportedOperation.UnassignCidrBlock", "InvalidParameterValue"),
        "{error}"
    );
}

/// An address that is on its way from one ENI to another when the second step fails gets there when asked again.
async fn a_move_goes_on_after_its_first_half(door: Door) {
    let rig = Rig::with(door, dual_stack());
    let (a, b) = (rig.attached("a", "ins-a").await.id, rig.attached("b", "ins-b").await.id);
    rig.provider.assign_ips(&a, &[v6(20)]).await.unwrap();
    let refused = FaultKind::Error { code: "UnauthorizedOperation".into(), message: "not now".into() };
    rig.cloud.faults().add(Some("AssignIpv6Addresses"), When::Nth(1), refused);
    rig.provider.migrate_ip(&a, &b, v6(20)).await.unwrap_err();
    assert!(rig.all_ips_of(&a).is_empty() && rig.all_ips_of(&b).is_empty());
    rig.provider.migrate_ip(&a, &b, v6(20)).await.unwrap();
    assert_eq!(rig.all_ips_of(&b), [v6(20)]);
}

at_both_doors! {
    a_subnet_says_whether_it_has_ipv6,
    addresses_come_and_go_at_once_or_later,
    many_addresses_go_in_batches,
    refusals_name_the_address,
    a_subnet_without_ipv6_gives_none,
    a_move_goes_on_after_its_first_half,
}
