//! The webhook is where kube-apiserver calls, under the name that its certificate has, and nobody waits for it.

use clap::CommandFactory as _;
use ipam_agent::api::scheduling::{WEBHOOK_DISABLED, WEBHOOK_LABEL};
use ipam_agent::cli::Cli;
use ipam_agent::webhook;
use kube_cel::KubeCelExt as _;
use kube_cel::cel::{Context, Value as CelValue, parser::Parser};
use serde_json::{Value, json};

use crate::manifests::{Manifests, items, overlays, texts};

/// The default of an argument of the controller.
fn default(argument: &str) -> String {
    let command = Cli::command();
    let controller = command.find_subcommand("controller").unwrap();
    let argument = controller.get_arguments().find(|known| known.get_id() == argument).unwrap();
    argument.get_default_values()[0].to_str().unwrap().to_owned()
}

fn webhooks(manifests: &Manifests) -> impl Iterator<Item = &Value> {
    items(&manifests.one("MutatingWebhookConfiguration", &default("webhook_name"))["webhooks"])
}

#[test]
fn kube_apiserver_reaches_it() {
    for manifests in overlays() {
        let (_, container) = manifests.running("controller");
        let arguments = texts(&container["args"]);
        let listen =
            arguments.iter().find_map(|argument| argument.strip_prefix("--webhook-listen=")).unwrap();
        let port: u16 = listen.rsplit(':').next().unwrap().parse().unwrap();
        let named = items(&container["ports"]).find(|port| port["name"] == "webhook").unwrap();
        assert_eq!(named["containerPort"], port);

        for webhook in webhooks(manifests) {
            let target = &webhook["clientConfig"]["service"];
            assert_eq!(target["path"], webhook::PATH);
            let (name, namespace) = (target["name"].as_str().unwrap(), target["namespace"].as_str().unwrap());
            assert_eq!(format!("{name}.{namespace}.svc"), default("webhook_hosts"));
            let service = manifests.one("Service", name);
            assert_eq!(service["metadata"]["namespace"], namespace);
            let [port] = service["spec"]["ports"].as_array().unwrap().as_slice() else { panic!("one port") };
            assert_eq!((&port["port"], &port["targetPort"]), (&json!(443), &named["name"]));
            let controller = &manifests.one("Deployment", "eni-ipam-controller")["spec"];
            assert_eq!(service["spec"]["selector"], controller["selector"]["matchLabels"]);
        }
        let secret = manifests.one("Secret", &default("webhook_name"));
        assert_eq!(secret["metadata"]["namespace"], default("webhook_namespace"));
        assert!(secret.get("data").is_none(), "applying it again takes nothing out");
    }
}

#[test]
fn nobody_waits_for_it_and_namespaces_can_opt_out() {
    for manifests in overlays() {
        assert_eq!(webhooks(manifests).count(), 2);
        for webhook in webhooks(manifests) {
            assert_eq!(webhook["failurePolicy"], "Ignore");
            assert!(webhook["timeoutSeconds"].as_u64().unwrap() <= 2);
            assert_eq!(webhook["sideEffects"], "None");
            assert_eq!(
                webhook["namespaceSelector"]["matchExpressions"],
                json!([
                    { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"] },
                    { "key": WEBHOOK_LABEL, "operator": "NotIn", "values": [WEBHOOK_DISABLED] },
                ])
            );
            // Which would overwrite what the controller has written.
            assert!(webhook["clientConfig"].get("caBundle").is_none());
        }
    }
}

/// kube-apiserver asks about pods that have a network of their own, and only about those.
#[test]
fn it_is_not_asked_about_pods_of_the_hosts_network() {
    for manifests in overlays() {
        let webhook = webhooks(manifests).find(|webhook| webhook["name"] == "pods.eni-ipam.dev").unwrap();
        let [condition] = webhook["matchConditions"].as_array().unwrap().as_slice() else {
            panic!("one condition")
        };
        let expression = condition["expression"].as_str().unwrap();
        let parsed = Parser::default().enable_optional_syntax(true).parse(expression).unwrap();
        for (spec, asked) in [
            (json!({}), true),
            (json!({ "hostNetwork": false }), true),
            (json!({ "hostNetwork": true }), false),
        ] {
            let mut context = Context::default().with_all();
            context.add_variable("object", json!({ "spec": spec })).unwrap();
            let answer = CelValue::resolve(&parsed, &context).unwrap();
            assert_eq!(answer, CelValue::Bool(asked), "{spec}");
        }
    }
}
