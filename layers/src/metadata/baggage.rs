//! W3C baggage, cut to what may be passed on.
//!
//! The [specification](https://www.w3.org/TR/baggage/#limits) asks for 64 members and 8,192 bytes to be
//! passed on, and has no upper bound; here this is the bound too. Members are taken whole and in order.

/// The most bytes that are passed on.
const MOST_BYTES: usize = 8_192;
/// The most members that are passed on.
const MOST_MEMBERS: usize = 64;
/// The most members that are looked at for those to pass on.
const MOST_LOOKED_AT: usize = 180;
/// The most bytes that are looked at.
const MOST_BYTES_LOOKED_AT: usize = 2 * MOST_BYTES;

/// What is to be passed on instead, in one line; `None` if the lines may be passed on as they are.
pub(super) fn cut<'a, I>(lines: impl Fn() -> I) -> Option<Vec<u8>>
where
    I: Iterator<Item = &'a [u8]>,
{
    let mut bytes = 0;
    for line in lines() {
        // With the comma that joins it to the one before.
        bytes += line.len() + 1;
        if bytes > MOST_BYTES + 1 {
            return Some(kept(lines()));
        }
    }
    let members = lines().flat_map(members).take(MOST_MEMBERS + 1);
    (members.count() > MOST_MEMBERS).then(|| kept(lines()))
}

#[cold]
fn kept<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut kept = Vec::new();
    let (mut count, mut left) = (0, MOST_BYTES_LOOKED_AT);
    let seen = lines.map_while(|line| {
        let seen = &line[..line.len().min(left)];
        left -= seen.len();
        (!seen.is_empty() || line.is_empty()).then(|| whole(line, seen.len()))
    });
    for member in seen.flat_map(members).take(MOST_LOOKED_AT) {
        let member = member.trim_ascii();
        let is_member = member.iter().position(|byte| *byte == b'=') > Some(0);
        let comma = usize::from(!kept.is_empty());
        if !is_member || kept.len() + comma + member.len() > MOST_BYTES {
            continue;
        }
        kept.extend_from_slice(&b","[..comma]);
        kept.extend_from_slice(member);
        count += 1;
        if count == MOST_MEMBERS {
            break;
        }
    }
    kept
}

/// The beginning of a line, without a member that does not end within it.
fn whole(line: &[u8], length: usize) -> &[u8] {
    let begin = &line[..length];
    if length == line.len() || line[length] == b',' {
        return begin;
    }
    let end = begin.iter().rposition(|byte| *byte == b',');
    &begin[..end.unwrap_or(0)]
}

fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    line.split(|byte| *byte == b',')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut_lines(lines: &[&str]) -> Option<String> {
        let cut = cut(|| lines.iter().map(|line| line.as_bytes()));
        cut.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn numbered(count: usize) -> String {
        let members: Vec<_> = (0..count).map(|n| format!("k{n}=v")).collect();
        members.join(",")
    }

    #[test]
    fn what_is_within_the_limits_is_left_alone() {
        for line in ["", "a=b", " a = b ; p , c=d", "not baggage"] {
            assert_eq!(cut_lines(&[line]), None, "{line}");
        }
        assert_eq!(cut_lines(&[&numbered(64)]), None);
        assert_eq!(cut_lines(&["a=b", &numbered(63)]), None);
        let long = format!("a={}", "x".repeat(8_190));
        assert_eq!(cut_lines(&[&long]), None);
    }

    #[test]
    fn the_first_members_that_fit_are_kept() {
        assert_eq!(cut_lines(&[&numbered(65)]), Some(numbered(64)));
        assert_eq!(
            cut_lines(&["a=b", &numbered(64)]),
            Some(format!("a=b,{}", numbered(63)))
        );
        let long = format!("a={}", "x".repeat(8_191));
        assert_eq!(cut_lines(&[&format!("{long},b=1")]).as_deref(), Some("b=1"));
        assert_eq!(cut_lines(&[&long]).as_deref(), Some(""));
        let (half, small) = (format!("h={}", "x".repeat(5_000)), "s=1");
        let both = format!("{half},{half},{small}");
        assert_eq!(cut_lines(&[&both]), Some(format!("{half},{small}")));
    }

    #[test]
    fn no_more_than_180_members_are_looked_at() {
        let at = |place: usize| format!("{}last=1,{}", ",".repeat(place), ",".repeat(9_000));
        assert_eq!(cut_lines(&[&at(179)]).as_deref(), Some("last=1"));
        assert_eq!(cut_lines(&[&at(180)]).as_deref(), Some(""));
    }

    #[test]
    fn a_member_that_is_cut_in_the_middle_is_not_kept() {
        let line = format!("a={},b=22", "x".repeat(2 * 8_192 - 5));
        assert_eq!(cut_lines(&[&line]).as_deref(), Some(""));
        let filler = format!("f={}", "x".repeat(9_000));
        let line = format!("{filler},{filler}");
        assert_eq!(cut_lines(&["a=1", &line, "b=2"]).as_deref(), Some("a=1"));
    }

    proptest! {
        #[test]
        fn the_limits_hold_and_nothing_is_made_up(
            lines in proptest::collection::vec("([a-c]{0,3}=[x,; ]{0,6},?){0,80}|x{8000,9000}|,{0,300}", 0..4),
        ) {
            let result = cut(|| lines.iter().map(|line| line.as_bytes()));
            let total: usize = lines.iter().map(|line| line.len() + 1).sum();
            let count = lines.iter().flat_map(|line| line.split(',')).count();
            match result {
                None => prop_assert!(total <= 8_193 && count <= 64),
                Some(kept) => {
                    prop_assert!(total > 8_193 || count > 64);
                    let kept = String::from_utf8(kept).unwrap();
                    prop_assert!(kept.len() <= 8_192);
                    let given: Vec<_> = lines.iter().flat_map(|line| line.split(',')).map(str::trim).collect();
                    let kept: Vec<_> = kept.split(',').filter(|member| !member.is_empty()).collect();
                    prop_assert!(kept.len() <= 64);
                    prop_assert!(kept.iter().all(|member| given.contains(member)));
                }
            }
        }

        #[test]
        fn no_bytes_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..40)) {
            cut(|| lines.iter().map(Vec::as_slice));
        }
    }
}
