//! What needs neither agent nor pod: versions, environment, configuration.

use ipam_cni::error::code;
use serde_json::json;

use crate::runner::Call;

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn version_needs_nothing_but_the_command() {
    let bare = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];
    let call = bare.into_iter().fold(Call::new("VERSION"), Call::without);
    for (stdin, echoed) in [
        ("", "1.1.0"),
        ("{}", "1.1.0"),
        ("no JSON", "1.1.0"),
        (r#"{"cniVersion": "0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion": "1.0.0", "name": 7}"#, "1.0.0"),
        (r#"{"cniVersion": "7.0.0"}"#, "7.0.0"),
        (r#"{"cniVersion": "x\n"}"#, "1.1.0"),
    ] {
        let result = call.clone().stdin(stdin).run().result();
        assert_eq!(result, json!({"cniVersion": echoed, "supportedVersions": VERSIONS}), "for {stdin:?}");
    }
    // As podman 4.3 asks, before each ADD and DEL.
    let podman = call.env("CNI_CONTAINERID", "dummy").env("CNI_NETNS", "dummy").env("CNI_IFNAME", "dummy");
    assert_eq!(podman.run().result()["supportedVersions"], json!(VERSIONS));
}

#[test]
fn environment() {
    let long = "x".repeat(16);
    type Variables<'a> = &'a [(&'a str, &'a str)];
    // Command, changed variables, and what the message must name.
    let cases: &[(&str, Variables<'_>, &[&str])] = &[
        ("", &[], &["CNI_COMMAND"]),
        ("add", &[], &["CNI_COMMAND", "add"]),
        ("ADD", &[("CNI_CONTAINERID", "")], &["CNI_CONTAINERID"]),
        ("ADD", &[("CNI_NETNS", ""), ("CNI_IFNAME", "")], &["CNI_NETNS", "CNI_IFNAME"]),
        ("CHECK", &[("CNI_NETNS", "")], &["CNI_NETNS"]),
        ("DEL", &[("CNI_CONTAINERID", ""), ("CNI_IFNAME", "")], &["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("DEL", &[("CNI_CONTAINERID", "../c")], &["CNI_CONTAINERID", "../c"]),
        ("ADD", &[("CNI_CONTAINERID", ".c")], &["CNI_CONTAINERID", ".c"]),
        ("ADD", &[("CNI_IFNAME", &long)], &["CNI_IFNAME", &long]),
        ("ADD", &[("CNI_IFNAME", "a/b")], &["CNI_IFNAME", "a/b"]),
        ("ADD", &[("CNI_IFNAME", "..")], &["CNI_IFNAME", ".."]),
        ("ADD", &[("CNI_ARGS", "IgnoreUnknown")], &["CNI_ARGS"]),
        ("ADD", &[("CNI_NETNS_OVERRIDE", "perhaps")], &["CNI_NETNS_OVERRIDE", "perhaps"]),
    ];
    for (verb, variables, named) in cases {
        let call = variables.iter().fold(Call::new(verb), |call, (name, value)| call.env(name, value));
        let error = call.version("0.4.0").run().error(code::INVALID_ENVIRONMENT);
        for name in *named {
            assert!(error["msg"].as_str().unwrap().contains(name), "{verb} {variables:?}: {error}");
        }
        assert_eq!(error["cniVersion"], "0.4.0", "the configuration's version is echoed in errors, too");
    }
}

#[test]
fn undecodable_configuration() {
    let deep = "[".repeat(100_000);
    for stdin in ["", " \n", "{", "[]", "null", "\"text\"", "{\"a\": 1} x", deep.as_str()] {
        let error = Call::new("ADD").stdin(stdin).run().error(code::DECODE);
        assert_eq!(error["cniVersion"], "1.1.0");
    }
    Call::new("ADD").stdin(*b"{\"name\": \"\xff\"}").run().error(code::DECODE);
}

#[test]
fn incompatible_versions() {
    for version in [json!("0.1.0"), json!("0.3.0"), json!("2.0.0"), json!(""), json!("x"), json!(null)] {
        let error =
            Call::new("ADD").field("cniVersion", version.clone()).run().error(code::INCOMPATIBLE_VERSION);
        for supported in VERSIONS {
            assert!(error["details"].as_str().unwrap().contains(supported), "{version}: {error}");
        }
    }
    Call::new("ADD").field("cniVersion", 1).run().error(code::INVALID_CONFIG);
}

#[test]
fn commands_that_came_later() {
    for (verb, since) in [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
        for version in VERSIONS {
            let outcome = Call::new(verb).version(version).run();
            let error: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
            assert_eq!(
                error["code"] == code::INCOMPATIBLE_VERSION,
                version < since,
                "{verb} {version}: {error}"
            );
            assert_eq!(error["cniVersion"], version);
        }
    }
}

#[test]
fn invalid_configuration() {
    for (name, value) in [
        ("name", json!("a/b")),
        ("name", json!([])),
        ("socket", json!(5)),
        ("socket", json!("cni.sock")),
        ("timeoutSeconds", json!("60")),
        ("timeoutSeconds", json!(0.5)),
        ("dns", json!("192.0.2.53")),
        ("prevResult", json!("x")),
        ("prevResult", json!({"ips": [{"address": 5}]})),
    ] {
        let error = Call::new("ADD").field(name, value.clone()).run().error(code::INVALID_CONFIG);
        let msg = error["msg"].as_str().unwrap();
        assert!(msg.contains(name) && msg.contains(&value.to_string()), "{name} = {value}: {error}");
        assert!(error["details"].as_str().unwrap().starts_with("it must be "), "{error}");
    }
    let error = Call::new("ADD").field("name", json!(null)).run().error(code::INVALID_CONFIG);
    assert_eq!(error["msg"], "name is missing in the network configuration");
    // Others' fields are others' business: this one gets as far as the namespace that is not there.
    Call::new("ADD").field("mtu", "x").field("ipam", json!({})).run().error(code::UNKNOWN_CONTAINER);
}

#[test]
fn gc_without_a_list_asks_for_nothing() {
    for list in
        [json!(null), json!({}), json!([{"containerID": "c"}]), json!([{"containerID": "/", "ifname": "e"}])]
    {
        let error =
            Call::new("GC").field("cni.dev/valid-attachments", list).run().error(code::INVALID_CONFIG);
        assert!(error["msg"].as_str().unwrap().contains("cni.dev/valid-attachments"), "{error}");
    }
    // The name that an early text of the specification had.
    Call::new("GC").field("cni.dev/attachments", json!([])).run().error(code::TRY_AGAIN_LATER);
}

#[test]
fn namespaces_that_are_none() {
    let error = Call::new("ADD").run().error(code::UNKNOWN_CONTAINER);
    assert!(error["msg"].as_str().unwrap().contains("/nonexistent/netns"), "{error}");
    for path in ["/dev/null", "/", "/proc/self/ns/mnt"] {
        let error = Call::new("ADD").env("CNI_NETNS", path).run().error(code::INVALID_ENVIRONMENT);
        assert!(error["msg"].as_str().unwrap().contains("CNI_NETNS"), "{path}: {error}");
    }
    let own = Call::new("ADD").env("CNI_NETNS", "/proc/self/ns/net");
    let error = own.run().error(code::INVALID_ENVIRONMENT);
    assert!(error["details"].as_str().unwrap().contains("CNI_NETNS_OVERRIDE"), "{error}");
    // Allowed, it gets as far as the interface, which every namespace has, and changes nothing.
    let own = own.env("CNI_NETNS_OVERRIDE", "TRUE").env("CNI_IFNAME", "lo");
    own.run().error(code::INTERFACE_EXISTS);
}
