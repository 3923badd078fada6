//! What moed finds on each board of `tests/boards/`, and on one whose sensors are broken.

mod harness;

use harness::boards::BoardTree;
use moed::board::files::Files;
use moed::board::rails::Rails;
use moed::board::report::{Report, report};

fn look(name: &str) -> Report {
    report(&BoardTree::of(name).roots())
}

/// Zones with their temperatures and limits, in tenths of a degree.
fn heats(report: &Report) -> Vec<String> {
    let limit = |limit: Option<f64>| limit.map_or("-".to_owned(), |limit| format!("{limit:.0}"));
    report.heats.iter().map(|heat| format!("{} {:.1} {}", heat.zone, heat.celsius, limit(heat.limit))).collect()
}

fn rails(report: &Report) -> Vec<String> {
    report.powers.rails.iter().map(|power| format!("{} {:.2}", power.rail, power.watts)).collect()
}

fn total(report: &Report) -> Option<String> {
    report.powers.total.map(|watts| format!("{watts:.2} {}", report.whole))
}

#[test]
fn orin_nano() {
    let report = look("orin-nano");
    assert_eq!(
        heats(&report),
        ["cpu-thermal 51.2 99", "gpu-thermal 50.5 99", "tj-thermal 51.2 -"],
        "gated zones are out"
    );
    assert_eq!(rails(&report), ["VDD_IN 6.00", "VDD_CPU_GPU_CV 1.00", "VDD_SOC 1.40"]);
    assert_eq!(total(&report).unwrap(), "6.00 VDD_IN", "not the sum, which has parts of it twice");
    assert_eq!((report.load.gpu, report.throttling.events), (Some(0.125), 7));
    assert_eq!(report.load.clocks, [("gpu".to_owned(), 306e6), ("cpu".to_owned(), 1510.4e6)]);
    assert!(report.throttling.now.is_empty(), "a fan that turns slows nothing");
    assert_eq!(report.memory.available, Some(5_120_000 * 1024));
    let identity = &report.identity;
    assert_eq!(identity.l4t.as_deref(), Some("36.4.3"));
    assert_eq!((identity.jetpack, identity.power_mode.as_deref()), (Some("JetPack 6"), Some("15W")));
    let advice = report.advice();
    assert!(advice.len() == 1 && advice[0].contains("zram"), "{advice:?}");
}

#[test]
fn orin_nx() {
    let report = look("orin-nx");
    assert_eq!(heats(&report), ["CPU-therm 98.5 99", "GPU-therm 99.1 99"]);
    assert_eq!(total(&report).unwrap(), "19.00 VDD_IN");
    assert_eq!(report.throttling.now, ["gpu-throttle-alert"]);
    assert_eq!(report.load.gpu, Some(0.998));
    assert_eq!(report.identity.jetpack, Some("JetPack 5"));
    assert_eq!(report.identity.power_mode.as_deref(), Some("25W"));
    let advice = report.advice().join("\n");
    assert!(advice.contains("CONFIG_PSI") && advice.contains("gpu-throttle-alert"), "{advice}");
}

#[test]
fn agx_orin() {
    let report = look("agx-orin");
    assert_eq!(heats(&report), ["cpu-thermal 47.5 99", "tboard-thermal 38.2 82"]);
    assert_eq!(
        total(&report).unwrap(),
        "10.00 VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0",
        "unconnected channels and what hangs behind another rail do not count"
    );
    assert_eq!(rails(&report).last().unwrap(), "VDDQ_VDD2_1V8AO 1.50");
    assert_eq!((report.memory.some_pressure, report.memory.full_pressure), (Some(0.015), Some(0.0025)));
    assert!(report.advice().is_empty(), "{:?}", report.advice());
}

#[test]
fn xavier() {
    let report = look("xavier");
    assert_eq!(heats(&report), ["CPU-therm 42.0 86", "GPU-therm 41.5 -"], "a constant is no temperature");
    assert_eq!(total(&report).unwrap(), "7.13 GPU+CPU+SOC+CV+VDDRQ+SYS5V");
    assert_eq!(report.identity.power_mode.as_deref(), Some("mode 2"), "without the table the number must do");
}

#[test]
fn thor() {
    let report = look("thor");
    assert_eq!(total(&report).unwrap(), "41.50 VIN", "microwatts");
    assert_eq!(rails(&report)[2], "VIN_SYS_5V0 8.85");
    assert_eq!(heats(&report)[0], "cpu-thermal 53.0 109");
    assert_eq!((report.load.gpu, report.identity.jetpack), (Some(0.3), Some("JetPack 7")));
    assert_eq!(report.load.clocks, [("gpu".to_owned(), 1575e6)]);
}

#[test]
fn raspberry_pi_5() {
    let report = look("raspberry-pi-5");
    assert_eq!(heats(&report), ["cpu-thermal 61.1 85"], "the firmware throttles well below the critical point");
    assert_eq!((report.powers.total, report.whole.as_str()), (None, ""));
    assert!(report.throttling.now.is_empty(), "the high bits are of the past");
    let tree = BoardTree::of("raspberry-pi-5");
    tree.write("sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "0x50005");
    let report = moed::board::report::report(&tree.roots());
    assert_eq!(report.throttling.now, ["firmware"]);
    assert!(!report.is_unified() && !report.swaps[0].zram);
}

#[test]
fn a_plain_pc() {
    let report = look("pc");
    assert_eq!(heats(&report), ["acpitz 27.8 94", "x86_pkg_temp 46.0 -", "acpitz-#2 29.8 -"]);
    assert_eq!(report.throttling.events, 7);
    assert_eq!(report.memory.some_pressure, Some(0.125));
    assert_eq!(report.identity.model.as_deref(), Some("OptiPlex 7010"));
    assert_eq!(report.room, Some(3_000_000_000), "the control group has less left than the machine");
}

#[test]
fn a_counter_of_energy_is_power_between_two_looks_also_when_it_wraps() {
    let tree = BoardTree::of("pc");
    let files = Files::new(tree.roots());
    let mut rails = Rails::find(&files);
    let start = std::time::Instant::now();
    let at = |seconds: u64| move || start + std::time::Duration::from_secs(seconds);
    assert_eq!(rails.whole(), "package-0", "what lies inside the package is part of it");
    assert_eq!(rails.read(&files, at(0)).total, None, "one look says nothing");
    tree.write("sys/class/powercap/intel-rapl:0/energy_uj", "31000000");
    assert_eq!(rails.read(&files, at(2)).total, Some(15.0));
    tree.write("sys/class/powercap/intel-rapl:0/energy_uj", "262143328850");
    rails.read(&files, at(3));
    tree.write("sys/class/powercap/intel-rapl:0/energy_uj", "7000000");
    assert_eq!(rails.read(&files, at(4)).total, Some(7.0), "from the end of the range on");
}

#[test]
fn a_board_without_anything_is_a_board_too() {
    let report = report(&BoardTree::empty().roots());
    assert_eq!(report, Report::default());
    let json = report.to_json();
    assert_eq!(json["power"]["watts"], serde_json::Value::Null);
    assert!(report.lines().contains(&("power", "no sensor".to_owned())));
}

#[test]
fn sensors_that_vanish_or_say_nonsense_or_block_are_left_out() {
    let tree = BoardTree::of("orin-nano");
    let files = Files::new(tree.roots());
    let zones = moed::board::heat::zones(&files);
    let mut rails = Rails::find(&files);
    for nonsense in ["", "warm", "999999999", "-70000", "\u{0}\u{ff}", "1e5"] {
        tree.write("sys/class/thermal/thermal_zone0/temp", nonsense);
        tree.write("sys/class/hwmon/hwmon1/curr1_input", if nonsense == "-70000" { "-1200" } else { nonsense });
        let heats = moed::board::heat::read(&files, &zones);
        assert!(heats.iter().all(|heat| heat.zone != "cpu-thermal"), "{nonsense:?}: {heats:?}");
        assert_eq!(rails.read(&files, std::time::Instant::now).total, None, "{nonsense:?}");
    }
    tree.remove("sys/class/thermal/thermal_zone1/temp");
    tree.remove("sys/class/hwmon/hwmon1/in1_input");
    assert_eq!(moed::board::heat::read(&files, &zones).len(), 1, "tj-thermal alone");
    let powers = rails.read(&files, std::time::Instant::now);
    assert_eq!((powers.rails.len(), powers.total), (2, None), "the whole is not guessed from its parts");

    tree.block("sys/class/thermal/thermal_zone8/temp");
    let report = report(&tree.roots());
    assert!(report.heats.is_empty());
    assert!(report.blocked.len() == 1 && report.blocked[0].ends_with("thermal_zone8/temp"), "{:?}", report.blocked);
    assert_eq!(report.identity.l4t.as_deref(), Some("36.4.3"), "the rest is read");
    assert!(report.advice().iter().any(|line| line.contains("thermal_zone8/temp` blocks")));
}
