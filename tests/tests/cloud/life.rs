//! What the calls do when nothing goes wrong.

use std::time::Duration;

use futures::StreamExt as _;
use ipam_agent::cloud::{EniCloudState, NewEni};
use ipam_lab::caller::Door;
use ipam_lab::cloud_server::{FaultKind, When};

use crate::rig::{Rig, at_both_doors, cloud_config, ip, new_eni, v4};

async fn a_whole_life(door: Door, rig: &Rig) {
    let provider = &rig.provider;
    let subnets = provider.subnets().await.unwrap();
    let ids: Vec<_> = subnets.iter().map(|s| (s.id.as_str(), s.zone.as_str(), s.available)).collect();
    // 256, 16 and 1024, less what the cloud keeps of each, less two primary ENIs.
    let kept = door.pick(3, 5);
    let expected = [
        ("subnet-a", "ap-lab-1", 256 - kept),
        ("subnet-b", "ap-lab-1", 16 - kept - 2),
        ("subnet-z", "ap-lab-2", 1024 - kept),
    ];
    assert_eq!(ids, expected);
    assert_eq!((subnets[0].gateway, subnets[0].cidr.to_string()), (v4(1), "10.0.1.0/24".into()));

    let primaries = provider.enis_of("ins-a").await.unwrap();
    assert_eq!(primaries.len(), 1);
    assert!(primaries[0].primary && primaries[0].state == EniCloudState::Attached);

    let first = rig.create("pods-1").await;
    assert_eq!(first.state, EniCloudState::Available);
    let lowest = v4(door.pick(2, 4));
    assert_eq!((first.primary_ip, first.subnet_id.as_str()), (lowest, "subnet-a"));
    assert_eq!((first.primary, first.instance_id, first.assignable), (false, None, None));
    assert_eq!(rig.world.take(), [""; 0], "a detached ENI is nowhere");

    provider.assign_ips(&first.id, &[ip(20)]).await.unwrap();
    provider.attach_eni(&first.id, "ins-a").await.unwrap();
    let id = &first.id;
    assert_eq!(rig.world.take(), [format!("attach {id} to ins-a via 10.0.1.1 with {lowest},10.0.1.20")]);

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

async fn with_tasks_done_at_once(door: Door) {
    a_whole_life(door, &Rig::new(door)).await;
}

async fn with_tasks_that_take_their_time(door: Door) {
    let rig = Rig::slow(door, Duration::from_millis(40));
    a_whole_life(door, &rig).await;
    let running = rig.cloud.count(door.pick("DescribeVpcTaskResult", "DescribeNetworkInterfaces"));
    assert!(running > 20, "tasks were asked after {running} times only");
}

/// What is already so is success, for this process and the next.
async fn everything_can_be_said_twice(door: Door) {
    let rig = Rig::new(door);
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
async fn many_addresses_go_in_batches(door: Door) {
    let rig = Rig::new(door);
    let eni = rig.attached("a", "ins-a").await.id;
    rig.provider.assign_ips(&eni, &[ip(25), ip(33)]).await.unwrap();
    let all: Vec<_> = (20..35).map(ip).collect();
    rig.provider.assign_ips(&eni, &all).await.unwrap();
    assert_eq!(rig.ips_of(&eni), (20..35).map(v4).collect::<Vec<_>>());
    rig.provider.unassign_ips(&eni, &all[3..]).await.unwrap();
    rig.provider.unassign_ips(&eni, &all).await.unwrap();
    assert!(rig.ips_of(&eni).is_empty());
}

async fn lists_longer_than_a_page_are_read_whole(door: Door) {
    let rig = Rig::new(door);
    let create = |n| {
        let provider = rig.provider.clone();
        let eni = NewEni { subnet_id: "subnet-z".into(), ..new_eni(&format!("eni-{n}")) };
        async move { provider.create_eni(&eni).await.unwrap() }
    };
    futures::stream::iter((0..230).map(create)).buffer_unordered(16).collect::<Vec<_>>().await;
    let before = rig.cloud.count("DescribeNetworkInterfaces");
    let enis = rig.provider.enis_of_cluster("cluster-1").await.unwrap();
    let ids: std::collections::BTreeSet<_> = enis.iter().map(|eni| eni.id.as_str()).collect();
    assert_eq!((enis.len(), ids.len()), (230, 230));
    assert_eq!(rig.cloud.count("DescribeNetworkInterfaces") - before, 3);
}

/// An ENI that goes between two pages moves another one onto the page that was read already.
#[tokio::test]
async fn a_list_that_changes_while_it_is_read_is_read_again() {
    let rig = Rig::new(Door::Tencent);
    let mut ids = std::collections::BTreeSet::new();
    for n in 0..120 {
        ids.insert(rig.create(&format!("eni-{n}")).await.id);
    }
    let late = FaultKind::Late(Duration::from_millis(1500));
    let asked = || rig.cloud.count("DescribeNetworkInterfaces");
    let before = asked();
    rig.cloud.faults().add(Some("DescribeNetworkInterfaces"), When::Nth(1), late);
    let gone = ids.pop_first().unwrap();
    let delete = async {
        while asked() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rig.provider.delete_eni(&gone).await.unwrap();
    };
    let (enis, ()) = futures::join!(rig.provider.enis_of_cluster("cluster-1"), delete);
    let found: std::collections::BTreeSet<_> = enis.unwrap().into_iter().map(|eni| eni.id).collect();
    assert_eq!(found, ids);
}

/// A name whose first ENI was deleted gets a new one, though the client token still names the old.
async fn a_name_can_be_used_again(door: Door) {
    let rig = Rig::new(door);
    let first = rig.create("again").await;
    rig.provider.delete_eni(&first.id).await.unwrap();
    let second = rig.create("again").await;
    assert_ne!(first.id, second.id);
    assert_eq!(rig.secondary_enis().len(), 1);
}

/// Part of a name is another name, and so is that of another cluster.
async fn names_are_whole_and_of_their_cluster(door: Door) {
    let rig = Rig::new(door);
    let long = rig.create("pods-10").await;
    let short = rig.create("pods-1").await;
    let foreign = NewEni { cluster_id: "cluster-2".into(), ..new_eni("pods-1") };
    let foreign = rig.provider.create_eni(&foreign).await.unwrap();
    assert!(long.id != short.id && short.id != foreign.id);
    assert_eq!(rig.provider.enis_of_cluster("cluster-1").await.unwrap().len(), 2);
}

/// Five changes of one ENI at a time: the cloud does one after another, and the provider waits its turn.
async fn changes_of_one_eni_wait_for_each_other(door: Door) {
    let rig = Rig::slow(door, Duration::from_millis(30));
    let eni = rig.attached("a", "ins-a").await.id;
    let one = |last: u8| {
        let (provider, eni) = (&rig.provider, &eni);
        async move { provider.assign_ips(eni, &[ip(last)]).await }
    };
    let results = futures::future::join_all((20..25).map(one)).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(rig.ips_of(&eni), (20..25).map(v4).collect::<Vec<_>>());
    let waits = door.pick("UnsupportedOperation.MutexOperationTaskRunning", "IncorrectState");
    assert!(rig.cloud.calls().iter().any(|call| call.outcome == waits));
}

/// The cloud's limit is kept by waiting, ours by not asking faster.
async fn rates_are_kept(door: Door) {
    let mut config = cloud_config();
    config.quotas.calls_per_second = Some(10);
    let rig = Rig::with(door, config);
    let eni = rig.create("a").await.id;
    // 15 changes of one ENI, of which it takes one at a time, at 10 calls in a second.
    let patient = rig.another(|config| config.pace.deadline = Duration::from_secs(60));
    let one = |last: u8| {
        let (provider, eni) = (&patient, &eni);
        async move { provider.assign_ips(eni, &[ip(last)]).await }
    };
    let results = futures::future::join_all((20..35).map(one)).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let throttled = |call: &ipam_lab::cloud_server::Call| call.outcome == "RequestLimitExceeded";
    assert!(rig.cloud.calls().iter().any(throttled));

    let polite = Rig::new(door);
    let provider = polite.another(|config| config.pace.qps = std::num::NonZeroU32::new(50).unwrap());
    let began = std::time::Instant::now();
    for _ in 0..80 {
        provider.enis_of("ins-a").await.unwrap();
    }
    assert!(began.elapsed() > Duration::from_millis(500), "80 calls, 50 at once and then 50 a second");
}

at_both_doors! {
    with_tasks_done_at_once,
    with_tasks_that_take_their_time,
    everything_can_be_said_twice,
    many_addresses_go_in_batches,
    lists_longer_than_a_page_are_read_whole,
    a_name_can_be_used_again,
    names_are_whole_and_of_their_cluster,
    changes_of_one_eni_wait_for_each_other,
    rates_are_kept,
}
