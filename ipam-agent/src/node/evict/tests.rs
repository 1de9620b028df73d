//! Only what says that the binding is over ends it.

use super::*;
use crate::api::{VpcIPSpec, VpcIPStatus, VpcIPType};

fn bound() -> BoundAddress {
    BoundAddress {
        vpc_ip: "10.0.0.5".into(),
        vpc_ip_uid: "uid".into(),
        ip: std::net::Ipv4Addr::new(10, 0, 0, 5).into(),
        epoch: 4,
        eni_id: "eni".into(),
        eni_slot: 0,
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
    let over =
        |uid, phase, epoch, node| is_over(&bound(), Some("pod"), &vpc_ip(uid, phase, epoch, node), "n1");
    assert!(!over("uid", IpPhase::Bound, 4, "n1"), "all is well");
    assert!(!over("uid", IpPhase::Detaching, 4, "n1"), "its DEL comes");
    assert!(over("uid", IpPhase::Bound, 5, "n1"), "a later pod has it");
    assert!(over("uid", IpPhase::Bound, 5, "n2"), "elsewhere");
    assert!(over("uid", IpPhase::Cooldown, 4, "n1"), "taken by force");
    assert!(over("uid", IpPhase::Retained, 4, "n1"), "the node was given up");
    assert!(over("other", IpPhase::Bound, 1, "n2"), "freed and taken anew");
    assert!(!over("uid", IpPhase::Bound, 3, "n2"), "a restored backup");
    assert!(!over("other", IpPhase::Cooldown, 1, "n2"), "nobody has it");
    let of_pod = |pod: &str| {
        let mut object = vpc_ip("other", IpPhase::Bound, 4, "n1");
        object.status.as_mut().unwrap().pod_uid = Some(pod.into());
        object
    };
    assert!(!is_over(&bound(), Some("pod"), &of_pod("pod"), "n1"), "a record that was lost and made anew");
    assert!(is_over(&bound(), Some("pod"), &of_pod("successor"), "n1"));
    assert!(is_over(&bound(), None, &of_pod("pod"), "n1"), "whose pod this is, is not known");
    // Found without a journal: the epoch is all there is.
    let found = BoundAddress { vpc_ip_uid: String::new(), ..bound() };
    let over = |phase, epoch, node| is_over(&found, None, &vpc_ip("any", phase, epoch, node), "n1");
    assert!(!over(IpPhase::Bound, 4, "n1") && !over(IpPhase::Bound, 3, "n2"));
    assert!(
        over(IpPhase::Bound, 5, "n2") && over(IpPhase::Bound, 4, "n2") && over(IpPhase::Retained, 4, "n1")
    );
}
