use super::*;

#[test]
fn the_limit_is_whatever_was_busy() {
    let load = Load {
        time: 1000.0,
        bytes: 1e6,
        bits_per_second: None,
        source_cpu: 1.5,
        destination_cpu: 0.3,
        process_cpu: 1.8,
        others: Some(0.1),
        compress_threads: 2,
        decompress_threads: 2,
        cores: 2,
    };
    assert_eq!(limit(&load), Limit::SourceCpu);
    let full = Load {
        bits_per_second: Some(8.5e6),
        ..load
    };
    assert_eq!(limit(&full), Limit::Link, "8 of 8.5 Mbit/s are used");
    let unpacking = Load {
        source_cpu: 0.5,
        destination_cpu: 0.9,
        process_cpu: 1.4,
        decompress_threads: 1,
        cores: 8,
        ..load
    };
    assert_eq!(limit(&unpacking), Limit::DestinationCpu);
    let waiting = Load {
        source_cpu: 0.1,
        destination_cpu: 0.1,
        process_cpu: 0.2,
        bits_per_second: Some(1e9),
        ..load
    };
    assert_eq!(limit(&waiting), Limit::Waiting);
    let half = Load {
        bits_per_second: Some(16e6),
        ..waiting
    };
    assert_eq!(limit(&half), Limit::Link, "the busiest of what is known");
}

#[test]
fn what_was_half_busy_beside_other_programs_is_not_the_limit() {
    // On two cores, of which other programs used one: 72 MB at 1 Gbit/s are 0.58 s.
    let load = Load {
        time: 1100.0,
        bytes: 72e6,
        bits_per_second: Some(1e9),
        source_cpu: 0.64,
        destination_cpu: 0.40,
        process_cpu: 1.1,
        others: Some(1.0),
        compress_threads: 2,
        decompress_threads: 2,
        cores: 2,
    };
    assert_eq!(limit(&load), Limit::Waiting);
    let alone = Load {
        others: Some(0.05),
        ..load
    };
    assert_eq!(limit(&alone), Limit::Link);
    let unknown = Load {
        others: None,
        ..load
    };
    assert_eq!(limit(&unknown), Limit::Link);
    // What is full is full, whatever else there is.
    let one_thread = Load {
        source_cpu: 1.0,
        compress_threads: 1,
        ..load
    };
    assert_eq!(limit(&one_thread), Limit::SourceCpu);
    let slow = Load {
        bits_per_second: Some(6e8),
        ..load
    };
    assert_eq!(limit(&slow), Limit::Link);
}

#[test]
fn work_that_belongs_to_no_stage_counts_too() {
    // 1.55 of 2 cores in the stages of both ends, 1.9 in the process.
    let plain = Load {
        time: 200.0,
        bytes: 186e6,
        bits_per_second: None,
        source_cpu: 0.11,
        destination_cpu: 0.19,
        process_cpu: 0.38,
        others: None,
        compress_threads: 2,
        decompress_threads: 2,
        cores: 2,
    };
    assert_eq!(limit(&plain), Limit::DestinationCpu);
    // The same work on a machine of which others have a half.
    let loaded = Load {
        time: 400.0,
        ..plain
    };
    assert_eq!(limit(&loaded), Limit::Waiting);
}

#[test]
fn why_a_migration_waited_follows_from_what_was_measured() {
    let causes = WaitCauses {
        cores: 2,
        ..WaitCauses::default()
    };
    let words = |causes: WaitCauses| {
        let words = waiting(&causes);
        let end = "; neither the link nor ramferry's CPU time was the limit";
        words.strip_suffix(end).expect(end).to_owned()
    };
    assert_eq!(words(causes), "the two ends waited for each other");
    let busy = WaitCauses {
        others: Some(0.94),
        load: Some(1.5),
        delay: 0.02,
        ..causes
    };
    assert_eq!(words(busy), "other programs used 0.9 of 2 cores");
    let quiet = WaitCauses {
        others: Some(0.1),
        ..busy
    };
    assert_eq!(
        words(quiet),
        "the ends waited for the link, with its delay of 20 ms each way"
    );
    let unknown = WaitCauses {
        others: None,
        delay: 0.0,
        ..busy
    };
    assert_eq!(
        words(unknown),
        "other programs may have been running (load average 1.50)"
    );
    let idle = WaitCauses {
        load: Some(0.1),
        ..unknown
    };
    assert_eq!(words(idle), "the two ends waited for each other");
}
