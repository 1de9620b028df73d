//! Programs, pins and maps. Nobody is told of their change.

use std::time::Instant;

use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use ipam_agent::dataplane::Hook;
use ipam_lab::cluster::{ClusterNode, eventually};

use crate::site::{LIMIT, Site};

/// A script that removes every entry of a node's map, all at once.
fn wipe(node: &ClusterNode, map: &str) -> String {
    let delete = |entry: &serde_json::Value| {
        let key: Vec<&str> =
            entry["key"].as_array().unwrap().iter().map(|byte| byte.as_str().unwrap()).collect();
        format!("map delete pinned $PINS/{map} key hex {}\n", key.join(" ").replace("0x", ""))
    };
    let deletions: String = node.dump(map).unwrap().iter().map(delete).collect();
    format!("bpftool batch file - <<END\n{deletions}END")
}

/// Bytes of zero, as bpftool reads them.
fn zeros(bytes: usize) -> String {
    vec!["0"; bytes].join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entries_of_maps() {
    let site = Site::new("drift_maps").await;
    let node = site.node();
    let routes = wipe(node, "POD_ROUTES_V4");
    site.vandalise("pod routes wiped", &routes, &[("map_entry", 2)]).await;
    site.vandalise("stack CIDRs wiped", &wipe(node, "STACK_CIDRS"), &[("map_entry", 1)]).await;
    site.vandalise("node addresses wiped", &wipe(node, "NODE_ADDRS"), &[("map_entry", 1)]).await;
    let size = size_of::<ipam_common::Eni>();
    let eni = format!("bpftool map update pinned $PINS/ENIS key hex 1 0 0 0 value hex {}", zeros(size));
    site.vandalise("ENI emptied", &eni, &[("map_entry", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_nobody_has() {
    let site = Site::new("drift_map_strays").await;
    let size = size_of::<ipam_common::PodRoute>();
    let stray = format!(
        "bpftool map update pinned $PINS/POD_ROUTES_V4 key hex 0a 09 09 4d value hex 9 {}",
        zeros(size - 1)
    );
    site.vandalise("a pod route too many", &stray, &[("map_entry", 1)]).await;
    let size = size_of::<ipam_common::Eni>();
    let eni = format!("bpftool map update pinned $PINS/ENIS key hex 5 0 0 0 value hex 9 {}", zeros(size - 1));
    site.vandalise("an ENI too many", &eni, &[("map_entry", 1)]).await;
    let cidr = "bpftool map update pinned $PINS/STACK_CIDRS key hex 20 0 0 0 0a 9 9 4d value hex 1 0 0 0";
    site.vandalise("a stack CIDR too many", cidr, &[("map_entry", 1)]).await;
    let addr = "bpftool map update pinned $PINS/NODE_ADDRS key hex 0a 9 9 4d value hex 1 0 0 0";
    site.vandalise("a node address too many", addr, &[("map_entry", 1)]).await;
    site.vandalise("counters wiped", &wipe(site.node(), "POD_STATS"), &[("map_entry", 2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_beside_a_foreign_one() {
    let mut site = Site::new("drift_programs").await;
    // Another node's program, held by this test: to this node it is a stranger's.
    let foreign = site.node().machine().bpffs_dir().join("foreign");
    let other = site.cluster.node("node-b").machine().bpffs_dir().join("links");
    site.set("OTHER_LINKS", &other.display().to_string());
    site.sh(
        "id=$(bpftool -j link show pinned $OTHER_LINKS/eth1-*-to_eni | grep -o '\"prog_id\":[0-9]*' | cut -d: -f2)
         bpftool prog pin id $id $PINS/foreign",
    );
    let veth = site.sh("printf %s $VETH");
    let ns = site.node().machine().ns().clone();
    let mut program = SchedClassifier::from_pin(&foreign).unwrap();
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let attached = ns.run(|| program.attach_with_options(&veth, TcAttachType::Egress, options));
    let _attached = attached.unwrap();
    let programs = site.ours();
    assert!(programs.contains("[\"to_eni\", \"to_pod\"]"), "the foreign one is attached: {programs}");

    for program in ["from_pod", "to_pod"] {
        let script = format!("rm $PINS/links/$VETH-*-{program}");
        site.vandalise(&format!("{program}'s pin removed"), &script, &[("program", 1)]).await;
    }
    let script = "bpftool link detach pinned $(ls $PINS/links/$OTHER_VETH-*-to_pod)";
    site.vandalise("to_pod detached", script, &[("program", 1)]).await;
    for program in ["from_eni", "to_eni"] {
        let script = format!("bpftool link detach pinned $(ls $PINS/links/$ENI-*-{program})");
        site.vandalise(&format!("{program} detached"), &script, &[("program", 1)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pin_removed() {
    let site = Site::new("drift_pins").await;
    let maps = std::fs::read_dir(site.node().machine().bpffs_dir()).unwrap().count() - 1;
    // Two of each pod's link, two of the ENI's, one of the primary ENI's.
    let repaired = [("pin", maps), ("program", 7)];
    site.vandalise("bpffs directory removed", "rm -rf $PINS", &repaired).await;
    let one = "rm $PINS/ENIS";
    site.vandalise("a map's pin removed", one, &[("pin", 1)]).await;
}

/// With the bpffs go the links that are pinned there. Where the agent may not mount one, it says so and goes on trying.
#[tokio::test(flavor = "multi_thread")]
async fn the_bpffs_unmounted() {
    let mut site = Site::new("drift_unmount").await;
    // Below it an ordinary file system.
    let own = "rm -rf $PINS/*\nmount -t tmpfs none $PINS\nmount -t bpf none $PINS";
    site.restart_agent_with_mounts(own).await;
    site.connected();
    let programs =
        |site: &Site| [Hook::Ingress, Hook::Egress].map(|hook| site.node().hook_programs(hook).unwrap());
    let before = programs(&site);
    // The kernel lets go of what was pinned a little after the unmount, and the repair may come between any two looks.
    let link =
        "nsenter -t $AGENT -m sh -c 'bpftool -j link show pinned $PINS/links/$VETH-*-from_pod || true'";
    let old = site.sh(link);
    assert!(old.contains("\"id\":"), "{old}");
    site.sh("nsenter -t $AGENT -m umount $PINS");
    let start = Instant::now();
    eventually("another link in place of the pod's", async || {
        let now = site.sh(link);
        now.contains("\"id\":") && now != old
    })
    .await
    .unwrap();
    eventually("the programs to be back", async || programs(&site) == before).await.unwrap();
    println!("bpffs unmounted: repaired in {:.2?}", start.elapsed());
    assert!(start.elapsed() < LIMIT);
    site.connected();
    site.sh("nsenter -t $AGENT -m test -e $PINS/POD_ROUTES_V4");
    assert!(site.log().contains("object=\"bpffs\""), "{}", site.log());
}
