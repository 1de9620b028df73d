//! The way from a machine of the lab to the server, which listens elsewhere: loopback has no way out of a namespace.

use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use kube::config::Kubeconfig;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Takes connections on an address of the lab and passes them on to the server. Dropping it cuts all of them.
#[derive(Debug)]
pub struct Relay {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Serves a listener until it is dropped.
    ///
    /// # Errors
    /// The kubeconfig names no server.
    pub fn start(listener: TcpListener, kubeconfig: &Kubeconfig) -> Result<Self> {
        let server = server_of(kubeconfig)?;
        let target = format!("{}:{}", server.host().context("no host")?, server.port_u16().unwrap_or(443));
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || {
            // What it has started ends with the runtime.
            runtime.block_on(async {
                tokio::select! { _ = stopped => {}, () = accept(listener, target) => {} }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

async fn accept(listener: TcpListener, target: String) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("is nonblocking");
    while let Ok((mut near, _)) = listener.accept().await {
        let target = target.clone();
        tokio::spawn(async move {
            if let Ok(mut far) = TcpStream::connect(&target).await {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The same kubeconfig for whoever reaches the server by `address`. Its certificate stays the server's.
///
/// # Errors
/// The kubeconfig names no server.
pub fn through(kubeconfig: &Kubeconfig, address: SocketAddr) -> Result<Kubeconfig> {
    let host = server_of(kubeconfig)?.host().context("no host")?.trim_matches(['[', ']']).to_owned();
    let mut config = kubeconfig.clone();
    for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(format!("https://{address}"));
        cluster.tls_server_name.get_or_insert_with(|| host.clone());
    }
    Ok(config)
}

fn server_of(kubeconfig: &Kubeconfig) -> Result<http::Uri> {
    let current = kubeconfig.current_context.as_ref();
    let context = kubeconfig.contexts.iter().find(|named| Some(&named.name) == current);
    let cluster = context.and_then(|named| named.context.as_ref()).map(|context| &context.cluster);
    let cluster = kubeconfig.clusters.iter().find(|named| Some(&named.name) == cluster);
    let server = cluster.and_then(|named| named.cluster.as_ref()?.server.clone());
    Ok(server.context("kubeconfig: the current context names no server")?.parse()?)
}
