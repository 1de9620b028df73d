//! etcd and kube-apiserver as processes of this one.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;

use super::access::Credentials;
use super::{STARTUP, write_kubeconfig};
use crate::lab::patience::patient;

/// Two processes and their folder. Dropping it ends and removes them.
struct Servers {
    children: Vec<Child>,
    dir: TempDir,
}

/// What this process has started; ended by [`end_all`] when it exits.
static STARTED: Mutex<Vec<Servers>> = Mutex::new(Vec::new());

/// Starts both on free ports of loopback; answers where the administrator's kubeconfig is. Whatever becomes of this process, they end with it.
pub(super) fn start(assets: &Path) -> Result<PathBuf> {
    for program in ["etcd", "kube-apiserver"] {
        let path = assets.join(program);
        ensure!(path.is_file(), "{}={}: no {program} in it", super::ASSETS, assets.display());
    }
    // Between finding a free port and listening on it, another process may take it: then they are started anew.
    let mut last = anyhow!("not tried");
    for _ in 0..3 {
        match attempt(assets) {
            Ok(file) => return Ok(file),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn attempt(assets: &Path) -> Result<PathBuf> {
    let dir = TempDir::with_prefix("ipam-real-api-")?;
    let mut servers = Servers { children: Vec::new(), dir };
    let [etcd_port, peer_port, port] = free_ports()?;
    let etcd = format!("http://127.0.0.1:{etcd_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut command = Command::new(assets.join("etcd"));
    command
        .args(["--data-dir", "etcd", "--unsafe-no-fsync", "--log-level", "warn"])
        .args(["--listen-client-urls", &etcd, "--advertise-client-urls", &etcd])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")]);
    servers.spawn("etcd", command)?;

    let credentials = Credentials::new()?;
    let files = [
        ("server.crt", &credentials.certificate),
        ("server.key", &credentials.key),
        ("accounts.key", &credentials.accounts_key),
        ("accounts.pub", &credentials.accounts_public),
        ("tokens.csv", &format!("{},admin,admin,\"system:masters\"\n", credentials.token)),
    ];
    for (name, text) in files {
        fs::write(servers.dir.path().join(name), text)?;
    }
    let mut command = Command::new(assets.join("kube-apiserver"));
    command
        .args(["--etcd-servers", &etcd, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"])
        .args(["--secure-port", &port.to_string(), "--endpoint-reconciler-type", "none"])
        .args(["--tls-cert-file", "server.crt", "--tls-private-key-file", "server.key", "--cert-dir", "."])
        .args(["--service-account-issuer", "https://kubernetes.default.svc"])
        .args(["--service-account-key-file", "accounts.pub"])
        .args(["--service-account-signing-key-file", "accounts.key"])
        .args(["--token-auth-file", "tokens.csv", "--service-cluster-ip-range", "10.96.0.0/16"])
        .args(["--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction"])
        // Nobody makes the account `default` of a namespace here, so pods could not be created.
        .args(["--disable-admission-plugins", "ServiceAccount"]);
    servers.spawn("kube-apiserver", command)?;
    servers.wait_listening(port)?;
    let file = servers.dir.path().join("kubeconfig");
    write_kubeconfig(&credentials.kubeconfig(port)?, &file)?;
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).push(servers);
    Ok(file)
}

impl Servers {
    fn spawn(&mut self, name: &str, mut command: Command) -> Result<()> {
        let log = File::create(self.dir.path().join(format!("{name}.log")))?;
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let die_with_us = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into);
        // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor locks.
        unsafe { command.pre_exec(die_with_us) };
        self.children.push(from_a_lasting_thread(command).with_context(|| format!("cannot start {name}"))?);
        Ok(())
    }

    fn wait_listening(&mut self, port: u16) -> Result<()> {
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            for (child, name) in self.children.iter_mut().zip(["etcd", "kube-apiserver"]) {
                if let Some(status) = child.try_wait()? {
                    let log = fs::read_to_string(self.dir.path().join(format!("{name}.log")))?;
                    let skip = log.lines().count().saturating_sub(20);
                    let tail: Vec<_> = log.lines().skip(skip).collect();
                    return Err(anyhow!("{name} ended with {status}:\n{}", tail.join("\n")));
                }
            }
            ensure!(start.elapsed() < patient(STARTUP), "kube-apiserver does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process from a thread that lives as long as this process: the death signal is sent when the *thread* that
/// started a process ends, and those of tests do.
fn from_a_lasting_thread(mut command: Command) -> Result<Child> {
    type Order = Box<dyn FnOnce() + Send>;
    static THREAD: Mutex<Option<mpsc::Sender<Order>>> = Mutex::new(None);
    let orders = {
        let mut slot = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert_with(|| {
            // SAFETY: `end_all` neither unwinds nor asks for anything that is gone when a process exits.
            unsafe { libc::atexit(end_all) };
            let (sender, orders) = mpsc::channel::<Order>();
            thread::spawn(move || orders.into_iter().for_each(|order| order()));
            sender
        })
        .clone()
    };
    let (answer, answered) = mpsc::channel();
    let order = Box::new(move || drop(answer.send(command.spawn())));
    orders.send(order).map_err(|_| anyhow!("the thread has ended"))?;
    Ok(answered.recv().context("the thread has ended")??)
}

/// Ends what was started when the process exits: nothing drops a static.
extern "C" fn end_all() {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    started.clear();
}

fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // All at once, or the kernel may give one twice.
    let listeners: Vec<_> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
