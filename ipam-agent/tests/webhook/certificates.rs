//! Certificates: made once, trusted, rotated without a gap, repaired.

use std::time::Duration;

use anyhow::ensure;
use ipam_agent::webhook::certificates::{AUTHORITY_LIFE, OVERLAP, SERVING_LIFE};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::caller;
use crate::reviews::{answer, review};
use crate::site::{NAME, Site, eventually};

const HOUR: Duration = Duration::from_secs(3_600);

fn certificates(pem: &[u8]) -> usize {
    String::from_utf8_lossy(pem).matches("BEGIN CERTIFICATE").count()
}

/// What the Secret has under a key.
async fn held(site: &Site, key: &str) -> Vec<u8> {
    let data = site.secrets().get(NAME).await.unwrap().data.unwrap_or_default();
    data.get(key).map(|value| value.0.clone()).unwrap_or_default()
}

/// Waits until the Secret has another serving certificate than this.
async fn other_serving(site: &Site, than: &[u8]) -> Vec<u8> {
    eventually("another serving certificate", async || {
        let serving = held(site, "tls.crt").await;
        ensure!(!serving.is_empty() && serving != than, "the same");
        Ok(serving)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_serve_one_certificate() {
    let site = Site::new().await;
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(site.replica().await);
    }
    for replica in &replicas {
        answer(&site, *replica, &review("Pod", json!({}))).await;
    }
    let (bundle, serving) = (site.bundle().await.unwrap(), held(&site, "tls.crt").await);
    assert_eq!((certificates(&bundle), held(&site, "ca.crt").await), (1, bundle.clone()));
    // And it stays so: nobody writes again.
    let written = site.secrets().get(NAME).await.unwrap().metadata.resource_version;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(site.secrets().get(NAME).await.unwrap().metadata.resource_version, written);
    for replica in replicas {
        let found =
            caller::post(replica, &bundle, site.now(), "/admit", review("Pod", json!({})).to_string()).await;
        found.unwrap();
    }
    assert_eq!(held(&site, "tls.crt").await, serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serving_certificate_is_renewed_before_it_ends() {
    let site = Site::new().await;
    let replicas = [site.replica().await, site.replica().await];
    answer(&site, replicas[0], &review("Pod", json!({}))).await;
    let (first, bundle) = (held(&site, "tls.crt").await, site.bundle().await.unwrap());
    site.wait(SERVING_LIFE / 2);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(held(&site, "tls.crt").await, first, "half of its time is left");
    site.wait(SERVING_LIFE / 4);
    other_serving(&site, &first).await;
    assert_eq!(site.bundle().await.unwrap(), bundle, "the authority is the same");
    // After the end of the first one both serve what is valid, and never were restarted.
    site.wait(SERVING_LIFE / 3);
    for replica in replicas {
        answer(&site, replica, &review("Pod", json!({}))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_with_both_trusted_in_between() {
    let site = Site::new().await;
    let replica = site.replica().await;
    answer(&site, replica, &review("Pod", json!({}))).await;
    let first = site.bundle().await.unwrap();
    let mut serving = held(&site, "tls.crt").await;
    // Season after season, so that the serving certificate is always one that is valid.
    let mut passed = Duration::ZERO;
    while passed < AUTHORITY_LIFE / 3 * 2 - SERVING_LIFE {
        site.wait(SERVING_LIFE / 10 * 7);
        passed += SERVING_LIFE / 10 * 7;
        serving = other_serving(&site, &serving).await;
    }
    site.wait(AUTHORITY_LIFE / 3 * 2 - passed);
    let both = eventually("two authorities", async || {
        let bundle = site.bundle().await.unwrap();
        ensure!(certificates(&bundle) == 2, "{} authorities", certificates(&bundle));
        Ok(bundle)
    })
    .await;
    assert!(both.starts_with(&first), "the old one is still trusted");
    let ask = async |bundle: &[u8]| {
        caller::post(replica, bundle, site.now(), "/admit", review("Pod", json!({})).to_string()).await
    };
    let second = both[first.len()..].to_vec();
    let last = held(&site, "tls.crt").await;
    // A caller that has not seen the new bundle, and one that has, are both served; one of the future is not.
    eventually("the old caller to be served", async || ask(&first).await).await;
    ask(&both).await.unwrap();
    assert!(ask(&second).await.is_err(), "nothing is signed by the new authority yet");

    site.wait(OVERLAP + HOUR);
    other_serving(&site, &last).await;
    eventually("the new authority's certificate to be served", async || ask(&second).await).await;
    ask(&both).await.unwrap();
    assert!(ask(&first).await.is_err(), "the old authority has signed nothing that is served");

    site.wait(OVERLAP + HOUR);
    eventually("the old authority to go", async || {
        let bundle = site.bundle().await.unwrap();
        ensure!(bundle == second, "{} authorities", certificates(&bundle));
        Ok(())
    })
    .await;
    answer(&site, replica, &review("Pod", json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_break_is_put_back() {
    let site = Site::new().await;
    let replica = site.replica().await;
    answer(&site, replica, &review("Pod", json!({}))).await;
    let bundle = site.bundle().await.unwrap();

    // Somebody applies the configuration anew, without a caBundle in one of its webhooks.
    let mut configuration = site.configurations().get(NAME).await.unwrap();
    configuration.webhooks.as_mut().unwrap()[1].client_config.ca_bundle = None;
    site.configurations().replace(NAME, &PostParams::default(), &configuration).await.unwrap();
    eventually("the caBundle", async || {
        ensure!(site.bundle().await.as_ref() == Some(&bundle), "not there");
        Ok(())
    })
    .await;

    // Somebody empties the Secret, or writes nonsense into it.
    for data in [json!({ "data": null }), json!({ "data": { "tls.key": "bm9uc2Vuc2U=" } })] {
        let before = site.bundle().await.unwrap();
        site.secrets().patch(NAME, &PatchParams::default(), &Patch::Merge(data)).await.unwrap();
        eventually("new certificates to be trusted", async || {
            ensure!(site.bundle().await.is_some_and(|bundle| bundle != before), "the old ones");
            Ok(())
        })
        .await;
        answer(&site, replica, &review("Pod", json!({}))).await;
    }

    // While the configuration is away nothing can be trusted; when it is back it is.
    let configuration = site.configurations().get(NAME).await.unwrap();
    site.configurations().delete(NAME, &DeleteParams::default()).await.unwrap();
    let mut anew = configuration.clone();
    anew.metadata = kube::api::ObjectMeta { name: Some(NAME.into()), ..Default::default() };
    for webhook in anew.webhooks.iter_mut().flatten() {
        webhook.client_config.ca_bundle = None;
    }
    site.configurations().create(&PostParams::default(), &anew).await.unwrap();
    answer(&site, replica, &review("Pod", json!({}))).await;
}
