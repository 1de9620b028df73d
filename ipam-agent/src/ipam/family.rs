//! Address families, and which of them every pod has.

use std::{fmt, net::IpAddr, str::FromStr};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The families of which every pod has one address each: at least one, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Families(Vec<Family>);

impl Families {
    /// IPv4 and nothing else.
    #[must_use]
    pub fn ipv4() -> Self {
        Self(vec![Family::V4])
    }

    /// In the order in which they were named.
    pub fn iter(&self) -> impl Iterator<Item = Family> {
        self.0.iter().copied()
    }

    /// Whether pods have an address of this family.
    #[must_use]
    pub fn contains(&self, family: Family) -> bool {
        self.0.contains(&family)
    }
}

impl Default for Families {
    fn default() -> Self {
        Self::ipv4()
    }
}

impl FromIterator<Family> for Families {
    /// Families beyond the first of a kind are left out; none at all are IPv4.
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        let mut unique = Vec::new();
        for family in families {
            if !unique.contains(&family) {
                unique.push(family);
            }
        }
        if unique.is_empty() { Self::ipv4() } else { Self(unique) }
    }
}

impl FromStr for Families {
    type Err = String;

    /// Reads `ipv4`, `ipv4,ipv6` and the like.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut families = Vec::new();
        for name in text.split(',') {
            let family = match name.trim() {
                "ipv4" => Family::V4,
                "ipv6" => Family::V6,
                other => return Err(format!("{other:?} is no family; write ipv4, ipv6 or ipv4,ipv6")),
            };
            if families.contains(&family) {
                return Err(format!("{family} is named twice; write ipv4, ipv6 or ipv4,ipv6"));
            }
            families.push(family);
        }
        Ok(Self(families))
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(|family| family.to_string().to_lowercase()).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_read_and_nonsense_is_not() {
        for text in ["ipv4", "ipv6", "ipv4,ipv6", "ipv6,ipv4"] {
            assert_eq!(text.parse::<Families>().unwrap().to_string(), text);
        }
        assert_eq!("ipv4, ipv6".parse::<Families>().unwrap().iter().count(), 2);
        for text in ["", "ipv5", "ipv4,", "ipv4,ipv4", "IPv4"] {
            let error = text.parse::<Families>().unwrap_err();
            assert!(error.ends_with("write ipv4, ipv6 or ipv4,ipv6"), "{text:?}: {error}");
        }
    }
}
