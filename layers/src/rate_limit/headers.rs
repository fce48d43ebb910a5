//! `RateLimit` and `RateLimit-Policy`, after draft-ietf-httpapi-ratelimit-headers-10.

use std::{fmt::Write, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::config::RateLimitConfig;
use crate::vocab::rejection::whole_seconds;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Two finished header values.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    limit: HeaderValue,
    policy: HeaderValue,
}

// ===== impl Fields =====

impl Fields {
    /// `left` calls may come at once; where there are none, the next may come after `wait`.
    pub(super) fn new(config: &RateLimitConfig, left: u32, wait: Option<Duration>) -> Self {
        let name = &config.name;
        let mut limit = format!("\"{name}\";r={left}");
        if let Some(wait) = wait {
            write!(limit, ";t={}", whole_seconds(wait)).expect("writing to a string cannot fail");
        }
        let window = whole_seconds(config.rate.period());
        // The quota is what passes in a window that begins with a full bucket; the draft has no word
        // for a burst.
        let policy = format!("\"{name}\";q={};w={window}", config.rate.calls());
        Self {
            limit: value(limit),
            policy: value(policy),
        }
    }

    /// Adds the fields. Several limits on one path make a list, as the draft has it.
    pub(super) fn append_to(self, headers: &mut HeaderMap) {
        headers.append(RATE_LIMIT, self.limit);
        headers.append(RATE_LIMIT_POLICY, self.policy);
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("the name of the policy was checked when it was configured")
}
