use std::collections::HashSet;

use http::{HeaderValue, Method, Request, header};
use proptest::prelude::*;

use super::*;
use crate::{
    client_addr::{ClientAddr, ForwardedHeader, missing_client_addrs},
    context::{AuthMethod, CallContext, Identity},
};

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

fn with(name: &'static str, values: &[&str]) -> Request<()> {
    let mut request = get("/");
    for value in values {
        request
            .headers_mut()
            .append(name, HeaderValue::from_str(value).unwrap());
    }
    request
}

fn label(key: &Key, request: &Request<()>) -> String {
    key.extract(request).label()
}

fn same(key: &Key, a: &Request<()>, b: &Request<()>) -> bool {
    key.extract(a).hash() == key.extract(b).hash()
}

#[test]
fn one_key_is_for_all() {
    let key = Key::global();
    assert!(same(&key, &get("/a"), &with("x-tenant", &["acme"])));
    assert_eq!(label(&key, &get("/a")), "global");
    assert_eq!(key.default_cap(), 1);
}

#[test]
fn an_operation_is_not_a_path() {
    let key = Key::operation();
    assert!(same(&key, &get("/orders/7"), &get("/orders/8?x=1")));
    assert_eq!(label(&key, &get("/orders/7")), "GET _OTHER");

    let mut post = get("/orders/7");
    *post.method_mut() = Method::POST;
    assert!(!same(&key, &get("/orders/7"), &post));

    let mut named = get("/orders/7");
    named.extensions_mut().insert(Operation::new("get order"));
    assert_eq!(label(&key, &named), "get order");
    assert!(!same(&key, &named, &get("/orders/7")));
}

#[test]
fn methods_that_are_made_up_share_one_operation() {
    let key = Key::operation();
    let hashes: HashSet<_> = (0..100)
        .map(|n| {
            let request = Request::builder()
                .method(format!("M{n}").as_str())
                .body(())
                .unwrap();
            assert_eq!(label(&key, &request), "_OTHER _OTHER");
            key.extract(&request).hash()
        })
        .collect();
    assert_eq!(hashes.len(), 1);
}

#[test]
fn a_grpc_operation_is_the_path_of_the_method() {
    let key = Key::operation();
    let grpc = |path: &str| {
        Request::post(path)
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(())
            .unwrap()
    };
    assert_eq!(
        label(&key, &grpc("/shop.v1.Orders/Get_2")),
        "/shop.v1.Orders/Get_2"
    );
    assert!(!same(
        &key,
        &grpc("/shop.Orders/Get"),
        &grpc("/shop.Orders/List")
    ));
    let long = format!("/shop.Orders/{}", "x".repeat(128));
    for path in [
        "/",
        "/a",
        "/a/",
        "//b",
        "/a/b/c",
        "/a/b%20",
        "/a-b/c",
        long.as_str(),
    ] {
        assert_eq!(label(&key, &grpc(path)), "_OTHER", "{path}");
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn an_operation_is_the_route_that_axum_matched() {
    use axum::{Router, extract::Request, middleware, routing::get};
    use tower::ServiceExt;

    async fn show(request: Request, _: middleware::Next) -> String {
        Key::operation().extract(&request).label()
    }
    let orders = Router::new().route("/{id}", get(|| async {}));
    let app = Router::new()
        .nest("/orders", orders)
        .layer(middleware::from_fn(show));
    for (path, expected) in [
        ("/orders/7", "GET /orders/{id}"),
        ("/nowhere", "GET _OTHER"),
    ] {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 1000)
            .await
            .unwrap();
        assert_eq!(body, expected);
    }
}

#[test]
fn an_authority_is_read_from_the_uri_or_the_host_header() {
    let key = Key::authority();
    let host = |value: &'static str| with("host", &[value]);
    assert!(same(
        &key,
        &get("http://Orders:8080/a"),
        &host("orders:8080")
    ));
    assert!(same(
        &key,
        &get("http://user:secret@orders:8080/a"),
        &host("orders:8080")
    ));
    assert!(!same(&key, &host("orders:8080"), &host("orders:8081")));
    assert!(!same(&key, &host(""), &get("/")));
    assert_eq!(
        label(&key, &get("http://user:secret@Orders:8080/a")),
        "orders:8080"
    );
    assert_eq!(label(&key, &get("/")), "no authority");

    let long = "a".repeat(63);
    let upper = "A".repeat(63);
    let uri = |name: &str, tail: &str| get(&format!("http://{name}.{name}{tail}/"));
    assert!(same(&key, &uri(&long, ""), &uri(&upper, "")));
    assert!(!same(&key, &uri(&long, "a"), &uri(&upper, "b")));
}

#[test]
fn a_header_counts_with_all_its_lines() {
    let key = Key::header("X-Tenant").unwrap();
    let tenant = |values: &[&str]| with("x-tenant", values);
    assert!(same(&key, &tenant(&["acme"]), &tenant(&["acme"])));
    let distinct = [
        &[][..],
        &[""],
        &["a"],
        &["A"],
        &["a", "b"],
        &["b", "a"],
        &["ab"],
        &["a,b"],
    ];
    let hashes: HashSet<_> = distinct
        .iter()
        .map(|values| key.extract(&tenant(values)).hash())
        .collect();
    assert_eq!(hashes.len(), distinct.len());
    assert_eq!(label(&key, &tenant(&["a", "b"])), "x-tenant=a,b");
    assert_eq!(label(&key, &tenant(&[])), "no x-tenant");
    assert!(
        Key::header("x tenant")
            .unwrap_err()
            .to_string()
            .contains("`x tenant`")
    );
}

#[test]
fn secrets_stay_out_of_labels() {
    let key = Key::header(header::AUTHORIZATION).unwrap();
    let (one, other) = (
        with("authorization", &["Bearer abc"]),
        with("authorization", &["Bearer abd"]),
    );
    let (one, other) = (label(&key, &one), label(&key, &other));
    assert!(
        one.starts_with("authorization=#") && !one.contains("abc"),
        "{one}"
    );
    assert_ne!(one, other);

    let mut marked = with("x-api-key", &["abc"]);
    marked
        .headers_mut()
        .get_mut("x-api-key")
        .unwrap()
        .set_sensitive(true);
    assert!(!label(&Key::header("x-api-key").unwrap(), &marked).contains("abc"));
}

#[test]
fn a_label_cannot_be_made_long() {
    let key = Key::header("x-tenant").unwrap().and(Key::operation());
    let mut request = get("/");
    let long = HeaderValue::from_bytes("ü".repeat(4000).as_bytes()).unwrap();
    request.headers_mut().insert("x-tenant", long);
    let label = label(&key, &request);
    assert!(label.len() < 90, "{}", label.len());
    assert!(
        label.starts_with("x-tenant=üü") && label.ends_with("…, GET _OTHER"),
        "{label}"
    );
}

#[test]
fn an_identity_is_the_authenticated_caller() {
    let key = Key::identity();
    let from = |subject: &str| {
        let mut request = get("/");
        let context = CallContext::get_or_insert(request.extensions_mut());
        context.identity = Some(Arc::new(Identity::new(subject, AuthMethod::Mtls)));
        request
    };
    assert!(same(&key, &from("checkout"), &from("checkout")));
    assert!(!same(&key, &from("checkout"), &from("cart")));
    assert_eq!(label(&key, &from("checkout")), "checkout");
    assert_eq!(label(&key, &get("/")), "no identity");
}

#[test]
fn an_ipv6_caller_is_a_64_and_a_mapped_one_is_ipv4() {
    let key = Key::client_ip(0);
    let from = |addr: &str| {
        let mut request = get("/");
        request
            .extensions_mut()
            .insert(ClientAddr(addr.parse().unwrap()));
        request
    };
    assert!(same(
        &key,
        &from("2001:db8:1:2::1"),
        &from("2001:db8:1:2:ffff::9")
    ));
    assert!(!same(
        &key,
        &from("2001:db8:1:2::1"),
        &from("2001:db8:1:3::1")
    ));
    assert!(same(
        &key,
        &from("203.0.113.7"),
        &from("::ffff:203.0.113.7")
    ));
    assert!(!same(&key, &from("203.0.113.7"), &from("203.0.113.8")));
    assert_eq!(label(&key, &from("2001:db8:1:2::1")), "2001:db8:1:2::/64");
    assert_eq!(label(&key, &from("::ffff:203.0.113.7")), "203.0.113.7");
}

#[test]
fn without_an_address_all_share_one_key_and_are_counted() {
    let before = missing_client_addrs();
    let key = Key::client_ip(0);
    assert!(same(
        &key,
        &get("/a"),
        &with("x-forwarded-for", &["203.0.113.7"])
    ));
    assert_eq!(label(&key, &get("/a")), "no address");
    // Other tests may count as well.
    assert!(missing_client_addrs() >= before + 3);
}

#[test]
fn a_combination_tells_apart_what_any_part_does() {
    let key = Key::authority().and(Key::header("x-tenant").unwrap());
    let request = |host: &str, tenant: &str| {
        Request::get("/")
            .header("host", host)
            .header("x-tenant", tenant)
            .body(())
            .unwrap()
    };
    let all = [("a", "b"), ("b", "a"), ("ab", ""), ("", "ab"), ("a", "bb")];
    let hashes: HashSet<_> = all
        .iter()
        .map(|(host, tenant)| key.extract(&request(host, tenant)).hash())
        .collect();
    assert_eq!(hashes.len(), all.len());
    assert_eq!(label(&key, &request("a", "b")), "a, x-tenant=b");
    assert_eq!(key.to_string(), "authority, header x-tenant");
}

#[test]
fn keys_are_written_as_documented() {
    let forwarded = ClientIp {
        trusted_hops: 2,
        header: ForwardedHeader::Forwarded,
    };
    for (key, text) in [
        (Key::global(), r#""global""#),
        (Key::operation(), r#""operation""#),
        (Key::authority(), r#""authority""#),
        (Key::identity(), r#""identity""#),
        (Key::header("x-tenant").unwrap(), r#"{"header":"x-tenant"}"#),
        (
            Key::from(forwarded),
            r#"{"clientIp":{"trustedHops":2,"header":"forwarded"}}"#,
        ),
        (
            Key::operation().and(Key::header("x-tenant").unwrap()),
            r#"["operation",{"header":"x-tenant"}]"#,
        ),
    ] {
        assert_eq!(serde_json::to_string(&key).unwrap(), text);
        assert_eq!(serde_json::from_str::<Key>(text).unwrap(), key);
    }
    for (text, key) in [
        (r#""clientIp""#, Key::client_ip(0)),
        (r#"{"clientIp":{}}"#, Key::client_ip(0)),
        (r#"{"clientIp":{"trustedHops":1}}"#, Key::client_ip(1)),
        (r#"["operation"]"#, Key::operation()),
    ] {
        assert_eq!(serde_json::from_str::<Key>(text).unwrap(), key);
    }
}

#[test]
fn a_key_that_is_misspelt_says_what_there_is() {
    for (text, part) in [
        (r#""operations""#, "expected one of `global`, `operation`"),
        (r#"{"header":"x tenant"}"#, "header: got `x tenant`"),
        (
            r#"{"clientIp":{"hops":1}}"#,
            "unknown field `hops`, expected `trustedHops`",
        ),
        (r#"{"header":"a","clientIp":{}}"#, ""),
        ("[]", "`global`"),
        ("7", "expected a key: `global`"),
    ] {
        let error = serde_json::from_str::<Key>(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn different_values_have_different_hashes(a in "[ -~]{0,80}", b in "[ -~]{0,80}") {
        let key = Key::header("x").unwrap();
        let (one, other) = (with("x", &[&a]), with("x", &[&b]));
        let sent = |request: &Request<()>| request.headers()["x"].clone();
        prop_assert_eq!(same(&key, &one, &other), sent(&one) == sent(&other));
    }

    #[test]
    fn no_request_panics(path in "/[a-z/%?#&=]{0,20}", value in proptest::collection::vec(32..127_u8, 0..90)) {
        let keys = ["x-tenant", "x-forwarded-for", "forwarded", "host"].map(|name| Key::header(name).unwrap());
        let key = keys.into_iter().fold(Key::operation(), Key::and);
        let key = key.and(Key::authority()).and(Key::client_ip(2));
        let Ok(mut request) = Request::get(path).body(()) else { return Ok(()) };
        for name in ["x-tenant", "x-forwarded-for", "forwarded", "host"] {
            request.headers_mut().insert(name, HeaderValue::from_bytes(&value).unwrap());
        }
        key.extract(&request).label();
    }
}
