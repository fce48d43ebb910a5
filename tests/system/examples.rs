//! The examples run, and show what they say they show.

use std::{path::PathBuf, process::Command};

/// Runs an example that `cargo test` has built beside this test, and gives what it prints.
fn output_of(example: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let target: PathBuf = test.ancestors().nth(2).unwrap().join("examples");
    let program = target
        .join(example)
        .with_extension(std::env::consts::EXE_EXTENSION);
    if !program.exists() {
        // With `--test` alone, cargo builds no examples.
        let mut cargo = Command::new(env!("CARGO"));
        let built = cargo
            .args(["build", "--example", example])
            .status()
            .unwrap();
        assert!(built.success(), "{example} does not build");
    }
    let output = Command::new(program).output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{example} failed: {stdout}{stderr}"
    );
    stdout
}

#[test]
fn the_axum_server_limits_orders_and_ends_expired_work() {
    let output = output_of("axum_server");
    let count = |text: &str| output.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("orders/"), 7, "{output}");
    assert!(count("429 Too Many Requests") >= 1, "{output}");
    assert_eq!(count("/report: 504 Gateway Timeout"), 1, "{output}");
}

#[test]
fn the_tonic_client_loses_no_call_to_a_dead_instance() {
    let output = output_of("tonic_client_server");
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 3, "{output}");
    assert!(
        lines[0].contains(":1: 0 calls, 0 failed, refused"),
        "{output}"
    );
    for line in &lines[1..] {
        assert!(line.ends_with("calls, 0 failed, ready"), "{output}");
    }
}

#[test]
fn the_hyper_client_hides_failures_by_retrying() {
    let output = output_of("hyper_client");
    assert_eq!(output.matches("200 OK, an order").count(), 20, "{output}");
    assert!(output.ends_with("9 retries\n"), "{output}");
}
