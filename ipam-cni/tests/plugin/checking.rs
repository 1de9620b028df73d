//! CHECK finds each thing that can break, and only that.

use ipam_cni::error::code;
use serde_json::json;

use crate::attachment::Attachment;

#[test]
fn check_holds_right_after_add_in_every_version_that_has_it() {
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let a = Attachment::new();
        let interface = a.interface(true);
        let result = a.add(&interface, version);
        a.check(&interface, &result).done();
    }
}

#[test]
fn check_finds_what_is_broken() {
    // What breaks it, and what CHECK says.
    let cases = [
        ("addr del 10.66.0.5/32 dev eth0", "address 10.66.0.5/32 is missing"),
        ("route del default", "default route via 169.254.1.1 is missing"),
        (
            "neigh replace 169.254.1.1 lladdr 02:00:00:00:00:99 nud permanent dev eth0",
            "neighbour 169.254.1.1 is 02:00:00:00:00:99",
        ),
        ("neigh del 169.254.1.1 dev eth0", "permanent neighbour 169.254.1.1 is missing"),
        ("link set eth0 mtu 1400", "MTU is 1400 and not 1480"),
        ("link set eth0 address 02:00:00:00:00:98", "MAC is 02:00:00:00:00:98"),
        ("link set eth0 down", "link is down"),
    ];
    // Most of these take others along: the address its routes, the link and its MAC the neighbours.
    let mends = [
        "link set eth0 mtu 1480 address 02:00:00:00:00:02 up",
        "addr replace 10.66.0.5/32 dev eth0",
        "route replace 169.254.1.1 dev eth0 scope link",
        "route replace default via 169.254.1.1 dev eth0 onlink",
        "neigh replace 169.254.1.1 lladdr 02:00:00:00:00:01 nud permanent dev eth0",
    ];
    let a = Attachment::new();
    let interface = a.interface(false);
    let result = a.add(&interface, "1.1.0");
    for (breaks, says) in cases {
        a.check(&interface, &result).done();
        a.pod.ip(breaks);
        let error = a.check(&interface, &result).error(code::CHECK_FAILED);
        assert!(error["details"].as_str().unwrap().contains(says), "after {breaks}: {error}");
        for mend in mends {
            a.pod.ip(mend);
        }
    }
    a.check(&interface, &result).done();
    a.pod.ip("link del eth0");
    let error = a.check(&interface, &result).error(code::CHECK_FAILED);
    assert_eq!(error["details"], "there is no interface eth0");
}

#[test]
fn check_compares_with_the_result_of_the_add() {
    let a = Attachment::new();
    let interface = a.interface(false);
    let result = a.add(&interface, "1.1.0");
    let broken = |path: &str, value| {
        let mut result = result.clone();
        *result.pointer_mut(path).unwrap() = value;
        a.check(&interface, &result).error(code::CHECK_FAILED)["details"].as_str().unwrap().to_owned()
    };
    assert!(
        broken("/ips/0/address", json!("10.66.0.6/32")).contains("prevResult lacks the address 10.66.0.5")
    );
    assert!(broken("/interfaces/1/name", json!("eth1")).contains("prevResult has no interface eth0"));
    assert!(broken("/interfaces/1/mac", json!("02:00:00:00:00:97")).contains("MAC in prevResult"));

    // Plugins later in the chain add interfaces and change the MTU, and say so.
    let mut later = result.clone();
    later["interfaces"].as_array_mut().unwrap().push(json!({"name": "ifb0"}));
    later["interfaces"][1]["mtu"] = json!(1400);
    a.pod.ip("link set eth0 mtu 1400");
    a.check(&interface, &later).done();
}

#[test]
fn check_needs_the_result_and_the_namespace() {
    let a = Attachment::new();
    let error = a.call("CHECK").run().error(code::INVALID_CONFIG);
    assert!(error["msg"].as_str().unwrap().contains("prevResult"), "{error}");
    let interface = a.interface(false);
    let result = a.add(&interface, "1.1.0");
    a.pod.remove();
    a.check(&interface, &result).error(code::CHECK_FAILED);
}
