//! Requests whose answers were recorded from a real kube-apiserver (`kube-apiserver.json`, with its version) and that every
//! API must answer likewise, in code, reason, words and objects. What no two servers share (UIDs, revisions, times, generated
//! names) is replaced by names for it, in the order of appearance; a request may use them, such as `<uid 1>`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http_body_util::BodyExt;
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[path = "cases.rs"]
mod cases;
#[path = "names.rs"]
mod names;
#[path = "thing.rs"]
pub mod thing;

use names::Names;

/// With it, the answers are written down; without, compared.
const UPDATE: &str = "ENI_IPAM_UPDATE";

/// A request of a case.
pub struct Step {
    method: &'static str,
    path: String,
    content_type: &'static str,
    accept: &'static str,
    body: Value,
}

/// What a server said to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    request: String,
    code: u16,
    /// The object, or the events of a watch one by one.
    body: Value,
}

/// The answers of one server to all cases.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    server: String,
    answers: BTreeMap<String, Vec<Answer>>,
}

impl Step {
    fn new(method: &'static str, path: &str, body: Value) -> Self {
        let content_type =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        Self { method, path: path.to_owned(), content_type, accept: "application/json", body }
    }
}

/// Plays all cases.
pub async fn play(client: &Client) -> BTreeMap<String, Vec<Answer>> {
    let mut answers = BTreeMap::new();
    for (name, steps) in cases::all() {
        let mut names = Names::of_namespace(super::namespace(client).await);
        let mut said = Vec::new();
        for step in steps {
            said.push(play_step(client, &step, &mut names).await);
        }
        answers.insert(name.to_owned(), said);
    }
    answers
}

async fn play_step(client: &Client, step: &Step, names: &mut Names) -> Answer {
    let body = match &step.body {
        Value::Null => Vec::new(),
        // What is no JSON is sent as it is.
        Value::String(text) => text.clone().into_bytes(),
        body => serde_json::to_vec(&names.put(body)).expect("JSON"),
    };
    let request = http::Request::builder()
        .method(step.method)
        .uri(names.put_text(&step.path).replace(' ', "%20"))
        .header("content-type", step.content_type)
        .header("accept", step.accept)
        .body(kube::client::Body::from(body))
        .expect("request");
    let answer = client.send(request).await.expect("an answer");
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    let documents = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
    let body = match documents.collect::<Result<Vec<_>, _>>() {
        Ok(mut documents) if documents.len() == 1 && !step.path.contains("watch=") => documents.remove(0),
        Ok(documents) => Value::Array(documents),
        // Not everything that is not there is said so in JSON.
        Err(_) => String::from_utf8_lossy(&bytes).trim().into(),
    };
    let shown = if step.body.is_null() { String::new() } else { format!(" {}", step.body) };
    Answer { request: format!("{} {}{shown}", step.method, step.path), code, body: names.take(body) }
}

/// Compares answers with the recorded ones, but for the steps named in `differs`. With [`UPDATE`], `version` says that they
/// are from a real server: they are recorded.
pub fn check(answers: BTreeMap<String, Vec<Answer>>, version: Option<&str>) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../ipam-agent/tests/api_seam/kube-apiserver.json");
    if let Some(server) = version.filter(|_| std::env::var_os(UPDATE).is_some()) {
        let recorded = Recorded { server: server.to_owned(), answers };
        let text = serde_json::to_string_pretty(&recorded).expect("JSON") + "\n";
        return std::fs::write(&path, text).expect("recorded");
    }
    let text = std::fs::read_to_string(&path).expect("recorded answers");
    let recorded: Recorded = serde_json::from_str(&text).expect("recorded answers");
    let mut wrong = Vec::new();
    for (case, wanted) in &recorded.answers {
        let given = answers.get(case).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(given.len(), wanted.len(), "{case} has other steps than were recorded: record anew");
        for (given, wanted) in given.iter().zip(wanted) {
            let (given, wanted) = match version {
                Some(_) => (cases::tidied_answer(given), cases::tidied_answer(wanted)),
                None => cases::comparable(case, given, wanted),
            };
            if given != wanted {
                let show = |answer: &Answer| serde_json::to_string_pretty(answer).expect("JSON");
                wrong.push(format!(
                    "{case}:\n--- {}\n{}\n--- here\n{}",
                    recorded.server,
                    show(&wanted),
                    show(&given)
                ));
            }
        }
    }
    assert_eq!(answers.len(), recorded.answers.len(), "other cases than were recorded: record anew");
    assert!(wrong.is_empty(), "{} answers differ\n\n{}", wrong.len(), wrong.join("\n\n"));
}
