//! GC of the CNI specification: the runtime names the attachments that are left.

use std::{collections::HashSet, sync::Arc};

use ipam_cni::{
    error::{CniError, code},
    protocol::AttachmentKey,
};
use tracing::{info, warn};

use crate::node::context::Node;

impl Node {
    /// Takes away every attachment of the network that is not in `valid`. One that began after this call did is newer
    /// than the runtime's list and stays.
    ///
    /// # Errors
    /// All that failed; everything else was done nevertheless.
    pub async fn collect_garbage(
        self: &Arc<Self>,
        network: &str,
        valid: &[AttachmentKey],
    ) -> Result<(), CniError> {
        for key in valid {
            // One that was found without a record gets its name now, and is of this network from then on.
            if let Err(error) = self.known(key).await {
                warn!(?key, %error, "cannot name an attachment");
            }
        }
        let valid: HashSet<_> = valid.iter().collect();
        let book = self.journal.book();
        let stale = book.attachments.values().filter(|record| record.key.network == network);
        let mut failed = Vec::new();
        for record in stale.filter(|record| !valid.contains(&record.key)) {
            // The key may have come back meanwhile, as another attachment.
            let now = self.journal.get(&record.key);
            if now.is_none_or(|now| now.sequence != record.sequence) {
                continue;
            }
            info!(key = ?record.key, ip = %record.ip, "attachment is no longer valid");
            if let Err(error) = self.delete(&record.key).await {
                failed.push(format!("container {}: {error}", record.key.container_id));
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let message = format!("{} attachments cannot be removed yet", failed.len());
        Err(CniError::new(code::TRY_AGAIN_LATER, message).details(failed.join("; ")))
    }
}
