use super::*;

const FILE: &str = r#"
[[subnet]]
id = "lan"
cidr = "10.0.1.0/24"
gateway = "10.0.1.1"
zone = "rack-1"

[[subnet]]
id = "dmz"
cidr = "10.0.2.0/28"
gateway = "10.0.2.1"

[[eni]]
node = "node-a"
mac = "52:54:00:00:00:0A"
subnet = "lan"
primary_ip = "10.0.1.5"
addresses = ["10.0.1.10-10.0.1.12", "10.0.1.60"]

[[eni]]
node = "node-b"
mac = "52-54-00-00-00-0b"
subnet = "lan"
primary_ip = "10.0.1.6"
addresses = ["10.0.1.8/29"]

[[eni]]
node = "node-b"
mac = "52:54:00:00:00:0c"
subnet = "dmz"
primary_ip = "10.0.2.5"
addresses = ["10.0.2.6"]
"#;

const A: &str = "eni-52540000000a";
const B: &str = "eni-52540000000b";
const DMZ: &str = "eni-52540000000c";

fn fixed() -> Fixed {
    Fixed::parse("nodes.toml", FILE).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn lists_subnets_and_enis() {
    let fixed = fixed();
    let subnets = EniProvider::subnets(&fixed).await.unwrap();
    // .8 to .15, and .60: shared addresses count once.
    assert_eq!(
        (subnets[0].id.as_str(), subnets[0].zone.as_str(), subnets[0].available),
        ("lan", "rack-1", 9)
    );
    assert_eq!((subnets[1].zone.as_str(), subnets[1].available), ("", 1));
    let [eni] = &fixed.enis_of("node-a").await.unwrap()[..] else { panic!("one ENI") };
    assert_eq!((eni.id.as_str(), eni.mac.as_str()), (A, "52:54:00:00:00:0a"));
    assert_eq!(eni.state, EniCloudState::Attached);
    assert_eq!(eni.assignable.as_ref().unwrap().len(), 4);
    assert!(eni.secondary_ips.is_empty());
    assert_eq!(fixed.enis_of("node-b").await.unwrap().len(), 2);
    assert!(fixed.enis_of("node-x").await.unwrap().is_empty());
    assert_eq!(fixed.enis_of_cluster("any").await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_shared_address_moves_and_another_does_not() {
    let fixed = fixed();
    let shared = ip("10.0.1.10");
    fixed.assign_ips(A, &[shared, ip("10.0.1.60")]).await.unwrap();
    fixed.assign_ips(A, &[shared]).await.unwrap();
    fixed.migrate_ip(A, B, shared).await.unwrap();
    fixed.migrate_ip(A, B, shared).await.unwrap();
    assert_eq!(fixed.enis_of("node-a").await.unwrap()[0].secondary_ips, [Ipv4Addr::new(10, 0, 1, 60)]);
    assert_eq!(fixed.enis_of("node-b").await.unwrap()[0].secondary_ips, [Ipv4Addr::new(10, 0, 1, 10)]);
    assert_eq!(EniProvider::subnets(&fixed).await.unwrap()[0].available, 7);

    let error = fixed.migrate_ip(A, B, ip("10.0.1.60")).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Invalid);
    assert_eq!(
        error.to_string(),
        "migrate: NotListed: 10.0.1.60 is not among the addresses of ENI eni-52540000000b (node node-b, \
         MAC 52:54:00:00:00:0b); add it there (nodes.toml)"
    );
    let error = fixed.migrate_ip(A, DMZ, ip("10.0.2.6")).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_str()), (CloudErrorKind::Invalid, "OtherSubnet"));

    // An unassign that comes late, for the ENI that held it before, takes nothing away.
    fixed.unassign_ips(A, &[shared]).await.unwrap();
    assert_eq!(fixed.enis_of("node-b").await.unwrap()[0].secondary_ips.len(), 1);
    fixed.unassign_ips(B, &[shared]).await.unwrap();
    assert!(fixed.enis_of("node-b").await.unwrap()[0].secondary_ips.is_empty());
}

#[tokio::test]
async fn a_batch_with_a_foreign_address_assigns_nothing() {
    let fixed = fixed();
    let error = fixed.assign_ips(A, &[ip("10.0.1.10"), ip("10.0.1.99")]).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Invalid);
    assert!(fixed.enis_of("node-a").await.unwrap()[0].secondary_ips.is_empty());
    assert_eq!(fixed.assign_ips(A, &[ip("fd00::1")]).await.unwrap_err().kind, CloudErrorKind::Invalid);
    assert_eq!(fixed.assign_ips("eni-x", &[]).await.unwrap_err().kind, CloudErrorKind::NotFound);
}

#[tokio::test]
async fn enis_neither_come_nor_go() {
    let fixed = fixed();
    let eni = NewEni {
        name: "n".into(),
        subnet_id: "lan".into(),
        cluster_id: "c".into(),
        node: "n".into(),
        primary_ip: None,
    };
    let error = fixed.create_eni(&eni).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::EniLimit);
    assert!(error.message.contains("the file lists no free ENI for this node"), "{error}");
    fixed.attach_eni(A, "node-a").await.unwrap();
    assert_eq!(fixed.attach_eni(A, "node-b").await.unwrap_err().kind, CloudErrorKind::Invalid);
    assert_eq!(fixed.detach_eni(A).await.unwrap_err().kind, CloudErrorKind::Invalid);
    assert_eq!(fixed.delete_eni(A).await.unwrap_err().kind, CloudErrorKind::Invalid);
    fixed.detach_eni("eni-gone").await.unwrap();
    fixed.delete_eni("eni-gone").await.unwrap();
}

/// One change to the good file, and the field, value and words of the refusal.
#[test]
fn what_cannot_be_is_refused_by_name() {
    for (from, to, expected) in [
        ("zone =", "rack =", "unknown field `rack`"),
        ("[[subnet]]\nid = \"dmz\"", "[[subnets]]\nid = \"dmz\"", "unknown field `subnets`"),
        ("gateway = \"10.0.1.1\"\n", "", "missing field `gateway`"),
        (
            "\"10.0.1.0/24\"",
            "\"10.0.1.7/24\"",
            "subnet[0].cidr = \"10.0.1.7/24\": it has host bits; write 10.0.1.0/24",
        ),
        ("\"10.0.1.0/24\"", "\"lan\"", "subnet[0].cidr = \"lan\": this is no IPv4 network"),
        (
            "\"10.0.2.0/28\"",
            "\"10.0.0.0/16\"",
            "subnet[1].cidr = \"10.0.0.0/16\": it overlaps 10.0.1.0/24 of subnet lan",
        ),
        ("id = \"dmz\"", "id = \"lan\"", "subnet[1].id = \"lan\": another subnet has this name"),
        (
            "gateway = \"10.0.1.1\"",
            "gateway = \"10.9.9.1\"",
            "subnet[0].gateway = \"10.9.9.1\": 10.9.9.1 is outside 10.0.1.0/24",
        ),
        (
            "gateway = \"10.0.1.1\"",
            "gateway = \"10.0.1.0\"",
            "subnet[0].gateway = \"10.0.1.0\": 10.0.1.0 is the network address",
        ),
        (
            "52-54-00-00-00-0b",
            "52:54:00:00:00:0a",
            "eni[1].mac = \"52:54:00:00:00:0a\": eni[0] has this MAC too",
        ),
        ("52-54-00-00-00-0b", "52:54:0:0:0:b", "eni[1].mac = \"52:54:0:0:0:b\": this is no MAC"),
        ("52-54-00-00-00-0b", "53:54:00:00:00:0b", "is a group address"),
        ("52-54-00-00-00-0b", "00:00:00:00:00:00", "all zero"),
        ("node = \"node-a\"", "node = \"\"", "eni[0].node = \"\": an ENI needs the name of its node"),
        (
            "subnet = \"dmz\"",
            "subnet = \"wan\"",
            "eni[2].subnet = \"wan\": there is no such [[subnet]]; add it, or name one of: lan, dmz",
        ),
        ("\"10.0.1.5\"", "\"10.0.1.x\"", "eni[0].primary_ip = \"10.0.1.x\": this is no IPv4 address"),
        ("\"10.0.1.6\"", "\"10.0.1.5\"", "eni[1].primary_ip = \"10.0.1.5\": eni[0] has it too"),
        ("\"10.0.1.6\"", "\"10.0.1.1\"", "10.0.1.1 is the gateway of subnet lan"),
        (
            "\"10.0.1.60\"",
            "\"10.0.1.5\"",
            "eni[0].addresses[1] = \"10.0.1.5\": 10.0.1.5 is the primary_ip of eni[0]",
        ),
        ("\"10.0.1.60\"", "\"10.0.1.6\"", "10.0.1.6 is the primary_ip of eni[1]"),
        ("\"10.0.1.60\"", "\"10.0.1.11\"", "10.0.1.11 is listed twice on this ENI"),
        ("\"10.0.1.60\"", "\"10.0.1.1\"", "10.0.1.1 is the gateway of subnet lan"),
        ("\"10.0.1.60\"", "\"10.0.1.250-10.0.1.255\"", "10.0.1.255 is the broadcast address"),
        ("\"10.0.1.60\"", "\"10.0.2.6\"", "10.0.2.6 is outside 10.0.1.0/24 of subnet lan"),
        ("\"10.0.1.60\"", "\"10.0.1.60-10.0.1.50\"", "it ends before it begins"),
        ("\"10.0.1.60\"", "\"0.0.0.0/0\"", "it stands for more than 65536 addresses"),
        ("\"10.0.1.60\"", "\"10.0.1.60/29\"", "it has host bits; write 10.0.1.56/29"),
        ("\"10.0.1.60\"", "\"sixty\"", "this is neither an address nor a range"),
        ("primary_ip = \"10.0.1.5\"", "primary_ip = 5", "invalid type: integer `5`, expected a string"),
    ] {
        assert!(FILE.contains(from), "the case changes nothing: {from}");
        let message = Fixed::parse("nodes.toml", &FILE.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(message.starts_with("nodes.toml: ") && message.contains(expected), "{to}: {message}");
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let error = Fixed::load(Path::new("/nonexistent/nodes.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/nodes.toml: ") && error.contains("cannot read it"), "{error}");
}
