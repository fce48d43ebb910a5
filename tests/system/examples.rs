//! The examples run, and show what they say they show.

use std::{path::PathBuf, process::Command};

/// An example that `cargo test` has built beside this test.
pub(crate) fn program(example: &str) -> PathBuf {
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
    program
}

/// Runs an example, and gives what it prints.
fn output_of(example: &str) -> String {
    output_with(example, &[])
}

fn output_with(example: &str, arguments: &[&str]) -> String {
    let output = Command::new(program(example))
        .args(arguments)
        .output()
        .unwrap();
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

#[test]
fn three_services_on_one_file_find_each_other_and_pass_the_user_on() {
    let output = output_of("mesh_file");
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 3, "{output}");
    for (line, user) in lines.iter().zip(["ada", "ben", "cleo"]) {
        assert!(line.starts_with(&format!("hello {user}: ")), "{line}");
        let hops: Vec<_> = line.split(" < ").skip(1).collect();
        assert_eq!(hops.len(), 3, "{line}");
        for (hop, service) in hops.iter().zip(["names", "greeter", "web"]) {
            assert!(hop.starts_with(&format!("{service} 1.0 #")), "{line}");
        }
    }
}

#[test]
fn third_party_layers_see_what_ours_refuse_and_leave_it_as_it_is() {
    let output = output_of("third_party_layers");
    for expected in [
        "  /orders/7: 200 OK, numbered: order 7\n",
        "  /bug: 500 Internal Server Error, numbered: ",
        "  /report: 504 Gateway Timeout, numbered: \n",
        r#"  /report in 50 ms: 504 Gateway Timeout, numbered: {"#,
        r#""layer":"deadline""#,
        "  /flaky: 200 OK, numbered: done\n",
    ] {
        assert!(output.contains(expected), "{output} lacks {expected}");
    }
    let line = |what| output.lines().find(|line| line.contains(what)).unwrap();
    let (shed, limited) = (line("/busy at once"), line("12 x /orders/8"));
    assert!(!shed.contains(" 0 x 503"), "{shed}");
    assert!(!limited.contains(" 0 x 429"), "{limited}");
    assert_eq!(output.matches(", all numbered").count(), 2, "{output}");
}

#[test]
fn balancers_are_compared_in_a_scene_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scene.yaml");
    let scene = "
name: two slow
clients: 5
servers: 10
duration: 4s
warmUp: 1s
trouble: { slow: { share: 20%, factor: 5, every: 1h } }
";
    std::fs::write(&file, scene).unwrap();
    let output = output_with(
        "balancers",
        &["--seeds", "1", "--scenario", file.to_str().unwrap()],
    );
    let troubled = |who: &str| -> f64 {
        let line = output.lines().find(|line| line.starts_with(who)).unwrap();
        let share = line.split_whitespace().rev().nth(1).unwrap();
        share.trim_end_matches('%').parse().unwrap()
    };
    // A fifth of the calls for who does not look, and less the better one looks.
    assert!(troubled("tower-mesh round-robin") > 15.0, "{output}");
    assert!(troubled("tower-mesh p2c-ewma") < 10.0, "{output}");
    assert!(troubled("oracle") < 2.0, "{output}");

    std::fs::write(&file, scene.replace("factor: 5", "factor: 0")).unwrap();
    let refused = Command::new(program("balancers"))
        .args(["--scenario".as_ref(), file.as_os_str()])
        .output()
        .unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success());
    assert!(
        error.contains("trouble.slow.factor: got `0`, expected 1 to 1000000"),
        "{error}"
    );
}
