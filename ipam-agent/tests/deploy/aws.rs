//! The rights that the AWS overlay asks an operator to give are those that the provider needs.

use std::collections::BTreeSet;
use std::fs;

use ipam_agent::cloud::aws::ACTIONS;
use serde_json::Value;

use crate::manifests::{deploy, overlays, texts};

fn statements() -> Vec<Value> {
    let text = fs::read_to_string(deploy().join("overlays/aws/policy.json")).unwrap();
    let policy: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    policy["Statement"].as_array().unwrap().clone()
}

#[test]
fn the_policy_allows_what_the_provider_calls_and_nothing_else() {
    let mut allowed = BTreeSet::new();
    for statement in statements() {
        assert_eq!(statement["Effect"], "Allow");
        for action in texts(&statement["Action"]) {
            assert!(allowed.insert(action.to_owned()), "{action} is allowed twice");
        }
    }
    // Tags are given by CreateNetworkInterface itself, for which IAM wants this one.
    let wanted = ACTIONS.iter().copied().chain(["CreateTags"]).map(|action| format!("ec2:{action}"));
    assert_eq!(allowed, wanted.collect());
}

#[test]
fn tags_can_be_given_to_new_enis_only() {
    let statements = statements();
    let tagging: Vec<_> =
        statements.iter().filter(|it| texts(&it["Action"]).contains(&"ec2:CreateTags")).collect();
    let [statement] = tagging.as_slice() else { panic!("{tagging:?}") };
    assert_eq!(statement["Condition"]["StringEquals"]["ec2:CreateAction"], "CreateNetworkInterface");
    assert!(statement["Resource"].as_str().unwrap().ends_with(":network-interface/*"));
}

#[test]
fn the_role_of_the_settings_is_that_of_the_controllers_account() {
    let manifests = overlays().iter().find(|it| it.overlay == "aws").unwrap();
    let (pod, container) = manifests.running("controller");
    let account = manifests.one("ServiceAccount", pod["serviceAccountName"].as_str().unwrap());
    let settings = container["envFrom"][0]["configMapRef"]["name"].as_str().unwrap();
    let role = &manifests.one("ConfigMap", settings)["data"]["CONTROLLER_ROLE_ARN"];
    assert!(role.as_str().is_some_and(|role| role.starts_with("arn:aws:iam::")), "{role}");
    assert_eq!(account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"], *role);
}
