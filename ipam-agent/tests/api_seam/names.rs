//! Names for what no two servers share.

use serde_json::{Map, Value};

/// The names of one case, both ways.
pub struct Names {
    /// What the server has, and its name.
    known: Vec<(String, String)>,
}

impl Names {
    pub fn of_namespace(namespace: String) -> Self {
        Self { known: vec![(namespace, "<namespace>".to_owned())] }
    }

    /// Puts what is named in place of the names.
    pub fn put(&self, value: &Value) -> Value {
        serde_json::from_str(&self.put_text(&value.to_string())).expect("names have no quotes")
    }

    pub fn put_text(&self, text: &str) -> String {
        self.known.iter().fold(text.to_owned(), |text, (real, name)| text.replace(name, real))
    }

    /// Puts names in place of what they are for; learns those of an answer first.
    pub fn take(&mut self, mut answer: Value) -> Value {
        self.learn(&answer);
        self.rename(&mut answer);
        answer
    }

    fn learn(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(metadata) = fields.get("metadata").and_then(Value::as_object) {
                    self.learn_metadata(metadata);
                }
                fields.values().for_each(|value| self.learn(value));
            }
            Value::Array(items) => items.iter().for_each(|value| self.learn(value)),
            _ => {}
        }
    }

    fn learn_metadata(&mut self, metadata: &Map<String, Value>) {
        let text = |field| metadata.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("continue") {
            self.name("continue", token);
        }
        // A list and a bookmark have a revision but no UID: how far the server has come, which others move on.
        let Some(uid) = text("uid") else { return };
        self.name("uid", uid);
        if let Some(revision) = text("resourceVersion") {
            self.name("revision", revision);
        }
        if let (Some(name), Some(_)) = (text("name"), text("generateName")) {
            self.name("name", name);
        }
    }

    fn name(&mut self, kind: &str, real: &str) {
        if !self.known.iter().any(|(known, _)| known == real) {
            let nth =
                self.known.iter().filter(|(_, name)| name.starts_with(&format!("<{kind} "))).count() + 1;
            self.known.push((real.to_owned(), format!("<{kind} {nth}>")));
        }
    }

    fn rename(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.remove("managedFields");
                for (field, value) in fields {
                    match (field.as_str(), &*value) {
                        ("creationTimestamp" | "deletionTimestamp", Value::String(_)) => {
                            *value = "<time>".into()
                        }
                        ("resourceVersion", Value::String(revision)) if self.named(revision).is_none() => {
                            *value = "<revision>".into();
                        }
                        _ => self.rename(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|value| self.rename(value)),
            Value::String(text) => *text = self.rename_words(text),
            _ => {}
        }
    }

    /// Whole words only: a revision is a number, which may be part of anything.
    fn rename_words(&self, text: &str) -> String {
        let mut renamed = String::new();
        let mut rest = text;
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '=');
        while !rest.is_empty() {
            let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            renamed += self.named(&rest[..word]).unwrap_or(&rest[..word]);
            let gap = rest[word..].find(is_word).unwrap_or(rest.len() - word);
            renamed += &rest[word..word + gap];
            rest = &rest[word + gap..];
        }
        renamed
    }

    fn named(&self, real: &str) -> Option<&str> {
        self.known.iter().find(|(known, _)| known == real).map(|(_, name)| name.as_str())
    }
}
