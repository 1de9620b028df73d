//! Whatever comes in, what goes out is an answer of the specification.

use std::ffi::OsString;

use ipam_cni::plugin::answer;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use crate::runner::Call;

/// A value of a field: sometimes right, mostly not.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        select(vec!["0.3.1", "1.0.0", "1.1.0", "net", "9.9.9"]).prop_map(Value::from),
        vec(".{0,4}", 0..3).prop_map(Value::from),
        Just(json!([{"containerID": "c", "ifname": "eth0"}])),
        Just(json!({"interfaces": [{"name": "eth0"}], "ips": null})),
    ]
}

/// Bytes, or a network configuration that is right here and there. None of them names a socket that exists.
fn stdin() -> impl Strategy<Value = Vec<u8>> {
    let name = select(vec![
        "cniVersion",
        "name",
        "timeoutSeconds",
        "dns",
        "prevResult",
        "cni.dev/valid-attachments",
        "other",
    ]);
    let conf = vec((name, value()), 0..8)
        .prop_map(|fields| {
            let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "socket": "/nonexistent/cni.sock"});
            for (name, value) in fields {
                conf[name] = value;
            }
            conf.to_string().into_bytes()
        })
        .boxed();
    // The socket stays: a GC must not reach a real agent at the default one.
    let socket = br#""socket":"/nonexistent/"#;
    let broken = (conf.clone(), any::<prop::sample::Index>(), any::<u8>())
        .prop_map(|(mut bytes, at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        })
        .prop_filter("names another socket", move |bytes| {
            bytes.windows(socket.len()).any(|part| part == socket)
        });
    prop_oneof![vec(any::<u8>(), 0..200), conf, broken]
}

fn environment() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let verb = select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "", "add", "ADD "]);
    let text = || prop_oneof!["[^\0]{0,20}", "[a-z0-9]{1,8}"];
    // No path that could be a namespace.
    (verb, text(), text(), text(), "/nonexistent/[^\0]{0,9}", text()).prop_map(
        |(verb, id, ifname, args, netns, over)| {
            vec![
                ("CNI_COMMAND", verb.to_owned()),
                ("CNI_CONTAINERID", id),
                ("CNI_IFNAME", ifname),
                ("CNI_ARGS", args),
                ("CNI_NETNS", netns),
                ("CNI_NETNS_OVERRIDE", over),
            ]
        },
    )
}

fn assert_error(error: &Value) {
    assert!(error["code"].as_u64().is_some_and(|code| code > 0), "{error}");
    assert!(error["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{error}");
    assert!(error["cniVersion"].is_string(), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_one(env in environment(), stdin in stdin()) {
        let (answer, error) = answer(
            |name| env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value)),
            &stdin,
        );
        match error {
            Some(_) => assert_error(&answer),
            // There is no agent: nothing else can succeed.
            None => assert!(answer["supportedVersions"].is_array(), "{answer}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_of_the_binary_is_one(env in environment(), stdin in stdin()) {
        let call = env.iter().fold(Call::new(""), |call, (name, value)| call.env(name, value)).stdin(stdin);
        let outcome = call.run();
        let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
        if outcome.status == 0 {
            assert!(answer["supportedVersions"].is_array(), "{answer}");
        } else {
            assert_eq!(outcome.status, 1);
            assert_error(&answer);
        }
    }
}
