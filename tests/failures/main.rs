//! The failure classes: each is one function of its protection, `fn r4_half_open_stampede(p: Protection) ->
//! Measured`. With the protection on it must meet its bounds; with it off it must break one, or it would
//! prove nothing.
//!
//! `tests/run` ends with the table of what was measured. One binary, as linking is most of what a test
//! run costs; a module for each layer that protects.
//!
//! A new class: the function, in the module of its layer; a line below.

mod bodies;
mod breaker;
mod concurrency;
mod deadlines;
mod drain;
mod harness;
mod hedge;
mod idempotency;
mod panics;
mod rates;
mod readiness;
mod retry;

harness::classes! {
    "R1", "retry storm" => retry::r1_retry_storm;
    "R2", "retry multiplication over hops" => retry::r2_retry_multiplication;
    "R3", "metastable overload" => concurrency::r3_metastable_overload;
    "R4", "half-open stampede" => breaker::r4_half_open_stampede;
    "R5", "lost probe" => breaker::r5_lost_probe;
    "R6", "flapping" => breaker::r6_flapping;
    "R7", "late result" => breaker::r7_late_result;
    "R8", "state per connection" => breaker::r8_state_per_connection;
    "R9", "permit leak" => concurrency::r9_permit_leak;
    "R10", "busy spin" => concurrency::r10_busy_spin;
    "R11", "calls that were not ready" => readiness::r11_readiness;
    "R12", "hedging a write" => hedge::r12_hedged_write;
    "R13", "hedge storm" => hedge::r13_hedge_storm;
    "R14", "replay memory" => retry::r14_replay_memory;
    "R15", "retry after commit" => retry::r15_commit;
    "R16", "server pushback ignored" => retry::r16_pushback;
    "R17", "synchronised backoff" => retry::r17_synchronised_backoff;
    "R18", "deadline lost on the way" => deadlines::r18_lost_deadline;
    "R19", "limiter over- or under-admits" => rates::r19_limiter_admits;
    "R23", "panicking handler" => panics::r23_panicking_handler;
    "S16", "zip bomb" => bodies::s16_zip_bomb;
    "S18", "idempotency key replay" => idempotency::s18_idempotency_key_replay;
    "D22", "rolling restart" => drain::d22_rolling_restart;
}
