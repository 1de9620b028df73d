//! The conformance suite of the seam between the product and a Kubernetes API: cases that take any
//! `kube::Client`. What they hold the embedded API to, they can hold a kube-apiserver to, which has our CRDs.

use ipam_agent::api::{
    ClaimRef, IpPhase, VpcIP, VpcIPClaim, VpcIPClaimSpec, VpcIPSpec, VpcIPStatus, VpcIPType,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::time::Duration;

#[path = "deletes.rs"]
pub mod deletes;
#[path = "exchanges.rs"]
pub mod exchanges;
#[path = "machinery.rs"]
pub mod machinery;
#[path = "selection.rs"]
pub mod selection;
#[path = "watches.rs"]
pub mod watches;
#[path = "writes.rs"]
pub mod writes;

/// Makes a test of each case: `$run` is called with the case, and gives it a client. The attribute is for all of them.
macro_rules! conformance_cases {
    ($run:path $(, $attribute:meta)?) => {
        $crate::conformance_cases!($run $(, $attribute)?; writes: [
            create_sets_identity_and_refuses_a_second, generate_name_finds_a_free_name, stale_replace_conflicts,
            replace_needs_a_revision, patch_preconditions_are_checked, json_patch_tests_and_changes,
            patch_without_effect_changes_nothing, status_is_written_by_its_subresource_only,
            generation_counts_changes_of_the_spec, identity_is_immutable, bad_objects_are_refused_by_field,
            unknown_things_are_not_found, unsupported_patches_are_refused, dry_run_writes_nothing,
            revisions_grow_with_every_write,
        ]);
        $crate::conformance_cases!($run $(, $attribute)?; deletes: [
            delete_preconditions_are_checked, finalizers_hold_a_deleted_object, no_finalizer_on_a_deleted_object,
            delete_collection_takes_what_is_selected, a_name_can_be_used_again,
        ]);
        $crate::conformance_cases!($run $(, $attribute)?; selection: [
            labels_select, fields_select, unknown_fields_are_refused, pages_are_of_one_revision,
            lists_honour_revisions, metadata_only_lists,
        ]);
        $crate::conformance_cases!($run $(, $attribute)?; watches: [
            watch_resumes_from_a_revision, watch_without_a_revision_starts_with_what_is_there,
            leaving_the_selection_is_a_deletion, initial_events_end_with_a_bookmark,
            a_watch_ends_at_its_timeout, a_watch_sees_one_namespace, a_removed_object_is_shown_last,
        ]);
        $crate::conformance_cases!($run $(, $attribute)?; machinery: [
            reflector_follows, controller_reconciles, recorder_writes_events_kubectl_can_read,
        ]);
    };
    ($run:path, $attribute:meta; $group:ident: [$($case:ident),* $(,)?]) => {
        mod $group {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[$attribute]
            async fn $case() {
                $run($crate::suite::$group::$case).await;
            })*
        }
    };
    ($run:path; $group:ident: [$($case:ident),* $(,)?]) => {
        mod $group {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $run($crate::suite::$group::$case).await;
            })*
        }
    };
}
pub(crate) use conformance_cases;

/// Longest wait for anything that must happen.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits for something that must happen soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"))
}

/// A namespace of the case's own, labelled so that what clears a server after tests finds it.
pub async fn namespace(client: &Client) -> String {
    let namespace = Namespace {
        metadata: ObjectMeta {
            generate_name: Some("seam-".to_owned()),
            labels: Some([("eni-ipam.dev/test".to_owned(), String::new())].into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let api = Api::<Namespace>::all(client.clone());
    api.create(&PostParams::default(), &namespace).await.expect("namespace").name_any()
}

/// Claims in a namespace of the case's own.
pub async fn claims(client: &Client) -> Api<VpcIPClaim> {
    Api::namespaced(client.clone(), &namespace(client).await)
}

pub fn claim(name: &str) -> VpcIPClaim {
    VpcIPClaim::new(name, VpcIPClaimSpec::default())
}

pub async fn created(api: &Api<VpcIPClaim>, name: &str) -> VpcIPClaim {
    api.create(&PostParams::default(), &claim(name)).await.expect("create")
}

pub fn vpc_ip(ip: &str) -> VpcIP {
    VpcIP::new(
        ip,
        VpcIPSpec {
            type_: VpcIPType::Pod,
            ip: ip.to_owned(),
            subnet_id: "subnet-a".to_owned(),
            claim_ref: Some(ClaimRef {
                namespace: "default".to_owned(),
                name: "web-0".to_owned(),
                uid: "u".to_owned(),
            }),
        },
    )
}

/// An address of the cases' own range, bound to a node.
pub async fn bound(api: &Api<VpcIP>, ip: &str, node: &str) -> VpcIP {
    api.create(&PostParams::default(), &vpc_ip(ip)).await.expect("create");
    let status = VpcIPStatus {
        phase: IpPhase::Bound,
        node_name: Some(node.to_owned()),
        eni_id: Some("eni-1".to_owned()),
        ..VpcIPStatus::default()
    };
    let patch = json!({ "status": status });
    api.patch_status(ip, &PatchParams::default(), &Patch::Merge(patch)).await.expect("status")
}

/// A merge patch of a claim.
pub async fn merge(api: &Api<VpcIPClaim>, name: &str, patch: serde_json::Value) -> kube::Result<VpcIPClaim> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// Code and reason of a refusal.
pub fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("should be refused by the API, is {other:?}"),
    }
}

pub fn refused(code: u16, reason: &str) -> (u16, String) {
    (code, reason.to_owned())
}

pub fn revision(object: &impl ResourceExt) -> u64 {
    object.resource_version().expect("has a revision").parse().expect("is a number")
}
