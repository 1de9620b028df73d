//! Runs the plugin.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// A call in the making.
#[derive(Clone, Debug)]
pub struct Call {
    env: Vec<(String, String)>,
    stdin: Vec<u8>,
}

/// What came of a call.
#[derive(Debug)]
pub struct Outcome {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Call {
    /// A call with everything it needs but an agent and a pod: override what the test is about.
    pub fn new(verb: &str) -> Self {
        let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "ipam-cni", "socket": "/nonexistent/cni.sock"});
        let call = Self { env: Vec::new(), stdin: Vec::new() }.conf(conf);
        [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/nonexistent/netns"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ]
        .into_iter()
        .fold(call, |call, (name, value)| call.env(name, value))
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.env.retain(|(n, _)| n != name);
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    pub fn conf(self, conf: Value) -> Self {
        self.stdin(conf.to_string())
    }

    /// Sets a field of the network configuration.
    pub fn field(self, name: &str, value: impl Into<Value>) -> Self {
        let mut conf: Value = serde_json::from_slice(&self.stdin).unwrap();
        conf[name] = value.into();
        self.conf(conf)
    }

    pub fn socket(self, path: &Path) -> Self {
        self.field("socket", path.to_str().unwrap())
    }

    pub fn version(self, version: &str) -> Self {
        self.field("cniVersion", version)
    }

    pub fn run(&self) -> Outcome {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ipam-cni"))
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin that fails early does not read what it is given.
        let _ = child.stdin.take().unwrap().write_all(&self.stdin);
        let output = child.wait_with_output().unwrap();
        Outcome {
            status: output.status.code().expect("ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// The call succeeded without a result.
    #[track_caller]
    pub fn done(&self) {
        assert_eq!((self.status, self.stdout.as_str(), self.stderr.as_str()), (0, "", ""));
    }

    /// The result of a call that succeeded.
    #[track_caller]
    pub fn result(&self) -> Value {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The error of a call that failed with that code, as the specification wants it.
    #[track_caller]
    pub fn error(&self, code: u32) -> Value {
        assert_eq!(self.status, 1, "{}", self.stdout);
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["cniVersion"].is_string(), "{error}");
        let msg = error["msg"].as_str().unwrap();
        assert!(!msg.is_empty() && self.stderr.contains(msg), "{error} and on stderr {}", self.stderr);
        error
    }
}
