//! Where the admission webhook is served, if it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use crate::ipam::family::Families;
use crate::metrics::ListenAddress;
use crate::webhook::WebhookConfig;
use crate::webhook::certificates::CertificateConfig;

/// The longest time between two looks at the age of the certificates.
const LOOK: Duration = Duration::from_secs(600);

/// The webhook of the controller.
#[derive(Debug, Args)]
pub struct WebhookArgs {
    /// Where to serve the admission webhook, such as 0.0.0.0:9473; nothing serves none. kube-apiserver has to reach it.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "")]
    webhook_listen: ListenAddress,
    /// Names and addresses by which kube-apiserver calls the webhook, with commas between: its certificate is for them.
    #[arg(
        long,
        value_name = "HOSTS",
        value_delimiter = ',',
        default_value = "eni-ipam-webhook.kube-system.svc"
    )]
    webhook_hosts: Vec<String>,
    /// Namespace of the Secret with the webhook's certificates.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    webhook_namespace: String,
    /// The Secret with the webhook's certificates, and the MutatingWebhookConfiguration that trusts them.
    #[arg(long, value_name = "NAME", default_value = "eni-ipam-webhook")]
    webhook_name: String,
}

impl WebhookArgs {
    /// What is to be served; nothing where no address is given.
    pub fn config(&self, families: &Families) -> Option<WebhookConfig> {
        Some(WebhookConfig {
            listen: self.webhook_listen.0?,
            certificates: CertificateConfig {
                namespace: self.webhook_namespace.clone(),
                secret: self.webhook_name.clone(),
                configuration: self.webhook_name.clone(),
                hosts: self.webhook_hosts.iter().cloned().collect::<BTreeSet<_>>(),
                clock: Arc::new(Timestamp::now),
                look: LOOK,
            },
            families: families.clone(),
        })
    }
}
