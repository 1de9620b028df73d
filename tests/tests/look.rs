//! What an operator sees.

use ipam_lab::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn ipamctl_shows_what_kubectl_shows() {
    let cluster = Cluster::two_nodes("ipamctl").await.unwrap();
    let pod = cluster.run_pod("web-0", "node-a", &[]).await.unwrap();
    let ours = cluster.ipamctl(&["get", "vip,vipc,nec"]).unwrap();
    let theirs = cluster.kubectl(&["get", "vip,vipc,nec", "--all-namespaces"]).unwrap();
    for text in [&ours, &theirs] {
        for words in [pod.ip().to_string().as_str(), "web-0", "node-a", "node-b", "ADDRESS", "IPS-PER-ENI"] {
            assert!(text.contains(words), "{words} is missing in:\n{text}");
        }
    }
}
