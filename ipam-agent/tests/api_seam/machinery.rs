//! What the product builds on: kube's reflector, controller and event recorder.

use super::*;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Event;
use kube::Resource;
use kube::api::ListParams;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event as NewEvent, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use std::sync::Arc;

pub async fn reflector_follows(client: Client) {
    let api = claims(&client).await;
    for index in 0..3 {
        created(&api, &format!("old-{index}")).await;
    }
    for config in [watcher::Config::default().page_size(2), watcher::Config::default().streaming_lists()] {
        let (reader, writer) = reflector::store();
        let stream = watcher(api.clone(), config).reflect(writer).applied_objects();
        let task = tokio::spawn(stream.for_each(|_| std::future::ready(())));
        soon("the first list", reader.wait_until_ready()).await.expect("ready");
        assert_eq!(reader.len(), 3);
        let name = "new";
        created(&api, name).await;
        let seen = async {
            while !reader.state().iter().any(|claim| claim.name_any() == name) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("a new object in the store", seen).await;
        api.delete(name, &Default::default()).await.expect("delete");
        let gone = async {
            while reader.len() != 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the object out of the store", gone).await;
        task.abort();
    }
}

pub async fn controller_reconciles(client: Client) {
    let api = claims(&client).await;
    created(&api, "early").await;
    let work = api.clone();
    let reconcile = move |claim: Arc<VpcIPClaim>, _: Arc<()>| {
        let api = work.clone();
        async move {
            let patch = Patch::Merge(json!({ "status": { "phase": "Bound" } }));
            api.patch_status(&claim.name_any(), &PatchParams::default(), &patch).await?;
            Ok::<_, kube::Error>(Action::await_change())
        }
    };
    let controller = Controller::new(api.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), Arc::new(()))
        .for_each(|_| std::future::ready(()));
    let task = tokio::spawn(controller);
    created(&api, "late").await;
    for name in ["early", "late"] {
        let bound = async {
            while api.get(name).await.expect("get").status.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the controller's status", bound).await;
    }
    task.abort();
}

pub async fn recorder_writes_events_kubectl_can_read(client: Client) {
    let api = claims(&client).await;
    let made = created(&api, "web-0").await;
    let namespace = made.namespace().expect("namespace");
    let recorder = Recorder::new(client.clone(), Reporter::from("seam"));
    let event = NewEvent {
        type_: EventType::Warning,
        reason: "PoolExhausted".to_owned(),
        note: Some("0 of 3 addresses are free".to_owned()),
        action: "Allocate".to_owned(),
        secondary: None,
    };
    for _ in 0..2 {
        recorder.publish(&event, &made.object_ref(&())).await.expect("publish");
    }
    let events = Api::<Event>::namespaced(client, &namespace);
    let about = "involvedObject.kind=VpcIPClaim,involvedObject.name=web-0,type=Warning";
    let list = events.list(&ListParams::default().fields(about)).await.expect("list");
    assert_eq!(list.items.len(), 1, "the second is a count of the first");
    let read = &list.items[0];
    assert_eq!(read.message.as_deref(), Some("0 of 3 addresses are free"));
    assert_eq!(read.reporting_component.as_deref(), Some("seam"));
    assert_eq!(read.series.as_ref().and_then(|series| series.count), Some(2));
}
