//! The CNI specification's table, by exec of the real plugin against the real agent.

use std::time::{Duration, Instant};

use ipam_cni::error::code;
use ipam_lab::cluster::{Cluster, NETWORK, eventually};
use ipam_lab::lab::pod::LabPod;
use ipam_lab::lab::traffic::ping;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn results_have_the_shape_of_each_version() {
    let cluster = Cluster::two_nodes("versions").await.unwrap();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let name = format!("pod-{}", version.replace('.', "-"));
        let pod = cluster.create_pod(&name, "node-a", &[]).await.unwrap();
        let mut sandbox = cluster.sandbox(&pod, "node-a").await.unwrap();
        sandbox.conf["cniVersion"] = json!(version);
        let result = sandbox.add().await.unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["address"], format!("{}/32", sandbox.ip()));
        assert_eq!(result["ips"][0]["version"], if version < "1" { json!("4") } else { json!(null) });
        let interface = &result["interfaces"][result["ips"][0]["interface"].as_u64().unwrap() as usize];
        assert_eq!(interface["name"], "eth0");
        assert_eq!(interface["sandbox"].as_str(), sandbox.sandbox.ns().path().to_str());
        assert_eq!(result["routes"][0]["dst"], "0.0.0.0/0");
        if version != "0.3.1" {
            sandbox.check().await.unwrap();
        }
        sandbox.del().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn add_is_not_idempotent_and_del_is() {
    let cluster = Cluster::two_nodes("idempotent").await.unwrap();
    let pod = cluster.run_pod("web-0", "node-a", &[]).await.unwrap();
    let ip = pod.ip();
    let again = pod.outcome(LabPod::add).await.unwrap();
    assert_eq!(again.error().unwrap().code, code::INTERFACE_EXISTS, "{}", again.stdout);
    assert_eq!(pod.ip(), ip);
    ping(pod.sandbox.ns(), cluster.lab.ctl().ip(), Duration::from_secs(2)).unwrap();
    pod.del().await.unwrap();
    pod.del().await.unwrap();
    // After a reboot there is no namespace, and no result.
    let (sandbox, conf) = (&pod.sandbox, pod.conf.to_string());
    for netns in [None, Some("/run/netns/gone-after-reboot")] {
        sandbox.cni("DEL", &[("CNI_NETNS", netns)], &conf).unwrap().ok().unwrap();
    }
    cluster.node("node-a").wait_until_clean().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_what_is_broken_on_either_side() {
    let cluster = Cluster::two_nodes("check").await.unwrap();
    let pod = cluster.run_pod("web-0", "node-a", &[]).await.unwrap();
    let node = cluster.node("node-a").machine();
    let ip = pod.ip();
    let host_veth = pod.sandbox.result().unwrap()["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let in_pod = |args: String| {
        let status = pod.sandbox.ns().command("ip").args(args.split_whitespace()).status().unwrap();
        assert!(status.success(), "ip {args}");
    };
    pod.check().await.unwrap();
    for (breaks, mends) in [
        ("route del default", "route add default via 169.254.1.1 dev eth0 onlink".to_owned()),
        ("link set eth0 mtu 1400", "link set eth0 mtu 1500".to_owned()),
    ] {
        in_pod(breaks.into());
        let outcome = pod.outcome(LabPod::check).await.unwrap();
        assert_eq!(outcome.error().unwrap().code, code::CHECK_FAILED, "{breaks}: {}", outcome.stdout);
        in_pod(mends);
        pod.check().await.unwrap_or_else(|error| panic!("mended after {breaks}: {error:#}"));
    }
    // What is on the node is mended by the agent, which may be faster than CHECK.
    eventually("CHECK to miss the route", async || {
        let _ = node.command("ip").args(["route", "del", &format!("{ip}/32"), "dev", &host_veth]).output();
        let outcome = pod.outcome(LabPod::check).await.unwrap();
        outcome.error().is_some_and(|error| error.code == code::CHECK_FAILED)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_takes_what_is_not_valid_and_nothing_else() {
    let cluster = Cluster::two_nodes("gc").await.unwrap();
    let kept = cluster.run_pod("kept", "node-a", &[]).await.unwrap();
    let dropped = cluster.run_pod("dropped", "node-a", &[]).await.unwrap();
    let mut conf = kept.conf.clone();
    conf["cniVersion"] = json!("1.1.0");
    conf["cni.dev/valid-attachments"] =
        json!([{ "containerID": kept.sandbox.container_id, "ifname": "eth0" }]);
    kept.sandbox
        .cni("GC", &[("CNI_NETNS", None), ("CNI_CONTAINERID", None), ("CNI_IFNAME", None)], &conf.to_string())
        .unwrap()
        .ok()
        .unwrap();
    let routes = cluster.node("node-a").dump("POD_ROUTES_V4").unwrap();
    let keys: Vec<_> = routes.iter().map(|entry| entry["formatted"]["key"]["octets"].clone()).collect();
    assert_eq!(keys, [json!(kept.ip().octets())], "{} was to go", dropped.ip());
    kept.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_whether_add_can_be_served() {
    let mut cluster = Cluster::two_nodes("status").await.unwrap();
    let pod = cluster.run_pod("web-0", "node-a", &[]).await.unwrap();
    let mut conf = pod.conf.clone();
    conf["cniVersion"] = json!("1.1.0");
    let status = || {
        pod.sandbox
            .cni(
                "STATUS",
                &[("CNI_NETNS", None), ("CNI_CONTAINERID", None), ("CNI_IFNAME", None)],
                &conf.to_string(),
            )
            .unwrap()
    };
    status().ok().unwrap();
    cluster.node_mut("node-a").agent().kill9().unwrap();
    let error = status().error().unwrap();
    assert_eq!(error.code, code::NOT_AVAILABLE, "{error}");
    // With the agent away, DEL must fail so that the runtime tries again, and ADD must ask to be tried again.
    assert_eq!(pod.outcome(LabPod::del).await.unwrap().error().unwrap().code, code::TRY_AGAIN_LATER);
    cluster.node_mut("node-a").start_agent(&[]).unwrap();
    cluster.node("node-a").wait_until_served().await.unwrap();
    pod.del().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn add_without_an_address_ends_in_time_with_the_reason() {
    let cluster = Cluster::builder("no_address")
        .subnet("subnet-a", "zone-1", "10.0.1.0/24")
        .node("node-a", "zone-1")
        .limits(1, 1)
        .start()
        .await
        .unwrap();
    cluster.run_pod("first", "node-a", &[]).await.unwrap();
    let pod = cluster.create_pod("second", "node-a", &[]).await.unwrap();
    let sandbox = cluster.sandbox(&pod, "node-a").await.unwrap();
    let start = Instant::now();
    let outcome = sandbox.outcome(LabPod::add).await.unwrap();
    let error = outcome.error().unwrap();
    assert_eq!(error.code, code::TRY_AGAIN_LATER, "{error}");
    assert!(error.to_string().contains("none can take one more"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(50), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_calls_name_what_is_wrong() {
    let cluster = Cluster::two_nodes("bad_calls").await.unwrap();
    let pod = cluster.create_pod("web-0", "node-a", &[]).await.unwrap();
    let sandbox = cluster.sandbox(&pod, "node-a").await.unwrap();
    let conf = sandbox.conf.to_string();
    let with = |key: &str, value: serde_json::Value| {
        let mut conf = sandbox.conf.clone();
        conf[key] = value;
        conf.to_string()
    };
    let cases: [(&str, Option<&str>, String, u32, &str); 6] = [
        ("CNI_CONTAINERID", Some("../../etc"), conf.clone(), code::INVALID_ENVIRONMENT, "CNI_CONTAINERID"),
        ("CNI_NETNS", None, conf.clone(), code::INVALID_ENVIRONMENT, "CNI_NETNS"),
        ("CNI_IFNAME", Some("much-too-long-a-name"), conf.clone(), code::INVALID_ENVIRONMENT, "CNI_IFNAME"),
        ("IGNORED", None, "{ \"name\": ".into(), code::DECODE, "line 1"),
        ("IGNORED", None, with("cniVersion", json!("9.9.9")), code::INCOMPATIBLE_VERSION, "9.9.9"),
        ("IGNORED", None, with("socket", json!(7)), code::INVALID_CONFIG, "socket"),
    ];
    for (variable, value, stdin, code, words) in cases {
        let outcome = sandbox.sandbox.cni("ADD", &[(variable, value)], &stdin).unwrap();
        let error =
            outcome.error().unwrap_or_else(|| panic!("{variable}: {} {}", outcome.stdout, outcome.stderr));
        assert_eq!(error.code, code, "{variable}: {error}");
        assert!(error.to_string().contains(words), "{error} does not name {words}");
    }
    assert_eq!(NETWORK, "eni-ipam");
    cluster.node("node-a").wait_until_clean().await.unwrap();
}
