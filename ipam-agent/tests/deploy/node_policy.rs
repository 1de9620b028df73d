//! The admission policy of the node agents, evaluated as kube-apiserver does it.

use ipam_agent::crds;
use kube_cel::{
    KubeCelExt as _,
    cel::{Context, Value as CelValue, parser::Parser},
};
use serde_json::{Value, json};

use crate::manifests::{Manifests, items, overlays};

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// A write as the policy sees it.
#[derive(Clone)]
struct Write {
    request: Value,
    object: Value,
    old: Value,
}

/// An agent of `n1` acknowledges the detach of an address of `n1`.
fn acknowledgement() -> Write {
    let old = json!({
        "metadata": { "name": "10.0.1.7" },
        "spec": { "type": "Pod", "ip": "10.0.1.7", "subnetID": "s" },
        "status": {
            "phase": "Detaching", "nodeName": "n1", "eniID": "eni-1", "podUID": "p", "epoch": 3, "message": "m",
            "detached": { "epoch": 2, "at": "2026-01-01T00:00:00Z" },
        },
    });
    let mut object = old.clone();
    object["status"]["phase"] = json!("Retained");
    object["status"]["detached"] = json!({ "epoch": 3, "at": "2026-01-02T00:00:00Z" });
    let request = json!({
        "operation": "UPDATE",
        "resource": { "group": "eni-ipam.dev", "version": "v1", "resource": "vpcips" },
        "subResource": "status",
        "userInfo": {
            "username": "system:serviceaccount:kube-system:eni-ipam-node",
            "extra": { NODE_NAME: ["n1"] },
        },
    });
    Write { request, object, old }
}

/// The sentence of each refusal. An expression that fails refuses, by `failurePolicy: Fail`.
fn refusals(manifests: &Manifests, write: &Write) -> Vec<String> {
    let policy = &manifests.one("ValidatingAdmissionPolicy", "eni-ipam-node")["spec"];
    assert_eq!(policy["failurePolicy"], "Fail");
    let mut context = Context::default().with_all();
    for (name, value) in [("request", &write.request), ("object", &write.object), ("oldObject", &write.old)] {
        context.add_variable(name, value).unwrap();
    }
    let evaluate = |context: &Context<'_>, expression: &Value| {
        let expression = expression.as_str().unwrap();
        // kube-apiserver has the optional syntax since 1.29.
        let parsed = Parser::default().enable_optional_syntax(true).parse(expression);
        CelValue::resolve(&parsed.unwrap_or_else(|error| panic!("{expression}: {error}")), context)
    };
    for condition in items(&policy["matchConditions"]) {
        match evaluate(&context, &condition["expression"]) {
            Ok(CelValue::Bool(true)) => {}
            Ok(CelValue::Bool(false)) => return Vec::new(),
            other => panic!("{condition}: {other:?}"),
        }
    }
    let mut variables = std::collections::HashMap::<String, CelValue>::new();
    for variable in items(&policy["variables"]) {
        let value = evaluate(&context, &variable["expression"]).unwrap();
        variables.insert(variable["name"].as_str().unwrap().to_owned(), value);
        context.add_variable_from_value("variables", variables.clone());
    }
    items(&policy["validations"])
        .filter(|validation| {
            !matches!(evaluate(&context, &validation["expression"]), Ok(CelValue::Bool(true)))
        })
        .map(|validation| validation["message"].as_str().unwrap().to_owned())
        .collect()
}

fn refused(write: &Write, sentence: &str) {
    for manifests in overlays() {
        let refusals = refusals(manifests, write);
        assert!(
            refusals.iter().any(|refusal| refusal.contains(sentence)),
            "{sentence:?} not in {refusals:?}"
        );
    }
}

fn allowed(write: &Write) {
    for manifests in overlays() {
        assert_eq!(refusals(manifests, write), [""; 0]);
    }
}

#[test]
fn an_agent_acknowledges_the_detach_of_its_own_node() {
    allowed(&acknowledgement());
    let mut unasked = acknowledgement();
    unasked.old["status"]["phase"] = json!("Bound");
    allowed(&unasked);
    let mut of_former_release = acknowledgement();
    of_former_release.object["status"]["phase"] = json!("Detaching");
    allowed(&of_former_release);
    let mut first = acknowledgement();
    first.old["status"].as_object_mut().unwrap().remove("detached");
    allowed(&first);
    let mut sparse = acknowledgement();
    for object in [&mut sparse.old, &mut sparse.object] {
        object["status"]
            .as_object_mut()
            .unwrap()
            .retain(|field, _| ["phase", "nodeName", "epoch", "detached"].contains(&field.as_str()));
    }
    allowed(&sparse);
}

#[test]
fn others_are_not_concerned() {
    let mut controller = acknowledgement();
    controller.request["userInfo"]["username"] =
        json!("system:serviceaccount:kube-system:eni-ipam-controller");
    controller.object["status"]["phase"] = json!("Cooldown");
    allowed(&controller);
}

#[test]
fn an_agent_writes_only_for_its_own_node() {
    let mut write = acknowledgement();
    write.request["userInfo"]["extra"][NODE_NAME] = json!(["n2"]);
    refused(&write, "not on the node of this agent");
    write.request["userInfo"]["extra"] = json!({});
    refused(&write, "names no node");
    let mut nowhere = acknowledgement();
    for object in [&mut nowhere.old, &mut nowhere.object] {
        object.as_object_mut().unwrap().remove("status");
    }
    refused(&nowhere, "not on the node of this agent");
}

#[test]
fn an_agent_writes_only_acknowledgements() {
    for phase in ["Allocated", "Attaching", "Retained", "Cooldown", "Quarantined"] {
        let mut write = acknowledgement();
        write.old["status"]["phase"] = json!(phase);
        refused(&write, "only the end of a binding");
    }
    for (from, to) in
        [("Bound", "Bound"), ("Bound", "Detaching"), ("Bound", "Cooldown"), ("Detaching", "Bound")]
    {
        let mut write = acknowledgement();
        (write.old["status"]["phase"], write.object["status"]["phase"]) = (json!(from), json!(to));
        refused(&write, "and the phase Retained, and no other field");
    }
    for epoch in [2, 4] {
        let mut write = acknowledgement();
        write.object["status"]["detached"]["epoch"] = json!(epoch);
        refused(&write, "the epoch that is over");
    }
    let mut nothing = acknowledgement();
    nothing.object["status"].as_object_mut().unwrap().remove("detached");
    refused(&nothing, "the epoch that is over");
}

/// Every field that the definition has, so that one that is added later is not forgotten.
#[test]
fn an_agent_writes_no_other_field() {
    let crd = crds::definitions().into_iter().find(|crd| crd.spec.names.kind == "VpcIP").unwrap();
    let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
    let fields = schema["openAPIV3Schema"]["properties"]["status"]["properties"].as_object().unwrap();
    assert!(fields.len() > 1);
    for field in fields.keys().filter(|field| *field != "detached") {
        let mut changed = acknowledgement();
        changed.object["status"][field] = json!("changed");
        refused(&changed, "status.detached and the phase Retained, and no other field");
        let mut gone = acknowledgement();
        gone.old["status"][field] = json!("was there");
        gone.object["status"].as_object_mut().unwrap().remove(field);
        refused(&gone, "status.detached and the phase Retained, and no other field");
    }
}

#[test]
fn an_agent_writes_no_other_resource() {
    for (resource, subresource, operation) in [
        ("vpcips", "", "UPDATE"),
        ("vpcips", "", "DELETE"),
        ("vpcips", "", "CREATE"),
        ("vpcipclaims", "status", "UPDATE"),
        ("nodeeniconfigs", "status", "UPDATE"),
    ] {
        let mut write = acknowledgement();
        write.request["resource"]["resource"] = json!(resource);
        write.request["subResource"] = json!(subresource);
        write.request["operation"] = json!(operation);
        refused(&write, "the status of VpcIPs and nothing else");
    }
}

#[test]
fn the_policy_is_asked_about_every_write_and_denies() {
    for manifests in overlays() {
        let policy = &manifests.one("ValidatingAdmissionPolicy", "eni-ipam-node")["spec"];
        let [rule] = policy["matchConstraints"]["resourceRules"].as_array().unwrap().as_slice() else {
            panic!("more than one rule")
        };
        assert_eq!(rule["operations"], json!(["CREATE", "UPDATE", "DELETE"]));
        for crd in crds::definitions() {
            assert_eq!(rule["apiGroups"], json!([crd.spec.group]));
            assert_eq!(rule["apiVersions"], json!([crd.spec.versions[0].name]));
            let resources = rule["resources"].as_array().unwrap();
            let plural = crd.spec.names.plural;
            assert!(resources.contains(&json!(plural)), "{plural}");
            assert!(resources.contains(&json!(format!("{plural}/status"))), "{plural}/status");
        }
        let account = manifests.one("ServiceAccount", "eni-ipam-node");
        let (namespace, name) = (&account["metadata"]["namespace"], &account["metadata"]["name"]);
        let user =
            format!("system:serviceaccount:{}:{}", namespace.as_str().unwrap(), name.as_str().unwrap());
        assert!(policy["matchConditions"].to_string().contains(&format!("'{user}'")), "{user}");
        let binding = &manifests.one("ValidatingAdmissionPolicyBinding", "eni-ipam-node")["spec"];
        assert_eq!(binding["policyName"], "eni-ipam-node");
        assert_eq!(binding["validationActions"], json!(["Deny"]));
    }
}
