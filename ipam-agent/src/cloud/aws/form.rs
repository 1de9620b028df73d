//! The parameters of a call: a form whose lists are numbered from 1.

use std::fmt::Display;

/// Parameters in the order in which they are given.
#[derive(Clone, Debug, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// One parameter.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.0.push((name.into(), value.to_string()));
        self
    }

    /// A list: `name.1`, `name.2` and so on.
    #[must_use]
    pub fn list<T: Display>(mut self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        for (index, value) in values.into_iter().enumerate() {
            self = self.with(format!("{name}.{}", index + 1), value);
        }
        self
    }

    /// Filters of a Describe: each a name, and values of which one must fit.
    pub fn filters(filters: &[(&str, &[&str])]) -> Self {
        let mut form = Self::default();
        for (index, (name, values)) in filters.iter().enumerate() {
            let at = format!("Filter.{}", index + 1);
            form = form.with(format!("{at}.Name"), name).list(&format!("{at}.Value"), values.iter());
        }
        form
    }

    /// The body of a request for this action.
    pub fn body(&self, action: &str, version: &str) -> String {
        form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", action)
            .append_pair("Version", version)
            .extend_pairs(&self.0)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_numbered_from_one() {
        let form = Form::filters(&[("subnet-id", &["a", "b"]), ("tag:x y", &["&"])]).with("MaxResults", 5);
        assert_eq!(
            form.body("Do", "v"),
            "Action=Do&Version=v&Filter.1.Name=subnet-id&Filter.1.Value.1=a&Filter.1.Value.2=b\
             &Filter.2.Name=tag%3Ax+y&Filter.2.Value.1=%26&MaxResults=5"
        );
    }
}
