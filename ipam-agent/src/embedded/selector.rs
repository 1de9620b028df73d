//! Label and field selectors: which objects of a list or a watch are wanted.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Expression, Selector, SelectorExt};
use serde_json::Value;

use super::failure::Failure;
use super::object;
use super::registry::Resource;

/// Both selectors of a request.
#[derive(Debug, Default)]
pub(super) struct Filter {
    labels: Selector,
    fields: Vec<FieldTerm>,
}

#[derive(Debug)]
struct FieldTerm {
    /// JSON pointer into the stored object.
    pointer: String,
    value: String,
    equal: bool,
}

impl Filter {
    /// Reads the `labelSelector` and `fieldSelector` of a request.
    ///
    /// # Errors
    /// A bad request, when one does not parse or selects by a field that the resource has no selector for.
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(resource, fields)? })
    }

    /// Whether everything matches.
    pub fn selects_all(&self) -> bool {
        self.fields.is_empty() && self.labels.selects_all()
    }

    /// Whether a stored object is wanted.
    pub fn matches(&self, object: &Value) -> bool {
        let fields = self.fields.iter().all(|term| {
            let text = object.pointer(&term.pointer).map_or_else(String::new, as_text);
            (text == term.value) == term.equal
        });
        fields && (self.labels.selects_all() || self.labels.matches(&labels_of(object)))
    }
}

/// The text that a field selector compares with.
fn as_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn labels_of(object: &Value) -> BTreeMap<String, String> {
    object::meta(object, "labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn parse_fields(resource: &Resource, text: &str) -> Result<Vec<FieldTerm>, Failure> {
    text.split(',').filter(|term| !term.trim().is_empty()).map(|term| parse_field(resource, term)).collect()
}

fn parse_field(resource: &Resource, term: &str) -> Result<FieldTerm, Failure> {
    let (field, value, equal) = if let Some((field, value)) = term.split_once("!=") {
        (field, value, false)
    } else if let Some((field, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (field, value, true)
    } else {
        return Err(Failure::bad_request(format!(
            "invalid field selector {term:?}: must be FIELD=VALUE, FIELD==VALUE or FIELD!=VALUE"
        )));
    };
    let field = field.trim();
    let known = resource.selectable.iter().find(|(name, _)| name == field).ok_or_else(|| {
        let names: Vec<_> = resource.selectable.iter().map(|(name, _)| name.as_str()).collect();
        Failure::bad_request(format!(
            "field label not supported: {field}; {} can be selected by {}",
            resource.plural,
            names.join(", ")
        ))
    })?;
    Ok(FieldTerm { pointer: known.1.clone(), value: value.trim().to_owned(), equal })
}

/// Reads the grammar of label selectors: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`.
fn parse_labels(text: &str) -> Result<Selector, Failure> {
    split_outside_parentheses(text)
        .into_iter()
        .map(str::trim)
        .filter(|term| !term.is_empty())
        .map(|term| {
            parse_label(term).ok_or_else(|| {
                Failure::bad_request(format!("unable to parse requirement: label selector {term:?}"))
            })
        })
        .collect()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .collect()
}

fn parse_label(term: &str) -> Option<Expression> {
    if let Some(key) = term.strip_prefix('!') {
        return Some(Expression::DoesNotExist(label_key(key)?));
    }
    if let Some(set) = term.strip_suffix(')') {
        let (head, values) = set.split_once('(')?;
        let values: BTreeSet<_> = values.split(',').map(label_value).collect::<Option<_>>()?;
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some(Expression::In(label_key(key)?, values)),
            "notin" => Some(Expression::NotIn(label_key(key)?, values)),
            _ => None,
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Some(Expression::NotEqual(label_key(key)?, label_value(value)?));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Some(Expression::Equal(label_key(key)?, label_value(value)?));
    }
    Some(Expression::Exists(label_key(term)?))
}

fn label_key(text: &str) -> Option<String> {
    let key = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!key.is_empty() && key.chars().all(allowed)).then(|| key.to_owned())
}

fn label_value(text: &str) -> Option<String> {
    let value = text.trim();
    value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selected(selector: &str, labels: Value) -> bool {
        let filter = Filter { labels: parse_labels(selector).expect("parses"), fields: Vec::new() };
        filter.matches(&json!({ "metadata": { "labels": labels } }))
    }

    #[test]
    fn label_selectors_follow_the_documented_grammar() {
        let web = json!({ "app": "web", "tier": "front" });
        for selector in [
            "",
            "app=web",
            "app==web,tier=front",
            "app in (web, db)",
            "tier notin (back),app",
            "!gone",
            "gone!=x",
            "gone notin (x)",
        ] {
            assert!(selected(selector, web.clone()), "{selector}");
        }
        for selector in
            ["app=db", "app!=web", "gone", "!app", "app in (db)", "gone in (x)", "app=web,tier=back"]
        {
            assert!(!selected(selector, web.clone()), "{selector}");
        }
    }

    #[test]
    fn label_selectors_that_do_not_parse_are_refused() {
        for selector in ["app in web", "app in (web", "a b", "=x", "app=we b", "app within (a)"] {
            assert_eq!(parse_labels(selector).expect_err(selector).code(), 400, "{selector}");
        }
    }
}
