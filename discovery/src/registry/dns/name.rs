//! The name that is asked for, with the service's name in it.

use std::net::IpAddr;

use hickory_resolver::proto::rr::Name;
use tower_mesh_layers::config::{ConfigError, did_you_mean};

use crate::instance::is_dns_name;

const PLACEHOLDER: &str = "{service}";
const EXPECTED: &str = "a DNS name: labels of 1 to 63 letters, digits, `-` and `_`, with dots between \
                        them, 253 characters in all";

/// A DNS name in which `{service}` stands for the service's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(String);

// ===== impl Template =====

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let refused = |expected: String| Err(ConfigError::new("name", text, expected));
        if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
            return refused(
                "a DNS name; addresses need no registry but `static:http://address:port`"
                    .to_owned(),
            );
        }
        // Any service's name will do to check the rest.
        let filled = text.replace(PLACEHOLDER, "s");
        if let Some(start) = filled.find(['{', '}']) {
            let rest = &filled[start..];
            let near = rest.split(['{', '}']).nth(1).unwrap_or_default();
            let near = did_you_mean(near, ["service"]);
            return refused(format!("no braces but `{PLACEHOLDER}`{near}"));
        }
        if !is_dns_name(&filled) {
            return refused(EXPECTED.to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// The name to ask for when `service` is wanted.
    pub(super) fn fill(&self, service: &str) -> Result<Name, ConfigError> {
        let refused = |value: &str, expected: String| ConfigError::new("service", value, expected);
        let named = self.0.contains(PLACEHOLDER);
        if named && (!is_dns_name(service) || service.ends_with('.')) {
            let expected = format!("what `{}` can take: {EXPECTED}", self.0);
            return Err(refused(service, expected));
        }
        let filled = self.0.replace(PLACEHOLDER, service);
        // Too long, if anything.
        let name = is_dns_name(&filled).then(|| Name::from_ascii(&filled).ok());
        name.flatten()
            .ok_or_else(|| refused(&filled, EXPECTED.to_owned()))
    }
}

/// What certificates of the instances behind a name are for. It is the name that was asked for, not what
/// an answer says (RFC 9525 §6.1): an answer may be anybody's. `_service._proto` is no part of it.
pub(super) fn certified(name: &Name) -> Option<String> {
    let mut name = name.clone();
    while name
        .iter()
        .next()
        .is_some_and(|label| label.starts_with(b"_"))
    {
        name = name.base_name();
    }
    name.set_fqdn(false);
    (name.num_labels() > 0).then(|| name.to_lowercase().to_ascii())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_services_name_takes_its_place() {
        for (template, service, name) in [
            ("orders.internal.", "any", "orders.internal."),
            (
                "_http._tcp.{service}.svc.example.",
                "orders",
                "_http._tcp.orders.svc.example.",
            ),
            ("{service}", "orders.shop", "orders.shop"),
            ("{service}.svc", "Orders_2", "Orders_2.svc"),
            ("_{service}._tcp.a", "x", "_x._tcp.a"),
        ] {
            let filled = Template::parse(template).unwrap().fill(service).unwrap();
            assert_eq!(filled.to_string(), name);
            assert_eq!(filled.is_fqdn(), name.ends_with('.'));
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let long = format!("{}.{}", "a.".repeat(120), "b".repeat(20));
        for (template, message) in [
            ("", "name: got ``, expected a DNS name: labels"),
            (".", "name: got `.`, expected a DNS name: labels"),
            ("a..b", "name: got `a..b`, expected a DNS name: labels"),
            ("-a", "name: got `-a`, expected a DNS name: labels"),
            ("a b", "name: got `a b`, expected a DNS name: labels"),
            ("*.a", "name: got `*.a`, expected a DNS name: labels"),
            (long.as_str(), "name: got `a.a.a"),
            (
                "10.0.0.1",
                "name: got `10.0.0.1`, expected a DNS name; addresses",
            ),
            ("[::1]", "name: got `[::1]`, expected a DNS name; addresses"),
            (
                "{sevice}.a",
                "name: got `{sevice}.a`, expected no braces but `{service}` (did you mean `service`?)",
            ),
            (
                "{name}.a",
                "name: got `{name}.a`, expected no braces but `{service}`",
            ),
            ("{service.a", "name: got `{service.a`, expected no braces"),
        ] {
            let error = Template::parse(template).expect_err(template).to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let template = Template::parse("{service}.svc").unwrap();
        for service in ["or/ders", "a..b", "a.", "", &"a".repeat(64)] {
            let error = template.fill(service).unwrap_err().to_string();
            let message =
                format!("service: got `{service}`, expected what `{{service}}.svc` can take");
            assert!(error.starts_with(&message), "{error}");
        }
        let longest = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(60),
        ]
        .join(".");
        assert!(template.fill(&longest).is_err(), "too long together");
        let fixed = Template::parse("a.svc").unwrap();
        assert!(fixed.fill("or/ders").is_ok(), "its name is not asked for");
    }

    #[test]
    fn certificates_are_for_the_name_without_service_and_protocol() {
        for (asked, certified) in [
            ("Orders.example.", Some("orders.example")),
            ("_https._tcp.orders.example.", Some("orders.example")),
            ("orders", Some("orders")),
            ("_https._tcp", None),
        ] {
            let name = Name::from_ascii(asked).unwrap();
            assert_eq!(super::certified(&name).as_deref(), certified);
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_can_be_asked_for(template in "[{}a-z0-9_.-]{0,30}|[a-z.]{0,9}\\{service\\}[a-z.]{0,9}", service in "[a-z0-9_.-]{1,20}") {
            if let Ok(template) = Template::parse(&template)
                && let Ok(name) = template.fill(&service)
            {
                prop_assert_eq!(name.to_string(), template.0.replace(PLACEHOLDER, &service));
            }
        }
    }
}
