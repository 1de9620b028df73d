//! What is found is what the journal would have said, as far as anybody can know.

use super::*;
use crate::api::{ClaimRef, VpcIPSpec, VpcIPStatus, VpcIPType};

const NAME: &str = "ipam0123456789a";

fn link(name: &str, index: u32) -> Link {
    Link {
        index,
        name: name.into(),
        mac: Mac { octets: [2, 0, 0, 0, 0, 1] },
        mtu: 1400,
        up: true,
        kind: "veth".into(),
        settings: Default::default(),
    }
}

fn route(ifindex: u32) -> PodRoute {
    PodRoute { ifindex, epoch: 7, eni: 3, mac: Mac { octets: [2, 0, 0, 0, 0, 2] }, ..PodRoute::EMPTY }
}

fn found() -> Record {
    let ips = ["10.0.0.5", "fd00::5"].map(|ip| (ip.parse().unwrap(), route(9)));
    record(&link(NAME, 9), &ips, |slot| Some(format!("eni-{slot}"))).unwrap()
}

fn vpc_ip(name: &str, epoch: i64, change: impl Fn(&mut VpcIPStatus)) -> Arc<VpcIP> {
    let claim = ClaimRef { namespace: "default".into(), name: "web-0".into(), uid: "claim".into() };
    let ip = name.replace('-', ":");
    let spec = VpcIPSpec { type_: VpcIPType::Pod, ip, subnet_id: "subnet".into(), claim_ref: Some(claim) };
    let mut object = VpcIP::new(name, spec);
    object.metadata.uid = Some(format!("uid of {name}"));
    let mut status = VpcIPStatus {
        phase: IpPhase::Bound,
        node_name: Some("n1".into()),
        eni_id: Some("eni-a".into()),
        pod_uid: Some("pod".into()),
        epoch,
        ..Default::default()
    };
    change(&mut status);
    object.status = Some(status);
    Arc::new(object)
}

#[test]
fn a_pod_is_found_by_its_link_and_its_entries_of_the_map() {
    let record = found();
    assert_eq!((record.state, record.host_ifindex, record.mtu), (State::Committed, Some(9), 1400));
    assert_eq!(record.ips().count(), 2);
    assert_eq!((record.epoch, record.eni_slot, record.eni_id.as_str()), (7, 3, "eni-3"));
    assert_eq!(record.pod_mac, "02:00:00:00:00:02");
    assert!(is_unnamed(&record) && record.vpc_ip_uid.is_empty());
    assert!(super::super::context::is_host_link(&record, &link(NAME, 9)));
    for (other, kind) in [("eth0", "veth"), (NAME, "bridge")] {
        assert!(!is_pod_link(&Link { kind: kind.into(), ..link(other, 9) }), "{other} {kind}");
    }
}

#[test]
fn only_the_very_binding_identifies_it() {
    let record = found();
    let v4 =
        |epoch, change: fn(&mut VpcIPStatus)| identified(&record, &[vpc_ip("10.0.0.5", epoch, change)], "n1");
    let known = v4(7, |_| {}).unwrap();
    assert_eq!((known.pod_name.as_str(), known.pod_uid.as_deref()), ("web-0", Some("pod")));
    assert_eq!((known.vpc_ip_uid.as_str(), known.eni_id.as_str()), ("uid of 10.0.0.5", "eni-a"));
    assert_eq!(known.more[0].vpc_ip_uid, "", "nothing was said of the other");
    assert!(is_unnamed(&known), "the runtime's name is still to come");
    assert_eq!(identified(&known, &[vpc_ip("10.0.0.5", 7, |_| {})], "n1"), None, "nothing new");
    assert!(v4(7, |status| status.phase = IpPhase::Detaching).is_some());
    assert_eq!(v4(8, |_| {}), None, "a later binding");
    assert_eq!(v4(6, |_| {}), None, "a restored backup");
    assert_eq!(v4(7, |status| status.node_name = Some("n2".into())), None);
    assert_eq!(v4(7, |status| status.phase = IpPhase::Retained), None);
    assert_eq!(identified(&known, &[vpc_ip("10.0.0.5", 7, |status| status.pod_uid = None)], "n1"), None);
}

#[test]
fn an_eni_is_found_by_its_slot_its_gateway_and_its_address() {
    let (mac, gateway) = (Mac { octets: [2, 0, 0, 0, 0, 1] }, Mac { octets: [2, 0, 0, 0, 0, 9] });
    let eni = Eni { ifindex: 4, mac, gateway_mac: gateway, ..Eni::EMPTY };
    let neighbour =
        |ip: &str, mac| Neighbour { ifindex: 4, ip: ip.parse().unwrap(), mac: Some(mac), managed: true };
    let neighbours = [neighbour("10.0.0.7", mac), neighbour("10.0.0.1", gateway)];
    let addresses = [(4, "fe80::1".parse().unwrap()), (4, "10.0.0.2".parse().unwrap())];
    let found = eni_record(5, &eni, &[link("eth1", 4)], &neighbours, &addresses).unwrap();
    assert_eq!((found.slot, found.mac.as_str()), (5, "02:00:00:00:00:01"));
    assert_eq!(
        (found.gateway.to_string(), found.primary_ip.to_string()),
        ("10.0.0.1".into(), "10.0.0.2".into())
    );
    assert_eq!(found.gateway_v6, None);
    assert_eq!(eni_record(5, &eni, &[link("eth1", 8)], &neighbours, &addresses), None, "another device");
    assert_eq!(eni_record(5, &eni, &[link("eth1", 4)], &neighbours[..1], &addresses), None, "no gateway");
}
