//! What the pods may do on their node.

use std::collections::BTreeSet;

use serde_json::json;

use crate::manifests::{items, overlays, texts};

#[test]
fn every_container_is_shut_in() {
    for manifests in overlays() {
        for (pod, container) in manifests.containers() {
            let name = &container["name"];
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{name}");
            assert!(context.get("privileged").is_none(), "{name}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            for shared in ["hostPID", "hostIPC"] {
                assert!(pod.get(shared).is_none(), "{name}: {shared}");
            }
            // Every one of them works before pods have a network.
            assert_eq!(pod["hostNetwork"], true, "{name}");
            assert_eq!(pod["dnsPolicy"], "Default", "{name}");
        }
    }
}

#[test]
fn only_the_agent_has_capabilities_and_only_nodes_have_host_paths() {
    for manifests in overlays() {
        for (pod, container) in manifests.containers() {
            let mut added = texts(&container["securityContext"]["capabilities"]["add"]);
            added.sort_unstable();
            let host_paths: BTreeSet<&str> = items(&container["volumeMounts"])
                .filter_map(|mount| {
                    let path = items(&pod["volumes"]).find(|volume| volume["name"] == mount["name"]).unwrap();
                    let path = path["hostPath"]["path"].as_str()?;
                    assert_eq!(mount["mountPath"], path, "the program is told the path on the host");
                    Some(path)
                })
                .collect();
            let (capabilities, paths): (&[&str], &[&str]) = match container["args"][0].as_str().unwrap() {
                "node" => (
                    &["BPF", "NET_ADMIN", "PERFMON", "SYS_RESOURCE"],
                    &["/run/eni-ipam", "/sys/fs/bpf", "/var/lib/eni-ipam"],
                ),
                "install" => (&[], &["/etc/cni/net.d", "/opt/cni/bin"]),
                "controller" => {
                    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
                    (&[], &[])
                }
                other => panic!("{}: `ipam-agent {other}` is unknown to this test", manifests.overlay),
            };
            assert_eq!(added, capabilities, "{}", container["name"]);
            assert_eq!(host_paths, paths.iter().copied().collect(), "{}", container["name"]);
        }
    }
}

#[test]
fn nothing_is_mounted_for_nobody() {
    for manifests in overlays() {
        for workload in manifests.workloads() {
            let pod = &workload["spec"]["template"]["spec"];
            let mounted: BTreeSet<&str> = items(&pod["initContainers"])
                .chain(items(&pod["containers"]))
                .flat_map(|container| items(&container["volumeMounts"]))
                .map(|mount| mount["name"].as_str().unwrap())
                .collect();
            let volumes: BTreeSet<&str> =
                items(&pod["volumes"]).map(|volume| volume["name"].as_str().unwrap()).collect();
            assert_eq!(mounted, volumes, "{}", workload["metadata"]["name"]);
        }
    }
}
