//! What a match means: one table per condition.

mod config;
mod props;

use http::HeaderValue;

use super::*;
use crate::context::{AuthMethod, CallContext, Identity, Metadata};

fn parse(json: &str) -> MatchConfig {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// One match against many requests, each `METHOD uri` with header lines after it.
fn check(json: &str, table: &[(&str, bool)]) {
    let compiled = parse(json)
        .build()
        .unwrap_or_else(|error| panic!("{json}: {error}"));
    for (request, expected) in table {
        assert_eq!(
            compiled.matches(&read(request)),
            *expected,
            "{json} on {request:?}"
        );
    }
}

fn read(text: &str) -> Request<()> {
    let mut lines = text.split('\n');
    let (method, uri) = lines.next().unwrap().split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(uri);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        request = request.header(name, value.trim());
    }
    request.body(()).unwrap()
}

#[test]
fn a_match_without_conditions_matches_everything() {
    check(
        "{}",
        &[("GET /", true), ("OPTIONS *", true), ("CONNECT a:1", true)],
    );
    assert!(RequestMatch::everything().matches(&read("GET /")));
    assert!(RequestMatch::any_of(&[]).unwrap().matches(&read("GET /")));
}

#[test]
fn an_exact_path_is_compared_to_the_byte() {
    check(
        r#"{"path":{"exact":"/ex"}}"#,
        &[
            ("GET /ex", true),
            ("GET /ex?y=1", true),
            ("GET http://host/ex", true),
            ("GET /ex/", false),
            ("GET /EX", false),
            ("GET /%65x", false),
            ("GET //ex", false),
            ("GET /./ex", false),
        ],
    );
}

#[test]
fn a_prefix_ends_on_a_segment_border() {
    for prefix in ["/seg/a", "/seg/a/"] {
        check(
            &format!(r#"{{"path":{{"pathPrefix":"{prefix}"}}}}"#),
            &[
                ("GET /seg/a", true),
                ("GET /seg/a/", true),
                ("GET /seg/a/b", true),
                ("GET /seg/a?x", true),
                ("GET /seg/a//b", true),
                ("GET /seg/ab", false),
                ("GET /seg", false),
                ("GET /x/seg/a", false),
                ("GET /seg/%61", false),
                ("GET /seg%2fa", false),
                ("GET /seg/./a", false),
                ("GET /x/../seg/a", false),
            ],
        );
    }
    let all = r#"{"path":{"pathPrefix":"/"}}"#;
    check(
        all,
        &[
            ("GET /", true),
            ("GET //", true),
            ("GET /a", true),
            ("OPTIONS *", false),
        ],
    );
}

#[test]
fn a_regex_matches_the_whole_path() {
    check(
        r#"{"path":{"regex":"/re/[0-9]+|/other"}}"#,
        &[
            ("GET /re/12", true),
            ("GET /re/12?z=1", true),
            ("GET /other", true),
            ("GET /re/12x", false),
            ("GET /x/re/12", false),
            ("GET /other/re/12", false),
        ],
    );
}

#[test]
fn a_method_is_one_of_those_listed() {
    check(
        r#"{"method":"GET"}"#,
        &[("GET /", true), ("POST /", false), ("get /", false)],
    );
    let two = r#"{"method":["GET","PURGE"]}"#;
    check(
        two,
        &[("GET /", true), ("PURGE /", true), ("POST /", false)],
    );
}

#[test]
fn a_hostname_is_compared_without_port_and_case() {
    check(
        r#"{"hostnames":["foo.bar.com","*.shop.internal"]}"#,
        &[
            ("GET http://foo.bar.com/", true),
            ("GET http://FOO.bar.com:8080/", true),
            ("GET /\nhost: foo.bar.com:80", true),
            ("GET /\nhost: a.b.shop.internal", true),
            ("GET http://foo.bar.com/\nhost: other", true),
            ("GET /\nhost: shop.internal", false),
            ("GET /\nhost: foo.bar.com.evil", false),
            ("GET /\nhost: foo.bar.com:80x", false),
            ("GET http://foo.bar.com@evil/", false),
            ("GET /", false),
        ],
    );
    let v6 = r#"{"hostnames":["[2001:db8::7]"]}"#;
    check(
        v6,
        &[
            ("GET http://[2001:db8::7]:80/", true),
            ("GET http://[2001:db8::7]/", true),
        ],
    );
}

#[test]
fn headers_compare_as_documented() {
    for (condition, table) in [
        (
            r#""exact":"a""#,
            &[
                ("GET /\nX-H: a", true),
                ("GET /\nx-h:   a  ", true),
                ("GET /\nx-h: A", false),
                ("GET /\nx-h: aa", false),
                ("GET /\nx-h: a\nx-h: b", true),
                ("GET /\nx-h: b\nx-h: a", true),
                ("GET /\nx-h: a,b", false),
                ("GET /", false),
            ][..],
        ),
        (
            r#""exact":"a,b""#,
            &[("GET /\nx-h: a,b", true), ("GET /\nx-h: a\nx-h: b", false)],
        ),
        (r#""exact":"""#, &[("GET /\nx-h:", true), ("GET /", false)]),
        (
            r#""in":["qa","beta"]"#,
            &[("GET /\nx-h: beta", true), ("GET /\nx-h: prod", false)],
        ),
        (
            r#""prefix":"ab""#,
            &[("GET /\nx-h: abc", true), ("GET /\nx-h: a", false)],
        ),
        (
            r#""suffix":"bc""#,
            &[("GET /\nx-h: abc", true), ("GET /\nx-h: c", false)],
        ),
        (
            r#""contains":"b""#,
            &[("GET /\nx-h: abc", true), ("GET /\nx-h: ac", false)],
        ),
        (
            r#""contains":"AbC","ignoreCase":true"#,
            &[("GET /\nx-h: zzABCzz", true), ("GET /\nx-h: zzABzz", false)],
        ),
        (
            r#""regex":"a+""#,
            &[
                ("GET /\nx-h: aaa", true),
                ("GET /\nx-h: ab", false),
                ("GET /\nx-h: ba", false),
            ],
        ),
        (
            r#""regex":"a+","ignoreCase":true"#,
            &[("GET /\nx-h: AaA", true)],
        ),
        (
            r#""present":true"#,
            &[
                ("GET /\nx-h:", true),
                ("GET /\nx-h: a", true),
                ("GET /", false),
            ],
        ),
        (
            r#""present":false"#,
            &[("GET /\nx-h:", false), ("GET /", true)],
        ),
    ] {
        check(
            &format!(r#"{{"headers":[{{"name":"x-h",{condition}}}]}}"#),
            table,
        );
    }
}

#[test]
fn all_headers_must_match_those_of_one_name_too() {
    check(
        r#"{"headers":[{"name":"a","prefix":"x"},{"name":"A","suffix":"y"},{"name":"b","present":true}]}"#,
        &[
            ("GET /\na: xy\nb: 1", true),
            ("GET /\na: xy", false),
            ("GET /\na: x\nb: 1", false),
            ("GET /\na: y\nb: 1", false),
        ],
    );
}

#[test]
fn bytes_that_are_no_text_can_be_compared() {
    let mut request = read("GET /");
    request
        .headers_mut()
        .insert("x-h", HeaderValue::from_bytes(b"a\xffb").unwrap());
    for (value, expected) in [
        (StringMatch::Prefix("a".into()), true),
        (StringMatch::Regex("a.*b".into()), false),
        (StringMatch::Regex("(?s-u:a.*b)".into()), true),
        (StringMatch::Present, true),
    ] {
        let compiled = MatchConfig::default()
            .header("x-h", value.clone())
            .build()
            .unwrap();
        assert_eq!(compiled.matches(&request), expected, "{value:?}");
    }
}

#[test]
fn a_query_parameter_counts_with_its_first_value_as_sent() {
    let exact = r#"{"queryParams":[{"name":"v","exact":"1"}]}"#;
    check(
        exact,
        &[
            ("GET /?v=1&v=2", true),
            ("GET /?x=0&v=1", true),
            ("GET /?v=2&v=1", false),
            ("GET /?V=1", false),
            ("GET /?vv=1", false),
            ("GET /?v=%31", false),
            ("GET /?v", false),
            ("GET /", false),
        ],
    );
    let present = r#"{"queryParams":[{"name":"p","present":true}]}"#;
    check(
        present,
        &[
            ("GET /?p", true),
            ("GET /?p=", true),
            ("GET /?p=1", true),
            ("GET /?pp", false),
        ],
    );
    let two = r#"{"queryParams":[{"name":"a","regex":"wha.e"},{"name":"b","present":false}]}"#;
    check(
        two,
        &[
            ("GET /?a=whale", true),
            ("GET /?a=whale&b", false),
            ("GET /?a=whales", false),
        ],
    );
}

#[test]
fn grpc_is_told_by_the_path() {
    let both = r#"{"grpc":{"service":"shop.Orders","method":"Place"}}"#;
    check(
        both,
        &[
            ("POST /shop.Orders/Place", true),
            ("POST /shop.Orders/place", false),
            ("POST /shop.Orders/Place/x", false),
            ("POST /x/shop.Orders/Place", false),
            ("POST /shop.Orders", false),
        ],
    );
    let service = r#"{"grpc":{"service":"shop.Orders"}}"#;
    check(
        service,
        &[
            ("POST /shop.Orders/Get", true),
            ("POST /shop.OrdersOld/Get", false),
        ],
    );
    let method = r#"{"grpc":{"method":"Get"}}"#;
    check(
        method,
        &[
            ("POST /shop.Orders/Get", true),
            ("POST /shop.Orders/GetAll", false),
        ],
    );
}

#[test]
fn callers_and_metadata_come_from_the_context_and_nowhere_else() {
    let config = MatchConfig::default()
        .identity("spiffe://mesh/checkout")
        .identity("spiffe://mesh/jobs/*")
        .metadata("cohort", StringMatch::In(vec!["qa".into(), "beta".into()]));
    let compiled = config.build().unwrap();
    let request = |subject: Option<&str>, global: Option<&str>, local: Option<&str>| {
        let mut request = read("GET /\nx-md-global-cohort: qa");
        let context = CallContext::get_or_insert(request.extensions_mut());
        context.identity = subject.map(|name| Arc::new(Identity::new(name, AuthMethod::Mtls)));
        let mut metadata = Metadata::new();
        if let Some(value) = global {
            metadata.set_global("cohort", value).unwrap();
        }
        if let Some(value) = local {
            metadata.set_local("cohort", value).unwrap();
        }
        context.metadata = Some(Arc::new(metadata));
        request
    };
    let (checkout, job) = (
        Some("spiffe://mesh/checkout"),
        Some("spiffe://mesh/jobs/nightly"),
    );
    assert!(compiled.matches(&request(checkout, Some("qa"), None)));
    assert!(compiled.matches(&request(job, None, Some("beta"))));
    assert!(!compiled.matches(&request(Some("spiffe://mesh/cart"), Some("qa"), None)));
    assert!(!compiled.matches(&request(None, Some("qa"), None)));
    assert!(!compiled.matches(&request(checkout, Some("prod"), None)));
    assert!(!compiled.matches(&request(checkout, None, None)));
    assert!(!compiled.matches(&read("GET /\nx-md-global-cohort: qa")));
}

#[test]
fn matches_combine() {
    let a = || MatchConfig::default().header("a", StringMatch::Present);
    let b = || MatchConfig::default().header("b", StringMatch::Present);
    let c = || MatchConfig::default().header("c", StringMatch::Present);
    let requests = ["", "a", "b", "ab", "c", "ac", "bc", "abc"].map(|names| {
        let lines: String = names.chars().map(|name| format!("\n{name}: 1")).collect();
        read(&format!("GET /{lines}"))
    });
    for (config, expected) in [
        (a().and(b()), 0b1000_1000),
        (a().or(b()), 0b1110_1110),
        (a().or(b()).or(c()), 0b1111_1110),
        (a().and_not(b()), 0b0010_0010),
        (a().or(b()).and(c()), 0b1110_0000),
        (a().and(b().or(c())), 0b1010_1000),
        (
            MatchConfig::default().and_not(a()).and_not(b()),
            0b0001_0001,
        ),
        (a().or(b()).and(b().or(c())), 0b1110_1100),
    ] {
        let compiled = config.build().unwrap();
        let found = requests
            .iter()
            .map(|request| u8::from(compiled.matches(request)));
        let bits = found
            .enumerate()
            .fold(0, |bits, (at, found)| bits | found << at);
        assert_eq!(bits, expected, "{config:?}: {bits:08b}");
    }
}

#[test]
fn a_list_of_alternatives_needs_one() {
    let get = RequestMatch::path_prefix("/a").method("GET");
    let compiled = RequestMatch::any_of(&[get, RequestMatch::path_exact("/b")]).unwrap();
    for (request, expected) in [
        ("GET /a/x", true),
        ("POST /b", true),
        ("POST /a/x", false),
        ("GET /c", false),
    ] {
        assert_eq!(compiled.matches(&read(request)), expected, "{request}");
    }
}
