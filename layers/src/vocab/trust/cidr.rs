//! A range of addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::config::{ConfigError, deserialize_text};

const EXPECTED: &str =
    "an address or a range such as `10.0.0.0/8` or `2001:db8::/32`, with no bits behind the prefix";

/// A range of IPv4 or IPv6 addresses: `10.0.0.0/8`, `2001:db8::/32`; a bare address is a range of one.
///
/// An IPv4 address that is written as IPv6 (`::ffff:10.0.0.1`, as a socket that serves both gives it)
/// counts as the IPv4 address. So `::/0` holds all of IPv6, and none of IPv4.
///
/// ```
/// use tower_mesh_layers::trust::Cidr;
///
/// let private: Cidr = "10.0.0.0/8".parse()?;
/// assert!(private.contains("10.1.2.3".parse()?));
/// assert!(private.contains("::ffff:10.1.2.3".parse()?));
/// assert!("10.1.2.3/8".parse::<Cidr>().is_err()); // is it the range or the host?
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The first address; never IPv4 written as IPv6.
    first: IpAddr,
    /// Bits that all addresses share.
    bits: u8,
}

// ===== impl Cidr =====

impl Cidr {
    /// The addresses that share the first `bits` bits of `first`.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when there are not that many bits, or `first` has bits set behind them.
    pub fn new(first: IpAddr, bits: u8) -> Result<Self, ConfigError> {
        let refused = || ConfigError::new("", format_args!("{first}/{bits}"), EXPECTED);
        let cidr = match (first.to_canonical(), first) {
            // The 96 bits of `::ffff:` in front of the IPv4 address.
            (IpAddr::V4(first), IpAddr::V6(_)) => Self {
                first: first.into(),
                bits: bits.checked_sub(96).ok_or_else(refused)?,
            },
            _ => Self { first, bits },
        };
        let clean = match cidr.first {
            IpAddr::V4(first) => bits_v4(first, cidr.bits) == Some(first.to_bits()),
            IpAddr::V6(first) => bits_v6(first, cidr.bits) == Some(first.to_bits()),
        };
        clean.then_some(cidr).ok_or_else(refused)
    }

    /// Whether an address is in the range.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.first, addr.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(addr)) => {
                bits_v4(addr, self.bits) == Some(first.to_bits())
            }
            (IpAddr::V6(first), IpAddr::V6(addr)) => {
                bits_v6(addr, self.bits) == Some(first.to_bits())
            }
            _ => false,
        }
    }
}

/// The first `bits` bits of an address, the others zero; `None` if it has not as many.
fn bits_v4(addr: Ipv4Addr, bits: u8) -> Option<u32> {
    let host = Ipv4Addr::BITS.checked_sub(bits.into())?;
    // A shift by all 32 bits does not exist, and would be 0.
    Some(addr.to_bits() & u32::MAX.checked_shl(host).unwrap_or(0))
}

fn bits_v6(addr: Ipv6Addr, bits: u8) -> Option<u128> {
    let host = Ipv6Addr::BITS.checked_sub(bits.into())?;
    Some(addr.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0))
}

impl From<IpAddr> for Cidr {
    fn from(addr: IpAddr) -> Self {
        let first = addr.to_canonical();
        Self {
            first,
            bits: if first.is_ipv4() { 32 } else { 128 },
        }
    }
}

impl FromStr for Cidr {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refused = || ConfigError::new("", text, EXPECTED);
        let Some((first, bits)) = text.split_once('/') else {
            return text
                .parse::<IpAddr>()
                .map(Self::from)
                .map_err(|_| refused());
        };
        // Numbers parse with a sign and with zeros in front as well.
        let plain = bits == "0" || bits.starts_with(|c: char| matches!(c, '1'..='9'));
        match (first.parse(), bits.parse()) {
            (Ok(first), Ok(bits)) if plain => Self::new(first, bits).map_err(|_| refused()),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, EXPECTED)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contains(cidr: &str, addr: &str) -> bool {
        cidr.parse::<Cidr>()
            .unwrap()
            .contains(addr.parse().unwrap())
    }

    #[test]
    fn a_range_holds_what_shares_its_bits() {
        for (cidr, addr, expected) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.7", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "203.0.113.7", false),
            ("::/0", "::ffff:203.0.113.7", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::1", "::1", true),
            ("::1/128", "::2", false),
        ] {
            assert_eq!(contains(cidr, addr), expected, "{cidr} {addr}");
        }
    }

    #[test]
    fn what_could_be_misread_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.1/8",
            "2001:db8::1/32",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/ 8",
            " 10.0.0.0/8",
            "10/8",
            "10.0.0.0/8/8",
            "010.0.0.0/8",
            "10.0.0.0/255.0.0.0",
            "::ffff:0.0.0.0/95",
            "fe80::%eth0/64",
            "localhost",
        ] {
            assert_eq!(
                text.parse::<Cidr>()
                    .map_err(|error| error.value().to_owned()),
                Err(text.into())
            );
        }
    }

    proptest! {
        #[test]
        fn every_range_reads_back_and_holds_its_ends(bits in 0..=128_u8, addr in any::<u128>()) {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            let (first, last) = (Ipv6Addr::from_bits(addr & mask), Ipv6Addr::from_bits(addr | !mask));
            let Ok(cidr) = Cidr::new(first.into(), bits) else {
                prop_assert!(first.to_ipv4_mapped().is_some());
                return Ok(());
            };
            prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
            prop_assert!(cidr.contains(first.into()) && cidr.contains(last.into()));
            let before = (addr & mask).checked_sub(1).map(Ipv6Addr::from_bits);
            prop_assert!(before.is_none_or(|addr| !cidr.contains(addr.into())));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f.:/]{0,24}|.*") {
            let _ = text.parse::<Cidr>();
        }
    }
}
