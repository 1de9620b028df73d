//! One more demand on the node of a pod, beside those that are there.

use serde_json::{Value, json};

use crate::api::scheduling::ZONE_LABEL;

/// The demand for a node of these zones, as a term of a node selector has it.
fn demand(zones: &[String]) -> Value {
    json!({ "key": ZONE_LABEL, "operator": "In", "values": zones })
}

/// Makes the pod go only to nodes of these zones that it would go to without. Nothing that it has is changed: terms are
/// alternatives, so each gets the demand; a term that demands nothing matches no node, and is left so.
pub fn demand_zones(pod: &mut Value, zones: &[String]) {
    let demand = demand(zones);
    let mut at = &mut pod["spec"];
    for field in ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"] {
        if !at[field].is_object() {
            at[field] = json!({});
        }
        at = &mut at[field];
    }
    let Some(terms) = at["nodeSelectorTerms"].as_array_mut() else {
        at["nodeSelectorTerms"] = json!([{ "matchExpressions": [demand] }]);
        return;
    };
    for term in terms {
        let has = |field: &str| term[field].as_array().is_some_and(|list| !list.is_empty());
        if !has("matchExpressions") && !has("matchFields") {
            continue;
        }
        match term["matchExpressions"].as_array_mut() {
            Some(demands) if demands.contains(&demand) => {}
            Some(demands) => demands.push(demand.clone()),
            None => term["matchExpressions"] = json!([demand]),
        }
    }
}

/// The zones that the pod itself names in its node selector, where none of these is among them.
pub fn contradiction(pod: &Value, zones: &[String]) -> Option<String> {
    let own = pod["spec"]["nodeSelector"][ZONE_LABEL].as_str()?;
    (!zones.iter().any(|zone| zone == own)).then(|| own.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What the scheduler makes of a required node affinity (`component-helpers`, `nodeaffinity`).
    fn matches(pod: &Value, labels: &BTreeMap<String, String>, name: &str) -> bool {
        let required =
            &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let Some(terms) = required["nodeSelectorTerms"].as_array() else { return true };
        let list = |term: &Value, field: &str| term[field].as_array().cloned().unwrap_or_default();
        terms.iter().any(|term| {
            let (expressions, fields) = (list(term, "matchExpressions"), list(term, "matchFields"));
            let in_values = |it: &Value, actual: Option<&str>| {
                let listed = it["values"].as_array().unwrap().iter().any(|value| value.as_str() == actual);
                match it["operator"].as_str().unwrap() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => actual.is_some(),
                    other => panic!("{other}"),
                }
            };
            !(expressions.is_empty() && fields.is_empty())
                && expressions
                    .iter()
                    .all(|it| in_values(it, labels.get(it["key"].as_str().unwrap()).map(String::as_str)))
                && fields.iter().all(|it| in_values(it, Some(name)))
        })
    }

    fn expression() -> impl Strategy<Value = Value> {
        let key = prop_oneof![Just(ZONE_LABEL), Just("disk")];
        let values = proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..3);
        (key, prop_oneof![Just("In"), Just("NotIn"), Just("Exists")], values)
            .prop_map(|(key, operator, values)| json!({ "key": key, "operator": operator, "values": values }))
    }

    fn term() -> impl Strategy<Value = Value> {
        let field = json!({ "key": "metadata.name", "operator": "In", "values": ["n1"] });
        let fields = prop_oneof![Just(None), Just(Some(json!([field])))];
        let expressions = proptest::option::of(proptest::collection::vec(expression(), 0..3));
        (expressions, fields).prop_map(|(expressions, fields)| {
            let mut term = json!({});
            if let Some(expressions) = expressions {
                term["matchExpressions"] = json!(expressions);
            }
            if let Some(fields) = fields {
                term["matchFields"] = fields;
            }
            term
        })
    }

    fn pod() -> impl Strategy<Value = Value> {
        proptest::option::of(proptest::collection::vec(term(), 0..3)).prop_map(|terms| match terms {
            None => json!({ "spec": { "affinity": { "podAntiAffinity": {} } } }),
            Some(terms) => json!({ "spec": { "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms },
                "preferredDuringSchedulingIgnoredDuringExecution": [],
            }}}}),
        })
    }

    proptest! {
        /// A node suits afterwards when it did before and is of one of the zones; what was there is there; and a second
        /// time changes nothing.
        #[test]
        fn exactly_the_nodes_of_the_zones_are_left(
            old in pod(),
            zones in proptest::sample::subsequence(vec!["a".to_owned(), "b".to_owned()], 1..=2),
            zone in prop_oneof![Just("a"), Just("b"), Just("c")],
            disk in prop_oneof![Just("a"), Just("b")],
            name in prop_oneof![Just("n1"), Just("n2")],
        ) {
            let mut new = old.clone();
            demand_zones(&mut new, &zones);
            let labels = [(ZONE_LABEL, zone), ("disk", disk)].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let suits = matches(&old, &labels, name) && zones.iter().any(|it| it == zone);
            prop_assert_eq!(matches(&new, &labels, name), suits, "{} from {}", new, old);
            for operation in json_patch::diff(&old, &new).0 {
                prop_assert!(matches!(operation, json_patch::PatchOperation::Add(_)), "{} from {}", new, old);
            }
            let mut again = new.clone();
            demand_zones(&mut again, &zones);
            prop_assert_eq!(again, new);
        }
    }
}
