//! XML by hand: what the client's reader has wrong must not be wrong here too.

use std::fmt::Display;

/// An element with text in it.
pub fn element(name: &str, text: impl Display) -> String {
    let text = text.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<{name}>{text}</{name}>")
}

/// An element with others in it.
pub fn node(name: &str, content: &str) -> String {
    if content.is_empty() { format!("<{name}/>") } else { format!("<{name}>{content}</{name}>") }
}

/// A list, each member of which is an `item`.
pub fn list(name: &str, members: impl IntoIterator<Item = String>) -> String {
    node(name, &members.into_iter().map(|member| node("item", &member)).collect::<String>())
}
