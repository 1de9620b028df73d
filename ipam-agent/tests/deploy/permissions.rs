//! RBAC is what the code asks the API for: no verb less, none more.

use std::collections::BTreeSet;

use crate::manifests::{Manifests, overlays, texts};

type Permission = (String, String, String);

/// `(group, resource, verbs)` of the controller.
const CONTROLLER: &[(&str, &str, &str)] = &[
    // `controller.rs`: five watches; `write::live`: the look before something is taken for gone.
    ("", "pods", "get list watch"),
    ("", "nodes", "get list watch"),
    // `pods.rs` makes claims and brings them up to date; `claims.rs` deletes them and takes finalizers off.
    ("eni-ipam.dev", "vpcipclaims", "get list watch create update delete"),
    ("eni-ipam.dev", "vpcipclaims/status", "update"),
    // `pool/round.rs` makes addresses; `addresses.rs` deletes them.
    ("eni-ipam.dev", "vpcips", "get list watch create delete"),
    ("eni-ipam.dev", "vpcips/status", "update"),
    // `nodes.rs`, and `pool/round.rs` for the status.
    ("eni-ipam.dev", "nodeeniconfigs", "get list watch create update delete"),
    ("eni-ipam.dev", "nodeeniconfigs/status", "update"),
    // `kube::runtime::events::Recorder`: an event that repeats is patched.
    ("events.k8s.io", "events", "create patch"),
];

/// `(group, resource, verbs)` of the node agent.
const NODE: &[(&str, &str, &str)] = &[
    // `bindings.rs` and `eni.rs` watch; kube's watcher gets and lists.
    ("eni-ipam.dev", "vpcips", "get list watch"),
    ("eni-ipam.dev", "nodeeniconfigs", "get list watch"),
    // `bindings.rs`, to say why a pod has no address.
    ("eni-ipam.dev", "vpcipclaims", "get"),
    // `ack.rs`.
    ("eni-ipam.dev", "vpcips/status", "patch"),
];

#[test]
fn each_role_is_what_its_program_asks_for() {
    for manifests in overlays() {
        for (role, wanted) in [("eni-ipam-controller", CONTROLLER), ("eni-ipam-node", NODE)] {
            let wanted: BTreeSet<Permission> = wanted
                .iter()
                .flat_map(|(group, resource, verbs)| {
                    verbs.split(' ').map(|verb| (group.to_string(), resource.to_string(), verb.to_owned()))
                })
                .collect();
            assert_eq!(granted(manifests, role), wanted, "{}: {role}", manifests.overlay);
        }
        assert_eq!(manifests.of_kind("ClusterRole").count(), 2, "a role that this test does not know");
        assert_eq!(manifests.of_kind("Role").count(), 0, "a role that this test does not know");
    }
}

fn granted(manifests: &Manifests, role: &str) -> BTreeSet<Permission> {
    let mut granted = BTreeSet::new();
    for rule in manifests.one("ClusterRole", role)["rules"].as_array().unwrap() {
        let fields: Vec<&str> = rule.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["apiGroups", "resources", "verbs"], "{role}: a rule of another form");
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    assert!(![group, resource, verb].iter().any(|it| it.contains('*')), "{role}: {rule}");
                    let new = granted.insert((group.to_owned(), resource.to_owned(), verb.to_owned()));
                    assert!(new, "{role}: {verb} {resource} is granted twice");
                }
            }
        }
    }
    granted
}

#[test]
fn each_role_is_bound_to_the_account_of_its_program() {
    for manifests in overlays() {
        for (name, subcommand) in [("eni-ipam-controller", "controller"), ("eni-ipam-node", "node")] {
            let binding = manifests.one("ClusterRoleBinding", name);
            assert_eq!(binding["roleRef"]["kind"], "ClusterRole");
            assert_eq!(binding["roleRef"]["name"], name);
            let [subject] = binding["subjects"].as_array().unwrap().as_slice() else {
                panic!("{name}: more than one subject")
            };
            let account = manifests.one("ServiceAccount", name);
            assert_eq!(subject["kind"], "ServiceAccount");
            assert_eq!(subject["name"], account["metadata"]["name"]);
            assert_eq!(subject["namespace"], account["metadata"]["namespace"]);
            let (pod, _) = manifests.running(subcommand);
            assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
        }
    }
}
