//! What the cloud refuses, and what the provider makes of it.

use std::{net::Ipv4Addr, time::Duration};

use ipam_agent::cloud::{CloudErrorKind, NewEni};
use ipam_lab::caller::{Caller, Door};
use ipam_lab::cloud_server::{Delays, InstanceConfig};

use crate::rig::{Rig, at_both_doors, cloud_config, ip, new_eni, v4};

async fn every_limit_has_its_kind(door: Door) {
    let mut config = cloud_config();
    config.quotas.enis_per_vpc = 4;
    let rig = Rig::with(door, config);
    let small = InstanceConfig { zone: "ap-lab-1".into(), max_enis: 1, max_ips_per_eni: 3, primary: None };
    rig.cloud.add_instance("ins-small", small);
    let provider = &rig.provider;

    let a = rig.attached("a", "ins-small").await.id;
    let b = rig.create("b").await.id;
    let error = provider.attach_eni(&b, "ins-small").await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (CloudErrorKind::EniLimit, door.pick("LimitExceeded", "AttachmentLimitExceeded"))
    );
    assert_eq!(error.action, "AttachNetworkInterface");

    let error = provider.assign_ips(&a, &[ip(20), ip(21), ip(22)]).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (CloudErrorKind::IpLimit, door.pick("LimitExceeded.Address", "PrivateIpAddressLimitExceeded"))
    );
    assert!(error.message.contains("10.0.1.22"), "{error}");
    assert_eq!(rig.ips_of(&a), [v4(20), v4(21)], "what there is room for is there");
    // What is already so is success though there is no room.
    provider.assign_ips(&a, &[ip(20)]).await.unwrap();

    provider.assign_ips(&b, &[ip(30)]).await.unwrap();
    let error = provider.migrate_ip(&b, &a, ip(30)).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::IpLimit);

    rig.create("c").await;
    rig.create("d").await;
    let error = provider.create_eni(&new_eni("e")).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::EniLimit);
    assert!(error.code.ends_with("NetworkInterfaceLimitExceeded"), "{error}");
    // One that is there is found though no other could be made.
    assert_eq!(provider.create_eni(&new_eni("b")).await.unwrap().id, b);
}

async fn a_full_subnet_is_told(door: Door) {
    let rig = Rig::new(door);
    for last in 2..15 {
        rig.cloud.take_address(Ipv4Addr::new(10, 0, 2, last));
    }
    let eni = NewEni { subnet_id: "subnet-b".into(), ..new_eni("a") };
    let error = rig.provider.create_eni(&eni).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (
            CloudErrorKind::SubnetExhausted,
            door.pick("ResourceInsufficient.Subnet", "InsufficientFreeAddressesInSubnet")
        )
    );
    rig.cloud.free_address(Ipv4Addr::new(10, 0, 2, 7));
    assert_eq!(rig.provider.create_eni(&eni).await.unwrap().primary_ip, Ipv4Addr::new(10, 0, 2, 7));
}

async fn addresses_that_cannot_be_are_told_apart(door: Door) {
    let rig = Rig::new(door);
    let (a, b) = (rig.attached("a", "ins-a").await, rig.attached("b", "ins-b").await);
    let provider = &rig.provider;
    rig.cloud.take_address(v4(50));

    let error = provider.assign_ips(&a.id, &[ip(40), ip(50), ip(41)]).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (CloudErrorKind::AddressInUse, door.pick("ResourceInUse.Address", "InvalidParameterValue"))
    );
    assert!(error.message.starts_with("10.0.1.50: ") && error.request_id.is_some(), "{error}");

    provider.assign_ips(&b.id, &[ip(60)]).await.unwrap();
    assert_eq!(provider.assign_ips(&a.id, &[ip(60)]).await.unwrap_err().kind, CloudErrorKind::AddressInUse);
    let primary = std::net::IpAddr::from(b.primary_ip);
    assert_eq!(provider.assign_ips(&a.id, &[primary]).await.unwrap_err().kind, CloudErrorKind::AddressInUse);
    // What AWS keeps for itself counts as taken: another address would do.
    let kept = door.pick(CloudErrorKind::Invalid, CloudErrorKind::AddressInUse);
    for (unfit, kind) in [
        ("10.0.1.1", kept),
        ("10.0.1.255", kept),
        ("10.0.2.5", CloudErrorKind::Invalid),
        ("fd00::1", CloudErrorKind::Invalid),
    ] {
        let error = provider.assign_ips(&a.id, &[unfit.parse().unwrap()]).await.unwrap_err();
        assert_eq!(error.kind, kind, "{unfit}: {error}");
    }

    let error = provider.migrate_ip(&a.id, &b.id, a.primary_ip.into()).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        door.pick(
            (CloudErrorKind::Invalid, "UnauthorizedOperation.PrimaryIp"),
            (CloudErrorKind::AddressInUse, "InvalidParameterValue"),
        )
    );
    let error = provider.unassign_ips(&a.id, &[a.primary_ip.into()]).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Invalid);
    let from_nowhere = provider.migrate_ip(&a.id, &b.id, ip(99)).await;
    match door {
        Door::Tencent => assert_eq!(from_nowhere.unwrap_err().kind, CloudErrorKind::NotFound),
        // The same action assigns.
        Door::Aws => assert_eq!(rig.cloud.snapshot().holder(v4(99)).unwrap().id, b.id),
    }

    let other = NewEni { subnet_id: "subnet-b".into(), ..new_eni("c") };
    let c = provider.create_eni(&other).await.unwrap().id;
    assert_eq!(provider.migrate_ip(&b.id, &c, ip(60)).await.unwrap_err().kind, CloudErrorKind::Invalid);
    assert_eq!(rig.cloud.snapshot().holder(v4(60)).unwrap().id, b.id);
}

async fn enis_that_cannot_are_told_apart(door: Door) {
    let rig = Rig::new(door);
    let provider = &rig.provider;
    let a = rig.attached("a", "ins-a").await.id;

    let error = provider.attach_eni(&a, "ins-b").await.unwrap_err();
    let code = door.pick("UnsupportedOperation.AttachmentAlreadyExists", "InvalidNetworkInterface.InUse");
    assert_eq!((error.kind, error.code.as_str()), (CloudErrorKind::Invalid, code));
    let error = provider.delete_eni(&a).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (CloudErrorKind::Invalid, door.pick("ResourceInUse", "InvalidNetworkInterface.InUse"))
    );
    let primary = provider.enis_of("ins-a").await.unwrap().remove(0);
    assert!(primary.primary);
    assert_eq!(provider.detach_eni(&primary.id).await.unwrap_err().kind, CloudErrorKind::Invalid);

    assert_eq!(provider.attach_eni("eni-x", "ins-a").await.unwrap_err().kind, CloudErrorKind::NotFound);
    assert_eq!(provider.assign_ips("eni-x", &[ip(20)]).await.unwrap_err().kind, CloudErrorKind::NotFound);
    let elsewhere = NewEni { subnet_id: "subnet-z".into(), ..new_eni("z") };
    let z = provider.create_eni(&elsewhere).await.unwrap().id;
    let code = door.pick("UnsupportedOperation.ZoneMismatch", "InvalidParameterValue");
    assert_eq!(provider.attach_eni(&z, "ins-a").await.unwrap_err().code, code);
    assert_eq!(provider.attach_eni(&z, "ins-x").await.unwrap_err().kind, CloudErrorKind::NotFound);
    let nowhere = NewEni { subnet_id: "subnet-x".into(), ..new_eni("x") };
    assert_eq!(provider.create_eni(&nowhere).await.unwrap_err().kind, CloudErrorKind::NotFound);
    let long = "n".repeat(door.pick(61, 256));
    assert_eq!(provider.create_eni(&new_eni(&long)).await.unwrap_err().kind, CloudErrorKind::Invalid);

    let strays = rig.another(|config| config.subnet_ids = vec!["subnet-x".into()]);
    let error = strays.subnets().await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::NotFound);
    assert!(error.message.contains("subnet-x"), "{error}");
}

async fn wrong_keys_are_refused_once_and_for_all(door: Door) {
    let rig = Rig::new(door);
    let wrong_key = rig.another(|config| config.secret_key = "other".into());
    let error = wrong_key.assign_ips("eni-1", &[ip(20)]).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (CloudErrorKind::Unauthorized, door.pick("AuthFailure.SignatureFailure", "SignatureDoesNotMatch"))
    );
    let remedy = door.pick("TENCENTCLOUD_SECRET_KEY", "AWS_SECRET_ACCESS_KEY");
    assert!(error.message.contains(remedy), "{error}");
    assert_eq!(rig.cloud.calls().len(), 1);
    let wrong_id = rig.another(|config| config.secret_id = "AKIDother".into());
    let error = wrong_id.subnets().await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (CloudErrorKind::Unauthorized, door.pick("AuthFailure.SecretIdNotFound", "AuthFailure"))
    );
    let wrong_region = rig.another(|config| config.region = "ap-elsewhere".into());
    let code = door.pick("UnsupportedRegion", "AuthFailure");
    assert_eq!(wrong_region.subnets().await.unwrap_err().code, code);
}

/// What the world could not do did not happen in the cloud either, and its words arrive.
async fn a_failed_task_is_told_and_taken_back(door: Door) {
    let mut config = cloud_config();
    config.delays = Delays::all(Duration::from_millis(5));
    let rig = Rig::with(door, config);
    let eni = rig.create("a").await.id;
    let hasty = rig.another(|config| config.pace.deadline = Duration::from_millis(300));

    *rig.world.refuses.lock().unwrap() = Some("attach");
    let error = hasty.attach_eni(&eni, "ins-a").await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (CloudErrorKind::Unavailable, door.pick("FailedOperation.TaskFailed", "Timeout"))
    );
    // AWS has no words for an attachment that does not come about.
    assert!(error.message.contains(door.pick("the kernel refused", "not finished")), "{error}");
    // The last attempt may still be on its way.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.cloud.snapshot().eni(&eni).unwrap().attachment, None);

    *rig.world.refuses.lock().unwrap() = None;
    hasty.attach_eni(&eni, "ins-a").await.unwrap();
    *rig.world.refuses.lock().unwrap() = Some("assign");
    hasty.assign_ips(&eni, &[ip(20)]).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(rig.ips_of(&eni).is_empty());
}

/// Out of nowhere: someone detached the ENI in the console, or deleted the machine.
async fn changes_behind_our_back_are_seen(door: Door) {
    let rig = Rig::new(door);
    let (a, b) = (rig.attached("a", "ins-a").await.id, rig.attached("b", "ins-b").await.id);
    rig.cloud.detach_out_of_band(&a).await.unwrap();
    assert_eq!(rig.provider.enis_of("ins-a").await.unwrap().len(), 1);
    rig.provider.detach_eni(&a).await.unwrap();
    rig.provider.attach_eni(&a, "ins-a").await.unwrap();
    rig.cloud.remove_instance("ins-b").await.unwrap();
    assert!(rig.provider.enis_of("ins-b").await.unwrap().is_empty());
    rig.provider.delete_eni(&b).await.unwrap();
    assert_eq!(rig.secondary_enis().len(), 1);
}

async fn a_configuration_that_cannot_be_is_refused(door: Door) {
    let rig = Rig::new(door);
    let refusal = |change: &dyn Fn(&mut Caller)| {
        let mut caller = rig.caller.clone();
        change(&mut caller);
        caller.provider().err().unwrap().to_string()
    };
    let name = door.pick("tencent", "aws");
    let example = door.pick("https://vpc.tencentcloudapi.com", "https://ec2.eu-central-1.amazonaws.com");
    for (endpoint, expected) in [
        (
            "ftp://vpc.example",
            format!("{name}: endpoint = \"ftp://vpc.example\": ftp is neither http nor https"),
        ),
        ("vpc.example", format!("{name}: endpoint = \"vpc.example\": ")),
        ("https://vpc.example/v3", format!("the API has no path; write it like {example}")),
    ] {
        let error = refusal(&|caller| caller.endpoint = endpoint.into());
        assert!(error.contains(&expected), "{error}");
    }
    assert!(refusal(&|caller| caller.region = " padded".into()).contains("region"));
    match door {
        Door::Tencent => {
            let error = refusal(&|caller| caller.secret_key = " padded".into());
            assert!(error.contains("secret_key") && !error.contains("padded"), "{error}");
        }
        Door::Aws => {
            let error = refusal(&|caller| caller.subnet_ids.clear());
            assert!(error.contains("no subnet is named"), "{error}");
        }
    }
    // The real one needs TLS: it must at least be possible to make.
    rig.another(|caller| caller.endpoint = example.into());
}

at_both_doors! {
    every_limit_has_its_kind,
    a_full_subnet_is_told,
    addresses_that_cannot_be_are_told_apart,
    enis_that_cannot_are_told_apart,
    wrong_keys_are_refused_once_and_for_all,
    a_failed_task_is_told_and_taken_back,
    changes_behind_our_back_are_seen,
    a_configuration_that_cannot_be_is_refused,
}
