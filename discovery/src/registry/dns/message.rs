//! What one response says to one question: the rules of RFC 1034 and RFC 2308, without I/O.

use std::time::Duration;

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

/// What is known of a question.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reply {
    Found(Found),
    /// There is no such name (NXDOMAIN), or it has no such records (NODATA), for so long if that was
    /// said.
    Absent(Option<Duration>),
}

/// The records that were asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Found {
    pub(super) records: Vec<RData>,
    pub(super) ttl: Duration,
    /// What the server sent along.
    pub(super) additional: Vec<Record>,
}

/// What a response comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    Reply(Reply),
    /// The name is another's (CNAME), of which the response says no more: ask for that.
    Alias(Name, Duration),
    /// This is no answer to the question.
    Refused(String),
}

/// Reads the response to a question for `kind` records of `name`.
pub(super) fn read(name: &Name, kind: RecordType, response: Message) -> Read {
    let code = response.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Read::Refused(code.to_string());
    }
    let (mut name, mut ttl) = (name.clone(), u32::MAX);
    let mut aliases = 0;
    loop {
        let mut records = Vec::new();
        for record in response.answers.iter().filter(|record| record.name == name) {
            if record.record_type() == kind {
                ttl = ttl.min(record.ttl);
                records.push(record.data.clone());
            }
        }
        if !records.is_empty() {
            return Read::Reply(Reply::Found(Found {
                records,
                ttl: seconds(ttl),
                additional: response.additionals,
            }));
        }
        let alias = response
            .answers
            .iter()
            .find_map(|record| match &record.data {
                RData::CNAME(target) if record.name == name => Some((target.0.clone(), record.ttl)),
                _ => None,
            });
        let Some((target, alias_ttl)) = alias else {
            break;
        };
        aliases += 1;
        if aliases > response.answers.len() {
            return Read::Refused("aliases that lead in a circle".to_owned());
        }
        (name, ttl) = (target, ttl.min(alias_ttl));
    }
    let negative = negative_ttl(&response);
    let absent = code == ResponseCode::NXDomain || negative.is_some();
    match (aliases > 0, absent) {
        (true, false) => Read::Alias(name, seconds(ttl)),
        // RFC 2308 §2.2: without SOA but with NS records this is no denial but a referral to servers
        // that would know.
        (false, false) if refers(&response) => Read::Refused("a referral".to_owned()),
        (false, false) if !response.answers.is_empty() => {
            Read::Refused("records of other names".to_owned())
        }
        _ => Read::Reply(Reply::Absent(negative)),
    }
}

fn refers(response: &Message) -> bool {
    let is_ns = |record: &Record| record.record_type() == RecordType::NS;
    response.authorities.iter().any(is_ns)
}

/// How long "there is nothing" is good (RFC 2308 §5).
fn negative_ttl(response: &Message) -> Option<Duration> {
    response
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(seconds(record.ttl.min(soa.minimum))),
            _ => None,
        })
}

fn seconds(ttl: u32) -> Duration {
    // RFC 2181 §8: with the highest bit set it is to be read as zero.
    Duration::from_secs(if ttl > i32::MAX as u32 { 0 } else { ttl.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::double::*, *};

    fn found(read: Read) -> Found {
        match read {
            Read::Reply(Reply::Found(found)) => found,
            other => panic!("{other:?}"),
        }
    }

    fn refused(read: Read) -> String {
        match read {
            Read::Refused(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn read_a(response: Message) -> Read {
        read(&name("a.test."), RecordType::A, response)
    }

    #[test]
    fn the_shortest_time_to_live_counts() {
        let records = [a("a.test.", 60, 1), a("A.TEST.", 5, 2), a("b.test.", 1, 3)];
        let found = found(read_a(answer(records)));
        assert_eq!(found.records, [address(1), address(2)]);
        assert_eq!(found.ttl, Duration::from_secs(5));
    }

    #[test]
    fn a_time_to_live_with_the_highest_bit_set_is_zero() {
        let found = found(read_a(answer([a("a.test.", 0x8000_0000, 1)])));
        assert_eq!(found.ttl, Duration::ZERO);
    }

    #[test]
    fn aliases_are_followed_as_far_as_the_response_goes() {
        let chain = [
            cname("b.test.", 30, "c.test."),
            cname("a.test.", 90, "b.test."),
            a("c.test.", 60, 1),
        ];
        let found = found(read_a(answer(chain)));
        assert_eq!(found.records, [address(1)]);
        assert_eq!(found.ttl, Duration::from_secs(30));

        let open = answer([cname("a.test.", 30, "b.other.")]);
        let alias = Read::Alias(name("b.other."), Duration::from_secs(30));
        assert_eq!(read_a(open), alias);

        let circle = [
            cname("a.test.", 1, "b.test."),
            cname("b.test.", 1, "a.test."),
        ];
        assert!(refused(read_a(answer(circle))).contains("circle"));
    }

    #[test]
    fn srv_records_behind_an_alias_are_the_names_own() {
        let records = [
            cname("_x._tcp.a.", 60, "_x._tcp.b."),
            srv("_x._tcp.b.", 60, (1, 2, 3), "t.test."),
        ];
        let read = read(&name("_x._tcp.a."), RecordType::SRV, answer(records));
        assert_eq!(found(read).records.len(), 1);
    }

    #[test]
    fn nothing_there_is_told_from_no_answer() {
        let absent = |ttl: Option<u64>| Read::Reply(Reply::Absent(ttl.map(Duration::from_secs)));
        let nxdomain = ResponseCode::NXDomain;
        assert_eq!(read_a(denial(nxdomain, Some(7))), absent(Some(7)));
        assert_eq!(read_a(denial(nxdomain, None)), absent(None));
        assert_eq!(
            read_a(denial(ResponseCode::NoError, Some(7))),
            absent(Some(7))
        );
        assert_eq!(read_a(denial(ResponseCode::NoError, None)), absent(None));
        // The alias is there, and leads nowhere.
        let mut dangling = answer([cname("a.test.", 30, "b.test.")]);
        dangling.metadata.response_code = nxdomain;
        assert_eq!(read_a(dangling), absent(None));
        let mut dangling = answer([cname("a.test.", 30, "b.test.")]);
        dangling.authorities = denial(nxdomain, Some(9)).authorities;
        assert_eq!(read_a(dangling), absent(Some(9)));

        for code in [3841, 2, 5, 1, 4, 9]
            .map(|code| ResponseCode::from((code >> 4) as u8, (code & 15) as u8))
        {
            assert_eq!(refused(read_a(denial(code, Some(7)))), code.to_string());
        }
        let mut referral = answer([]);
        referral.authorities = vec![ns("test.", "ns.test.")];
        assert!(refused(read_a(referral)).contains("referral"));
        assert!(refused(read_a(answer([a("b.test.", 1, 1)]))).contains("other names"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::from_vec(&bytes) {
                read_a(message);
            }
        }
    }
}
