//! RBAC is what the programs ask the API for: no verb less, none more.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory as _;
use ipam_agent::cli::Cli;

use crate::manifests::{Manifests, overlays, texts};

/// What the programs asked for while all tests ran, as lines `FILE: VERB RESOURCE[.GROUP]`. A whole `cargo xtask test`
/// compares it with what they asked for then, and with `--update` writes it.
const USED: &str = include_str!("permissions.txt");

/// File and name of the roles of each program.
const PROGRAMS: [(&str, &str); 2] = [
    ("deploy/base/controller-rbac.yaml", "eni-ipam-controller"),
    ("deploy/base/node-rbac.yaml", "eni-ipam-node"),
];

/// Where a permission is for named objects only: resource and group, verbs, names. `create` knows no name, and for
/// certificates there is none: see `webhook.yaml`.
const NAMED: &[(&str, &str, &[&str])] = &[
    // `crds/served.rs`: the definitions of this very version.
    (
        "customresourcedefinitions.apiextensions.k8s.io",
        "get",
        &["nodeeniconfigs.eni-ipam.dev", "vpcipclaims.eni-ipam.dev", "vpcips.eni-ipam.dev"],
    ),
    // `leader/elector.rs`.
    ("leases.coordination.k8s.io", "get update", &["eni-ipam-controller"]),
    // `webhook/certificates.rs`: its certificates and, for the `caBundle`, its configuration.
    ("secrets", "get list watch update", &["eni-ipam-webhook"]),
    (
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "get list watch patch",
        &["eni-ipam-webhook"],
    ),
];

/// Resources of which a program needs only those in its own namespace.
const AT_HOME: [&str; 2] = ["leases.coordination.k8s.io", "secrets"];

/// Verb, and resource with its group.
type Permission = (String, String);

/// The permissions in a role, each with the names of the only objects that it is for.
type Granted = BTreeMap<Permission, BTreeSet<String>>;

#[test]
fn each_role_grants_what_its_program_asks_for_and_no_more() {
    for manifests in overlays() {
        for (file, role) in PROGRAMS {
            let prefix = format!("{file}: ");
            let used: BTreeSet<Permission> = USED
                .lines()
                .filter_map(|line| line.strip_prefix(&prefix)?.split_once(' '))
                .map(|(verb, resource)| (verb.to_owned(), resource.to_owned()))
                .collect();
            assert!(!used.is_empty(), "nothing is written down of {file}");
            let (at_home, everywhere): (BTreeSet<_>, BTreeSet<_>) =
                used.into_iter().partition(|(_, resource)| AT_HOME.contains(&resource.as_str()));
            for (kind, used) in [("ClusterRole", everywhere), ("Role", at_home)] {
                let granted: BTreeSet<_> = granted(manifests, kind, role).into_keys().collect();
                let missing: Vec<_> = used.difference(&granted).collect();
                let unused: Vec<_> = granted.difference(&used).collect();
                assert!(
                    missing.is_empty() && unused.is_empty(),
                    "{}: {kind} {role}: not granted {missing:?}; granted for nothing {unused:?}",
                    manifests.overlay
                );
            }
        }
        assert_eq!(manifests.of_kind("ClusterRole").count(), 2, "a role that this test does not know");
        assert_eq!(manifests.of_kind("Role").count(), 1, "a role that this test does not know");
    }
}

#[test]
fn a_permission_for_single_objects_names_them() {
    let wanted = |(verb, resource): &Permission| {
        let named = NAMED
            .iter()
            .find(|(known, verbs, _)| known == resource && verbs.split(' ').any(|known| known == verb));
        named.map_or_else(BTreeSet::new, |(.., names)| names.iter().map(|&name| name.to_owned()).collect())
    };
    for manifests in overlays() {
        for (_, role) in PROGRAMS {
            for kind in ["ClusterRole", "Role"] {
                for (permission, names) in granted(manifests, kind, role) {
                    assert_eq!(names, wanted(&permission), "{}: {role}: {permission:?}", manifests.overlay);
                }
            }
        }
    }
}

#[test]
fn the_lease_is_the_one_that_the_controller_asks_for() {
    let command = Cli::command();
    let controller = command.find_subcommand("controller").unwrap();
    let default = |id: &str| {
        let argument = controller.get_arguments().find(|argument| argument.get_id() == id).unwrap();
        argument.get_default_values()[0].to_str().unwrap().to_owned()
    };
    for manifests in overlays() {
        let args = texts(&manifests.running("controller").1["args"]);
        assert!(args.contains(&"--leader-elect"), "{}: two controllers act", manifests.overlay);
        assert!(
            !args.iter().any(|argument| argument.starts_with("--leader-elect-resource")),
            "then the role too"
        );
        let role = manifests.one("Role", "eni-ipam-controller");
        assert_eq!(role["metadata"]["namespace"], default("leader_elect_resource_namespace"));
        let of_leases = ("update".to_owned(), "leases.coordination.k8s.io".to_owned());
        let named = &granted(manifests, "Role", "eni-ipam-controller")[&of_leases];
        assert_eq!(named.iter().collect::<Vec<_>>(), [&default("leader_elect_resource_name")]);
    }
}

fn granted(manifests: &Manifests, kind: &str, role: &str) -> Granted {
    let mut granted = Granted::new();
    for object in manifests.of_kind(kind).filter(|object| object["metadata"]["name"] == role) {
        for rule in object["rules"].as_array().unwrap() {
            let known = ["apiGroups", "resources", "resourceNames", "verbs"];
            for field in rule.as_object().unwrap().keys() {
                assert!(known.contains(&field.as_str()), "{role}: {field} is unknown to this test");
            }
            let list = |field: &str| texts(&rule[field]);
            for group in list("apiGroups") {
                let dot = if group.is_empty() { "" } else { "." };
                for resource in list("resources") {
                    for verb in list("verbs") {
                        let permission = (verb.to_owned(), format!("{resource}{dot}{group}"));
                        assert!(!format!("{permission:?}").contains('*'), "{role}: {rule}");
                        let names = list("resourceNames").into_iter().map(str::to_owned).collect();
                        let twice = granted.insert(permission, names);
                        assert!(twice.is_none(), "{role}: granted twice: {rule}");
                    }
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
            let account = manifests.one("ServiceAccount", name);
            let (pod, _) = manifests.running(subcommand);
            assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
            for role in ["ClusterRole", "Role"] {
                let Some(_) = manifests.of_kind(role).find(|object| object["metadata"]["name"] == name)
                else {
                    continue;
                };
                let binding = manifests.one(&format!("{role}Binding"), name);
                assert_eq!(binding["roleRef"]["kind"], role);
                assert_eq!(binding["roleRef"]["name"], name);
                let [subject] = binding["subjects"].as_array().unwrap().as_slice() else {
                    panic!("{name}: more than one subject")
                };
                assert_eq!(subject["kind"], "ServiceAccount");
                assert_eq!(subject["name"], account["metadata"]["name"]);
                assert_eq!(subject["namespace"], account["metadata"]["namespace"]);
            }
        }
    }
}
