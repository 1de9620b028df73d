//! The parameters of a query: a form whose names have dots and numbers. A parameter that is unknown, missing or of
//! another type is refused.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::error::ApiError;

/// `A.1.B=x` as `{"A": [{"B": "x"}]}`. A list that is not numbered from 1 without gaps is left as an object, which no
/// list is read from.
pub fn params(body: &[u8]) -> Value {
    let mut root = Value::Object(Map::new());
    for (name, value) in form_urlencoded::parse(body) {
        let mut at = &mut root;
        for part in name.split('.') {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[part];
        }
        *at = Value::String(value.into_owned());
    }
    lists(root)
}

fn lists(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let is_list = !fields.is_empty() && (1..=fields.len()).all(|n| fields.contains_key(&n.to_string()));
    if is_list {
        return (1..=fields.len()).map(|n| lists(fields[&n.to_string()].clone())).collect();
    }
    Value::Object(fields.into_iter().map(|(name, value)| (name, lists(value))).collect())
}

/// Reads an action's parameters.
pub fn read<T: DeserializeOwned>(params: &Value) -> Result<T, ApiError> {
    let mut params = params.clone();
    if let Some(fields) = params.as_object_mut() {
        fields.remove("Version");
    }
    serde_json::from_value(params).map_err(|error| {
        let message = error.to_string();
        let code = match message.as_str() {
            m if m.starts_with("unknown field") => "UnknownParameter",
            m if m.starts_with("missing field") => "MissingParameter",
            _ => "InvalidParameterValue",
        };
        ApiError::new(code, message)
    })
}

/// A number or a truth value written as text.
pub fn text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text: String = serde::Deserialize::deserialize(deserializer)?;
    text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
}
