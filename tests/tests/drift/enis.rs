//! What an ENI has on the node.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipam_lab::cluster::eventually;
use ipam_lab::world::{World as _, WorldEni};

use crate::site::{LIMIT, Site};

#[tokio::test(flavor = "multi_thread")]
async fn the_device_of_an_eni() {
    let site = Site::new("drift_eni_link").await;
    // The kernel takes foreign routes of a device that goes down.
    site.vandalise_device("ENI down", "ip link set $ENI down", &[("eni_link", 1)]).await;
    let mac = "ip link set $ENI address 02:00:00:00:00:66";
    site.vandalise("ENI's MAC", mac, &[("eni_link", 1), ("neighbour", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_an_eni() {
    let site = Site::new("drift_eni_address").await;
    let primary = "ip -4 addr show $ENI | awk '/inet 10.0.1/ {print $2}'";
    let delete = format!("ip addr del $({primary}) dev $ENI");
    site.vandalise("address deleted", &delete, &[("eni_address", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_of_an_eni() {
    let site = Site::new("drift_eni_gateway").await;
    let forged = "ip neigh replace $GATEWAY lladdr 02:00:00:00:00:55 nud permanent dev $ENI";
    site.vandalise("gateway's neighbour forged", forged, &[("neighbour", 1)]).await;
    let deleted = "ip neigh del $GATEWAY dev $ENI";
    site.vandalise("gateway's neighbour deleted", deleted, &[("neighbour", 1)]).await;
}

/// An operator's choice, which the map follows.
#[tokio::test(flavor = "multi_thread")]
async fn the_mtu_of_an_eni() {
    let site = Site::new("drift_eni_mtu").await;
    for mtu in [1400, 1500] {
        site.sh(&format!("ip link set $ENI mtu {mtu}"));
        eventually("the map to follow", async || {
            let slots = site.node().dump("ENIS").unwrap();
            slots.iter().any(|slot| slot["formatted"]["value"]["mtu"] == mtu)
        })
        .await
        .unwrap();
        site.connected();
    }
    assert_eq!(site.repair_lines(), 0, "{}", site.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eni_under_another_name() {
    let mut site = Site::new("drift_eni_renamed").await;
    site.sh("ip link set $ENI down; ip link set $ENI name other7; ip link set other7 up");
    let pins = site.node().machine().bpffs_dir().join("links");
    eventually("the programs to be known by the new name", async || {
        let names = std::fs::read_dir(&pins).unwrap().map(|pin| pin.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("other7-")).count() == 2
    })
    .await
    .unwrap();
    // The fabric has its end up a moment after that.
    let fabric = site.cluster.lab.fabric();
    fabric.wait_up(&fabric.owner(site.pod.ip()).unwrap()).unwrap();
    site.connected();
    site.set("ENI", "other7");
    // Its entry may have to be asked for twice.
    eventually("the gateway to be known", async || site.ours().contains("lladdr")).await.unwrap();
    site.vandalise(
        "rp_filter under a new name",
        "sysctl -w net.ipv4.conf.other7.rp_filter=1",
        &[("rp_filter", 1)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eni_that_goes_and_comes_back() {
    let site = Site::new("drift_eni_gone").await;
    let fabric = site.cluster.lab.fabric();
    let id = fabric.owner(site.pod.ip()).unwrap();
    let ips =
        || (1..255).map(|n| Ipv4Addr::new(10, 0, 1, n)).filter(|ip| fabric.owner(*ip).as_ref() == Some(&id));
    let count = ips().count();
    let pod = site.cluster.create_pod("late", "node-a", &[]).await.unwrap();
    eventually("the pod to have an address", async || ips().count() > count).await.unwrap();
    let show = |what| {
        site.sh(&format!("ip -j link show $ENI | grep -o '\"{what}\":[^,]*' | cut -d: -f2- | tr -d '\"\n'"))
    };
    let (mac, index) = (show("address"), show("ifindex"));
    let gateway = site.node().machine().subnet().gateway;
    let ips_of_eni = ips().map(std::net::IpAddr::from).collect();
    let eni = WorldEni { id: id.clone(), mac, gateway, gateway_v6: None, ips: ips_of_eni };

    site.sh("ip link del $ENI");
    let start = Instant::now();
    eventually("the slot to be empty", async || {
        let slots = site.node().dump("ENIS").unwrap();
        slots.iter().all(|slot| slot["formatted"]["value"]["ifindex"] == 0)
    })
    .await
    .unwrap();
    println!("ENI gone: seen in {:.2?}", start.elapsed());
    let sandbox = site.cluster.sandbox(&pod, "node-a").await.unwrap();
    let adding = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.add().await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!adding.is_finished(), "ADD was served without the ENI");

    fabric.detach(&id).unwrap();
    // Another device in between, so that the index is another.
    site.sh("ip link add between type veth peer name between1");
    fabric.attach(&site.node().machine().instance_id(), &eni).unwrap();
    let start = Instant::now();
    adding.await.unwrap().unwrap();
    println!("ENI back: ADD served in {:.2?}", start.elapsed());
    assert!(start.elapsed() < LIMIT);
    assert_ne!(show("ifindex"), index);
    site.connected();
}
