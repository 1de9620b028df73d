//! What a pod has on the node, beside the dataplane.

use ipam_lab::cluster::eventually;

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn the_link_of_a_pod() {
    let site = Site::new("drift_pod_link").await;
    // The kernel takes foreign neighbours of a device that goes down.
    site.vandalise_device("link down", "ip link set $VETH down", &[("pod_link", 1)]).await;
    site.vandalise("link MTU", "ip link set $OTHER_VETH mtu 1280", &[("pod_link", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_and_the_mac_of_a_pods_link() {
    let site = Site::new("drift_pod_name").await;
    site.vandalise("link renamed", "ip link set $VETH name stolen0", &[("pod_link", 1)]).await;
    let mac = "ip link set $OTHER_VETH address 02:00:00:00:00:77";
    site.vandalise("link MAC", mac, &[("pod_link", 1)]).await;
    site.pod.check().await.unwrap();
    site.pod.del().await.unwrap();
    site.neighbour.del().await.unwrap();
    site.node().wait_until_clean().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routes_of_pods() {
    let site = Site::new("drift_pod_route").await;
    site.vandalise("route deleted", "ip route del $IP", &[("pod_route", 1)]).await;
    let metrics = "ip route change $OTHER_IP dev $OTHER_VETH proto 69 scope link mtu 600";
    site.vandalise("route changed", metrics, &[("pod_route", 1)]).await;
    site.vandalise("a route too many", "ip route add 10.9.9.77 dev $VETH proto 69", &[("pod_route", 1)])
        .await;
    let networkd = "for route in $IP $OTHER_IP; do ip route del $route; done";
    // Said once more, and then no longer.
    site.vandalise("all routes deleted", networkd, &[("pod_route", 2)]).await;
    site.vandalise("all routes deleted again", networkd, &[]).await;
    let log = site.log();
    assert_eq!(log.matches("something undoes it").count(), 2, "{log}");
}

/// What is undone again and again is repaired again and again, but neither the log nor the processor suffers from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_fight() {
    let site = Site::new("drift_fight").await;
    let ours = site.ours();
    let undone = site.sh("end=$(($(date +%s) + 6)); n=0
         while [ $(date +%s) -lt $end ]; do ip route del $IP 2>/dev/null && n=$((n + 1)); sleep 0.05; done
         echo $n");
    eventually("the route to be back", async || site.ours() == ours).await.unwrap();
    site.connected();
    let lines = site.repair_lines();
    println!("undone {} times in six seconds: repaired {lines} times", undone.trim());
    assert!((3..20).contains(&lines), "{lines} repairs");
    assert_eq!(site.repairs().get("pod_route"), Some(&2), "{}", site.log());
}
