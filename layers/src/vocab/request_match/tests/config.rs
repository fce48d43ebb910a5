//! How a match is written, and refused.

use http::Method;

use super::{super::*, parse};

#[test]
fn the_builder_gives_what_the_file_gives() {
    let built = RequestMatch::path_prefix("/api")
        .method(Method::POST)
        .hostname("*.shop.internal")
        .header("x-a", "on")
        .query_param("q", StringMatch::Regex("[0-9]+".into()))
        .identity("checkout")
        .metadata("x-m", StringMatch::Present)
        .and_not(RequestMatch::grpc_method("shop.Orders", "Place"));
    let json = r#"{
        "path": {"pathPrefix": "/api"}, "method": ["POST"], "hostnames": ["*.shop.internal"],
        "headers": [{"name": "x-a", "exact": "on"}],
        "queryParams": [{"name": "q", "regex": "[0-9]+"}],
        "identities": ["checkout"], "metadata": [{"name": "x-m", "present": true}],
        "not": [{"grpc": {"service": "shop.Orders", "method": "Place"}}]
    }"#;
    assert_eq!(parse(json), built);
    assert_eq!(parse(&serde_json::to_string(&built).unwrap()), built);
}

#[test]
fn a_bad_value_is_refused_with_its_path() {
    for (json, path) in [
        (r#"{"path":{"exact":"ex"}}"#, "path.exact"),
        (r#"{"path":{"exact":"/a//b"}}"#, "path.exact"),
        (r#"{"path":{"exact":"/a b"}}"#, "path.exact"),
        (r#"{"path":{"pathPrefix":"/a/../b"}}"#, "path.pathPrefix"),
        (r#"{"path":{"pathPrefix":"/a/.."}}"#, "path.pathPrefix"),
        (r#"{"path":{"pathPrefix":"/a%2Fb"}}"#, "path.pathPrefix"),
        (r#"{"path":{"pathPrefix":"/a?b"}}"#, "path.pathPrefix"),
        (r#"{"path":{"regex":"("}}"#, "path.regex"),
        (r#"{"path":{"regex":"a)|(b"}}"#, "path.regex"),
        (r#"{"path":{"regex":"(a{1000}){1000}"}}"#, "path.regex"),
        (r#"{"method":["GET","get"]}"#, "method[1]"),
        (r#"{"method":"G ET"}"#, "method[0]"),
        (r#"{"hostnames":["a.*.b"]}"#, "hostnames[0]"),
        (r#"{"hostnames":["a",""]}"#, "hostnames[1]"),
        (
            r#"{"headers":[{"name":"a","exact":"b"},{"name":"b","regex":"["}]}"#,
            "headers[1].regex",
        ),
        (
            r#"{"headers":[{"name":":authority","exact":"b"}]}"#,
            "headers[0].name",
        ),
        (
            r#"{"headers":[{"name":"a","prefix":""}]}"#,
            "headers[0].prefix",
        ),
        (r#"{"headers":[{"name":"a","in":[]}]}"#, "headers[0].in"),
        (
            r#"{"queryParams":[{"name":"a=b","exact":"c"}]}"#,
            "queryParams[0].name",
        ),
        (
            r#"{"metadata":[{"name":"","exact":"c"}]}"#,
            "metadata[0].name",
        ),
        (r#"{"grpc":{}}"#, "grpc"),
        (r#"{"grpc":{"service":"/a"}}"#, "grpc.service"),
        (r#"{"identities":["*a*"]}"#, "identities[0]"),
        (
            r#"{"any":[{},{"not":[{"method":"x"}]}]}"#,
            "any[1].not[0].method[0]",
        ),
    ] {
        let error = parse(json).build().map(drop).expect_err(json);
        assert_eq!(error.path(), path, "{json}: {error}");
    }
    let list = [MatchConfig::default(), MatchConfig::default().method("x")];
    assert_eq!(
        RequestMatch::any_of(&list).unwrap_err().path(),
        "[1].method[0]"
    );
}

#[test]
fn what_is_misspelt_is_refused() {
    for (json, part) in [
        (r#"{"paths":{}}"#, "unknown field `paths`"),
        (
            r#"{"path":{"prefix":"/a"}}"#,
            "unknown variant `prefix`, expected one of `exact`, `pathPrefix`",
        ),
        (
            r#"{"headers":[{"name":"a","equals":"b"}]}"#,
            "unknown field `equals`",
        ),
        (
            r#"{"headers":[{"name":"a"}]}"#,
            "a: got `none of them`, expected a name and one of",
        ),
        (
            r#"{"headers":[{"name":"a","exact":"b","regex":"c"}]}"#,
            "a: got `several`",
        ),
        (r#"{"grpc":{"services":"a"}}"#, "unknown field `services`"),
        (r#"{"method":7}"#, "expected a method or a list of methods"),
    ] {
        let error = serde_json::from_str::<MatchConfig>(json)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{json}: {error}");
    }
}
