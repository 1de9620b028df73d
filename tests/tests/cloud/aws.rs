//! What only AWS has: its signature, where credentials come from, rights that are missing, and taking an address away.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipam_agent::cloud::aws::{ACTIONS, Aws, Environment};
use ipam_agent::cloud::{CloudErrorKind, EniProvider, MachineLimits};
use ipam_lab::caller::Door;
use ipam_lab::cloud_server::{FaultKind, When, ec2::auth};

use crate::rig::{Rig, ip, new_eni, v4};

/// Two of AWS's own test vectors for signature v4, `get-vanilla` and `post-vanilla`.
#[test]
fn the_published_examples_have_their_signatures() {
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for (method, signature) in [
        ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ] {
        let lines = "host:example.amazonaws.com\nx-amz-date:20150830T123600Z\n";
        let scope = ("20150830", "us-east-1", "service");
        let key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let ours =
            auth::signature_of(method, lines, "host;x-amz-date", EMPTY, "20150830T123600Z", scope, key);
        assert_eq!(ours, signature, "{method}");
    }
}

/// A request for EC2, signed as the door wants it, and the code of its refusal.
async fn call(rig: &Rig, body: &str, change: impl FnOnce(&mut http::HeaderMap)) -> String {
    use sha2::Digest as _;
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let host = rig.caller.endpoint.strip_prefix("http://").unwrap();
    let hash = hex::encode(sha2::Sha256::digest(body));
    let lines = format!("host:{host}\nx-amz-date:{stamp}\n");
    let scope = (&stamp[..8], "ap-lab", "ec2");
    let signature =
        auth::signature_of("POST", &lines, "host;x-amz-date", &hash, &stamp, scope, &rig.caller.secret_key);
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{}/ap-lab/ec2/aws4_request, SignedHeaders=host;x-amz-date, Signature={signature}",
        rig.caller.secret_id,
        &stamp[..8]
    );
    let mut request = http::Request::post(&rig.caller.endpoint)
        .header("host", host)
        .header("x-amz-date", stamp)
        .header("authorization", authorization)
        .body(http_body_util::Full::<bytes::Bytes>::from(body.to_owned()))
        .unwrap();
    change(request.headers_mut());
    let client =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let answer = client.request(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    text.split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"))
        .map_or(text.clone(), |(code, _)| code.into())
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_code() {
    let rig = Rig::new(Door::Aws);
    let eni = rig.create("a").await.id;
    let of = |action: &str, rest: &str| format!("Action={action}&Version=2016-11-15{rest}");
    let describe = "DescribeNetworkInterfaces";
    for (body, code) in [
        (of(describe, "&Limt=1"), "UnknownParameter"),
        (of(describe, "&MaxResults=4"), "InvalidParameterValue"),
        (of(describe, "&NextToken=x"), "InvalidParameterValue"),
        (of(describe, "&Filter.1.Name=colour&Filter.1.Value.1=red"), "InvalidParameterValue"),
        (of(describe, "&NetworkInterfaceId.1=eni-x"), "InvalidNetworkInterfaceID.NotFound"),
        (of(describe, "&NetworkInterfaceId.2=eni-x"), "InvalidParameterValue"),
        (of("DescribeSubnets", "&SubnetId.1=subnet-x"), "InvalidSubnetID.NotFound"),
        (of("DescribeInstanceTypes", "&InstanceType.1=m5.none"), "InvalidInstanceType"),
        (
            of("AttachNetworkInterface", &format!("&NetworkInterfaceId={eni}&InstanceId=ins-a")),
            "MissingParameter",
        ),
        (of("DetachNetworkInterface", "&AttachmentId=eni-attach-1"), "InvalidAttachmentID.NotFound"),
        (
            of("AssignPrivateIpAddresses", &format!("&NetworkInterfaceId={eni}&PrivateIpAddress.1=10.0.1")),
            "InvalidParameterValue",
        ),
        (of("RunInstances", ""), "InvalidAction"),
        ("Action=DescribeSubnets".into(), "NoSuchVersion"),
    ] {
        assert_eq!(call(&rig, &body, |_| ()).await, code, "{body}");
    }
    let subnets = of("DescribeSubnets", "");
    let with = |name: &'static str, value: &'static str| {
        move |headers: &mut http::HeaderMap| {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    };
    assert!(call(&rig, &subnets, |_| ()).await.contains("<subnetSet>"), "the same unchanged is answered");
    for (name, value, code) in [
        ("x-amz-date", "20150830T123600Z", "RequestExpired"),
        ("x-amz-security-token", "stray", "AuthFailure"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD", "SignatureDoesNotMatch"),
        ("host", "ec2.example", "SignatureDoesNotMatch"),
        ("authorization", "Basic eDp5", "IncompleteSignature"),
    ] {
        assert_eq!(call(&rig, &subnets, with(name, value)).await, code, "{name}");
    }
    let unsigned = call(&rig, &subnets, |headers| drop(headers.remove("authorization"))).await;
    assert_eq!(unsigned, "MissingAuthenticationToken");
    assert!(rig.ips_of(&eni).is_empty());
}

/// A provider with an environment and no keys of its own.
fn with_environment(rig: &Rig, environment: &[(&str, &str)]) -> Aws {
    let pairs = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    rig.caller.aws(Environment(pairs.collect::<HashMap<_, _>>())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_gets_keys_and_new_ones_before_they_end() {
    const ROLE: &str = "arn:aws:iam::111122223333:role/eni-ipam";
    let rig = Rig::new(Door::Aws);
    // Keys are replaced two minutes before their end: two seconds after they came.
    rig.cloud.roles().trust_web_identity(ROLE, "token-1", Duration::from_secs(122));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "token-1\n").unwrap();
    let environment = [
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
        ("AWS_ENDPOINT_URL_STS", &rig.caller.endpoint),
    ];
    let provider = with_environment(&rig, &environment);
    let began = std::time::Instant::now();
    provider.subnets().await.unwrap();
    provider.subnets().await.unwrap();
    if began.elapsed() < Duration::from_secs(1) {
        assert_eq!(rig.cloud.roles().handed_out(), 1, "keys are kept while they last");
    }
    // The kubelet has replaced the token meanwhile: it is read anew.
    rig.cloud.roles().trust_web_identity(ROLE, "token-2", Duration::from_secs(3600));
    std::fs::write(&file, "token-2").unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let before = rig.cloud.roles().handed_out();
    provider.subnets().await.unwrap();
    assert_eq!(rig.cloud.roles().handed_out(), before + 1);

    // One that is not trusted is told, with the role; the keys of the machine beside it are not taken instead.
    std::fs::write(&file, "token-3").unwrap();
    rig.cloud.roles().give_machine("node", Duration::from_secs(3600));
    let mut environment = environment.to_vec();
    environment.push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", &rig.caller.endpoint));
    let error = with_environment(&rig, &environment).subnets().await.unwrap_err();
    assert!(error.message.contains(ROLE) && !error.message.contains("token-3"), "{error}");
    assert_eq!(error.code, "NoCredentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_has_the_keys_of_its_role() {
    let rig = Rig::new(Door::Aws);
    rig.cloud.roles().give_machine("node", Duration::from_secs(3600));
    let provider = with_environment(&rig, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &rig.caller.endpoint)]);
    assert_eq!(provider.subnets().await.unwrap().len(), 3);
    let eni = provider.create_eni(&new_eni("a")).await.unwrap().id;
    provider.assign_ips(&eni, &[ip(20)]).await.unwrap();
    assert_eq!((rig.ips_of(&eni), rig.cloud.roles().handed_out()), (vec![v4(20)], 1));
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_and_not_asked_for_again() {
    let rig = Rig::new(Door::Aws);
    let eni = rig.create("a").await.id;
    rig.cloud.roles().deny("AssignPrivateIpAddresses");
    let error = rig.provider.assign_ips(&eni, &[ip(20)]).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_str()), (CloudErrorKind::Unauthorized, "UnauthorizedOperation"));
    assert!(error.message.contains("ec2:AssignPrivateIpAddresses"), "{error}");
    assert!(error.message.contains("policy.json"), "{error}");
    assert_eq!(rig.cloud.count("AssignPrivateIpAddresses"), 1);
    rig.cloud.roles().allow("AssignPrivateIpAddresses");
    rig.provider.assign_ips(&eni, &[ip(20)]).await.unwrap();
}

/// `AllowReassignment` would take an address from anybody: it is said of the ENI that is to lose it, and of no other.
#[tokio::test]
async fn an_address_is_taken_from_the_eni_it_leaves_and_from_no_other() {
    let rig = Rig::new(Door::Aws);
    let (a, b) = (rig.attached("a", "ins-a").await.id, rig.attached("b", "ins-b").await.id);
    let c = rig.create("c").await.id;
    rig.provider.assign_ips(&c, &[ip(20)]).await.unwrap();
    let error = rig.provider.migrate_ip(&a, &b, ip(20)).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::AddressInUse, "{error}");
    assert_eq!(rig.cloud.snapshot().holder(v4(20)).unwrap().id, c);
    rig.provider.migrate_ip(&c, &b, ip(20)).await.unwrap();
    assert_eq!(rig.cloud.snapshot().holder(v4(20)).unwrap().id, b);
    let reassigned = |call: &ipam_lab::cloud_server::Call| call.params["AllowReassignment"] == "true";
    assert_eq!(rig.cloud.calls().iter().filter(|call| reassigned(call)).count(), 1);
}

/// Two ENIs go to one machine while the list of its ENIs lags: each gets a place.
#[tokio::test]
async fn places_on_a_machine_are_found_though_the_list_lags() {
    let rig = Rig::new(Door::Aws);
    let (a, b) = (rig.create("a").await.id, rig.create("b").await.id);
    let lag = FaultKind::StaleDescribe(Duration::from_millis(150));
    rig.cloud.faults().add(Some("DescribeNetworkInterfaces"), When::Always, lag);
    for eni in [&a, &b] {
        rig.provider.attach_eni(eni, "ins-a").await.unwrap();
    }
    rig.provider.detach_eni(&a).await.unwrap();
    let both = tokio::join!(rig.provider.attach_eni(&a, "ins-b"), rig.provider.enis_of("ins-a"));
    both.0.unwrap();
    let place = |id: &str| rig.cloud.snapshot().eni(id).unwrap().attachment.clone().unwrap();
    assert_eq!((place(&a), place(&b)), (("ins-b".into(), 1), ("ins-a".into(), 2)));
    let c = rig.create("c").await.id;
    let (first, second) = tokio::join!(rig.provider.attach_eni(&c, "ins-a"), async {
        let d = rig.create("d").await.id;
        rig.provider.attach_eni(&d, "ins-a").await.map(|()| d)
    });
    first.unwrap();
    assert_ne!(place(&c), place(&second.unwrap()));
    assert_eq!(rig.cloud.snapshot().violations, [""; 0]);
}

#[tokio::test]
async fn limits_are_those_of_the_type_and_asked_for_once() {
    let rig = Rig::new(Door::Aws);
    for _ in 0..2 {
        let limits = rig.provider.limits("ins-a", Some("lab.4x30")).await.unwrap();
        assert_eq!(limits, Some(MachineLimits { max_enis: 3, max_ips_per_eni: 29 }));
    }
    assert_eq!(rig.cloud.count("DescribeInstanceTypes"), 1);
    assert_eq!(rig.provider.limits("ins-a", None).await.unwrap(), None);
    let error = rig.provider.limits("ins-a", Some("m5.none")).await.unwrap_err();
    assert_eq!(error.code, "InvalidInstanceType");
}

/// What the role must allow is what is called, no more and no less.
#[tokio::test]
async fn the_list_of_actions_is_what_is_called() {
    let mut config = crate::rig::cloud_config();
    config.subnets[0].cidr_v6 = Some("fd00:0:0:1::/64".parse().unwrap());
    let rig = Rig::with(Door::Aws, config);
    let provider = &rig.provider;
    provider.subnets().await.unwrap();
    provider.limits("ins-a", Some("lab.4x30")).await.unwrap();
    let eni = rig.attached("a", "ins-a").await.id;
    let both = [ip(20), "fd00:0:0:1::20".parse().unwrap()];
    provider.assign_ips(&eni, &both).await.unwrap();
    provider.unassign_ips(&eni, &both).await.unwrap();
    provider.detach_eni(&eni).await.unwrap();
    provider.delete_eni(&eni).await.unwrap();
    let called: std::collections::BTreeSet<_> =
        rig.cloud.calls().into_iter().map(|call| call.action).collect();
    assert_eq!(called.iter().map(String::as_str).collect::<Vec<_>>(), ACTIONS);
}
