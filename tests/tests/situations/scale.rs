//! What a node costs does not depend on how many there are.

use futures::StreamExt as _;
use ipam_agent::api::{IpPhase, VpcIP, VpcIPSpec, VpcIPStatus, VpcIPType};
use ipam_lab::cluster::Cluster;
use ipam_lab::lab::traffic::ping;
use kube::Api;
use kube::api::PostParams;

/// Addresses of other nodes. An agent that knew them would keep some kilobytes of each.
const OTHERS: u32 = 3000;

/// Resident memory of a process, in kilobytes.
fn resident(pid: u32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_memory_does_not_grow_with_the_cluster() {
    let mut cluster = Cluster::two_nodes("memory").await.unwrap();
    let pod = cluster.run_pod("web-0", "node-a", &[]).await.unwrap();
    let pid = cluster.node_mut("node-a").agent().pid();
    let before = resident(pid);
    let api = Api::<VpcIP>::all(cluster.client.clone());
    let made = futures::stream::iter(0..OTHERS).map(async |n| {
        let ip = format!("10.{}.{}.{}", 100 + n / 65536, n / 256 % 256, n % 256);
        let spec = VpcIPSpec {
            type_: VpcIPType::Eni,
            ip: ip.clone(),
            subnet_id: "of another zone".into(),
            claim_ref: None,
        };
        let mut object = api.create(&PostParams::default(), &VpcIP::new(&ip, spec)).await.unwrap();
        object.status = Some(VpcIPStatus {
            phase: IpPhase::Bound,
            node_name: Some(format!("node-{n}")),
            eni_id: Some(format!("eni-{n}")),
            ..VpcIPStatus::default()
        });
        api.replace_status(&ip, &PostParams::default(), &object).await.unwrap();
    });
    made.buffer_unordered(64).collect::<()>().await;
    // It has heard of what came after all of them.
    let next = cluster.run_pod("web-1", "node-a", &[]).await.unwrap();
    ping(next.sandbox.ns(), pod.ip(), std::time::Duration::from_secs(2)).unwrap();
    let after = resident(pid);
    println!("agent: {before} kB, with {OTHERS} addresses of other nodes {after} kB");
    assert!(after - before < 1500, "{before} kB → {after} kB");
}
