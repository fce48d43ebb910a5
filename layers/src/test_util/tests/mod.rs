//! The kit's teeth: for every rule a layer that breaks it and is caught, and one layer that keeps
//! them all.

mod model;
mod ours;
mod real;

use std::convert::identity;

use tower_layer::Identity;

use self::model::{Fault, Model};
use super::{
    Answer, TestBody,
    contract::{self, Contract, Report, Rule},
};

fn contract(fault: Fault) -> Contract<Model, TestBody> {
    Contract::new(move || Model::new(fault))
        .request_body(identity)
        .held(Model::held)
        .tally(Model::tally)
        .clones_per_call(0)
        .shared_limit(7, Answer::ok(), move || Model::limited(fault, 7))
}

fn nothing() -> Contract<Identity, TestBody> {
    Contract::new(Identity::new).request_body(identity)
}

fn examine(fault: Fault) -> Report {
    contract(fault).run()
}

#[track_caller]
fn assert_breaks(fault: Fault, rule: Rule) {
    let report = examine(fault);
    assert!(
        report.broke(rule),
        "{fault:?} should break {rule:?}: {report}"
    );
}

#[test]
fn a_layer_that_keeps_the_contract_passes_every_rule() {
    let report = examine(Fault::None);
    report.assert_kept();
    assert_eq!(report.unchecked, []);
}

#[test]
fn a_layer_that_does_nothing_passes() {
    let report = Contract::new(Identity::new).clones_per_call(0).run();
    report.assert_kept();
    assert_eq!(report.unchecked, [Rule::Outcomes, Rule::Reapplication]);
}

#[test]
fn layers_of_others_raise_no_false_alarm() {
    use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};
    contract::pairs!(
        Contract::new(TraceLayer::new_for_http).clones_per_call(0),
        Contract::new(CatchPanicLayer::new).clones_per_call(0),
    );
}

#[test]
fn a_pair_of_good_layers_passes() {
    contract::pairs!(contract(Fault::None), nothing());
}

#[test]
#[should_panic(expected = "Model over Identity breaks the contract")]
fn a_pair_with_a_broken_layer_fails() {
    contract::pairs!(contract(Fault::LeaksOnDrop), nothing());
}

#[test]
fn calling_an_unready_clone_breaks_readiness() {
    assert_breaks(Fault::CallsUnreadyClone, Rule::Readiness);
}

#[test]
fn a_permit_that_is_lost_between_ready_and_call_breaks_readiness() {
    assert_breaks(Fault::LeaksPermitOfReadiness, Rule::Readiness);
}

#[test]
fn a_permit_that_leaks_when_the_caller_gives_up_breaks_cancel_and_churn() {
    assert_breaks(Fault::LeaksOnDrop, Rule::Cancel);
    assert_breaks(Fault::LeaksOnDrop, Rule::Churn);
    assert_breaks(Fault::LeaksOnDrop, Rule::Bodies);
}

#[test]
fn a_permit_that_leaks_in_a_panic_breaks_panic_and_churn() {
    assert_breaks(Fault::LeaksOnPanic, Rule::Panic);
    assert_breaks(Fault::LeaksOnPanic, Rule::Churn);
}

#[test]
fn state_made_in_layer_breaks_reapplication() {
    let report = Contract::new(|| Model::new(Fault::MintsState))
        .request_body(identity)
        .shared_limit(7, Answer::ok(), || Model::limited(Fault::MintsState, 7))
        .run();
    assert!(report.broke(Rule::Reapplication), "{report}");
}

#[test]
fn a_hook_that_cannot_show_a_leak_is_refused() {
    let report = contract(Fault::LeaksOnDrop).held(|_| 0).run();
    assert!(report.broke(Rule::Cancel), "{report}");
}

#[test]
fn a_buffered_response_breaks_streaming() {
    assert_breaks(Fault::BuffersResponse, Rule::Streaming);
}

#[test]
fn a_buffered_request_breaks_streaming() {
    assert_breaks(Fault::BuffersRequest, Rule::Streaming);
}

#[test]
fn a_cut_request_breaks_streaming() {
    let report = examine(Fault::CutsLongRequests);
    assert!(
        report
            .violations
            .iter()
            .any(|violation| violation.detail.contains("0 bytes arrived")),
        "{report}"
    );
}

#[test]
fn waking_oneself_while_pending_breaks_wakeups() {
    assert_breaks(Fault::SpinsInReadiness, Rule::Wakeups);
    assert_breaks(Fault::SpinsInCall, Rule::Wakeups);
}

#[test]
fn a_lost_wakeup_breaks_wakeups() {
    assert_breaks(Fault::LosesWakeup, Rule::Wakeups);
}

#[test]
fn a_swallowed_or_replaced_error_breaks_errors() {
    assert_breaks(Fault::SwallowsErrors, Rule::Errors);
    assert_breaks(Fault::ReplacesErrors, Rule::Errors);
}

#[test]
fn a_forgotten_length_breaks_bodies() {
    assert_breaks(Fault::ForgetsLength, Rule::Bodies);
}

#[test]
fn lost_trailers_break_bodies() {
    assert_breaks(Fault::DropsTrailers, Rule::Bodies);
}

#[test]
fn a_panic_of_the_layer_itself_breaks_bodies() {
    assert_breaks(Fault::PanicsAtNoContent, Rule::Bodies);
}

#[test]
fn a_body_that_is_kept_after_the_call_breaks_bodies() {
    assert_breaks(Fault::KeepsBody, Rule::Bodies);
}

#[test]
fn waiting_for_the_end_that_hyper_never_polls_breaks_outcomes() {
    let report = examine(Fault::WaitsForNone);
    assert!(report.broke(Rule::Outcomes), "{report}");
    assert!(!report.broke(Rule::Bodies), "{report}");
}

#[test]
fn a_clone_in_every_call_breaks_clones() {
    assert_breaks(Fault::ClonesPerCall, Rule::Clones);
}

#[test]
fn waived_rules_are_listed_as_unchecked() {
    let report = contract(Fault::BuffersResponse)
        .waive(Rule::Streaming)
        .run();
    assert!(!report.broke(Rule::Streaming), "{report}");
    assert!(report.unchecked.contains(&Rule::Streaming), "{report}");
}
