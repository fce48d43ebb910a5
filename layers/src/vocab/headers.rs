//! Finding a header among few.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Up to as many headers it is cheaper to compare each name than to hash the one that is wanted: the
/// map hashes a name byte by byte.
const FEW: usize = 6;

/// The first value of a header, as [`HeaderMap::get`] has it.
///
/// Names are to be statics: a constant would be made and dropped for each look.
#[inline]
pub(crate) fn find<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.is_empty() {
        None
    } else if headers.len() <= FEW {
        let mut all = headers.iter();
        all.find_map(|(of, value)| (of == name).then_some(value))
    } else {
        headers.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_the_map_finds() {
        let wanted = HeaderName::from_static("grpc-status");
        let mut headers = HeaderMap::new();
        assert_eq!(find(&headers, &wanted), None);
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        headers.append("grpc-status", HeaderValue::from_static("13"));
        for more in 0..2 * FEW {
            assert_eq!(find(&headers, &wanted), headers.get(&wanted), "{more} more");
            assert_eq!(find(&headers, &http::header::HOST), None, "{more} more");
            let name: HeaderName = format!("x-filler-{more}").parse().unwrap();
            headers.insert(name, HeaderValue::from_static("0"));
        }
    }
}
