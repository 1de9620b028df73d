//! Settings of the host stack, as those write them who think that they are theirs.

use ipam_lab::cluster::eventually;

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_devices() {
    let site = Site::new("drift_settings").await;
    for (setting, kind) in [("$ENI.rp_filter=1", "rp_filter"), ("$VETH.forwarding=0", "forwarding")] {
        site.vandalise(setting, &format!("sysctl -w net.ipv4.conf.{setting}"), &[(kind, 1)]).await;
    }
    site.vandalise("ENI's forwarding", "sysctl -w net.ipv4.conf.$ENI.forwarding=0", &[("forwarding", 1)])
        .await;
}

/// What systemd-sysctl does with the files that distributions ship and hardening guides ask for.
#[tokio::test(flavor = "multi_thread")]
async fn systemd_sysctl_starts() {
    let site = Site::new("drift_sysctl").await;
    let script = "
        for setting in $(sysctl -aN --pattern '^net.ipv4.conf.*.rp_filter$'); do sysctl -w $setting=1; done
        sysctl -w net.ipv4.ip_forward=0
        sysctl -w net.ipv4.conf.all.rp_filter=2
    ";
    site.vandalise("systemd-sysctl", script, &[("rp_filter", 1), ("forwarding", 1)]).await;
    // Strict for all is no drift: the kernel takes the greater, and that of the ENI is loose.
    site.sh("sysctl -w net.ipv4.conf.all.rp_filter=1");
    site.connected();
}

/// What networkd does when it starts, with its `ManageForeignRoutes`: what it did not make goes.
#[tokio::test(flavor = "multi_thread")]
async fn networkd_starts() {
    let site = Site::new("drift_networkd").await;
    let script = "
        ip -4 route flush proto 69
        ip addr del $(ip -4 addr show $ENI | awk '/inet 10.0.1/ {print $2}') dev $ENI
        sysctl -w net.ipv4.conf.$ENI.rp_filter=1
        sysctl -w net.ipv4.conf.$ENI.forwarding=0
    ";
    let repaired = [("pod_route", 2), ("eni_address", 1), ("rp_filter", 1), ("forwarding", 1)];
    site.vandalise("networkd", script, &repaired).await;
}

/// As in a container without privileges.
const READ_ONLY: &str = "mount --bind /proc/sys /proc/sys\nmount -o remount,bind,ro /proc/sys";

#[tokio::test(flavor = "multi_thread")]
async fn proc_sys_cannot_be_written() {
    let mut site = Site::new("drift_read_only").await;
    site.restart_agent_with_mounts(READ_ONLY).await;
    let script = "sysctl -w net.ipv4.conf.$ENI.rp_filter=1; sysctl -w net.ipv4.conf.$VETH.forwarding=0";
    site.vandalise("settings of devices", script, &[("rp_filter", 1), ("forwarding", 1)]).await;

    site.sh("sysctl -w net.ipv4.ip_forward=0");
    let forwards = "for dev in $ENI $VETH $OTHER_VETH; do sysctl -n net.ipv4.conf.$dev.forwarding; done";
    eventually("the devices to forward", async || site.sh(forwards) == "1\n1\n1\n").await.unwrap();
    site.connected();
    assert_eq!(site.sh("sysctl -n net.ipv4.ip_forward"), "0\n");
    // Long enough for two looks at everything.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let log = site.log();
    let cannot: Vec<_> = log.lines().filter(|line| line.contains("cannot repair")).collect();
    assert!(cannot.len() == 1 && cannot[0].contains("set net.ipv4.ip_forward=1 on the host"), "{cannot:#?}");
    assert!(site.cluster.node_mut("node-a").agent().is_running().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_ipv6_where_proc_sys_cannot_be_written() {
    let mut site = Site::dual_stack("drift_ipv6_read_only").await;
    site.restart_agent_with_mounts(READ_ONLY).await;
    let late = site.cluster.run_pod("late", "node-a", &[]).await.unwrap();
    assert!(
        late.sandbox
            .ns()
            .command("ip")
            .args(["-6", "-o", "addr", "show", "dev", "eth0", "scope", "global"])
            .output()
            .unwrap()
            .stdout
            .len()
            > 10
    );
    site.connected();
}

/// What hardening guides and networkd write of IPv6.
#[tokio::test(flavor = "multi_thread")]
async fn settings_of_ipv6() {
    let site = Site::dual_stack("drift_ipv6").await;
    for (what, script, repaired) in [
        ("ENI's router advertisements", "sysctl -w net.ipv6.conf.$ENI.accept_ra=2", &[("ipv6", 1)][..]),
        ("veth's router advertisements", "sysctl -w net.ipv6.conf.$VETH.accept_ra=1", &[("ipv6", 1)]),
        ("forwarding", "sysctl -w net.ipv6.conf.all.forwarding=0", &[("forwarding", 1)]),
        ("ENI without IPv6", "sysctl -w net.ipv6.conf.$ENI.disable_ipv6=1", &[("ipv6", 1)]),
        (
            "veth without IPv6",
            "sysctl -w net.ipv6.conf.$VETH.disable_ipv6=1",
            &[("ipv6", 1), ("pod_route", 1)],
        ),
    ] {
        site.vandalise(what, script, repaired).await;
    }
}
