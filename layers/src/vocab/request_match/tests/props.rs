//! Matches against naive ones, and against noise.

use http::{HeaderName, HeaderValue, Request};
use proptest::prelude::*;

use super::super::*;

/// The definition in Gateway API's words: the prefix's elements are the first of the path's.
fn is_prefix_by_elements(prefix: &str, path: &str) -> bool {
    let elements = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let mut prefix = elements(prefix);
    if prefix.last().is_some_and(String::is_empty) {
        prefix.pop();
    }
    elements(path).starts_with(&prefix)
}

proptest! {
    #[test]
    fn a_prefix_is_a_prefix_of_elements(
        prefix in "(/[ab]{1,2}){0,3}/?",
        path in "(/[ab]{0,2}){1,4}",
    ) {
        let prefix = if prefix.is_empty() { "/".to_owned() } else { prefix };
        let compiled = RequestMatch::path_prefix(&prefix).build().unwrap();
        let request = Request::get(format!("http://host{path}")).body(()).unwrap();
        prop_assert_eq!(compiled.matches(&request), is_prefix_by_elements(&prefix, &path));
    }

    #[test]
    fn a_regex_match_is_a_full_match(
        pattern in "[ab|]{1,6}",
        path in "/[ab]{0,4}",
    ) {
        let compiled = RequestMatch::path_regex(format!("/({pattern})")).build().unwrap();
        let request = Request::get(&path).body(()).unwrap();
        let expected = pattern.split('|').any(|one| one == &path[1..]);
        prop_assert_eq!(compiled.matches(&request), expected);
    }

    #[test]
    fn nothing_panics(
        texts in proptest::collection::vec("\\PC{0,12}|[ -~]{0,12}|[/*.%a?&=-]{0,12}", 8),
        path in "/[ -~&&[^\"<>`{}|\\\\^ #]]{0,20}",
        value in proptest::collection::vec(32..=255_u8, 0..12),
    ) {
        let [a, b, c, d, e, f, g, h] = <[String; 8]>::try_from(texts).unwrap();
        let mut request = Request::get(path).body(()).unwrap_or_default();
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&a), HeaderValue::from_bytes(&value)) {
            request.headers_mut().insert(name, value);
        }
        for value in [
            StringMatch::Exact(b.clone()),
            StringMatch::Prefix(b.clone()),
            StringMatch::Suffix(c.clone()),
            StringMatch::Contains(c),
            StringMatch::Regex(d.clone()),
        ] {
            for config in [
                MatchConfig::default().header(&a, value.clone()),
                MatchConfig::default().query_param(&b, value),
            ] {
                let _ = config.build().map(|compiled| compiled.matches(&request));
            }
        }
        for config in [
            RequestMatch::path_exact(&e),
            RequestMatch::path_prefix(&e),
            RequestMatch::path_regex(&d),
            RequestMatch::grpc_method(&f, &g),
            MatchConfig::default().hostname(&h),
            MatchConfig::default().identity(&h),
            MatchConfig::default().method(&g),
        ] {
            let _ = config.build().map(|compiled| compiled.matches(&request));
        }
    }
}
