//! What our layers cost, next to the peers that a user would otherwise take.
//!
//! `cargo bench --bench layers` prints a table, one `row` per case and one `bar` per promise, and fails if a bar or a
//! number does. `-- --only retry` (a policy's name, `stack`, or `sockets`) measures one part.
//!
//! | column | what |
//! |---|---|
//! | added Ir, allocs | instructions (without the allocator's) and allocations per call over the bare service, counted by callgrind (needs valgrind) |
//! | added ns, p10 | thread CPU over the bare service: median of paired differences, and difference of tenth percentiles |
//! | ratio | added CPU of the peer over ours; in our own row, of the nearest peer |
//! | scale2 | throughput of two pinned threads on one shared layer over that of one |
//! | ns2 | thread CPU over the bare service while two such threads run |
//!
//! Every call clones the service, polls it ready, calls it, and drains the body; the service is pending once and answers
//! one data frame (gRPC: and trailers). Requests: `http` and `grpc` carry what axum or tonic put into the extensions,
//! `-context` our call context too, `-empty` no extensions at all.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a report is what this program is for"
)]

mod support;

use std::env;
use std::process::ExitCode;

use metrics_util::debugging::DebuggingRecorder;
use tokio::runtime::Builder;

use self::support::bar;
use self::support::callgrind::{self, Counted};
use self::support::cpu::{self, Added};
use self::support::drive::Ops;
use self::support::report::{self, Row};
use self::support::scale::Scale;
use self::support::sockets::{self, Target};
use self::support::stats::quantile;
use self::support::subjects::{POLICIES, Policy, Role, SUBJECTS, Subject};
use self::support::traffic::{SCENARIOS, Scenario, Template};
use self::support::{bars, scale};

const SOCKETS: &str = "sockets";
/// A layer that adds less than the clock can tell is counted as this many nanoseconds.
const LEAST_NANOS: f64 = 1.0;

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
struct Part {
    only: Option<Policy>,
    layers: bool,
    sockets: bool,
}

struct Case {
    subject: Subject,
    scenario: Scenario,
    /// `None`: nothing to measure yet.
    ops: Option<Box<dyn Ops>>,
}

fn main() -> ExitCode {
    if env::var_os(sockets::client::CHILD).is_some() {
        sockets::client::main().expect("the client's connections");
        return ExitCode::SUCCESS;
    }
    DebuggingRecorder::new()
        .install()
        .expect("the first recorder");
    // Layers are built, and may start tasks, on a runtime that runs beside the measured calls.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let _entered = runtime.enter();
    if let Ok(only) = env::var(callgrind::CHILD) {
        count_here(&only);
        return ExitCode::SUCCESS;
    }
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let name = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => String::new(),
        (Some("--only"), Some(name)) => name,
        (other, _) => panic!("unknown argument {other:?}: only `--only <part>` is known"),
    };
    // `cargo test --all-targets` runs benches too, without this flag: there it is enough that every case works.
    if !env::args().any(|argument| argument == "--bench") {
        cpu::block_on(async { smoke() });
        return ExitCode::SUCCESS;
    }
    run(
        &name,
        Part::parse(&name).unwrap_or_else(|| panic!("there is no part {name:?}")),
    )
}

fn run(name: &str, part: Part) -> ExitCode {
    let mut bars = Vec::new();
    let mut complete = true;
    if part.layers {
        let rows = rows(name, part.only);
        report::print_table(&rows);
        report::print_control(&rows);
        complete = report::print_rows(&rows);
        bars = bars::of_rows(&rows, part.only);
    }
    if part.sockets {
        eprintln!("timing real sockets");
        let targets = sockets::measure();
        let targets = targets
            .map_err(|error| eprintln!("sockets FAILED: {error}"))
            .ok();
        print_sockets(targets.as_deref().unwrap_or_default());
        bars.push(bars::of_sockets(targets.as_deref()));
    }
    let hold = bar::print_bars(&bars);
    if complete && hold {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Measures everything that the rows tell.
fn rows(name: &str, only: Option<Policy>) -> Vec<Row> {
    let cases = cases(only);
    let mut rows: Vec<Row> = cases.iter().map(Row::empty).collect();
    let filled: Vec<usize> = (0..cases.len())
        .filter(|&at| cases[at].ops.is_some())
        .collect();
    eprintln!(
        "counting instructions and allocations of {} cases",
        filled.len()
    );
    match callgrind::count(filled.len(), name) {
        Ok(counts) => fill_counts(&mut rows, &filled, &counts),
        Err(error) => eprintln!("instruction counts FAILED: {error}"),
    }
    eprintln!("timing added CPU");
    for scenario in SCENARIOS {
        for policy in POLICIES {
            fill_costs(&mut rows, &cases, policy, scenario);
        }
    }
    eprintln!("timing two threads");
    for row in &mut rows {
        row.scale = scale::two_threads(&row.subject, row.scenario);
    }
    take_bare_off(&mut rows);
    rows
}

/// The order is the order of the rows, and the contract with the child that counts.
fn cases(only: Option<Policy>) -> Vec<Case> {
    let mut cases = Vec::new();
    for scenario in SCENARIOS {
        for subject in SUBJECTS {
            let asked = only.is_none_or(|only| only == subject.policy);
            if asked || subject.policy == Policy::Bare {
                cases.push(Case {
                    subject,
                    scenario,
                    ops: (subject.make)(scenario.protocol),
                });
            }
        }
    }
    cases
}

/// The child under callgrind.
fn count_here(only: &str) {
    let part = Part::parse(only).expect("the parent checked the name");
    for case in cases(part.only) {
        if let Some(ops) = case.ops {
            let template = Template::new(case.scenario);
            callgrind::count_here(&mut |count| ops.run(&template, count));
        }
    }
}

fn smoke() {
    for case in cases(None) {
        if let Some(ops) = case.ops {
            ops.run(&Template::new(case.scenario), 10);
        }
    }
}

/// Takes the bare service of the same scenario off every count.
fn fill_counts(rows: &mut [Row], filled: &[usize], counts: &[Counted]) {
    let mut base = None;
    for (&at, &counted) in filled.iter().zip(counts) {
        // Every scenario starts with its bare service.
        if rows[at].subject.role == Role::Base {
            base = Some(counted);
        }
        rows[at].counted = base.map(|base| Counted {
            instructions: counted.instructions - base.instructions,
            allocations: counted.allocations - base.allocations,
            ..counted
        });
    }
}

/// The same for the CPU of two threads.
fn take_bare_off(rows: &mut [Row]) {
    let mut base = None;
    for row in rows {
        if row.subject.role == Role::Base {
            base = row.scale.map(|scale| scale.nanos);
        }
        row.scale = row.scale.and_then(|scale| {
            Some(Scale {
                nanos: scale.nanos - base?,
                ..scale
            })
        });
    }
}

/// Interleaves the bare service with all layers of one policy.
fn fill_costs(rows: &mut [Row], cases: &[Case], policy: Policy, scenario: Scenario) {
    let group: Vec<(usize, &dyn Ops)> = cases
        .iter()
        .enumerate()
        .filter(|(_, case)| case.scenario == scenario)
        .filter(|(_, case)| [Policy::Bare, policy].contains(&case.subject.policy))
        .filter_map(|(at, case)| Some((at, case.ops.as_deref()?)))
        .collect();
    let template = Template::new(scenario);
    let mut ops: Vec<_> = group
        .iter()
        .map(|&(_, ops)| |count| ops.run(&template, count))
        .collect();
    let mut loops: Vec<cpu::Loop<'_>> = Vec::new();
    loops.extend(ops.iter_mut().map(|run| run as cpu::Loop<'_>));
    let costs = cpu::added(&mut loops);
    let cost_of = |role| {
        let found = group
            .iter()
            .zip(&costs)
            .find(|((at, _), _)| rows[*at].subject.role == role);
        found.map(|(_, cost): (_, &Added)| cost.median.max(LEAST_NANOS))
    };
    let (ours, nearest) = (cost_of(Role::Ours), cost_of(Role::Nearest));
    for ((at, _), cost) in group.iter().zip(&costs) {
        let row = &mut rows[*at];
        row.added = Some(*cost);
        row.ratio = match row.subject.role {
            Role::Base => Some(0.0),
            Role::Ours => nearest.map(|peer| peer / cost.median.max(LEAST_NANOS)),
            Role::Nearest | Role::Peer => ours.map(|ours| cost.median / ours),
        };
    }
}

fn print_sockets(targets: &[Target]) {
    for target in targets {
        let at = |sample: &[f64], q| quantile(sample, q).unwrap_or(f64::NAN);
        println!(
            "sockets {:<10} server CPU per request {:>6.2} us (p10 {:.2}), added {:>5.2} % \
             (quartiles {:.2} to {:.2}, {} rounds)",
            target.name,
            at(&target.micros, 0.5),
            at(&target.micros, 0.1),
            at(&target.added_percent, 0.5),
            at(&target.added_percent, 0.25),
            at(&target.added_percent, 0.75),
            target.micros.len(),
        );
    }
}

// ===== impl Part =====

impl Part {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "" => Some(Self {
                only: None,
                layers: true,
                sockets: true,
            }),
            SOCKETS => Some(Self {
                only: None,
                layers: false,
                sockets: true,
            }),
            name => {
                let only = POLICIES.into_iter().find(|policy| policy.name() == name)?;
                Some(Self {
                    only: Some(only),
                    layers: true,
                    sockets: only == Policy::Stack,
                })
            }
        }
    }
}

// ===== impl Row =====

impl Row {
    fn empty(case: &Case) -> Self {
        Self {
            subject: case.subject,
            scenario: case.scenario,
            counted: None,
            added: None,
            scale: None,
            ratio: None,
        }
    }
}
