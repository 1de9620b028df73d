//! Two families: every pod has one address of each, and both do what one alone does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipam_agent::api::{ClaimPhase, IpPhase, VpcIP, VpcIPClaim};
use ipam_lab::cluster::{Cluster, RunningPod, eventually};
use ipam_lab::lab::netns::Netns;
use ipam_lab::lab::pod::LabPod;
use ipam_lab::lab::traffic::{TcpEcho, ping, tcp_roundtrip};
use ipam_lab::story::STATIC;
use kube::Api;

/// Less than duplicate address detection takes (RFC 4862: a second, and the kernel begins after another).
const AT_ONCE: Duration = Duration::from_millis(900);

async fn dual_stack(test: &str, cidrs: &str) -> Cluster {
    Cluster::builder(test)
        .subnet("subnet-a", "zone-1", cidrs)
        .node("node-a", "zone-1")
        .node("node-b", "zone-1")
        .controller_args(&["--ip-families", "ipv4,ipv6"])
        .start()
        .await
        .unwrap()
}

const CIDRS: &str = "10.0.1.0/24,fd00:0:0:1::/64";

/// Pings both addresses of a pod.
fn ping_both(from: &Netns, pod: &RunningPod) {
    let ips: [IpAddr; 2] = [pod.ip().into(), pod.ip_v6().into()];
    for ip in ips {
        ping(from, ip, AT_ONCE).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

fn name_of(ip: impl Into<IpAddr>) -> String {
    VpcIP::name_of(ip.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_reach_everything() {
    let cluster = dual_stack("dual_reach", CIDRS).await;
    let outside = cluster.lab.host("outside", "zone-1").unwrap();
    cluster.cloud.take_address(outside.ip());
    cluster.cloud.take_address(outside.ip_v6().unwrap());
    let a = cluster.run_pod("a", "node-a", &[]).await.unwrap();
    // Nothing is waited for: the first packets of either family after ADD get through.
    ping(a.sandbox.ns(), outside.ip_v6().unwrap(), AT_ONCE).unwrap();
    let beside = cluster.run_pod("beside", "node-a", &[]).await.unwrap();
    ping_both(a.sandbox.ns(), &beside);
    let far = cluster.run_pod("far", "node-b", &[]).await.unwrap();
    for (from, to) in [(&a, &far), (&far, &a), (&beside, &far), (&beside, &a)] {
        ping_both(from.sandbox.ns(), to);
    }

    // A probe of the node, and the pod's way to it.
    let node = cluster.node("node-a").machine();
    ping_both(node.ns(), &a);
    ping(a.sandbox.ns(), node.ip_v6().unwrap(), AT_ONCE).unwrap();
    ping(a.sandbox.ns(), cluster.node("node-b").machine().ip_v6().unwrap(), AT_ONCE).unwrap();
    ping_both(cluster.node("node-b").machine().ns(), &a);

    // The VPC sees the pod's own address, by the pod's own ENI.
    ping_both(outside.ns(), &a);
    let eni = cluster.cloud.snapshot().holder(a.ip_v6()).unwrap().id.clone();
    assert_eq!(cluster.cloud.snapshot().holder(a.ip()).unwrap().id, eni, "both on one ENI");
    let echo = TcpEcho::start(outside.ns(), SocketAddr::from((outside.ip_v6().unwrap(), 0))).unwrap();
    let before = cluster.lab.fabric().from_eni(&eni, a.ip_v6()).unwrap();
    tcp_roundtrip(a.sandbox.ns(), echo.address().unwrap(), &[7; 40_000], AT_ONCE).unwrap();
    assert_eq!(echo.peers()[0].ip(), IpAddr::from(a.ip_v6()));
    let after = cluster.lab.fabric().from_eni(&eni, a.ip_v6()).unwrap();
    assert!(after.bytes - before.bytes > 40_000, "{before:?} {after:?}");
    let served = TcpEcho::start(a.sandbox.ns(), SocketAddr::from((a.ip_v6(), 80))).unwrap();
    for from in [outside.ns(), far.sandbox.ns(), beside.sandbox.ns(), node.ns()] {
        tcp_roundtrip(from, served.address().unwrap(), &[7; 40_000], AT_ONCE).unwrap();
    }
    assert_eq!(cluster.lab.fabric().all_foreign_v6().unwrap(), []);
    assert_eq!(cluster.lab.fabric().all_foreign().unwrap(), []);

    // What the API, the runtime and the maps say.
    let claim = cluster.api::<VpcIPClaim>().get("a").await.unwrap().status.unwrap();
    assert_eq!(claim.address, Some(a.ip().to_string()));
    assert_eq!(claim.addresses, [a.ip().to_string(), a.ip_v6().to_string()]);
    let result = a.sandbox.result().unwrap();
    assert_eq!(result["ips"][1]["address"], format!("{}/128", a.ip_v6()));
    assert_eq!(result["ips"][1]["gateway"], "fe80::1");
    assert_eq!(result["routes"][1]["dst"], "::/0");
    assert_eq!(cluster.node("node-a").dump("POD_ROUTES_V6").unwrap().len(), 2);
    for pod in [&a, &beside, &far] {
        pod.check().await.unwrap();
    }
    let broken = "neigh replace fe80::1 lladdr 02:00:00:00:00:99 nud permanent dev eth0";
    assert!(a.sandbox.ns().command("ip").args(broken.split(' ')).status().unwrap().success());
    assert!(format!("{:#}", a.check().await.unwrap_err()).contains("neighbour fe80::1 is 02:00:00:00:00:99"));

    for pod in [a, beside, far] {
        cluster.end_pod(pod).await.unwrap();
    }
    for node in ["node-a", "node-b"] {
        cluster.node(node).wait_until_clean().await.unwrap();
    }
    assert_eq!(cluster.cloud.snapshot().violations, [""; 0]);
}

/// Epochs of both addresses.
async fn epochs(cluster: &Cluster, pod: &RunningPod) -> [i64; 2] {
    let ips = Api::<VpcIP>::all(cluster.client.clone());
    let mut epochs = [0; 2];
    for (epoch, name) in epochs.iter_mut().zip([name_of(pod.ip()), name_of(pod.ip_v6())]) {
        *epoch = ips.get(&name).await.unwrap().state().epoch;
    }
    epochs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_pod_keeps_both_addresses() {
    let mut cluster = dual_stack("dual_static", CIDRS).await;
    let other = cluster.run_pod("other", "node-b", &[]).await.unwrap();
    let web = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let (v4, v6) = (web.ip(), web.ip_v6());
    assert_eq!(epochs(&cluster, &web).await, [1, 1]);

    // The agent restarts under it.
    cluster.node_mut("node-a").restart_agent().await.unwrap();
    ping_both(other.sandbox.ns(), &web);
    web.check().await.unwrap();

    // Its successor on the same node, and on another.
    cluster.end_pod(web).await.unwrap();
    let ips = Api::<VpcIP>::all(cluster.client.clone());
    for name in [name_of(v4), name_of(v6)] {
        eventually("both addresses to be retained", async || {
            ips.get(&name).await.is_ok_and(|ip| ip.state().phase == IpPhase::Retained)
        })
        .await
        .unwrap();
    }
    let again = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    assert_eq!((again.ip(), again.ip_v6()), (v4, v6));
    assert_eq!(epochs(&cluster, &again).await, [2, 2]);
    ping_both(other.sandbox.ns(), &again);
    cluster.end_pod(again).await.unwrap();

    let moved = cluster.run_pod("web-0", "node-b", &[STATIC]).await.unwrap();
    assert_eq!((moved.ip(), moved.ip_v6()), (v4, v6));
    assert_eq!(epochs(&cluster, &moved).await, [3, 3]);
    ping_both(other.sandbox.ns(), &moved);
    ping_both(cluster.node("node-a").machine().ns(), &moved);
    let eni = cluster.cloud.snapshot().holder(v6).unwrap().id.clone();
    assert_eq!(cluster.lab.fabric().owner(v6), Some(eni.clone()));
    assert_eq!(cluster.lab.fabric().owner(v4), Some(eni));
    assert_eq!(cluster.cloud.snapshot().violations, [""; 0]);
    cluster.node("node-a").wait_until_clean().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_all_addresses_or_none() {
    // Three of six IPv6 addresses are machines', and the first is nobody's: two are left.
    let cluster = dual_stack("dual_none", "10.0.1.0/24,fd00:0:0:1::/125").await;
    let a = cluster.run_pod("a", "node-a", &[]).await.unwrap();
    let b = cluster.run_pod("b", "node-a", &[]).await.unwrap();
    let waiting = cluster.create_pod("c", "node-a", &[]).await.unwrap();
    let claims = cluster.api::<VpcIPClaim>();
    eventually("the third to wait for an IPv6 address", async || {
        let Ok(claim) = claims.get("c").await else { return false };
        let status = claim.status.unwrap_or_default();
        status.phase == ClaimPhase::Pending
            && status.address.is_none()
            && status.conditions.iter().any(|ready| {
                ready.reason == "PoolExhausted"
                    && ready.message.starts_with("no free IPv6 address: subnet subnet-a")
            })
    })
    .await
    .unwrap();
    let bound = |ip: &VpcIP| {
        ip.spec.claim_ref.as_ref().is_some_and(|claim| claim.name == "c")
            && ip.state().phase == IpPhase::Bound
    };
    let ips = Api::<VpcIP>::all(cluster.client.clone());
    assert!(!ips.list(&Default::default()).await.unwrap().iter().any(bound), "an IPv4 address alone");
    assert_eq!(cluster.node("node-a").dump("POD_ROUTES_V4").unwrap().len(), 2);

    // It heals as soon as there is one.
    let add = async { cluster.add_sandbox(&waiting, "node-a").await };
    let (c, ended) = tokio::join!(add, cluster.end_pod(a));
    ended.unwrap();
    let c = c.unwrap();
    ping_both(b.sandbox.ns(), &c);
    assert_eq!(cluster.cloud.snapshot().violations, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nominated_address_of_each_family() {
    let cluster = dual_stack("dual_nominated", CIDRS).await;
    // ENIs first: their own addresses are picked at random.
    eventually("an ENI for each node", async || cluster.cloud.snapshot().pod_enis() == 2).await.unwrap();
    let v4 = cluster.cloud.snapshot().free_from([10, 0, 1, 77]);
    let wish = format!("{v4}, FD00:0:0:1::77");
    let wish = ("eni-ipam.dev/nominated-vpc-ip", wish.as_str());
    let both = cluster.run_pod("both", "node-a", &[wish]).await.unwrap();
    assert_eq!((both.ip(), both.ip_v6().to_string()), (v4, "fd00:0:0:1::77".into()));
    let wish = ("eni-ipam.dev/nominated-vpc-ip", "fd00:0:0:1::78");
    let one = cluster.run_pod("one", "node-b", &[wish]).await.unwrap();
    assert_eq!(one.ip_v6().to_string(), "fd00:0:0:1::78");
    ping_both(both.sandbox.ns(), &one);
}

/// A pod that takes an IPv6 address which is not its own sends nothing from it, and the node counts what it tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_ipv6_source_is_dropped_and_counted() {
    let cluster = dual_stack("dual_spoof", CIDRS).await;
    let pod = cluster.run_pod("pod", "node-a", &[]).await.unwrap();
    let victim = cluster.run_pod("victim", "node-a", &[]).await.unwrap();
    let far = cluster.run_pod("far", "node-b", &[]).await.unwrap();
    let ip = |args: String| {
        let status = pod.sandbox.ns().command("ip").args(args.split(' ')).status().unwrap();
        assert!(status.success(), "ip {args}");
    };
    let ping_from = |source: &str| {
        let args = ["-6", "-n", "-c2", "-i0.2", "-W0.3", "-I", source, &far.ip_v6().to_string()];
        pod.sandbox.ns().command("ping").args(args).output().unwrap().status.success()
    };
    assert!(ping_from(&pod.ip_v6().to_string()));
    let stranger = "fd00:0:0:1::bad";
    ip(format!("-6 addr add {stranger}/128 dev eth0 nodad"));
    let drops = || cluster.node("node-a").drops().unwrap().values().sum::<u64>();
    let before = drops();
    assert!(!ping_from(stranger));
    assert!(drops() - before >= 2, "dropped and not counted");
    // Another pod's address: known, but not at this interface.
    ip(format!("-6 addr add {}/128 dev eth0 nodad", victim.ip_v6()));
    let before = drops();
    assert!(!ping_from(&victim.ip_v6().to_string()));
    assert!(drops() - before >= 2, "dropped and not counted");
    assert_eq!(cluster.lab.fabric().all_foreign_v6().unwrap(), [], "the fabric saw nothing of it");
    ping_both(far.sandbox.ns(), &victim);
}

/// Duplicate address detection would make each ADD, or what comes first after it, wait for a second and more.
#[tokio::test(flavor = "multi_thread")]
async fn an_add_does_not_wait_for_duplicate_address_detection() {
    let cluster = dual_stack("dual_dad", CIDRS).await;
    let first = cluster.run_pod("first", "node-a", &[]).await.unwrap();
    let mut times = Vec::new();
    for n in 0..5 {
        let pod = cluster.create_pod(&format!("pod-{n}"), "node-a", &[]).await.unwrap();
        let claims = cluster.api::<VpcIPClaim>();
        eventually("the addresses to be bound", async || {
            let claim = claims.get(&format!("pod-{n}")).await;
            claim.is_ok_and(|claim| claim.status.is_some_and(|status| status.phase == ClaimPhase::Bound))
        })
        .await
        .unwrap();
        let sandbox = cluster.sandbox(&pod, "node-a").await.unwrap();
        let outcome = sandbox.outcome(LabPod::add).await.unwrap();
        outcome.ok().unwrap();
        ping(first.sandbox.ns(), sandbox.ip_v6(), AT_ONCE).unwrap();
        times.push(outcome.time);
    }
    times.sort_unstable();
    println!("ADD with two bound addresses: median {:?}", times[2]);
    assert!(times[2] < Duration::from_millis(700), "{times:?}");
}
