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
