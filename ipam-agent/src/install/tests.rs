use std::{os::unix::fs::PermissionsExt, time::SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use super::{Outcome::*, *};

struct Node {
    dir: TempDir,
    args: InstallArgs,
}

impl Node {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("build"), binary("v1")).unwrap();
        let args = InstallArgs {
            remove: false,
            plugin: Some(path("build")),
            cni_bin_dir: path("opt/cni/bin"),
            cni_conf_dir: path("etc/cni/net.d"),
            socket: DEFAULT_SOCKET.into(),
            with_portmap: false,
            force: false,
        };
        Self { dir, args }
    }

    fn plugin(&self) -> PathBuf {
        plugin_path(&self.args)
    }

    fn conflist(&self) -> PathBuf {
        conflist_path(&self.args)
    }

    /// Every file in both directories.
    fn files(&self) -> Vec<PathBuf> {
        let list = |dir: &Path| {
            fs::read_dir(dir).map(|d| d.map(|e| e.unwrap().path()).collect()).unwrap_or_default()
        };
        let mut files: Vec<PathBuf> = list(&self.args.cni_bin_dir);
        files.extend::<Vec<_>>(list(&self.args.cni_conf_dir));
        files
    }
}

fn binary(build: &str) -> Vec<u8> {
    [b"\x7fELF", ipam_cni::plugin::BUILD_MARKER, build.as_bytes()].concat()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn installs_upgrades_and_removes() {
    let mut node = Node::new();
    let (plugin, conflist) = (node.plugin(), node.conflist());
    assert_eq!(run(&node.args).unwrap(), [(plugin.clone(), Written), (conflist.clone(), Written)]);
    assert_eq!((mode(&plugin), mode(&conflist)), (0o755, 0o644));
    assert_eq!(node.files(), [plugin.clone(), conflist.clone()], "something was left behind");
    let json: Value = serde_json::from_slice(&fs::read(&conflist).unwrap()).unwrap();
    assert_eq!(json["cniVersion"], "1.0.0");
    assert_eq!(json["name"], "eni-ipam");
    assert_eq!(json["plugins"], serde_json::json!([{"type": "ipam-cni", "socket": DEFAULT_SOCKET}]));

    let before = modified(&conflist);
    assert_eq!(run(&node.args).unwrap(), [(plugin.clone(), Unchanged), (conflist.clone(), Unchanged)]);
    assert_eq!(modified(&conflist), before);

    fs::write(node.dir.path().join("build"), binary("v2")).unwrap();
    assert_eq!(run(&node.args).unwrap(), [(plugin.clone(), Written), (conflist.clone(), Unchanged)]);
    assert_eq!(fs::read(&plugin).unwrap(), binary("v2"));

    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(run(&node.args).unwrap()[0].1, Written);
    assert_eq!(mode(&plugin), 0o755);

    node.args.remove = true;
    assert_eq!(run(&node.args).unwrap(), [(conflist.clone(), Removed), (plugin.clone(), Removed)]);
    assert_eq!(run(&node.args).unwrap(), [(conflist, Unchanged), (plugin, Unchanged)]);
    assert!(node.files().is_empty());
}

#[test]
fn a_foreign_file_stays() {
    for (foreign, content) in [
        (Node::plugin as fn(&Node) -> PathBuf, "#!/bin/sh\n"),
        (Node::conflist, r#"{"name": "x", "plugins": [{"type": "bridge"}]}"#),
        (Node::conflist, "torn"),
    ] {
        let mut node = Node::new();
        let path = foreign(&node);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        for remove in [false, true] {
            node.args.remove = remove;
            let error = run(&node.args).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && error.contains("--force"), "{error}");
            assert_eq!(node.files(), std::slice::from_ref(&path), "a refusal comes before the first change");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        node.args.force = true;
        node.args.remove = false;
        run(&node.args).unwrap();
        assert_ne!(fs::read(&path).unwrap(), content.as_bytes());
    }
}

#[test]
fn a_plugin_that_is_none_is_refused() {
    let mut node = Node::new();
    let build = node.dir.path().join("build");
    fs::write(&build, "something else").unwrap();
    let error = run(&node.args).unwrap_err().to_string();
    assert!(error.contains(build.to_str().unwrap()) && error.contains("--plugin"), "{error}");
    node.args.plugin = Some(node.dir.path().join("absent"));
    let error = run(&node.args).unwrap_err().to_string();
    assert!(error.contains("absent") && error.contains("--plugin"), "{error}");
    assert!(node.files().is_empty());
}

#[test]
fn portmap_must_be_there() {
    let mut node = Node::new();
    node.args.with_portmap = true;
    let portmap = node.args.cni_bin_dir.join("portmap");
    let error = run(&node.args).unwrap_err().to_string();
    assert!(error.contains(portmap.to_str().unwrap()), "{error}");
    assert!(node.files().is_empty());

    fs::create_dir_all(&node.args.cni_bin_dir).unwrap();
    fs::write(&portmap, "").unwrap();
    run(&node.args).unwrap();
    let json: Value = serde_json::from_slice(&fs::read(node.conflist()).unwrap()).unwrap();
    assert_eq!(json["plugins"][1]["type"], "portmap");
    assert_eq!(json["plugins"][1]["capabilities"]["portMappings"], true);
}

#[test]
fn a_socket_that_the_plugin_would_refuse_is_refused_now() {
    let mut node = Node::new();
    for socket in ["cni.sock".to_owned(), format!("/{}", "x".repeat(107))] {
        node.args.socket = socket.into();
        let error = format!("{:#}", run(&node.args).unwrap_err());
        assert!(error.contains("--socket") && error.contains("107"), "{error}");
    }
    assert!(node.files().is_empty());
}

/// The arguments work on a command line, and their defaults are those of every runtime.
#[test]
fn arguments() {
    use clap::{FromArgMatches, error::ErrorKind};

    let command = InstallArgs::augment_args(clap::Command::new("install"));
    command.clone().debug_assert();
    let args = InstallArgs::from_arg_matches(&command.clone().get_matches_from(["install"])).unwrap();
    assert_eq!(plugin_path(&args), Path::new("/opt/cni/bin/ipam-cni"));
    assert_eq!(conflist_path(&args), Path::new("/etc/cni/net.d/10-eni-ipam.conflist"));
    assert_eq!(args.socket, Path::new(DEFAULT_SOCKET));
    let wrong = command.try_get_matches_from(["install", "--nonsense"]).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::UnknownArgument);
}
