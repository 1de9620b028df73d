use std::{collections::BTreeMap, env, fs, path::Path};

use serde_json::{Value, json};

use super::*;

/// The copy that Kustomize applies.
const COPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/base/crds");
/// `cargo xtask generate` sets it: write the copy instead of comparing.
const WRITE: &str = "ENI_IPAM_GENERATE";

#[test]
fn deploy_copy_is_current() {
    let generated: BTreeMap<String, String> = files().into_iter().collect();
    let dir = Path::new(COPY);
    if env::var_os(WRITE).is_some() {
        fs::create_dir_all(dir).unwrap();
        for name in copies(dir).into_keys().filter(|name| !generated.contains_key(name)) {
            fs::remove_file(dir.join(name)).unwrap();
        }
        for (name, yaml) in &generated {
            fs::write(dir.join(name), yaml).unwrap();
        }
    }
    for (name, yaml) in copies(dir) {
        assert!(generated.get(&name) == Some(&yaml), "deploy/base/crds/{name} is stale: {REMEDY}");
    }
    assert_eq!(copies(dir).len(), generated.len(), "a file is missing in deploy/base/crds: {REMEDY}");
}

const REMEDY: &str = "run `cargo xtask generate` and commit what it writes";

fn copies(dir: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .map(|(name, path)| (name, fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn yaml_reads_back_as_the_same_definitions() {
    let read: Vec<CustomResourceDefinition> = serde_saphyr::from_multiple(&yaml()).unwrap();
    assert_eq!(read, definitions());
}

/// The schema of a kind, as kube-apiserver applies it.
struct Schema(Value);

impl Schema {
    fn of(kind: &str) -> Self {
        let crd = definitions().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let schema = crd.spec.versions[0].schema.clone().unwrap();
        Self(serde_json::to_value(schema.open_api_v3_schema.unwrap()).unwrap())
    }

    /// What is wrong with an object, or with changing `old` into it; `path: sentence`.
    fn problems(&self, old: Option<&Value>, object: &Value) -> Vec<String> {
        let structure = jsonschema::validator_for(&self.0).unwrap();
        let rules = kube_cel::Validator::new().validate(&self.0, object, old);
        let rules = rules.err().map(kube_cel::ValidationErrors::into_vec).unwrap_or_default();
        let structure =
            structure.iter_errors(object).map(|error| format!("{}: {error}", error.instance_path()));
        structure
            .chain(rules.into_iter().map(|rule| format!("{}: {}", rule.field_path, rule.message)))
            .collect()
    }

    fn accepts(&self, object: &Value) {
        assert_eq!(self.problems(None, object), [""; 0], "{object:#}");
    }

    /// Exactly one problem, which says this.
    fn refuses(&self, old: Option<&Value>, object: &Value, sentence: &str) {
        let problems = self.problems(old, object);
        assert_eq!(problems.len(), 1, "{problems:#?} for {object:#}");
        assert!(problems[0].contains(sentence), "{problems:?}");
    }
}

/// The value with one field changed; null takes the field away.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Value::Null => drop(parent.remove(field)),
        value => drop(parent.insert(field.to_owned(), value)),
    }
    object
}

fn vpc_ip() -> Value {
    json!({
        "apiVersion": "eni-ipam.dev/v1",
        "kind": "VpcIP",
        "metadata": { "name": "10.0.1.7" },
        "spec": {
            "type": "Pod",
            "ip": "10.0.1.7",
            "subnetID": "subnet-a",
            "claimRef": { "namespace": "default", "name": "web-0", "uid": "u" },
        },
        "status": { "phase": "Bound", "nodeName": "n1", "eniID": "eni-1", "podUID": "p", "epoch": 3 },
    })
}

#[test]
fn a_vpc_ip_is_named_by_its_address() {
    let schema = Schema::of("VpcIP");
    schema.accepts(&vpc_ip());
    let of =
        |name: &str, ip: &str| with(with(vpc_ip(), "/metadata/name", json!(name)), "/spec/ip", json!(ip));
    for ip in ["10.0.1.7", "fd00::1", "2001:db8:1:2:3:4:5:6"] {
        schema.accepts(&of(&VpcIP::name_of(ip.parse().unwrap()), ip));
    }
    for (name, ip) in [
        ("10.0.1.8", "10.0.1.7"),
        ("web", "10.0.1.7"),
        ("fd00--1", "fd00::1"),
        ("fd00-0000-0000-0000-0000-0000-0000-0002", "fd00::1"),
        ("0000-0000-0000-0000-0000-0000-10.0.1.7", "::10.0.1.7"),
    ] {
        schema.refuses(None, &of(name, ip), "the name must be the address itself");
    }
    schema.refuses(None, &of("10.0.1.7", "10.0.1.700"), "must be one IP address");
}

#[test]
fn a_vpc_ip_is_of_one_claim_for_ever_and_its_epoch_only_rises() {
    let schema = Schema::of("VpcIP");
    let old = vpc_ip();
    let moved = with(vpc_ip(), "/status/nodeName", json!("n2"));
    assert_eq!(schema.problems(Some(&old), &with(moved, "/status/epoch", json!(4))), [""; 0]);
    for (pointer, value, sentence) in [
        ("/spec/claimRef/uid", json!("other"), "the spec of a VpcIP never changes"),
        ("/spec/subnetID", json!("subnet-b"), "the spec of a VpcIP never changes"),
        ("/status/epoch", json!(2), "an epoch never goes back"),
    ] {
        schema.refuses(Some(&old), &with(vpc_ip(), pointer, value), sentence);
    }
    for (pointer, value, sentence) in [
        ("/spec/claimRef", Value::Null, "an address of type Pod needs a claimRef"),
        ("/spec/type", json!("ENI"), "one of type ENI has none"),
        ("/spec/claimRef/uid", json!(""), "/spec/claimRef/uid"),
        ("/status/phase", json!("Lost"), "\"Lost\" is not one of"),
        ("/status/eniID", Value::Null, "a Bound address is on an ENI of a node"),
        ("/status/epoch", json!(-1), "-1 is less than the minimum"),
    ] {
        schema.refuses(None, &with(vpc_ip(), pointer, value), sentence);
    }
    let nobody = with(vpc_ip(), "/spec/claimRef", Value::Null);
    schema.refuses(None, &with(nobody.clone(), "/spec/type", json!("pod")), "\"pod\" is not one of");
    schema.accepts(&with(nobody, "/spec/type", json!("ENI")));
    schema.accepts(&with(vpc_ip(), "/status", Value::Null));
}

#[test]
fn a_claim_says_what_is_wrong_with_it() {
    let schema = Schema::of("VpcIPClaim");
    let claim = json!({
        "apiVersion": "eni-ipam.dev/v1",
        "kind": "VpcIPClaim",
        "metadata": { "namespace": "default", "name": "web-0" },
        "spec": {
            "deletePolicy": "Never",
            "expiredDuration": "1h30m",
            "nominatedIP": "10.0.1.7",
            "nominatedSubnets": ["subnet-a"],
        },
    });
    schema.accepts(&claim);
    schema.accepts(&with(claim.clone(), "/spec", json!({})));
    for good in ["never", "5m", "300s", "168h", "2562047h"] {
        schema.accepts(&with(claim.clone(), "/spec/expiredDuration", json!(good)));
    }
    for bad in ["", "Never", "299s", "4m59s", "-1h", "7d", "1h 30m", "soon", "500ms"] {
        let claim = with(claim.clone(), "/spec/expiredDuration", json!(bad));
        schema.refuses(None, &claim, "write a duration of at least 5m such as 1h30m, or never");
    }
    for good in ["fd00::1", "255.255.255.255", "10.0.1.7,fd00::1", "fd00::1,10.0.1.7"] {
        schema.accepts(&with(claim.clone(), "/spec/nominatedIP", json!(good)));
    }
    for bad in [
        "",
        "10.0.1",
        "010.0.1.7",
        "10.0.1.7/24",
        "web",
        "10.0.1.7,",
        "10.0.1.7,10.0.1.8",
        "fd00::1,fd00::2",
        "10.0.1.7,fd00::1,fd00::2",
    ] {
        let claim = with(claim.clone(), "/spec/nominatedIP", json!(bad));
        schema.refuses(None, &claim, "write one IP address such as 10.0.1.7");
    }
    schema.refuses(None, &with(claim.clone(), "/spec/deletePolicy", json!("never")), "not one of");
    schema.refuses(None, &with(claim, "/spec/nominatedSubnets", json!([""])), "/spec/nominatedSubnets/0");
}

/// What the controller writes from the worst annotations is a claim that the schema takes: a pod is never left
/// without a claim because its annotation was accepted in one place and refused in another.
#[test]
fn every_wish_of_a_pod_makes_a_valid_claim() {
    use crate::api::{VpcIPClaimSpec, annotations};
    let schema = Schema::of("VpcIPClaim");
    for expiry in ["1month", "7d", "1h 30min", "300001ms", "999999999999years", "Never", "rubbish", "1s", ""]
    {
        for ip in [
            "10.0.1.7",
            "FD00::1",
            " 10.0.1.7 ",
            "::ffff:10.0.1.7",
            "10.0.1.7, FD00::1",
            "10.0.1.7,",
            "rubbish",
        ] {
            let annotation =
                |name: &str, value: &str| (format!("{}{name}", annotations::PREFIX), value.to_owned());
            let (wish, _) = annotations::AddressWish::parse(&BTreeMap::from([
                annotation(annotations::EXPIRED_DURATION, expiry),
                annotation(annotations::NOMINATED_IP, ip),
                annotation(annotations::NOMINATED_SUBNETS, "a,,a"),
            ]));
            let nominated_ip = wish.nominated_text();
            let spec = VpcIPClaimSpec {
                expired_duration: wish.expired_duration,
                nominated_ip,
                nominated_subnets: wish.nominated_subnets,
                ..VpcIPClaimSpec::default()
            };
            schema.accepts(&serde_json::to_value(VpcIPClaim::new("web-0", spec)).unwrap());
        }
    }
}

#[test]
fn the_limits_of_a_node_have_limits() {
    let schema = Schema::of("NodeENIConfig");
    let config = json!({
        "apiVersion": "eni-ipam.dev/v1",
        "kind": "NodeENIConfig",
        "metadata": { "name": "n1" },
        "spec": { "instanceID": "ins-1", "zone": "", "maxENIs": 0, "maxIPsPerENI": 1 },
        "status": { "enis": [{
            "id": "eni-1", "mac": "02:00:00:00:00:01", "subnetID": "s", "subnetCIDR": "10.0.1.0/24",
            "gateway": "10.0.1.1", "primaryIP": "10.0.1.2", "state": "Attached",
        }] },
    });
    schema.accepts(&config);
    for (pointer, value, sentence) in [
        ("/spec/maxENIs", json!(65), "65 is greater than the maximum of 64"),
        ("/spec/maxENIs", json!(-1), "-1 is less than the minimum of 0"),
        ("/spec/maxIPsPerENI", json!(0), "0 is less than the minimum of 1"),
        ("/spec/maxIPsPerENI", json!(4097), "4097 is greater than the maximum of 4096"),
        ("/spec/instanceID", json!(""), "/spec/instanceID"),
    ] {
        schema.refuses(None, &with(config.clone(), pointer, value), sentence);
    }
    let shouting = config.to_string().replace("02:00:00:00:00:01", "02:00:00:00:00:0A");
    schema.refuses(None, &serde_json::from_str(&shouting).unwrap(), "/status/enis/0/mac");
}

/// What kube-apiserver would warn of, or show wrongly.
#[test]
fn definitions_are_as_kube_apiserver_wants_them() {
    for crd in definitions() {
        let name = crd.name_any();
        let version = &crd.spec.versions[0];
        for column in version.additional_printer_columns.iter().flatten() {
            let future = column.json_path.ends_with("expireAt");
            assert!(!future || column.type_ == "string", "{name}: a date to come is shown as <invalid>");
        }
        assert!(
            version.selectable_fields.as_ref().map_or(0, Vec::len) <= 8,
            "{name}: more than 8 are refused"
        );
        assert_eq!(crd.spec.names.categories, Some(vec!["eni-ipam".to_owned()]), "{name}");
        let schema = Schema::of(&crd.spec.names.kind).0;
        let compiled = kube_cel::compile_schema(&schema);
        assert!(compiled.compilation_errors().is_empty(), "{name}: {:?}", compiled.compilation_errors());
        check_node(&name, &schema);
    }
}

/// Formats that kube-apiserver does not know draw a warning at each apply; texts that a rule reads have a length, or
/// the rule's estimated cost has no bound; and descriptions are for operators.
fn check_node(path: &str, node: &Value) {
    if let Some(format) = node["format"].as_str() {
        assert!(["int32", "int64", "date-time"].contains(&format), "{path}: format {format}");
    }
    if node["type"] == "string" && node.get("x-kubernetes-validations").is_some() {
        assert!(node["maxLength"].is_u64(), "{path}: has a rule and no maxLength");
    }
    let description = node["description"].as_str().unwrap_or_default();
    assert!(!description.contains("::") && !description.contains("[`"), "{path}: Rust in {description:?}");
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        check_node(&format!("{path}.{name}"), property);
    }
    if let Some(items) = node.get("items") {
        check_node(&format!("{path}[]"), items);
    }
}
