//! What stands behind `dns:` and `dns+srv:`.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use tower_mesh_layers::config::{ConfigError, did_you_mean};

use super::DnsRegistry;
use crate::{
    instance::{Scheme, parse_port},
    registry::url::Parameters,
    resolve::FailStatic,
};

const PARAMETERS: [&str; 6] = ["scheme", "minTtl", "maxTtl", "timeout", "tcp", "grace"];
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
const PORT: u16 = 53;

/// Reads what follows the scheme, and how long an answer is doubted.
pub(in crate::registry) fn parse(
    scheme: &str,
    rest: &str,
    query: Option<&str>,
) -> Result<(DnsRegistry, Duration), ConfigError> {
    let parameters = Parameters::read(query, &PARAMETERS)?;
    let speaks = match parameters.get("scheme") {
        None => Scheme::Http,
        Some(name) => speaks(name)?,
    };
    let (servers, name) = match rest.strip_prefix("//") {
        None => (Vec::new(), rest),
        Some(rest) => {
            let (servers, name) = rest.split_once('/').ok_or_else(|| {
                let expected = format!(
                    "`{scheme}:name`, or `{scheme}://server/name` with the address of a name server"
                );
                ConfigError::new("name", rest, expected)
            })?;
            (addresses(servers)?, name)
        }
    };
    let registry = if scheme == "dns" {
        let (name, port) = match name.rsplit_once(':') {
            None => (name, speaks.default_port()),
            Some((name, port)) => (name, self::port("port", port)?),
        };
        DnsRegistry::addresses(name, port)?
    } else {
        let name = match name.split_once(':') {
            None => name,
            Some((_, port)) => {
                let expected = "no port: SRV records have their own";
                return Err(ConfigError::new("port", port, expected));
            }
        };
        DnsRegistry::srv(name)?
    };
    let [min, max] = DnsRegistry::DEFAULT_TTL;
    let min = parameters.duration("minTtl", TTL)?.unwrap_or(min);
    let max = parameters
        .duration("maxTtl", min..=*TTL.end())?
        .unwrap_or(max);
    let timeout = parameters.duration("timeout", TIMEOUT)?;
    let grace = parameters.duration("grace", Duration::ZERO..=*TTL.end())?;
    let registry = registry
        .servers(servers)
        .scheme(speaks)
        .ttl(min, max)
        .timeout(timeout.unwrap_or(DnsRegistry::DEFAULT_TIMEOUT))
        .tcp_only(parameters.flag("tcp")?.unwrap_or(false));
    Ok((registry, grace.unwrap_or(FailStatic::DEFAULT_GRACE)))
}

fn speaks(name: &str) -> Result<Scheme, ConfigError> {
    let known = Scheme::ALL.map(Scheme::as_str);
    let found = Scheme::ALL
        .into_iter()
        .find(|scheme| scheme.as_str() == name);
    found.ok_or_else(|| {
        let near = did_you_mean(name, known);
        ConfigError::new("scheme", name, format!("{}{near}", known.join(", ")))
    })
}

/// `10.0.0.2,10.0.0.3:5353,[::1]:53`; none between `//` and `/` of `dns:///name`.
fn addresses(list: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let mut servers = Vec::new();
    for (i, text) in list.split(',').enumerate() {
        let path = format!("server[{i}]");
        let ip = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        let server = match (ip.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(ip), _) if ip.is_ipv4() || text.starts_with('[') => SocketAddr::new(ip, PORT),
            (_, Ok(server)) if server.port() != 0 => server,
            _ => {
                let expected = "the address of a name server, `10.0.0.2`, `10.0.0.2:53` or `[::1]:53`; \
                                a name alone has no slashes or three";
                return Err(ConfigError::new(path, text, expected));
            }
        };
        if servers.contains(&server) {
            return Err(ConfigError::new(path, text, "every server once"));
        }
        servers.push(server);
    }
    Ok(servers)
}

fn port(path: &str, text: &str) -> Result<u16, ConfigError> {
    parse_port(text).ok_or_else(|| ConfigError::new(path, text, "1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{RegistryUrl, resolver};

    fn parsed(text: &str) -> (DnsRegistry, Duration) {
        let (scheme, rest) = text.split_once(':').unwrap();
        let (rest, query) = rest
            .split_once('?')
            .map_or((rest, None), |(a, b)| (a, Some(b)));
        parse(scheme, rest, query).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let addresses = DnsRegistry::addresses("orders.internal", 8_080).unwrap();
        for text in ["dns:orders.internal:8080", "dns:///orders.internal:8080"] {
            assert_eq!(parsed(text), (addresses.clone(), FailStatic::DEFAULT_GRACE));
        }
        let srv = DnsRegistry::srv("_http._tcp.{service}.").unwrap();
        for text in [
            "dns+srv:_http._tcp.{service}.",
            "dns+srv:///_http._tcp.{service}.",
        ] {
            assert_eq!(parsed(text).0, srv);
        }
        assert_eq!(parsed("dns:a").0, DnsRegistry::addresses("a", 80).unwrap());
        let over_tls = DnsRegistry::addresses("a", 443).unwrap();
        assert_eq!(
            parsed("dns:a?scheme=grpcs").0,
            over_tls.scheme(Scheme::Grpcs)
        );
    }

    #[test]
    fn everything_can_be_said() {
        let servers = ["10.0.0.2:53", "10.0.0.3:5353", "[::1]:53", "[::2]:54"];
        let registry = DnsRegistry::srv("a.")
            .unwrap()
            .servers(servers.map(|server| server.parse().unwrap()))
            .scheme(Scheme::Grpc)
            .ttl(Duration::from_secs(5), Duration::from_secs(60))
            .timeout(Duration::from_millis(500))
            .tcp_only(true);
        let text = "dns+srv://10.0.0.2,10.0.0.3:5353,[::1],[::2]:54/a.\
                    ?scheme=grpc&minTtl=5s&maxTtl=1m&timeout=500ms&tcp=true&grace=0s";
        assert_eq!(parsed(text), (registry, Duration::ZERO));
    }

    #[test]
    fn every_refusal_says_what_was_written_and_what_is_allowed() {
        for (text, message) in [
            ("dns:", "name: got ``, expected a DNS name"),
            ("dns:a b:80", "name: got `a b`, expected a DNS name"),
            (
                "dns:10.0.0.1:80",
                "name: got `10.0.0.1`, expected a DNS name; addresses need",
            ),
            ("dns:a:0", "port: got `0`, expected 1 to 65535"),
            ("dns:a:+80", "port: got `+80`, expected 1 to 65535"),
            ("dns:a:", "port: got ``, expected 1 to 65535"),
            ("dns:/a:80", "name: got `/a`, expected a DNS name"),
            (
                "dns://a:80",
                "name: got `a:80`, expected `dns:name`, or `dns://server/name`",
            ),
            (
                "dns://ns1/a:80",
                "server[0]: got `ns1`, expected the address of a name server",
            ),
            (
                "dns://10.0.0.2:0/a",
                "server[0]: got `10.0.0.2:0`, expected the address",
            ),
            (
                "dns://::1/a",
                "server[0]: got `::1`, expected the address of a name server",
            ),
            (
                "dns://10.0.0.2,/a",
                "server[1]: got ``, expected the address of a name server",
            ),
            (
                "dns://10.0.0.2,10.0.0.2:53/a",
                "server[1]: got `10.0.0.2:53`, expected every server once",
            ),
            (
                "dns+srv:_x._tcp.a:80",
                "port: got `80`, expected no port: SRV records have their own",
            ),
            (
                "dns:a?tll=1s",
                "parameter: got `tll`, expected one of the parameters `scheme`",
            ),
            (
                "dns:a?minTTL=1s",
                "parameter: got `minTTL`, expected one of the parameters `scheme`, `minTtl`, `maxTtl`, `timeout`, `tcp`, `grace` (did you mean `minTtl`?)",
            ),
            ("dns:a?minTtl=0s", "minTtl: got `0s`, expected 1s to 1h"),
            (
                "dns:a?minTtl=1m&maxTtl=30s",
                "maxTtl: got `30s`, expected 1m to 1h",
            ),
            (
                "dns:a?timeout=50ms",
                "timeout: got `50ms`, expected 100ms to 30s",
            ),
            (
                "dns:a?scheme=gprc",
                "scheme: got `gprc`, expected http, https, h2c, grpc, grpcs (did you mean `grpc`?)",
            ),
            ("dns:a?tcp", "tcp: got ``, expected true or false"),
            ("dns:a?tcp=1", "tcp: got `1`, expected true or false"),
            (
                "dns+srw:a",
                "scheme: got `dns+srw`, expected a registry's scheme: `static:`",
            ),
        ] {
            let error = text.parse::<RegistryUrl>().expect_err(text).to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
        let error = "dns+srw:a".parse::<RegistryUrl>().unwrap_err().to_string();
        assert!(error.ends_with("(did you mean `dns+srv`?)"), "{error}");
        let error = resolver("dns:{service}.a:80", "b@d")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("service: got `b@d`, expected what `{service}.a` can take"),
            "{error}"
        );
    }
}
