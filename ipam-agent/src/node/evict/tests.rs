//! Only what says that the binding is over ends it.

use ipam_cni::protocol::AttachmentKey;

use super::*;
use crate::api::{VpcIPSpec, VpcIPStatus, VpcIPType};

fn record() -> Record {
    Record {
        key: AttachmentKey { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() },
        state: State::Committed,
        sequence: 1,
        pod_namespace: "default".into(),
        pod_name: "web-0".into(),
        pod_uid: Some("pod".into()),
        owns_pod: false,
        vpc_ip: "10.0.0.5".into(),
        vpc_ip_uid: "uid".into(),
        ip: std::net::Ipv4Addr::new(10, 0, 0, 5),
        epoch: 4,
        eni_id: "eni".into(),
        eni_slot: 0,
        host_ifname: "ipam0123456789a".into(),
        host_ifindex: Some(7),
        host_mac: "02:00:00:00:00:01".into(),
        pod_mac: "02:00:00:00:00:02".into(),
        mtu: 1500,
        netns: "/run/netns/pod".into(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn vpc_ip(uid: &str, phase: IpPhase, epoch: i64, node: &str) -> VpcIP {
    let spec =
        VpcIPSpec { type_: VpcIPType::Pod, ip: "10.0.0.5".into(), subnet_id: "s".into(), claim_ref: None };
    let mut object = VpcIP::new("10.0.0.5", spec);
    object.metadata.uid = Some(uid.into());
    object.status =
        Some(VpcIPStatus { phase, epoch, node_name: Some(node.into()), ..VpcIPStatus::default() });
    object
}

#[test]
fn a_binding_is_over_only_when_the_api_says_so() {
    let over = |uid, phase, epoch, node| is_over(&record(), &vpc_ip(uid, phase, epoch, node), "n1");
    assert!(!over("uid", IpPhase::Bound, 4, "n1"), "all is well");
    assert!(!over("uid", IpPhase::Detaching, 4, "n1"), "its DEL comes");
    assert!(over("uid", IpPhase::Bound, 5, "n1"), "a later pod has it");
    assert!(over("uid", IpPhase::Bound, 5, "n2"), "elsewhere");
    assert!(over("uid", IpPhase::Cooldown, 4, "n1"), "taken by force");
    assert!(over("uid", IpPhase::Retained, 4, "n1"), "the node was given up");
    assert!(over("other", IpPhase::Bound, 1, "n2"), "freed and taken anew");
    assert!(!over("uid", IpPhase::Bound, 3, "n2"), "a restored backup");
    assert!(!over("other", IpPhase::Cooldown, 1, "n2"), "nobody has it");
}
