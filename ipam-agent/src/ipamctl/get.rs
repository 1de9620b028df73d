//! `ipamctl get`: the addresses, the claims and the nodes' ENIs.

use anyhow::Context;
use clap::ValueEnum;
use http::header::ACCEPT;
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::api::GROUP;

/// The server renders the columns, which are the same as kubectl's.
const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// A kind of object.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    /// Addresses.
    Vip,
    /// Claims.
    Vipc,
    /// Nodes' ENIs.
    Nec,
}

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Self::Vip => "vpcips",
            Self::Vipc => "vpcipclaims",
            Self::Nec => "nodeeniconfigs",
        }
    }
}

/// The part of a `meta.k8s.io/v1` Table that is shown.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    #[serde(default)]
    priority: i32,
}

#[derive(Deserialize)]
struct Row {
    cells: Vec<Value>,
    object: Value,
}

/// Prints the objects of each kind.
///
/// # Errors
/// The API refuses.
pub async fn run(client: &Client, kinds: Vec<Kind>) -> anyhow::Result<()> {
    for (n, kind) in kinds.into_iter().enumerate() {
        let request = http::Request::get(format!("/apis/{GROUP}/v1/{}", kind.plural()))
            .header(ACCEPT, AS_TABLE)
            .body(Vec::new())?;
        let table: Table =
            client.request(request).await.with_context(|| format!("list {}", kind.plural()))?;
        if n > 0 {
            println!();
        }
        print!("{}", render(&table));
    }
    Ok(())
}

fn render(table: &Table) -> String {
    let shown: Vec<usize> =
        (0..table.column_definitions.len()).filter(|n| table.column_definitions[*n].priority == 0).collect();
    let namespaced = table.rows.iter().any(|row| row.object["metadata"]["namespace"].is_string());
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut head: Vec<String> =
        shown.iter().map(|n| table.column_definitions[*n].name.to_uppercase()).collect();
    if namespaced {
        head.insert(0, "NAMESPACE".into());
    }
    lines.push(head);
    for row in &table.rows {
        let mut line: Vec<String> =
            shown.iter().map(|n| row.cells.get(*n).map(cell).unwrap_or_default()).collect();
        if namespaced {
            line.insert(0, cell(&row.object["metadata"]["namespace"]));
        }
        lines.push(line);
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or_default())
        .collect();
    lines
        .iter()
        .map(|line| {
            let padded: Vec<String> =
                line.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
            format!("{}\n", padded.join("   ").trim_end())
        })
        .collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
