//! The manners of Tencent Cloud's door: signatures, and parameters that no provider of ours would send.

use http::{HeaderMap, HeaderName, HeaderValue};
use ipam_lab::{caller::Door, cloud_server::auth};
use serde_json::{Value, json};

use crate::rig::Rig;

/// The two worked examples of Tencent's "Signature v3", see `sign.rs` of the provider: the payload's escapes
/// are part of it. (id, key, headers signed, signature)
const PAYLOAD: &str =
    r#"{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}"#;
const EXAMPLES: [(&str, &str, &str, &str); 2] = [
    (
        "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE",
        "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE",
        "content-type;host",
        "72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168",
    ),
    (
        "AKID********************************",
        "********************************",
        "content-type;host;x-tc-action",
        "10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f",
    ),
];
const THEN: i64 = 1_551_113_065;

fn example(id: &str, signed: &str, signature: &str) -> HeaderMap {
    let authorization = format!(
        "TC3-HMAC-SHA256 Credential={id}/2019-02-25/cvm/tc3_request, SignedHeaders={signed}, Signature={signature}"
    );
    let headers = [
        ("authorization", authorization.as_str()),
        ("content-type", "application/json; charset=utf-8"),
        ("host", "cvm.tencentcloudapi.com"),
        ("x-tc-action", "DescribeInstances"),
        ("x-tc-timestamp", "1551113065"),
    ];
    let pair = |(name, value): (&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    headers.into_iter().map(pair).collect()
}

#[test]
fn the_published_examples_verify_and_nothing_near_them() {
    for (id, key, signed, signature) in EXAMPLES {
        let headers = example(id, signed, signature);
        let check = |headers: &HeaderMap, body: &str, service, key, now| {
            auth::verify(headers, body.as_bytes(), service, (id, key), now).map_err(|error| error.code)
        };
        assert_eq!(check(&headers, PAYLOAD, "cvm", key, THEN), Ok(()));
        assert_eq!(check(&headers, PAYLOAD, "cvm", key, THEN + 300), Ok(()));
        let failure = Err("AuthFailure.SignatureFailure".to_owned());
        assert_eq!(check(&headers, PAYLOAD, "cvm", "another key", THEN), failure);
        assert_eq!(check(&headers, &PAYLOAD.replace('1', "2"), "cvm", key, THEN), failure);
        assert_eq!(check(&headers, PAYLOAD, "vpc", key, THEN), failure);
        for off in [-301, 301] {
            let expired = Err("AuthFailure.SignatureExpire".to_owned());
            assert_eq!(check(&headers, PAYLOAD, "cvm", key, THEN + off), expired);
        }
        let mut other_host = headers.clone();
        other_host.insert("host", HeaderValue::from_static("vpc.tencentcloudapi.com"));
        assert_eq!(check(&other_host, PAYLOAD, "cvm", key, THEN), failure);
        let mut next_second = headers.clone();
        next_second.insert("x-tc-timestamp", HeaderValue::from_static("1551113066"));
        assert_eq!(check(&next_second, PAYLOAD, "cvm", key, THEN), failure);
        let mut none = headers;
        none.remove("authorization");
        assert_eq!(check(&none, PAYLOAD, "cvm", key, THEN), Err("MissingParameter".into()));
    }
}

/// Sends anything, signed.
async fn call(rig: &Rig, action: &str, body: &str) -> Value {
    let now = jiff::Timestamp::now();
    let host = rig.caller.endpoint.strip_prefix("http://").unwrap();
    let (stamp, date) = (now.as_second().to_string(), now.strftime("%Y-%m-%d").to_string());
    let lines = format!("content-type:application/json\nhost:{host}\n");
    let signature = auth::signature_of(
        &lines,
        "content-type;host",
        body.as_bytes(),
        &stamp,
        (&date, "vpc"),
        &rig.caller.secret_key,
    );
    let authorization = format!(
        "TC3-HMAC-SHA256 Credential={}/{date}/vpc/tc3_request, SignedHeaders=content-type;host, Signature={signature}",
        rig.caller.secret_id
    );
    let request = http::Request::post(&rig.caller.endpoint)
        .header("authorization", authorization)
        .header("content-type", "application/json")
        .header("host", host)
        .header("x-tc-action", action)
        .header("x-tc-version", "2017-03-12")
        .header("x-tc-region", "ap-lab")
        .header("x-tc-timestamp", stamp)
        .body(http_body_util::Full::<bytes::Bytes>::from(body.to_owned()))
        .unwrap();
    let client =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let answer = client.request(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let mut answer: Value = serde_json::from_slice(&body).unwrap();
    assert!(answer["Response"]["RequestId"].is_string());
    answer["Response"].take()
}

#[tokio::test]
async fn parameters_that_cannot_be_are_refused_by_code() {
    let rig = Rig::new(Door::Tencent);
    let eni = rig.create("a").await.id;
    let addresses =
        |count: u8| (20..20 + count).map(|n| json!({ "PrivateIpAddress": format!("10.0.1.{n}") }));
    let assign = |list: Vec<Value>| json!({ "NetworkInterfaceId": eni, "PrivateIpAddresses": list });
    let describe = "DescribeNetworkInterfaces";
    let twice = addresses(1).chain(addresses(1)).collect();
    for (action, body, code) in [
        (describe, json!({ "Limt": 1 }), "UnknownParameter"),
        (describe, json!({ "Limit": "1" }), "InvalidParameter"),
        (describe, json!({ "Limit": 101 }), "InvalidParameterValue.Range"),
        (
            describe,
            json!({ "Filters": [{ "Name": "colour", "Values": ["red"] }] }),
            "InvalidParameter.FilterInvalidKey",
        ),
        (describe, json!({ "Filters": [], "NetworkInterfaceIds": [eni] }), "InvalidParameter.Coexist"),
        (describe, json!({ "NetworkInterfaceIds": ["eni-x"] }), "ResourceNotFound"),
        ("DescribeSubnets", json!({ "Limit": 20 }), "InvalidParameter"),
        ("AttachNetworkInterface", json!({ "NetworkInterfaceId": eni }), "MissingParameter"),
        ("AssignPrivateIpAddresses", assign(addresses(11).collect()), "InvalidParameterValue.LimitExceeded"),
        ("AssignPrivateIpAddresses", assign(twice), "InvalidParameterValue.DuplicatePara"),
        (
            "AssignPrivateIpAddresses",
            assign(vec![json!({ "PrivateIpAddress": "10.0.1" })]),
            "InvalidParameterValue.Malformed",
        ),
        ("DescribeVpcTaskResult", json!({ "TaskId": "no-such" }), "ResourceNotFound"),
        ("DescribeInstances", json!({}), "InvalidAction"),
    ] {
        let answer = call(&rig, action, &body.to_string()).await;
        assert_eq!(answer["Error"]["Code"], code, "{action} {body}: {answer}");
    }
    assert_eq!(call(&rig, describe, "[1]").await["Error"]["Code"], "InvalidParameter");
    assert_eq!(call(&rig, describe, "{").await["Error"]["Code"], "InvalidParameter");
    assert!(rig.ips_of(&eni).is_empty());
}

#[tokio::test]
async fn pages_are_twenty_unless_asked_for_more() {
    let rig = Rig::new(Door::Tencent);
    for n in 0..25 {
        rig.create(&format!("eni-{n:02}")).await;
    }
    let filters = json!([{ "Name": "subnet-id", "Values": ["subnet-a"] }]);
    let first = call(&rig, "DescribeNetworkInterfaces", &json!({ "Filters": filters }).to_string()).await;
    assert_eq!(first["NetworkInterfaceSet"].as_array().unwrap().len(), 20);
    assert_eq!(first["TotalCount"], 25);
    let rest = json!({ "Filters": filters, "Offset": 20, "Limit": 100 }).to_string();
    let rest = call(&rig, "DescribeNetworkInterfaces", &rest).await;
    assert_eq!(rest["NetworkInterfaceSet"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_client_token_finds_the_same_eni_and_no_other() {
    let rig = Rig::new(Door::Tencent);
    let create = |name: &str| json!({ "VpcId": "vpc-lab", "SubnetId": "subnet-a", "NetworkInterfaceName": name, "ClientToken": "t" });
    let first = call(&rig, "CreateNetworkInterface", &create("a").to_string()).await;
    let again = call(&rig, "CreateNetworkInterface", &create("a").to_string()).await;
    assert_eq!(
        first["NetworkInterface"]["NetworkInterfaceId"],
        again["NetworkInterface"]["NetworkInterfaceId"]
    );
    let other = call(&rig, "CreateNetworkInterface", &create("b").to_string()).await;
    assert_eq!(other["Error"]["Code"], "UnsupportedOperation.IdempotentParameterMismatch");
    assert_eq!(rig.secondary_enis().len(), 1);
    // That one carries no tag of ours, and is not taken for ours.
    assert_ne!(rig.create("a").await.id, first["NetworkInterface"]["NetworkInterfaceId"].as_str().unwrap());
}
