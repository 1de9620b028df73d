//! MAC addresses as text.

use std::fmt;

use ipam_common::Mac;

/// Displays a MAC in lower case with colons.
#[derive(Clone, Copy, Debug)]
pub struct MacText(pub Mac);

impl fmt::Display for MacText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0.octets;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Reads six hexadecimal octets with colons between them; `None` for anything else.
#[must_use]
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut octets = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut octets {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac { octets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mac = Mac { octets: [2, 0, 0xab, 1, 2, 0xff] };
        assert_eq!(MacText(mac).to_string(), "02:00:ab:01:02:ff");
        assert_eq!(parse_mac("02:00:AB:01:02:ff"), Some(mac));
        for bad in ["", "02:00:ab:01:02", "02:00:ab:01:02:ff:00", "2:0:ab:1:2:ff", "+2:00:ab:01:02:ff"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
