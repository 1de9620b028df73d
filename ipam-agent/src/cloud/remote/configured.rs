//! The subnets that a provider was told to use, by their ids and by a tag.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::{CloudError, CloudErrorKind};

/// Which subnets to use, and which of them were not there when last asked for.
#[derive(Debug)]
pub struct Configured {
    /// Ids, the preferred one first.
    pub ids: Vec<String>,
    /// Key and value of a tag; subnets that carry it are used too, and may come while the provider runs.
    pub tag: Option<(String, String)>,
    /// Ids that the last answer did not have: each is told of once.
    missing: Mutex<BTreeSet<String>>,
}

impl Configured {
    /// What was configured.
    pub const fn new(ids: Vec<String>, tag: Option<(String, String)>) -> Self {
        Self { ids, tag, missing: Mutex::new(BTreeSet::new()) }
    }

    /// Puts what was found in order: by the list of ids, and after them, by id, what has only the tag. Each is there once.
    ///
    /// # Errors
    /// Nothing was found: `code` is what the cloud calls that.
    pub fn in_order<S>(
        &self,
        mut found: Vec<S>,
        id: impl Fn(&S) -> &str,
        action: &'static str,
        code: &str,
    ) -> Result<Vec<S>, CloudError> {
        if found.is_empty() {
            return Err(self.nothing(action, code));
        }
        let rank = |subnet: &S| self.ids.iter().position(|known| known == id(subnet)).unwrap_or(usize::MAX);
        found.sort_by(|a, b| (rank(a), id(a)).cmp(&(rank(b), id(b))));
        found.dedup_by(|a, b| id(a) == id(b));
        let there: BTreeSet<&str> = found.iter().map(&id).collect();
        self.tell_of(self.ids.iter().filter(|id| !there.contains(id.as_str())).cloned().collect());
        Ok(found)
    }

    fn nothing(&self, action: &'static str, code: &str) -> CloudError {
        let ids = self.ids.join(", ");
        let message = match &self.tag {
            Some((key, value)) => format!(
                "there is no subnet [{ids}] and none with the tag {key}={value}; correct the list, or tag one"
            ),
            None => format!("{ids}: no configured subnet exists; correct the list"),
        };
        let code = code.to_owned();
        CloudError { kind: CloudErrorKind::NotFound, action, code, message, request_id: None }
    }

    fn tell_of(&self, missing: BTreeSet<String>) {
        let mut known = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        for subnet in missing.difference(&known) {
            tracing::warn!(subnet, "a configured subnet does not exist; correct the list");
        }
        *known = missing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_comes_first_and_nothing_twice() {
        let configured = Configured::new(
            vec!["s-9".into(), "s-1".into(), "s-gone".into()],
            Some(("k".into(), "v".into())),
        );
        let order = |found: &[&'static str]| configured.in_order(found.to_vec(), |id| id, "Describe", "None");
        assert_eq!(order(&["s-1", "s-3", "s-9", "s-2", "s-9"]).unwrap(), ["s-9", "s-1", "s-2", "s-3"]);
        assert_eq!(*configured.missing.lock().unwrap(), BTreeSet::from(["s-gone".to_owned()]));
        let error = order(&[]).unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::NotFound);
        assert!(
            error.message.contains("s-9, s-1, s-gone") && error.message.contains("k=v"),
            "{}",
            error.message
        );
    }
}
