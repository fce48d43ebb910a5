//! What counts for which call.

use std::time::Duration;

use http::Request;

use super::{
    condition::Conditions,
    config::{RetryConfig, RetryRule},
};
use crate::vocab::{config::ConfigError, request_match::RequestMatch};

/// The rules in their order, and what counts where none of them matches.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<(RequestMatch, CallPolicy)>,
    others: CallPolicy,
}

/// What counts for a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallPolicy {
    pub(super) max_attempts: u32,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) retry_on: Conditions,
    /// `None`: its method says so, or the caller.
    pub(super) idempotent: Option<bool>,
}

// ===== impl Rules =====

impl Rules {
    /// The number of what counts where no rule matches.
    pub(super) const OTHERS: u8 = 0;

    pub(super) fn compile(config: &RetryConfig) -> Result<Self, ConfigError> {
        let others = CallPolicy {
            max_attempts: config.max_attempts,
            attempt_timeout: config.attempt_timeout,
            retry_on: Conditions::new(&config.retry_on),
            idempotent: None,
        };
        let compile = |(nth, rule): (usize, &RetryRule)| {
            let matches = RequestMatch::any_of(&rule.matches);
            let matches = matches.map_err(|error| error.at(format!("rules[{nth}].matches")))?;
            Ok((matches, others.under(rule)))
        };
        let rules = config.rules.iter().enumerate().map(compile);
        Ok(Self {
            rules: rules.collect::<Result<_, ConfigError>>()?,
            others,
        })
    }

    pub(super) fn one_attempt() -> Self {
        Self {
            rules: Vec::new(),
            others: CallPolicy {
                max_attempts: 1,
                attempt_timeout: None,
                retry_on: Conditions::default(),
                idempotent: None,
            },
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The number of the first rule that matches.
    pub(super) fn find<B>(&self, request: &Request<B>) -> u8 {
        let mut rules = self.rules.iter();
        let found = rules.position(|(matches, _)| matches.matches(request));
        // There are a hundred at most.
        found.map_or(Self::OTHERS, |nth| nth as u8 + 1)
    }

    /// What counts under the rule of this number.
    ///
    /// NOTE: a call that outlasts two changes reads those of now, and there may be fewer.
    #[inline]
    pub(super) fn of(&self, rule: u8) -> &CallPolicy {
        let nth = usize::from(rule).checked_sub(1);
        nth.and_then(|nth| self.rules.get(nth))
            .map_or(&self.others, |(_, policy)| policy)
    }
}

// ===== impl CallPolicy =====

impl CallPolicy {
    /// The same, but for what a rule says.
    fn under(&self, rule: &RetryRule) -> Self {
        Self {
            max_attempts: rule.max_attempts.unwrap_or(self.max_attempts),
            attempt_timeout: rule.attempt_timeout.or(self.attempt_timeout),
            retry_on: match &rule.retry_on {
                Some(conditions) => Conditions::new(conditions),
                None => self.retry_on,
            },
            idempotent: rule.idempotent.or(self.idempotent),
        }
    }
}
