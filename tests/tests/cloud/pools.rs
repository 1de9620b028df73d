//! What pools of ENIs need of a cloud: limits, subnets that come and go, an address chosen for an ENI, and a way out when
//! an ENI gets stuck.

use std::time::Duration;

use ipam_agent::cloud::{CloudErrorKind, EniCloudState, EniProvider, MachineLimits, NewEni};
use ipam_lab::caller::Door;
use ipam_lab::cloud_server::{FaultKind, SubnetConfig, When};

use crate::rig::{Rig, at_both_doors, new_eni, v4};

async fn subnets(provider: &dyn EniProvider) -> Vec<String> {
    provider.subnets().await.unwrap().into_iter().map(|subnet| subnet.id).collect()
}

#[tokio::test]
async fn a_machine_is_asked_for_its_limits_and_may_be_another_one_later() {
    let rig = Rig::new(Door::Tencent);
    // 4 ENIs and 20 addresses, of which one each is the primary.
    let limits = rig.provider.limits("ins-a", Some("S5.LARGE8")).await.unwrap();
    assert_eq!(limits, Some(MachineLimits { max_enis: 3, max_ips_per_eni: 19 }));
    rig.cloud.resize_instance("ins-a", |instance| instance.max_enis = 8);
    assert_eq!(rig.provider.limits("ins-a", None).await.unwrap().unwrap().max_enis, 7);
    assert_eq!(rig.provider.limits("ins-x", None).await.unwrap_err().kind, CloudErrorKind::NotFound);
}

async fn subnets_are_found_by_their_tag_and_come_and_go_while_it_runs(door: Door) {
    let rig = Rig::new(door);
    let provider = rig.another(|config| {
        config.subnet_ids = vec!["subnet-z".into(), "subnet-a".into()];
        config.subnet_tag = Some(("use".into(), "pods".into()));
    });
    assert_eq!(subnets(&*provider).await, ["subnet-z", "subnet-a"], "in the order they are configured");
    rig.cloud.tag_subnet("subnet-b", "use", "hosts");
    rig.cloud.tag_subnet("subnet-a", "use", "pods");
    assert_eq!(subnets(&*provider).await, ["subnet-z", "subnet-a"], "another value, and one named already");
    for n in 0..120 {
        // More than one page of the VPC's subnets.
        let cidr = format!("10.1.{n}.0/24").parse().unwrap();
        let subnet =
            SubnetConfig { id: format!("subnet-{n:03}"), zone: "ap-lab-1".into(), cidr, cidr_v6: None };
        rig.cloud.add_subnet(subnet);
    }
    rig.cloud.tag_subnet("subnet-119", "use", "pods");
    assert_eq!(subnets(&*provider).await, ["subnet-z", "subnet-a", "subnet-119"]);
    rig.cloud.remove_subnet("subnet-z");
    assert_eq!(subnets(&*provider).await, ["subnet-a", "subnet-119"], "one that is gone is left out");
}

async fn an_eni_has_the_primary_address_and_the_node_that_were_asked_for(door: Door) {
    let rig = Rig::new(door);
    let wanted = NewEni { primary_ip: Some(v4(77)), ..new_eni("chosen") };
    let eni = rig.provider.create_eni(&wanted).await.unwrap();
    assert_eq!((eni.primary_ip, eni.node.as_deref()), (v4(77), Some("node-1")));
    assert_eq!(rig.provider.create_eni(&wanted).await.unwrap().id, eni.id, "again is the same");
    let other = NewEni { primary_ip: Some(v4(77)), ..new_eni("late") };
    assert_eq!(rig.provider.create_eni(&other).await.unwrap_err().kind, CloudErrorKind::AddressInUse);
    let listed = rig.provider.enis_of_cluster("cluster-1").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].node.as_deref(), Some("node-1"), "a list says it too");
}

async fn an_eni_that_gets_stuck_on_its_way_can_be_taken_back(door: Door) {
    let rig = Rig::new(door);
    let hasty = rig.another(|config| config.pace.deadline = Duration::from_millis(600));
    rig.cloud.faults().add(Some("AttachNetworkInterface"), When::First(1), FaultKind::Stuck);
    let eni = rig.create("a").await.id;
    let error = hasty.attach_eni(&eni, "ins-a").await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Unavailable, "{error}");
    let states =
        |enis: Vec<ipam_agent::cloud::EniInfo>| enis.into_iter().map(|eni| eni.state).collect::<Vec<_>>();
    let listed = rig.provider.enis_of_cluster("cluster-1").await.unwrap();
    assert_eq!(states(listed), [EniCloudState::Attaching]);
    rig.provider.detach_eni(&eni).await.unwrap();
    rig.provider.delete_eni(&eni).await.unwrap();
    assert!(rig.secondary_enis().is_empty());

    rig.cloud.faults().add(Some("CreateNetworkInterface"), When::First(1), FaultKind::Stuck);
    let error = hasty.create_eni(&new_eni("b")).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Unavailable, "{error}");
    let pending = rig.provider.enis_of_cluster("cluster-1").await.unwrap();
    assert_eq!(pending[0].state, EniCloudState::Pending);
    rig.provider.delete_eni(&pending[0].id).await.unwrap();
    assert!(rig.secondary_enis().is_empty());
}

at_both_doors! {
    subnets_are_found_by_their_tag_and_come_and_go_while_it_runs,
    an_eni_has_the_primary_address_and_the_node_that_were_asked_for,
    an_eni_that_gets_stuck_on_its_way_can_be_taken_back,
}
