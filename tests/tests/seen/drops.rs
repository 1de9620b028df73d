//! `ipamctl drops`: each reason, pod and five-tuple, as the packets were sent.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Stdio};

use ipam_lab::cluster::RunningPod;
use ipam_lab::lab::process::binary;
use serde_json::Value;

use crate::site::{Site, run};

/// A follower of drops; it ends with this value.
struct Follower {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Follower {
    /// Returns when the agent has said that samples follow.
    fn start(site: &Site, more: &[&str]) -> Self {
        let socket = site.cluster.node("node-a").machine().socket().with_file_name("agent.sock");
        let mut command = site.cluster.lab.ctl().command(binary("ipamctl").unwrap());
        command.arg("--socket").arg(socket).arg("drops").args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(told.next().unwrap().unwrap().starts_with("following samples"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a packet from an address that is not the pod's.
fn spoof(pod: &RunningPod, source: &str) {
    let socket = pod.sandbox.ns().run(|| UdpSocket::bind((source, 4000)).unwrap());
    socket.send_to(&[1; 100], ("10.0.1.9", 53)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_are_seen_as_they_happen() {
    let site = Site::new("drops").await;
    let web = site.cluster.run_pod("web-0", "node-a", &[]).await.unwrap();
    let other = site.cluster.run_pod("web-1", "node-a", &[]).await.unwrap();
    for pod in [&web, &other] {
        run(pod.sandbox.ns(), "ip address add 10.0.1.250/32 dev eth0");
    }
    let mut all = Follower::start(&site, &[]);
    let mut of_other = Follower::start(&site, &["--pod", "default/web-1", "-o", "json"]);
    let mut of_reason = Follower::start(&site, &["--reason", "wrong_interface", "-o", "json"]);

    spoof(&web, "10.0.1.250");
    let line = all.next();
    println!("{line}");
    for words in ["unknown_source", "default/web-0", "UDP 10.0.1.250:4000 > 10.0.1.9:53", "142 bytes"] {
        assert!(line.contains(words), "{words}: {line}");
    }

    std::thread::sleep(std::time::Duration::from_millis(20));
    spoof(&other, "10.0.1.250");
    let dropped: Value = serde_json::from_str(&of_other.next()).unwrap();
    assert_eq!(dropped["interface"]["pod"]["name"], "web-1", "those of other pods are left out");
    assert_eq!(dropped["reason"], "unknown_source");
    assert_eq!(dropped["packet"]["sourcePort"], 4000);
    assert_eq!(dropped["length"], 142);

    run(web.sandbox.ns(), &format!("ip address add {}/32 dev eth0", other.ip()));
    spoof(&web, &other.ip().to_string());
    let dropped: Value = serde_json::from_str(&of_reason.next()).unwrap();
    assert_eq!(dropped["interface"]["pod"]["name"], "web-0", "those of other reasons are left out");
    assert_eq!(dropped["packet"]["source"], other.ip().to_string());
}
