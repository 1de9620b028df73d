//! What whoever writes a Deployment or a StatefulSet should know of its pods' addresses. Only words: nothing is refused.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::pod;
use crate::api::DeletePolicy;
use crate::api::annotations::AddressWish;
use crate::cloud::Subnet;
use crate::ipam::family::{Families, Family};

/// What the words depend on.
pub struct Surroundings<'a> {
    /// As last seen; none: not known.
    pub subnets: &'a [Subnet],
    /// Of which every pod has an address.
    pub families: &'a Families,
}

/// Warnings about a workload, `old` being what it replaces.
pub fn warnings(kind: &str, new: &Value, old: Option<&Value>, around: &Surroundings<'_>) -> Vec<String> {
    let template = &new["spec"]["template"];
    if !pod::needs_address(template) {
        return Vec::new();
    }
    let (wish, bad) = pod::wish(template);
    let mut warnings: Vec<String> = bad.iter().map(|bad| format!("pods of this {kind}: {bad}")).collect();
    let rollout = Rollout::of(kind, new, old);
    warnings.extend(one_address(&rollout, &wish));
    warnings.extend(no_room(&rollout, &wish, around));
    warnings.extend(names_that_never_come_back(kind, &rollout, &wish));
    warnings
}

/// What a rolling update does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rollout {
    replicas: u64,
    /// Pods that there are besides, while the old ones have not ended.
    surge: u64,
    /// Old pods that may end before new ones are ready.
    unavailable: u64,
    /// Pods that there are already.
    running: u64,
}

impl Rollout {
    fn of(kind: &str, new: &Value, old: Option<&Value>) -> Self {
        let replicas = |workload: &Value| workload["spec"]["replicas"].as_u64().unwrap_or(1);
        let running = old.map_or(0, replicas);
        let (count, strategy) = (replicas(new), &new["spec"]["strategy"]);
        let (surge, unavailable) = match strategy["type"].as_str() {
            _ if kind != "Deployment" => (0, count),
            Some("Recreate") => (0, count),
            _ => {
                let part = |field, up| share(&strategy["rollingUpdate"][field], count, up);
                (part("maxSurge", true), part("maxUnavailable", false))
            }
        };
        Self { replicas: count, surge, unavailable, running }
    }
}

/// A number, or a percentage of the replicas; absent: a quarter of them, as apps/v1 has it.
fn share(value: &Value, replicas: u64, up: bool) -> u64 {
    let percent = match serde_json::from_value(value.clone()) {
        Ok(IntOrString::Int(count)) => return u64::try_from(count).unwrap_or(0),
        Ok(IntOrString::String(text)) => text.trim_end_matches('%').parse().unwrap_or(0),
        Err(_) => 25,
    };
    let part = replicas.saturating_mul(percent);
    if up { part.div_ceil(100) } else { part / 100 }
}

fn one_address(rollout: &Rollout, wish: &AddressWish) -> Option<String> {
    let address = wish.nominated_text()?;
    let Rollout { replicas, surge, unavailable, .. } = *rollout;
    if replicas > 1 {
        return Some(format!(
            "{replicas} replicas nominate one address, {address}: one pod has it and the others wait; nominate subnets \
             (nominated-eni-subnets) instead"
        ));
    }
    (surge > 0 && unavailable == 0).then(|| {
        format!(
            "a rolling update waits for ever: its new pod needs {address}, and the old one keeps it until the new one is \
             ready; set maxSurge: 0 and maxUnavailable: 1, or strategy Recreate"
        )
    })
}

fn no_room(rollout: &Rollout, wish: &AddressWish, around: &Surroundings<'_>) -> Option<String> {
    let usable =
        |subnet: &&Subnet| wish.nominated_subnets.is_empty() || wish.nominated_subnets.contains(&subnet.id);
    let subnets: Vec<&Subnet> = around.subnets.iter().filter(usable).collect();
    if around.subnets.is_empty() || !wish.nominated_ips.is_empty() {
        return None;
    }
    if subnets.is_empty() {
        let named = wish.nominated_subnets.join(", ");
        return Some(format!(
            "none of the nominated subnets ({named}) is configured: the pods get no address"
        ));
    }
    let free: u64 = subnets.iter().map(|subnet| room(subnet, around.families)).sum();
    let Rollout { replicas, surge, running, .. } = *rollout;
    let more = replicas.saturating_sub(running);
    let names: Vec<&str> = subnets.iter().map(|subnet| subnet.id.as_str()).collect();
    let names = names.join(", ");
    if free < more {
        return Some(format!(
            "{more} more pods need an address each, and {names} have {free} free: the rest waits"
        ));
    }
    let left = free - more;
    (left < surge).then(|| {
        format!(
            "a rolling update needs {surge} more addresses for its surge, and {names} have {left} free: new pods wait until \
             old ones have ended; maxSurge: 0 needs none"
        )
    })
}

/// Pods that a subnet has free addresses for.
fn room(subnet: &Subnet, families: &Families) -> u64 {
    let free = |family| match family {
        Family::V4 => subnet.available,
        Family::V6 => subnet.ipv6.map_or(0, |ipv6| ipv6.available),
    };
    families.iter().map(free).min().unwrap_or(0)
}

fn names_that_never_come_back(kind: &str, rollout: &Rollout, wish: &AddressWish) -> Option<String> {
    let is_static = wish.delete_policy == Some(DeletePolicy::Never);
    (kind == "Deployment" && is_static).then(|| {
        let expiry = match wish.expired_duration.as_deref() {
            None | Some("never") => "for ever, unless the controller's --claim-expired-duration ends it".to_owned(),
            Some(time) => format!("for {time}"),
        };
        format!(
            "pods of a Deployment have new names each time, so none gets its static address back: each rollout keeps {} \
             addresses more {expiry}; use a StatefulSet",
            rollout.replicas
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn subnet(id: &str, available: u64) -> Subnet {
        Subnet {
            id: id.into(),
            zone: "zone-1".into(),
            cidr: "10.0.1.0/24".parse().unwrap(),
            gateway: "10.0.1.1".parse().unwrap(),
            reserved: 2,
            available,
            ipv6: None,
        }
    }

    fn say(kind: &str, new: &Value, old: Option<&Value>, free: u64) -> Vec<String> {
        let subnets = [subnet("subnet-a", free)];
        let families = Families::ipv4();
        let around = Surroundings { subnets: &subnets, families: &families };
        warnings(kind, new, old, &around)
    }

    fn workload(replicas: u64, strategy: Value, annotations: Value) -> Value {
        json!({ "spec": {
            "replicas": replicas, "strategy": strategy,
            "template": { "metadata": { "annotations": annotations }, "spec": { "containers": [{ "name": "c" }] } },
        }})
    }

    #[test]
    fn an_ordinary_deployment_with_room_is_not_talked_about() {
        let plain = workload(4, json!({}), json!({}));
        assert_eq!(say("Deployment", &plain, None, 5), [""; 0]);
        let on_host = json!({ "spec": { "replicas": 900, "template": { "spec": { "hostNetwork": true } } } });
        assert_eq!(say("Deployment", &on_host, None, 0), [""; 0]);
    }

    #[test]
    fn a_surge_without_spare_addresses_is_told_with_the_numbers() {
        let all = workload(4, json!({}), json!({}));
        let [warning] = &say("Deployment", &all, None, 4)[..] else { panic!("one warning") };
        assert!(
            warning.starts_with(
                "a rolling update needs 1 more addresses for its surge, and subnet-a have 0 free"
            )
        );
        // It runs already: only the surge is new.
        assert_eq!(say("Deployment", &all, Some(&all), 1), [""; 0]);
        assert_eq!(say("Deployment", &all, Some(&all), 0).len(), 1);
        assert_eq!(
            say("StatefulSet", &all, Some(&all), 0),
            [""; 0],
            "its pods end before their successors begin"
        );
        let careful =
            workload(4, json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } }), json!({}));
        assert_eq!(say("Deployment", &careful, Some(&careful), 0), [""; 0]);
        let [warning] = &say("Deployment", &careful, None, 3)[..] else { panic!("one warning") };
        assert!(
            warning.starts_with("4 more pods need an address each, and subnet-a have 3 free"),
            "{warning}"
        );
    }

    #[test]
    fn an_update_that_waits_for_its_own_address_is_told() {
        let nominated = json!({ "eni-ipam.dev/nominated-vpc-ip": "10.0.1.7" });
        let one = workload(1, json!({}), nominated.clone());
        let [warning] = &say("Deployment", &one, None, 9)[..] else { panic!("one warning") };
        assert!(
            warning.starts_with("a rolling update waits for ever: its new pod needs 10.0.1.7"),
            "{warning}"
        );
        assert_eq!(
            say("Deployment", &workload(1, json!({ "type": "Recreate" }), nominated.clone()), None, 9),
            [""; 0]
        );
        assert_eq!(say("StatefulSet", &one, None, 9), [""; 0]);
        let [warning] = &say("StatefulSet", &workload(3, json!({}), nominated), None, 9)[..] else {
            panic!()
        };
        assert!(warning.starts_with("3 replicas nominate one address, 10.0.1.7"), "{warning}");
    }

    #[test]
    fn static_deployments_bad_annotations_and_unknown_subnets_are_told() {
        let policy = |value: &str| json!({ "eni-ipam.dev/vpc-ip-claim-delete-policy": value });
        let [warning] = &say("Deployment", &workload(2, json!({}), policy("Never")), None, 9)[..] else {
            panic!()
        };
        assert!(warning.contains("each rollout keeps 2 addresses more for ever"), "{warning}");
        assert_eq!(say("StatefulSet", &workload(2, json!({}), policy("Never")), None, 9), [""; 0]);
        let [warning] = &say("StatefulSet", &workload(2, json!({}), policy("Forever")), None, 9)[..] else {
            panic!()
        };
        assert!(warning.contains("\"Forever\" is no policy"), "{warning}");
        let nowhere = json!({ "eni-ipam.dev/nominated-eni-subnets": "subnet-z" });
        let [warning] = &say("StatefulSet", &workload(2, json!({}), nowhere), None, 9)[..] else { panic!() };
        assert!(warning.starts_with("none of the nominated subnets (subnet-z) is configured"), "{warning}");
    }

    proptest! {
        /// Percentages are those of the Deployment controller: surge rounds up, unavailable down.
        #[test]
        fn shares_round_as_the_deployment_controller_does(replicas in 0u64..500, percent in 0u64..=100) {
            let text = json!(format!("{percent}%"));
            let exact = replicas as f64 * percent as f64 / 100.0;
            prop_assert_eq!(share(&text, replicas, true), (exact - 1e-9).ceil().max(0.0) as u64);
            prop_assert_eq!(share(&text, replicas, false), (exact + 1e-9).floor() as u64);
            prop_assert_eq!(share(&json!(percent), replicas, true), percent);
        }
    }
}
