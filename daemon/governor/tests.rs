//! The policy in simulated time: no sensor, no clock.

use super::*;
use crate::config::{Size, Span};
use crate::fault::Code;
use crate::governor::willingness::Refusal;
use crate::job::Priority;

const TRIP: f64 = 99.0;

fn settings() -> Settings {
    Settings { recover: Span(Duration::from_secs(10)), ..Settings::default() }
}

fn heat(celsius: f64) -> Reading {
    let heat = |zone: &str, celsius| Heat { zone: zone.to_owned(), celsius, limit: Some(TRIP) };
    // A zone without a limit and one far from it never decide.
    let free = Heat { zone: "tj".to_owned(), celsius: 150.0, limit: None };
    Reading { heats: vec![free, heat("cpu", celsius), heat("gpu", 20.0)], ..Reading::default() }
}

struct Clock {
    governor: Governor,
    now: Instant,
}

impl Clock {
    fn new(settings: Settings) -> Self {
        Self { governor: Governor::new(settings), now: Instant::now() }
    }

    /// So many seconds later.
    fn after(&mut self, seconds: f64, reading: &Reading) -> Verdict {
        self.now += Duration::from_secs_f64(seconds);
        self.governor.judge(reading, self.now)
    }
}

#[test]
fn each_level_begins_at_its_share_of_the_margin_and_at_once() {
    for (celsius, level) in [
        (40.0, Level::Free),
        (86.9, Level::Free),
        (87.0, Level::Eased),
        (90.0, Level::Slowed),
        (93.0, Level::Shedding),
        (96.0, Level::Refusing),
        (120.0, Level::Refusing),
    ] {
        let verdict = Clock::new(settings()).after(1.0, &heat(celsius));
        assert_eq!(verdict.level, level, "{celsius}");
        assert_eq!(verdict.notices.len(), usize::from(level != Level::Free));
    }
    let verdict = Clock::new(settings()).after(1.0, &heat(93.25));
    let notice = &verdict.notices[0];
    assert_eq!((notice.cause, notice.from, notice.to), (Cause::Heat, "free", "shedding"));
    assert_eq!(notice.reason, "`cpu` is at 93.2 °C, it is throttled at 99.0 °C");
}

#[test]
fn batch_and_piece_are_lowered_before_anything_is_shed_and_alarms_are_never_refused() {
    let mut before = Level::Free.allowance(8, 256);
    for level in Level::ALL {
        let now = level.allowance(8, 256);
        assert!(now.rows_max <= before.rows_max && now.piece_max <= before.piece_max && now.rest >= before.rest);
        assert!(now.rows_max >= 1 && now.piece_max >= 3);
        assert!(level.least() <= Priority::Alarm && now.least <= Priority::Interactive);
        before = now;
    }
    let (eased, slowed) = (Level::Eased.allowance(8, 256), Level::Slowed.allowance(8, 256));
    assert_eq!((eased.rows_max, eased.piece_max, eased.least), (4, 128, Priority::Background));
    assert_eq!((slowed.rows_max, slowed.piece_max, slowed.least), (2, 64, Priority::Background));
    assert_eq!((Level::Slowed.least(), Level::Shedding.least()), (Priority::Background, Priority::Interactive));
    assert_eq!(Level::Refusing.allowance(1, 8).rows_max, 1);
}

#[test]
fn a_level_is_left_one_at_a_time_after_it_was_cooler_for_long_enough() {
    let mut clock = Clock::new(settings());
    assert_eq!(clock.after(0.0, &heat(96.5)).level, Level::Refusing);
    // One degree below the threshold is not enough, and neither is a moment.
    for _ in 0..30 {
        assert_eq!(clock.after(1.0, &heat(95.0)).level, Level::Refusing);
    }
    assert_eq!(clock.after(1.0, &heat(50.0)).level, Level::Refusing);
    assert_eq!(clock.after(9.0, &heat(50.0)).level, Level::Refusing);
    assert_eq!(clock.after(1.0, &heat(50.0)).level, Level::Shedding);
    assert_eq!(clock.after(5.0, &heat(50.0)).level, Level::Shedding);
    assert_eq!(clock.after(5.0, &heat(50.0)).level, Level::Slowed);
    // A relapse counts at once, and the wait begins anew.
    assert_eq!(clock.after(1.0, &heat(93.0)).level, Level::Shedding);
    assert_eq!(clock.after(9.0, &heat(50.0)).level, Level::Shedding);
    assert_eq!(clock.after(9.0, &heat(50.0)).level, Level::Shedding);
    let levels: Vec<Level> = (0..4).map(|_| clock.after(10.0, &heat(50.0)).level).collect();
    assert_eq!(levels, [Level::Slowed, Level::Eased, Level::Free, Level::Free]);
}

#[test]
fn a_temperature_that_swings_around_a_threshold_changes_nothing_twice() {
    let mut clock = Clock::new(settings());
    let changes: usize =
        (0..600).map(|second| clock.after(1.0, &heat(if second % 2 == 0 { 90.5 } else { 88.5 })).notices.len()).sum();
    assert_eq!(changes, 1);
}

#[test]
fn a_board_that_loses_all_thermometers_keeps_its_level_and_then_works_slowly() {
    let mut clock = Clock::new(settings());
    let blind = Reading::default();
    for _ in 0..200 {
        assert_eq!(clock.after(1.0, &blind).level, Level::Free, "one that never had any is not governed");
    }
    for (celsius, level) in [(40.0, Level::Free), (97.0, Level::Refusing)] {
        assert_eq!(clock.after(1.0, &heat(celsius)).level, level);
        for _ in 0..59 {
            assert_eq!(clock.after(1.0, &blind).level, level);
        }
        let verdict = clock.after(1.0, &blind);
        assert_eq!((verdict.level, verdict.notices.len()), (Level::Slowed, 1), "said once");
        assert!(verdict.notices[0].reason.contains("no thermometer"));
        for _ in 0..100 {
            let verdict = clock.after(1.0, &blind);
            assert_eq!((verdict.level, verdict.notices.len()), (Level::Slowed, 0));
        }
        let levels: Vec<Level> = (0..5).map(|_| clock.after(10.0, &heat(40.0)).level).collect();
        assert_eq!(levels.last(), Some(&Level::Free), "with a thermometer it recovers");
    }
}

#[test]
fn a_set_limit_holds_for_every_zone() {
    let mut clock = Clock::new(Settings { heat_max: 60, ..settings() });
    let cool = Reading { heats: vec![Heat { zone: "a".to_owned(), celsius: 55.0, limit: None }], ..Reading::default() };
    assert_eq!(clock.after(1.0, &cool).level, Level::Shedding);
}

#[test]
fn a_power_budget_is_kept_step_by_step_and_a_peak_is_no_draught() {
    let mut clock = Clock::new(Settings { power_max: 15.0, ..settings() });
    let draws = |watts: f64| Reading { watts: Some(watts), ..Reading::default() };
    for _ in 0..20 {
        assert_eq!(clock.after(0.5, &draws(10.0)).level, Level::Free);
    }
    assert_eq!(clock.after(0.25, &draws(25.0)).level, Level::Free, "a quarter of a second");
    // A board whose power falls with each level settles on the first that fits.
    let of_level = |level: Level| [24.0, 20.0, 16.0, 13.0, 8.0][level.number()];
    let mut level = Level::Free;
    let mut seen = Vec::new();
    for _ in 0..240 {
        let next = clock.after(0.5, &draws(of_level(level))).level;
        if next != level {
            seen.push(next);
        }
        level = next;
    }
    assert_eq!(seen[..3], [Level::Eased, Level::Slowed, Level::Shedding]);
    assert!(!seen.contains(&Level::Refusing), "{seen:?}");
    let without = Clock::new(settings()).after(60.0, &draws(500.0)).level;
    assert_eq!(without, Level::Free, "no budget was set");
}

#[test]
fn short_memory_drops_kept_prompts_first_and_refuses_last() {
    let mut clock = Clock::new(Settings { memory_min: Size(100 << 20), ..settings() });
    let left = |mib: u64, pressure: f64| Reading {
        memory_available: Some(mib << 20),
        memory_total: Some(4 << 30),
        memory_pressure: Some(pressure),
        ..Reading::default()
    };
    let state = |verdict: &Verdict| (verdict.squeeze, verdict.forget_prompts);
    assert_eq!(state(&clock.after(1.0, &left(300, 0.0))), (Squeeze::Roomy, false));
    assert_eq!(state(&clock.after(1.0, &left(150, 0.0))), (Squeeze::Tight, true));
    assert_eq!(state(&clock.after(1.0, &left(150, 0.0))), (Squeeze::Tight, false), "dropped once");
    let verdict = clock.after(1.0, &left(90, 0.0));
    assert_eq!(state(&verdict), (Squeeze::Short, true));
    assert!(verdict.memory_reason.contains("90 MiB of memory are available, the least is 100 MiB"));
    assert_eq!(state(&clock.after(30.0, &left(110, 0.0))), (Squeeze::Short, false), "a little more is not enough");
    assert_eq!(clock.after(1.0, &left(500, 0.0)).squeeze, Squeeze::Short);
    assert_eq!(clock.after(10.0, &left(500, 0.0)).squeeze, Squeeze::Tight);
    assert_eq!(clock.after(10.0, &left(500, 0.0)).squeeze, Squeeze::Roomy);
    assert_eq!(clock.after(1.0, &left(3000, 0.06)).squeeze, Squeeze::Tight, "pressure alone");
    assert_eq!(clock.after(1.0, &left(3000, 0.30)).squeeze, Squeeze::Short);
}

#[test]
fn a_sign_of_systemds_watch_drops_kept_prompts_and_signs_that_do_not_end_refuse() {
    let mut clock = Clock::new(settings());
    let reading = |pressed: bool| Reading {
        memory_available: Some(3 << 30),
        memory_total: Some(4 << 30),
        memory_pressed: pressed,
        ..Reading::default()
    };
    let state = |verdict: &Verdict| (verdict.squeeze, verdict.forget_prompts);
    let verdict = clock.after(1.0, &reading(true));
    assert_eq!(state(&verdict), (Squeeze::Tight, true));
    assert!(verdict.memory_reason.contains("systemd says so"), "{}", verdict.memory_reason);
    // One alone is over after `recover`, and nobody was refused.
    let states: Vec<Squeeze> = (0..12).map(|_| clock.after(1.0, &reading(false)).squeeze).collect();
    assert_eq!((states[8], states[11]), (Squeeze::Tight, Squeeze::Roomy));
    assert!(!clock.after(1.0, &reading(false)).memory_reason.contains("systemd"));
    // The kernel says it every two seconds for as long as it lasts.
    let verdicts: Vec<Verdict> = (0..24).map(|second| clock.after(1.0, &reading(second % 2 == 0))).collect();
    let steps_seen = [(Cause::Memory, "roomy", "tight"), (Cause::Memory, "tight", "short")];
    assert_eq!(steps(&verdicts), steps_seen, "a state holds while signs come");
    assert_eq!((verdicts[9].squeeze, verdicts[10].squeeze), (Squeeze::Tight, Squeeze::Short));
    let after: Vec<Verdict> = (0..24).map(|_| clock.after(1.0, &reading(false))).collect();
    assert_eq!(steps(&after), [(Cause::Memory, "short", "tight"), (Cause::Memory, "tight", "roomy")]);
}

/// Judges readings without a figure, a second apart: for a minute nothing may change. Gives the verdicts of the minute after.
fn a_blind_minute_and_the_next(clock: &mut Clock) -> Vec<Verdict> {
    let blind = Reading::default();
    for second in 1..60 {
        assert!(clock.after(1.0, &blind).notices.is_empty(), "after {second} s");
    }
    (0..60).map(|_| clock.after(1.0, &blind)).collect()
}

fn steps(verdicts: &[Verdict]) -> Vec<(Cause, &'static str, &'static str)> {
    verdicts.iter().flat_map(|verdict| &verdict.notices).map(|notice| (notice.cause, notice.from, notice.to)).collect()
}

#[test]
fn short_memory_that_is_not_told_any_more_is_left_step_by_step() {
    let mut clock = Clock::new(settings());
    let left =
        |mib: u64| Reading { memory_available: Some(mib << 20), memory_total: Some(4 << 30), ..Reading::default() };
    assert_eq!(clock.after(1.0, &left(10)).squeeze, Squeeze::Short);
    let verdicts = a_blind_minute_and_the_next(&mut clock);
    assert_eq!(steps(&verdicts), [(Cause::Memory, "short", "tight"), (Cause::Memory, "tight", "roomy")]);
    let short = verdicts.iter().filter(|verdict| verdict.squeeze == Squeeze::Short);
    assert_eq!(short.count(), 10, "it is left after `recover`");
    assert!(verdicts.iter().all(|verdict| verdict.memory_reason.contains("not known any more")));
    assert!(verdicts[10].notices[0].reason.contains("not known any more"));
    assert_eq!(clock.after(1.0, &left(10)).squeeze, Squeeze::Short, "told again, it counts at once");
}

#[test]
fn a_board_that_loses_its_sensor_of_power_leaves_the_level_step_by_step() {
    let mut clock = Clock::new(Settings { power_max: 15.0, ..settings() });
    let draws = |watts: f64| Reading { watts: Some(watts), ..Reading::default() };
    for _ in 0..20 {
        clock.after(1.0, &draws(30.0));
    }
    assert_eq!(clock.governor.reason(), "the board draws 30.0 W, its budget is 15.0 W");
    let verdicts = a_blind_minute_and_the_next(&mut clock);
    let levels = ["refusing", "shedding", "slowed", "eased", "free"];
    assert_eq!(steps(&verdicts), levels.windows(2).map(|w| (Cause::Power, w[0], w[1])).collect::<Vec<_>>());
    assert_eq!(verdicts.iter().filter(|verdict| verdict.level == Level::Refusing).count(), 10);
    assert_eq!(verdicts[10].notices[0].reason, "the board's power is not known any more");
    assert_eq!(clock.after(1.0, &draws(30.0)).level, Level::Eased, "with a sensor it is governed again");
    assert_eq!(clock.governor.reason(), "the board draws 30.0 W, its budget is 15.0 W");

    // Whoever is refused meanwhile is not told a figure of long ago.
    for _ in 0..20 {
        clock.after(1.0, &draws(30.0));
    }
    assert_eq!(clock.after(60.0, &Reading::default()).level, Level::Refusing);
    assert_eq!(clock.governor.reason(), "the board's power is not known any more");
}

#[test]
fn the_refused_are_told_the_numbers_and_when_to_come_back() {
    let willingness = Willingness::default();
    for priority in Priority::ALL {
        assert!(willingness.admit(priority).is_ok());
    }
    let refusal = Refusal {
        code: Code::Thermal,
        least: Priority::Interactive,
        reason: "`cpu` is at 94.0 °C, it is throttled at 99.0 °C".to_owned(),
        retry_after: Duration::from_secs(10),
    };
    willingness.clone().set(Some(refusal.clone()));
    let fault = willingness.admit(Priority::Background).unwrap_err();
    assert_eq!((fault.code, fault.retry_after), (Code::Thermal, Some(Duration::from_secs(10))));
    assert!(fault.message.contains("94.0 °C") && fault.message.contains("`background`"), "{fault}");
    assert!(willingness.admit(Priority::Interactive).is_ok());
    willingness.set(Some(Refusal { least: Priority::Alarm, ..refusal }));
    assert!(willingness.admit(Priority::Interactive).is_err() && willingness.admit(Priority::Alarm).is_ok());
}

/// A small box: a die on a sink in a room. Heat flows from one to the next; the die is warm within seconds, the sink within
/// minutes.
struct Enclosure {
    die: f64,
    sink: f64,
    room: f64,
}

impl Enclosure {
    fn step(&mut self, watts: f64, seconds: f64) {
        let to_sink = (self.die - self.sink) / 0.8;
        let to_room = (self.sink - self.room) / 4.0;
        self.die += seconds * (watts - to_sink) / 2.0;
        self.sink += seconds * (to_sink - to_room) / 40.0;
    }

    /// What the board draws: an idle part, and what the allowance leaves of the work.
    fn watts(level: Level) -> f64 {
        let allowed = level.allowance(8, 256);
        let width = if level == Level::Free {
            1.0
        } else {
            0.5 + f64::from(u32::try_from(allowed.rows_max).unwrap().min(8)) / 16.0
        };
        3.0 + 25.0 * width / (1.0 + f64::from(allowed.rest))
    }
}

#[test]
#[expect(clippy::float_cmp, reason = "set, not computed")]
fn in_a_box_that_would_boil_the_temperature_stays_under_the_trip_point() {
    for room in [25.0, 45.0, 60.0, 70.0] {
        let mut clock = Clock::new(settings());
        let mut enclosure = Enclosure { die: room, sink: room, room };
        let mut unchecked = Enclosure { die: room, sink: room, room };
        let (mut level, mut hottest, mut levels) = (Level::Free, room, vec![Level::Free]);
        // Two hours of full load, read every half second.
        for _ in 0..2 * 7200 {
            for _ in 0..10 {
                enclosure.step(Enclosure::watts(level), 0.05);
                unchecked.step(Enclosure::watts(Level::Free), 0.05);
            }
            hottest = enclosure.die.max(hottest);
            level = clock.after(0.5, &heat(enclosure.die)).level;
            if levels.last() != Some(&level) {
                levels.push(level);
            }
        }
        assert!(unchecked.die > TRIP || room == 25.0, "without a governor it is {:.1} in {room}", unchecked.die);
        assert!(hottest < TRIP, "{hottest:.1} degrees in a room of {room}");
        // It settles: two hours hold at most one change in five seconds on the mean, and usually far fewer.
        assert!(levels.len() < 1440, "{} changes in a room of {room}", levels.len());
        // The load is over: everything is allowed again.
        for _ in 0..2 * 1800 {
            for _ in 0..10 {
                enclosure.step(3.0, 0.05);
            }
            level = clock.after(0.5, &heat(enclosure.die)).level;
        }
        assert_eq!(level, Level::Free, "{:.1} degrees in a room of {room}", enclosure.die);
    }
}
