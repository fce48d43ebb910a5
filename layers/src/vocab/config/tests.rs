use proptest::prelude::*;

use super::*;

#[test]
fn durations_parse_as_written() {
    for (text, nanos) in [
        ("0", 0),
        ("0s", 0),
        ("600ms", 600_000_000),
        ("1.5s", 1_500_000_000),
        ("1m30s", 90_000_000_000),
        (" 2h ", 7_200_000_000_000),
        ("0.25us", 250),
        ("0.5ns", 0),
    ] {
        assert_eq!(duration::parse(text).unwrap().as_nanos(), nanos, "{text}");
    }
}

#[test]
fn durations_that_could_be_misread_are_refused() {
    for text in [
        "",
        "5",
        "s",
        "1.s",
        ".5s",
        "1.2.3s",
        "-1s",
        "1s1m",
        "1s2s",
        "1d",
        "1 s",
        "9e9s",
        "99999999999h",
    ] {
        let error = duration::parse(text).unwrap_err();
        assert_eq!(error.value(), text);
        assert!(error.expected().contains("600ms"), "{error}");
    }
}

#[test]
fn ratios_parse_as_written() {
    assert_eq!("20%".parse::<Ratio>().unwrap(), Ratio::percent(20));
    assert_eq!("0.5 %".parse::<Ratio>().unwrap().as_f64(), 0.005);
    assert_eq!("100%".parse::<Ratio>().unwrap(), Ratio::ONE);
    for text in [
        "", "%", "20", "0.2", "101%", "-1%", "+1%", "NaN%", "inf%", "1%%",
    ] {
        let error = text.parse::<Ratio>().unwrap_err();
        assert_eq!((error.value(), error.expected()), (text, Ratio::EXPECTED));
    }
    assert!(Ratio::new(f64::NAN).is_err());
}

#[test]
fn a_share_of_a_whole_is_exact_where_it_can_be() {
    for percent in 0..=100_u8 {
        assert_eq!(Ratio::percent(percent).of(100), usize::from(percent));
        assert_eq!(Ratio::percent(percent).to_string(), format!("{percent}%"));
    }
}

#[test]
fn a_nested_error_names_the_whole_path() {
    let error = in_range("minCalls", 0, 1..=1000)
        .unwrap_err()
        .at("[2]")
        .at("breakers")
        .at("orders");
    assert_eq!(
        error.to_string(),
        "orders.breakers[2].minCalls: got `0`, expected 1 to 1000"
    );
}

#[test]
fn serde_reads_what_it_writes_and_says_what_it_expected() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        #[serde(with = "duration")]
        every: Duration,
        #[serde(
            with = "duration::option",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        limit: Option<Duration>,
        share: Ratio,
    }
    let sample = Sample {
        every: Duration::from_millis(90_500),
        limit: None,
        share: Ratio::percent(7),
    };
    let text = serde_json::to_string(&sample).unwrap();
    assert_eq!(text, r#"{"every":"1m30s500ms","share":"7%"}"#);
    assert_eq!(serde_json::from_str::<Sample>(&text).unwrap(), sample);

    let limited = r#"{"every":"1s","limit":"5s","share":"0%"}"#;
    let limit = serde_json::from_str::<Sample>(limited).unwrap().limit;
    assert_eq!(limit, Some(Duration::from_secs(5)));

    let error = serde_json::from_str::<Sample>(r#"{"every":5,"share":"7%"}"#).unwrap_err();
    assert!(
        error.to_string().contains("got `5`, expected a duration"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn every_duration_reads_back(nanos in any::<u64>()) {
        let duration = Duration::from_nanos(nanos);
        prop_assert_eq!(duration::parse(&duration::display(duration).to_string()).unwrap(), duration);
    }

    #[test]
    fn no_text_panics(text in ".*") {
        let _ = duration::parse(&text);
        let _ = text.parse::<Ratio>();
    }
}
