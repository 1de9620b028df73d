//! Network namespaces with a name, and doing things inside them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use rustix::{
    fs::{FlockOperation, flock},
    mount::{MountPropagationFlags, mount_bind, mount_bind_recursive, mount_change},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use super::{
    rtnl::Rtnl,
    scope::{NETNS_DIR, Scope, remove_netns},
};

mod connect;

pub use connect::{Connector, kube_client};

/// A network namespace that this lab made. Dropping it takes its name away and kills the processes inside;
/// the kernel ends it with the last socket and descriptor.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    handle: Arc<File>,
    rtnl: OnceLock<Rtnl>,
    inboxes: Mutex<BTreeMap<SocketAddr, Arc<UdpSocket>>>,
    scope: Arc<Scope>,
}

impl Netns {
    /// A new namespace `PREFIX-ROLE` with its loopback up. With `LAB_KEEP`, says how to enter it.
    ///
    /// # Errors
    /// No root, or the role is taken in this lab.
    pub fn create(scope: &Arc<Scope>, role: &str) -> anyhow::Result<Self> {
        ensure!(!role.is_empty() && !role.contains('/'), "namespace role {role:?}: no file name");
        let name = format!("{}-{role}", scope.prefix());
        let path = Path::new(NETNS_DIR).join(&name);
        prepare_dir().with_context(|| format!("{NETNS_DIR}: cannot hold namespaces"))?;
        File::create_new(&path).with_context(|| format!("{}: in use", path.display()))?;
        let made =
            thread::scope(|s| s.spawn(|| unshare_onto(&path)).join()).unwrap_or_else(|p| resume_unwind(p));
        let handle = made.inspect_err(|_| remove_netns(&[&path])).with_context(|| name.clone())?;
        let ns = Self {
            name,
            path,
            handle: Arc::new(handle),
            rtnl: OnceLock::new(),
            inboxes: Mutex::default(),
            scope: scope.clone(),
        };
        ns.rtnl().up("lo")?;
        // Lets `traffic::ping` use datagram sockets (icmp(7)).
        ns.sysctl("ipv4/ping_group_range", "0 2147483647")?;
        if scope.kept() {
            eprintln!("lab: {}", ns.how_to_enter());
        }
        Ok(ns)
    }

    /// The name, as in `ip netns list`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace: what `CNI_NETNS` and `nsenter --net=` want.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The command that opens a shell inside. Unlike `ip netns exec` it leaves the BPF file system in sight.
    pub fn how_to_enter(&self) -> String {
        format!("nsenter --net={}", self.path.display())
    }

    /// A descriptor of the namespace.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// A descriptor that may outlive this value; while it is open, so is the namespace.
    pub fn handle(&self) -> Arc<File> {
        self.handle.clone()
    }

    /// Runs a closure inside, on a thread of its own, and returns its value. Its panic goes on here.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            enter(&self.handle);
            f()
        };
        thread::scope(|s| s.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Starts a thread that lives inside.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let handle = self.handle.clone();
        thread::spawn(move || {
            enter(&handle);
            f()
        })
    }

    /// A command whose process will be inside. It sees the mounts of this process.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = self.handle.clone();
        let enter = move || {
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)
        };
        // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor locks.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// The namespace's netlink socket.
    pub fn rtnl(&self) -> &Rtnl {
        self.rtnl.get_or_init(|| self.run(|| Rtnl::new().expect("a kernel with namespaces has rtnetlink")))
    }

    /// Writes a kernel parameter, by its path beneath `/proc/sys/net`.
    ///
    /// # Errors
    /// There is no such parameter, or the kernel refuses the value.
    pub fn sysctl(&self, parameter: &str, value: &str) -> anyhow::Result<()> {
        self.sysctls(&[(parameter, value)])
    }

    /// Writes several kernel parameters.
    ///
    /// # Errors
    /// As [`Self::sysctl`].
    pub fn sysctls(&self, parameters: &[(&str, &str)]) -> anyhow::Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens a file.
        self.run(|| {
            for (parameter, value) in parameters {
                let path = Path::new("/proc/sys/net").join(parameter);
                fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))?;
            }
            Ok(())
        })
    }

    /// Reads a file inside, such as `/proc/net/snmp`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, path: &str) -> io::Result<String> {
        self.run(|| {
            let mut text = String::new();
            // /proc/net is the main thread's; this one's is beneath thread-self.
            File::open(path.replace("/proc/net/", "/proc/thread-self/net/"))?.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// Listens inside.
    ///
    /// # Errors
    /// The address is not there or in use.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.run(|| TcpListener::bind(address))
    }

    /// Listens inside, for the tokio runtime of the caller.
    ///
    /// # Errors
    /// The address is not there or in use.
    pub fn listen_tokio(&self, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let listener = self.listen(address)?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }

    /// A UDP socket that receives at an address inside. It is bound once and stays for all who ask for that address: a
    /// closed one would hold its address until every process that another thread forked meanwhile has come to its exec.
    /// It is empty: what an earlier user has not read is gone.
    ///
    /// # Errors
    /// The address is not there or in use.
    pub fn inbox(&self, address: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        let mut inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inbox) = inboxes.get(&address) {
            inbox.set_nonblocking(true)?;
            while inbox.recv_from(&mut [0]).is_ok() {}
            inbox.set_nonblocking(false)?;
            return Ok(inbox.clone());
        }
        let inbox = Arc::new(self.run(|| UdpSocket::bind(address))?);
        inboxes.insert(address, inbox.clone());
        Ok(inbox)
    }

    /// Connects from inside.
    ///
    /// # Errors
    /// As [`TcpStream::connect_timeout`].
    pub fn connect(&self, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&address, timeout))
    }

    /// Opens connections from inside, for HTTP clients.
    pub fn connector(&self) -> Connector {
        Connector::new(self.handle())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.scope.kept() {
            remove_netns(&[&self.path]);
        }
    }
}

/// Moves the calling thread, which must be one of the lab's own, into a namespace.
pub(super) fn enter(handle: &File) {
    move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("whoever made a namespace may enter it");
}

/// Gives the calling thread a new namespace and binds it to `path`.
fn unshare_onto(path: &Path) -> io::Result<File> {
    // SAFETY: only the network namespace changes, and the thread ends with this call; descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
    mount_bind("/proc/thread-self/ns/net", path)?;
    File::open(path)
}

/// Makes [`NETNS_DIR`] a shared mount as iproute2 does, so that a name taken away here is gone in every mount
/// namespace. iproute2 locks the directory too.
fn prepare_dir() -> io::Result<()> {
    fs::create_dir_all(NETNS_DIR)?;
    let shared = || mount_change(NETNS_DIR, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    let dir = File::open(NETNS_DIR)?;
    flock(&dir, FlockOperation::LockExclusive)?;
    if shared().is_err() {
        mount_bind_recursive(NETNS_DIR, NETNS_DIR)?;
        shared()?;
    }
    Ok(())
}
