//! What the calls do when nothing goes wrong.

use std::time::Duration;

use ipam_agent::cloud::{EniCloudState, EniProvider};
use ipam_lab::cloud_server::{FaultKind, When};

use crate::rig::{Rig, cloud_config, ip, new_eni, v4};

async fn a_whole_life(rig: &Rig) {
    let provider = &rig.provider;
    let subnets = provider.subnets().await.unwrap();
    let ids: Vec<_> = subnets.iter().map(|s| (s.id.as_str(), s.zone.as_str(), s.available)).collect();
    // 256, 16 and 1024, less three each, less two primary ENIs.
    let expected =
        [("subnet-a", "ap-lab-1", 253), ("subnet-b", "ap-lab-1", 11), ("subnet-z", "ap-lab-2", 1021)];
    assert_eq!(ids, expected);
    assert_eq!((subnets[0].gateway, subnets[0].cidr.to_string()), (v4(1), "10.0.1.0/24".into()));

    let primaries = provider.enis_of("ins-a").await.unwrap();
    assert_eq!(primaries.len(), 1);
    assert!(primaries[0].primary && primaries[0].state == EniCloudState::Attached);

    let first = rig.create("pods-1").await;
    assert_eq!(first.state, EniCloudState::Available);
    assert_eq!((first.primary_ip, first.subnet_id.as_str()), (v4(2), "subnet-a"));
    assert_eq!((first.primary, first.instance_id, first.assignable), (false, None, None));
    assert_eq!(rig.world.take(), [""; 0], "a detached ENI is nowhere");

    provider.assign_ips(&first.id, &[ip(20)]).await.unwrap();
    provider.attach_eni(&first.id, "ins-a").await.unwrap();
    let id = &first.id;
    assert_eq!(rig.world.take(), [format!("attach {id} to ins-a via 10.0.1.1 with 10.0.1.2,10.0.1.20")]);

    let second = rig.attached("pods-2", "ins-b").await;
    let other = &second.id;
    rig.world.take();
    provider.assign_ips(id, &[ip(21), ip(22)]).await.unwrap();
    provider.migrate_ip(id, other, ip(21)).await.unwrap();
    provider.unassign_ips(other, &[ip(21)]).await.unwrap();
    assert_eq!(
        rig.world.take(),
        [
            format!("assign 10.0.1.21 to {id}"),
            format!("assign 10.0.1.22 to {id}"),
            format!("unassign 10.0.1.21 from {id}"),
            format!("assign 10.0.1.21 to {other}"),
            format!("unassign 10.0.1.21 from {other}"),
        ]
    );

    let of_a = provider.enis_of("ins-a").await.unwrap();
    let found = of_a.iter().find(|eni| eni.id == *id).unwrap();
    assert_eq!(found.state, EniCloudState::Attached);
    assert_eq!(found.instance_id.as_deref(), Some("ins-a"));
    assert_eq!(found.mac, first.mac);
    assert_eq!(found.secondary_ips, [v4(20), v4(22)]);
    assert_eq!(provider.enis_of_cluster("cluster-1").await.unwrap().len(), 2);
    assert!(provider.enis_of_cluster("cluster-2").await.unwrap().is_empty());

    for eni in [id, other] {
        provider.detach_eni(eni).await.unwrap();
        provider.delete_eni(eni).await.unwrap();
    }
    assert_eq!(rig.world.take(), [format!("detach {id}"), format!("detach {other}")]);
    assert!(rig.secondary_enis().is_empty());
    assert_eq!(rig.cloud.snapshot().violations, [""; 0]);
}

#[tokio::test]
async fn with_tasks_done_at_once() {
    a_whole_life(&Rig::new()).await;
}

#[tokio::test]
async fn with_tasks_that_take_their_time() {
    let rig = Rig::slow(Duration::from_millis(40));
    a_whole_life(&rig).await;
    let running = rig.cloud.count("DescribeVpcTaskResult");
    assert!(running > 20, "tasks were asked after {running} times only");
}

/// What is already so is success, for this process and the next.
#[tokio::test]
async fn everything_can_be_said_twice() {
    let rig = Rig::new();
    let next = rig.another(|_| ());
    let (a, b) = (rig.attached("a", "ins-a").await.id, rig.attached("b", "ins-b").await.id);
    for provider in [&rig.provider, &next] {
        assert_eq!(provider.create_eni(&new_eni("a")).await.unwrap().id, a);
        provider.attach_eni(&a, "ins-a").await.unwrap();
        provider.assign_ips(&a, &[ip(20), ip(21)]).await.unwrap();
    }
    for provider in [&rig.provider, &next] {
        provider.migrate_ip(&a, &b, ip(20)).await.unwrap();
        provider.unassign_ips(&a, &[ip(20), ip(21)]).await.unwrap();
    }
    assert_eq!((rig.ips_of(&a), rig.ips_of(&b)), (vec![], vec![v4(20)]));
    for provider in [&rig.provider, &next] {
        provider.detach_eni(&a).await.unwrap();
    }
    for provider in [&rig.provider, &next] {
        provider.delete_eni(&a).await.unwrap();
        provider.detach_eni(&a).await.unwrap();
        provider.unassign_ips(&a, &[ip(21)]).await.unwrap();
    }
    assert_eq!(rig.secondary_enis().len(), 1);
    let attached = rig.world.take().iter().filter(|what| what.starts_with("attach")).count();
    assert_eq!(attached, 2);
}

/// An address more than one call takes goes in several calls; some of them being there is no error.
#[tokio::test]
async fn many_addresses_go_in_batches() {
    let rig = Rig::new();
    let eni = rig.attached("a", "ins-a").await.id;
    rig.provider.assign_ips(&eni, &[ip(25), ip(33)]).await.unwrap();
    let all: Vec<_> = (20..35).map(ip).collect();
    rig.provider.assign_ips(&eni, &all).await.unwrap();
    assert_eq!(rig.ips_of(&eni), (20..35).map(v4).collect::<Vec<_>>());
    rig.provider.unassign_ips(&eni, &all[3..]).await.unwrap();
    rig.provider.unassign_ips(&eni, &all).await.unwrap();
    assert!(rig.ips_of(&eni).is_empty());
}

#[tokio::test]
async fn lists_longer_than_a_page_are_read_whole() {
    let rig = Rig::new();
    for n in 0..230 {
        let name = format!("eni-{n}");
        let eni = ipam_agent::cloud::NewEni { subnet_id: "subnet-z".into(), ..new_eni(&name) };
        rig.provider.create_eni(&eni).await.unwrap();
    }
    let before = rig.cloud.count("DescribeNetworkInterfaces");
    let enis = rig.provider.enis_of_cluster("cluster-1").await.unwrap();
    let ids: std::collections::BTreeSet<_> = enis.iter().map(|eni| eni.id.as_str()).collect();
    assert_eq!((enis.len(), ids.len()), (230, 230));
    assert_eq!(rig.cloud.count("DescribeNetworkInterfaces") - before, 3);
}

/// An ENI that goes between two pages moves another one onto the page that was read already.
#[tokio::test]
async fn a_list_that_changes_while_it_is_read_is_read_again() {
    let rig = Rig::new();
    let mut ids = std::collections::BTreeSet::new();
    for n in 0..120 {
        ids.insert(rig.create(&format!("eni-{n}")).await.id);
    }
    let late = FaultKind::Late(Duration::from_millis(300));
    rig.cloud.faults().add(Some("DescribeNetworkInterfaces"), When::Nth(1), late);
    let gone = ids.pop_first().unwrap();
    let delete = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.provider.delete_eni(&gone).await.unwrap();
    };
    let (enis, ()) = futures::join!(rig.provider.enis_of_cluster("cluster-1"), delete);
    let found: std::collections::BTreeSet<_> = enis.unwrap().into_iter().map(|eni| eni.id).collect();
    assert_eq!(found, ids);
}

/// A name whose first ENI was deleted gets a new one, though the client token still names the old.
#[tokio::test]
async fn a_name_can_be_used_again() {
    let rig = Rig::new();
    let first = rig.create("again").await;
    rig.provider.delete_eni(&first.id).await.unwrap();
    let second = rig.create("again").await;
    assert_ne!(first.id, second.id);
    assert_eq!(rig.secondary_enis().len(), 1);
}

/// Part of a name is another name, and so is that of another cluster.
#[tokio::test]
async fn names_are_whole_and_of_their_cluster() {
    let rig = Rig::new();
    let long = rig.create("pods-10").await;
    let short = rig.create("pods-1").await;
    let foreign = ipam_agent::cloud::NewEni { cluster_id: "cluster-2".into(), ..new_eni("pods-1") };
    let foreign = rig.provider.create_eni(&foreign).await.unwrap();
    assert!(long.id != short.id && short.id != foreign.id);
    assert_eq!(rig.provider.enis_of_cluster("cluster-1").await.unwrap().len(), 2);
}

/// Five changes of one ENI at a time: the cloud does one after another, and the provider waits its turn.
#[tokio::test]
async fn changes_of_one_eni_wait_for_each_other() {
    let rig = Rig::slow(Duration::from_millis(30));
    let eni = rig.attached("a", "ins-a").await.id;
    let one = |last: u8| {
        let (provider, eni) = (&rig.provider, &eni);
        async move { provider.assign_ips(eni, &[ip(last)]).await }
    };
    let results = futures::future::join_all((20..25).map(one)).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(rig.ips_of(&eni), (20..25).map(v4).collect::<Vec<_>>());
    assert!(rig.cloud.calls().iter().any(|call| call.outcome.ends_with("MutexOperationTaskRunning")));
}

/// The cloud's limit is kept by waiting, ours by not asking faster.
#[tokio::test]
async fn rates_are_kept() {
    let mut config = cloud_config();
    config.quotas.calls_per_second = Some(10);
    let rig = Rig::with(config);
    let eni = rig.create("a").await.id;
    let one = |last: u8| {
        let (provider, eni) = (&rig.provider, &eni);
        async move { provider.assign_ips(eni, &[ip(last)]).await }
    };
    let results = futures::future::join_all((20..35).map(one)).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let throttled = |call: &ipam_lab::cloud_server::Call| call.outcome == "RequestLimitExceeded";
    assert!(rig.cloud.calls().iter().any(throttled));

    let polite = Rig::new();
    let provider = polite.another(|config| config.pace.qps = std::num::NonZeroU32::new(50).unwrap());
    let began = std::time::Instant::now();
    for _ in 0..80 {
        provider.enis_of("ins-a").await.unwrap();
    }
    assert!(began.elapsed() > Duration::from_millis(500), "80 calls, 50 at once and then 50 a second");
}
