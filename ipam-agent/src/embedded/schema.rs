//! What the schema of a custom resource has against an object, in kube-apiserver's words: first its structure, then, if
//! nothing there is in the way, its CEL rules.

use anyhow::{Result, bail};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use kube_cel::{CompiledSchema, Validator, compile_schema};
use serde_json::Value;

/// A schema, with its rules compiled.
pub(super) struct Schema {
    /// As it was given.
    pub structure: Value,
    rules: CompiledSchema,
}

impl Schema {
    /// # Errors
    /// A rule does not compile.
    pub fn new(structure: Value) -> Result<Self> {
        let rules = compile_schema(&structure);
        if let Some(error) = rules.compilation_errors().first() {
            bail!("{error}");
        }
        Ok(Self { structure, rules })
    }

    /// What is wrong with an object, or with changing `old` into it.
    pub fn problems(&self, object: &Value, old: Option<&Value>) -> Vec<StatusCause> {
        let mut causes = Vec::new();
        check(&self.structure, object, "", &mut causes);
        if causes.iter().any(|cause| cause.reason.as_deref().is_some_and(is_in_the_way)) {
            causes.push(rules_not_checked());
            return causes;
        }
        let broken = Validator::new().validate_compiled(&self.rules, object, old).err();
        for rule in broken.into_iter().flat_map(kube_cel::ValidationErrors::into_vec) {
            let value = object.pointer(&format!("/{}", rule.field_path.replace('.', "/")));
            let said = match value.filter(|value| !value.is_object() && !value.is_array()) {
                Some(value) => format!("Invalid value: {value}: {}", rule.message),
                None => format!("Invalid value: {}", rule.message),
            };
            let field = if rule.field_path.is_empty() { "<nil>" } else { &rule.field_path };
            causes.push(cause(field, "FieldValueInvalid", said));
        }
        causes
    }
}

/// What is said beside problems that are in the way of the rules.
pub(super) fn rules_not_checked() -> StatusCause {
    let said = "Invalid value: null: some validation rules were not checked because the object was invalid; correct the \
                existing errors to complete validation";
    cause("<nil>", "FieldValueInvalid", said.to_owned())
}

/// Reasons after which the rules are not looked at.
fn is_in_the_way(reason: &str) -> bool {
    matches!(
        reason,
        "FieldValueRequired"
            | "FieldValueTooLong"
            | "FieldValueTooMany"
            | "FieldValueTypeInvalid"
            | "FieldValueNotSupported"
    )
}

pub(super) fn cause(field: &str, reason: &str, message: String) -> StatusCause {
    StatusCause { field: Some(field.to_owned()), reason: Some(reason.to_owned()), message: Some(message) }
}

/// The keywords that our schemas have. A test of `crds` knows of others.
fn check(schema: &Value, value: &Value, path: &str, causes: &mut Vec<StatusCause>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let mut problem = |reason, said: String| causes.push(cause(path, reason, said));
    let fits = schema["type"].as_str().is_none_or(|wanted| is_of(wanted, value));
    if let Some(wanted) = schema["type"].as_str().filter(|_| !fits) {
        let given = type_of(value);
        let said = format!("Invalid value: {given:?}: {path} in body must be of type {wanted}: {given:?}");
        problem("FieldValueTypeInvalid", said);
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed.iter().map(Value::to_string).collect();
        let said = format!("Unsupported value: {value}: supported values: {}", allowed.join(", "));
        problem("FieldValueNotSupported", said);
    }
    // kube-apiserver counts the path of a number from the status, if it is in there.
    let inside = path.strip_prefix("status.").unwrap_or(path);
    match value {
        _ if !fits => {}
        Value::String(text) => {
            let length = text.chars().count() as u64;
            if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
                problem("FieldValueTooLong", format!("Too long: may not be more than {most} bytes"));
            }
            if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
                let said =
                    format!("Invalid value: {value}: {path} in body should be at least {least} chars long");
                problem("FieldValueInvalid", said);
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
                let said = format!(
                    "Invalid value: {value}: {inside} in body should be greater than or equal to {least}"
                );
                problem("FieldValueInvalid", said);
            }
            if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
                let said = format!(
                    "Invalid value: {value}: {inside} in body should be less than or equal to {most}"
                );
                problem("FieldValueInvalid", said);
            }
        }
        Value::Array(items) => {
            if let Some(most) = schema["maxItems"].as_u64().filter(|most| items.len() as u64 > *most) {
                problem(
                    "FieldValueTooMany",
                    format!("Too many: {}: must have at most {most} items", items.len()),
                );
            }
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), causes);
            }
        }
        Value::Object(fields) => {
            let inner =
                |field: &str| if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
            for field in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(field) {
                    causes.push(cause(&inner(field), "FieldValueRequired", "Required value".to_owned()));
                }
            }
            for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(value) = fields.get(field) {
                    check(schema, value, &inner(field), causes);
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn is_of(wanted: &str, value: &Value) -> bool {
    match wanted {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        wanted => wanted == type_of(value),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
