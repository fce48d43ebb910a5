//! "Did you mean": the known name that is nearest to a mistyped one.

/// The candidate that is at most a third of its length away in edits, and nearest.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// ` (did you mean ...?)`, or nothing.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates)
        .map(|near| format!(" (did you mean `{near}`?)"))
        .unwrap_or_default()
}

/// Edits between two names: insertions, deletions, substitutions, and swaps of two neighbours, the
/// most common slip of all (optimal string alignment distance, after Damerau 1964). Case counts
/// nothing.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| {
        text.chars()
            .flat_map(char::to_lowercase)
            .collect::<Vec<_>>()
    };
    let (a, b) = (fold(a), fold(b));
    let (mut two_up, mut up) = (Vec::new(), (0..=b.len()).collect::<Vec<_>>());
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let substituted = up[j] + usize::from(a[i] != b[j]);
            let mut least = substituted.min(up[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(two_up[j - 1] + 1);
            }
            row.push(least);
        }
        two_up = std::mem::replace(&mut up, row);
    }
    up[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_hand_find_their_name_and_strangers_do_not() {
        let fields = ["id", "weight", "endpoints", "metadata", "subZone"];
        for (typo, meant) in [
            ("wieght", Some("weight")),
            ("weigt", Some("weight")),
            ("endpoint", Some("endpoints")),
            ("subzone", Some("subZone")),
            ("sub_zone", Some("subZone")),
            ("meta_data", Some("metadata")),
            ("Id", Some("id")),
            ("address", None),
            ("", None),
        ] {
            assert_eq!(nearest(typo, fields), meant, "{typo}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
