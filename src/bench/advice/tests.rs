use super::*;
use proptest::prelude::*;

fn cost(time: f64, bytes: f64, cpu: f64) -> Cost {
    Cost {
        time,
        bytes,
        cpu,
        downtime: None,
    }
}

#[test]
fn what_is_nowhere_better_and_somewhere_worse_is_dominated_by_the_fastest() {
    let costs = [
        cost(100.0, 1000.0, 1.0),
        cost(200.0, 500.0, 2.0),
        cost(210.0, 500.0, 2.0),
        cost(300.0, 600.0, 3.0),
        cost(400.0, 400.0, 1.5),
    ];
    assert_eq!(
        dominated_by(&costs),
        [None, None, Some(1), Some(1), None],
        "0 is fastest, 4 smallest"
    );
    assert_eq!(dominated_by(&[costs[0], costs[0]]), [None, None]);
}

#[test]
fn the_front_runs_from_the_fastest_to_the_smallest() {
    let points = [(3.0, 1.0), (1.0, 9.0), (2.0, 9.0), (2.0, 4.0), (2.5, 5.0)];
    assert_eq!(front(&points), [1, 3, 0]);
    assert!(front(&[]).is_empty());
}

#[test]
fn each_goal_has_its_best_and_cpu_decides_between_equals() {
    let with_downtime = |downtime, cost| Cost {
        downtime: Some(downtime),
        ..cost
    };
    let costs = [
        with_downtime(9.0, cost(101.0, 900.0, 1.0)),
        with_downtime(8.0, cost(100.0, 500.0, 2.0)),
        with_downtime(3.0, cost(150.0, 400.0, 3.0)),
    ];
    assert_eq!(
        best(&costs, Goal::Time),
        Some(0),
        "1 % slower, half the CPU"
    );
    assert_eq!(best(&costs, Goal::Bytes), Some(2));
    assert_eq!(best(&costs, Goal::Cpu), Some(0));
    assert_eq!(best(&costs, Goal::Downtime), Some(2));
    assert_eq!(best(&[], Goal::Time), None);
    for goal in Goal::ALL {
        assert_eq!(goal.to_string().parse(), Ok(goal));
    }
    assert!("speed".parse::<Goal>().is_err());
}

#[test]
fn compression_pays_below_the_rate_at_which_plain_takes_as_long() {
    // 1000 bytes plain in 1 ms; 250 bytes in 4 ms. At 2 Mbit/s plain takes 4 ms.
    assert_eq!(
        break_even((1.0, 1000.0), (4.0, 250.0)),
        BreakEven::Below(2e6)
    );
    assert_eq!(break_even((4.0, 1000.0), (4.0, 250.0)), BreakEven::Always);
    assert_eq!(break_even((1.0, 1000.0), (4.0, 1000.0)), BreakEven::Never);
    assert_eq!(break_even((1.0, 1000.0), (0.5, 2000.0)), BreakEven::Never);
    assert_eq!(time_over(4.0, 250.0, 1e6), 4.0);
    assert_eq!(time_over(4.0, 1000.0, 1e6), 8.0);
}

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
fn what_was_half_busy_beside_something_else_limits_nothing() {
    // On two cores, of which something else used one: 72 MB at 1 Gbit/s are 0.58 s.
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
    let untold = Load {
        others: None,
        ..load
    };
    assert_eq!(limit(&untold), Limit::Link);
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
fn work_that_belongs_to_no_stage_uses_the_machine_up_too() {
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
fn why_nothing_was_full_is_told_by_what_was_measured() {
    let around = Around {
        cores: 2,
        ..Around::default()
    };
    let words = |around: Around| {
        let words = waiting(&around);
        let start = "neither the link nor a CPU of ours was full: ";
        words.strip_prefix(start).expect(start).to_owned()
    };
    assert_eq!(words(around), "the two ends waited for each other");
    let busy = Around {
        others: Some(0.94),
        load: Some(1.5),
        delay: 0.02,
        ..around
    };
    assert_eq!(words(busy), "something else used 0.9 of 2 cores");
    let quiet = Around {
        others: Some(0.1),
        ..busy
    };
    assert_eq!(
        words(quiet),
        "the ends waited for the link, which takes 20 ms each way"
    );
    let untold = Around {
        others: None,
        delay: 0.0,
        ..busy
    };
    assert_eq!(
        words(untold),
        "was the machine busy with something else? load average 1.50"
    );
    let idle = Around {
        load: Some(0.1),
        ..untold
    };
    assert_eq!(words(idle), "the two ends waited for each other");
}

proptest! {
    #[test]
    fn nothing_on_the_front_is_beaten_and_everything_else_is(
        points in prop::collection::vec((0..20_i32, 0..20_i32), 0..30)
    ) {
        let points: Vec<(f64, f64)> =
            points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
        let front = front(&points);
        for (index, point) in points.iter().enumerate() {
            let beaten = points.iter().any(|other| {
                other.0 <= point.0 && other.1 <= point.1 && other != point
            });
            let twin = front.iter().any(|other| points[*other] == *point);
            prop_assert_eq!(!beaten, twin, "{} {:?}", index, point);
        }
    }

    #[test]
    fn compression_wins_below_the_break_even_and_loses_above(
        plain in (1.0..1e4_f64, 1e3..1e9_f64),
        slower in 1.01..20.0_f64,
        smaller in 0.05..0.95_f64,
        factor in 1.01..10.0_f64,
    ) {
        let packed = (plain.0 * slower, plain.1 * smaller);
        let BreakEven::Below(rate) = break_even(plain, packed) else {
            return Err(TestCaseError::fail("slower and smaller"));
        };
        let times = |rate| {
            (time_over(plain.0, plain.1, rate), time_over(packed.0, packed.1, rate))
        };
        let (without, with) = times(rate / factor);
        prop_assert!(with < without);
        let (without, with) = times(rate * factor);
        prop_assert!(with > without);
    }

    #[test]
    fn the_best_of_a_goal_is_within_2_percent_of_the_least(
        costs in prop::collection::vec((1.0..9.0_f64, 1.0..9.0_f64, 1.0..9.0_f64), 1..12)
    ) {
        let costs: Vec<Cost> = costs.into_iter().map(|(t, b, c)| cost(t, b, c)).collect();
        for goal in Goal::ALL {
            let chosen = costs[best(&costs, goal).expect("there are some")];
            prop_assert!(costs.iter().all(|cost| chosen.of(goal) <= cost.of(goal) * 1.021));
        }
    }
}
