//! Arguments, paths and settings are those of the command line.

use std::{ffi::OsStr, path::Path};

use clap::CommandFactory as _;
use ipam_agent::{cli::Cli, cloud::fixed::Fixed, metrics::ListenAddress};
use serde_json::{Value, json};

use crate::manifests::{Manifests, deploy, items, overlays, texts};

/// The arguments of a container with the settings of the overlay put in, as kubelet does it.
fn arguments(manifests: &Manifests, container: &Value) -> Vec<String> {
    texts(&container["args"])
        .into_iter()
        .map(|argument| {
            let mut argument = argument.to_owned();
            while let Some((before, rest)) = argument.split_once("$(") {
                let (name, after) = rest.split_once(')').unwrap();
                let value = variable(manifests, container, name)
                    .unwrap_or_else(|| panic!("{}: {argument}: {name} is not set", manifests.overlay));
                argument = format!("{before}{value}{after}");
            }
            argument
        })
        .collect()
}

/// The value of an environment variable.
fn variable(manifests: &Manifests, container: &Value, name: &str) -> Option<String> {
    let data = |config_map: &Value, key: &str| {
        let config_map = manifests.one("ConfigMap", config_map["name"].as_str().unwrap());
        config_map["data"][key].as_str().map(str::to_owned)
    };
    if let Some(variable) = items(&container["env"]).find(|variable| variable["name"] == name) {
        let from = &variable["valueFrom"];
        if from["fieldRef"]["fieldPath"] == "spec.nodeName" {
            return Some("node-1".to_owned());
        }
        if from["fieldRef"]["fieldPath"] == "status.hostIP" {
            return Some("fd00::7".to_owned());
        }
        let key = &from["configMapKeyRef"];
        return data(key, key["key"].as_str().unwrap());
    }
    items(&container["envFrom"])
        .filter_map(|source| source.get("configMapRef"))
        .find_map(|map| data(map, name))
}

#[test]
fn every_argument_is_one_that_the_program_takes() {
    for manifests in overlays() {
        for (_, container) in manifests.containers() {
            assert_eq!(container["command"], json!(["/ipam-agent"]));
            let arguments = arguments(manifests, container);
            let command = std::iter::once("ipam-agent").chain(arguments.iter().map(String::as_str));
            if let Err(error) = Cli::command().try_get_matches_from(command) {
                panic!("{}: {error}", manifests.overlay);
            }
        }
    }
}

/// Probes, scrapes and the program speak of one port.
#[test]
fn what_is_probed_and_scraped_is_where_the_program_listens() {
    for manifests in overlays() {
        for subcommand in ["controller", "node"] {
            let (pod, container) = manifests.running(subcommand);
            let command = ["ipam-agent".to_owned()].into_iter().chain(arguments(manifests, container));
            let matches = Cli::command().try_get_matches_from(command).unwrap();
            let (_, matches) = matches.subcommand().unwrap();
            let address = matches.get_one::<ListenAddress>("metrics_address").unwrap().0.unwrap();
            assert!(!address.ip().is_loopback(), "a kubelet probes the pod's address");
            let port = items(&container["ports"]).find(|port| port["name"] == "metrics").unwrap();
            assert_eq!(port["containerPort"], address.port());
            let probed = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
            let paths = probed.map(|probe| probe["httpGet"]["path"].as_str());
            let startup = (subcommand == "node").then_some("/healthz");
            assert_eq!(paths, [Some("/healthz"), Some("/readyz"), startup], "{subcommand}");
            for probe in probed.into_iter().filter(|probe| !probe.is_null()) {
                assert_eq!(probe["httpGet"]["port"], "metrics");
                // The program answers within three seconds, whatever is wrong.
                assert!(probe["timeoutSeconds"].as_u64().unwrap() > 3);
            }
            let workload = manifests.workloads().find(|it| &it["spec"]["template"]["spec"] == pod).unwrap();
            let annotations = &workload["spec"]["template"]["metadata"]["annotations"];
            assert_eq!(annotations["prometheus.io/scrape"], "true");
            assert_eq!(annotations["prometheus.io/port"], address.port().to_string());
            assert_eq!(annotations["prometheus.io/path"], "/metrics");
        }
    }
}

#[test]
fn every_default_path_is_there() {
    for manifests in overlays() {
        for (subcommand, paths) in
            [("node", &["socket", "journal", "bpffs_dir"][..]), ("install", &["cni_bin_dir", "cni_conf_dir"])]
        {
            let (_, container) = manifests.running(subcommand);
            let matches = Cli::command().find_subcommand(subcommand).unwrap().clone();
            for argument in paths {
                let default = matches
                    .get_arguments()
                    .find(|known| known.get_id() == argument)
                    .and_then(|known| known.get_default_values().first())
                    .unwrap_or_else(|| panic!("{subcommand}: --{argument} has no default any more"));
                let mounted = items(&container["volumeMounts"])
                    .any(|mount| Path::new(default).starts_with(mount["mountPath"].as_str().unwrap()));
                assert!(mounted, "{subcommand}: nothing is mounted at {}", OsStr::display(default));
            }
        }
    }
}

#[test]
fn the_plugin_is_told_the_socket_of_the_agent() {
    let default = |subcommand: &str| {
        let command = Cli::command();
        let subcommand = command.find_subcommand(subcommand).unwrap();
        let socket = subcommand.get_arguments().find(|argument| argument.get_id() == "socket").unwrap();
        socket.get_default_values().to_vec()
    };
    assert_eq!(default("node"), default("install"));
    for manifests in overlays() {
        for subcommand in ["node", "install"] {
            let given = texts(&manifests.running(subcommand).1["args"]);
            assert!(!given.iter().any(|argument| argument.starts_with("--socket")), "then both must have it");
        }
    }
}

#[test]
fn the_example_of_a_bare_metal_file_is_one_that_the_provider_reads() {
    Fixed::load(&deploy().join("overlays/bare-metal/enis.toml")).unwrap();
    let manifests = overlays().iter().find(|it| it.overlay == "bare-metal").unwrap();
    let (pod, container) = manifests.running("controller");
    let arguments = arguments(manifests, container);
    let file = arguments.iter().find_map(|argument| argument.strip_prefix("--eni-file=")).unwrap();
    let mount = items(&container["volumeMounts"])
        .find(|mount| Path::new(file).parent() == mount["mountPath"].as_str().map(Path::new))
        .unwrap();
    let volume = items(&pod["volumes"]).find(|volume| volume["name"] == mount["name"]).unwrap();
    let config_map = manifests.one("ConfigMap", volume["configMap"]["name"].as_str().unwrap());
    let key = Path::new(file).file_name().unwrap().to_str().unwrap();
    assert!(config_map["data"].get(key).is_some(), "{key} is not in the ConfigMap");
}
