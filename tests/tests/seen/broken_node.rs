//! Pods of which something on the node was taken away, while nothing is repaired: the first line names what.

use ipam_lab::lab::GATEWAY_V6;

use crate::site::{Site, run};

/// Entry of slot 1 of the map `ENIS`, as bpftool prints it.
fn slot_1(site: &Site) -> Vec<String> {
    let entries = site.cluster.node("node-a").dump("ENIS").unwrap();
    let values = entries[1]["value"].as_array().unwrap();
    values.iter().map(|byte| byte.as_str().unwrap().to_owned()).collect()
}

fn write_slot_1(site: &Site, value: &[String]) {
    let map = site.map("ENIS");
    run(site.node_ns(), &format!("bpftool map update {map} key 1 0 0 0 value {}", value.join(" ")));
}

/// The octets of the pod's address, as bpftool takes them.
fn key(pod: &ipam_lab::cluster::RunningPod) -> String {
    pod.ip().octets().map(|octet| octet.to_string()).join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn veth_down() {
    let (site, _pod) = Site::held("broken-down").await;
    let veth = site.veth();
    run(site.node_ns(), &format!("ip link set {veth} down"));
    site.assert_fault(&format!("the node's end of its veth, {veth}, is down"));
}

#[tokio::test(flavor = "multi_thread")]
async fn veth_gone() {
    let (site, _pod) = Site::held("broken-gone").await;
    let veth = site.veth();
    run(site.node_ns(), &format!("ip link delete {veth}"));
    site.assert_fault(&format!("the node's end of its veth, {veth}, is gone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn program_missing() {
    let (site, _pod) = Site::held("broken-prog").await;
    let veth = site.veth();
    let links = site.cluster.node("node-a").machine().bpffs_dir().join("links");
    let pins = std::fs::read_dir(links).unwrap().map(|pin| pin.unwrap().path());
    let ours = pins.filter(|pin| {
        let name = pin.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(&veth) && name.ends_with("from_pod")
    });
    ours.for_each(|pin| std::fs::remove_file(pin).unwrap());
    site.wait_for_fault("web-0", "node-a", &format!("the program from_pod is not attached to {veth}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn map_entry_missing() {
    let (site, pod) = Site::held("broken-map").await;
    run(site.node_ns(), &format!("bpftool map delete {} key {}", site.map("POD_ROUTES_V4"), key(&pod)));
    site.assert_fault(&format!("the pod-IP-to-ENI map has no entry of {}", pod.ip()));
}

#[tokio::test(flavor = "multi_thread")]
async fn map_entry_wrong() {
    let (site, pod) = Site::held("broken-entry").await;
    let entries = site.cluster.node("node-a").dump("POD_ROUTES_V4").unwrap();
    let value = entries[0]["value"].as_array().unwrap();
    let mut value: Vec<String> = value.iter().map(|byte| byte.as_str().unwrap().to_owned()).collect();
    // The slot of the ENI follows interface and epoch.
    value[8] = "9".into();
    let map = site.map("POD_ROUTES_V4");
    run(site.node_ns(), &format!("bpftool map update {map} key {} value {}", key(&pod), value.join(" ")));
    let expected =
        format!("the entry of {} in the pod-IP-to-ENI map is wrong: ENI slot is 9 and should be 1", pod.ip());
    site.assert_fault(&expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn host_route_missing() {
    let (site, pod) = Site::held("broken-route").await;
    run(site.node_ns(), &format!("ip route delete {}/32", pod.ip()));
    site.assert_fault(&format!("the main table has no route of {} to {}", pod.ip(), site.veth()));
}

#[tokio::test(flavor = "multi_thread")]
async fn eni_down() {
    let (site, _pod) = Site::held("broken-eni").await;
    let eni = site.eni();
    run(site.node_ns(), &format!("ip link set {eni} down"));
    site.assert_fault(&format!("device {eni} of ENI eni-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn eni_slot_empty() {
    let (site, _pod) = Site::held("broken-slot").await;
    let empty = vec!["0".to_owned(); slot_1(&site).len()];
    write_slot_1(&site, &empty);
    site.assert_fault("slot 1 of the map ENIS is empty: ENI eni-");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_unknown() {
    let (site, _pod) = Site::held("broken-gw").await;
    let mut value = slot_1(&site);
    // The gateway's MAC follows interface, MTU, flags and the ENI's own MAC.
    value[18..24].fill("0".into());
    write_slot_1(&site, &value);
    site.assert_fault("the MAC of the gateway 10.0.1.1 of ENI eni-");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_of_ipv6_unknown() {
    let (site, _pod) = Site::held_dual_stack("broken-gw6").await;
    let mut value = slot_1(&site);
    // It follows that of IPv4.
    value[24..30].fill("0".into());
    write_slot_1(&site, &value);
    site.assert_fault(&format!("the MAC of the gateway {GATEWAY_V6} of ENI eni-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rp_filter_strict() {
    let (site, _pod) = Site::held("broken-rp").await;
    let eni = site.eni();
    site.node_ns().sysctls(&[("ipv4/conf/all/rp_filter", "1")]).unwrap();
    site.node_ns().sysctl(&format!("ipv4/conf/{eni}/rp_filter"), "1").unwrap();
    site.assert_fault(&format!("the reverse-path filter of {eni} is strict"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_off() {
    let (site, _pod) = Site::held("broken-fwd").await;
    site.node_ns().sysctl("ipv4/ip_forward", "0").unwrap();
    site.assert_fault("the host does not forward IPv4");
}
