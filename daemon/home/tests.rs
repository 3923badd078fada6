//! Devices as they are announced, hostile ones among them; what a request gets; what a call comes to.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use super::series::{Operation, Series, Window};
use super::*;
use crate::job::{Origin, Transport};

fn job(question: &str) -> Job {
    let origin = Origin { transport: Transport::Mqtt, client: "lamp".into() };
    Job { tools_unsaid: true, ..Job::new(origin, vec![Message::text(Role::User, question)]) }
}

fn numbered(count: usize) -> Vec<Device> {
    (0..count).map(|index| Device::new(format!("Lamp {index}"), Kind::Light, format!("Room {}", index / 5))).collect()
}

fn text(message: &Message) -> &str {
    message.content.as_deref().unwrap_or_default()
}

#[test]
fn a_request_without_tools_gets_devices_and_tools_and_one_with_tools_none_at_all() {
    let (home, _) = Home::new(vec![
        Device {
            floor: "ground floor".into(),
            aliases: vec!["Big Lamp".into()],
            ..Device::new("Lamp", Kind::Light, "Hall")
        },
        Device::new("Freezer", Kind::Sensor, ""),
    ]);
    let mut bare = job("lamp on");
    let furnished = home.furnish(&mut bare).unwrap();
    assert_eq!(bare.messages[0].role, Role::System);
    assert_eq!(
        text(&bare.messages[0]),
        "You are moed.\nDevices:\nLamp / Big Lamp (light, Hall, ground floor)\nFreezer (sensor)"
    );
    let names: Vec<&str> = bare.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(
        names,
        ["device_set", "area_set", "device_get", "timer_set", "timer_cancel", "sensor_stats", "rule_add"]
    );
    let device =
        |tools: &[Tool], index: usize| tools[index].parameters.as_ref().unwrap()["properties"]["device"].clone();
    assert_eq!(device(&bare.tools, 0), json!({"type": "string"}), "the prompt is not made longer by names");
    let settings = furnished.narrowed[0].parameters.as_ref().unwrap()["anyOf"].as_array().unwrap();
    let of = |index: usize, what: &str| settings[index]["properties"][what].clone();
    assert_eq!((settings.len(), of(0, "device")), (4, json!({"enum": ["Lamp"]})));
    assert_eq!((of(1, "property"), of(1, "value")["maximum"].clone()), (json!({"const": "brightness"}), json!(100)));
    assert_eq!(of(3, "device"), json!({"const": "none of these"}));
    assert_eq!(device(&furnished.narrowed, 5)["enum"], json!(["Freezer", "none of these"]));

    let mut with_system = job("lamp on");
    with_system.messages.insert(0, Message::text(Role::System, "Be brief."));
    home.furnish(&mut with_system).unwrap();
    assert!(text(&with_system.messages[0]).starts_with("Be brief.\n\nDevices:\n"), "{with_system:?}");

    let mut said = job("lamp on");
    said.tools_unsaid = false;
    assert!(home.furnish(&mut said).is_none() && said.tools.is_empty() && said.messages.len() == 1);
    let mut shaped = job("lamp on");
    shaped.format = Format::JsonObject;
    assert!(home.furnish(&mut shaped).is_none());
    assert!(Home::default().furnish(&mut job("lamp on")).is_none(), "without devices there is nothing to add");
}

#[test]
fn of_five_hundred_devices_the_ones_that_are_meant_are_shown() {
    let mut devices = numbered(500);
    devices[333] = Device::new("Aquarium Heater", Kind::Switch, "Den");
    let (home, left_out) = Home::new(devices);
    assert_eq!(left_out, 0);
    let shown = |question: &str| {
        let mut job = job(question);
        home.furnish(&mut job).unwrap();
        text(&job.messages[0]).lines().skip(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let heater = shown("is the aquarium heater on?");
    assert!(
        heater.first().is_some_and(|line| line == "Aquarium Heater (switch, Den)") && heater.len() <= 12,
        "{heater:?}"
    );
    assert!(shown("LAMP 77 off please").contains(&"Lamp 77 (light, Room 15)".to_owned()));
    let room = shown("everything in room 42 off");
    for index in 210..215 {
        assert!(room.contains(&format!("Lamp {index} (light, Room 42)")), "{room:?}");
    }
    assert_eq!(shown("bonjour").len(), 24, "where no word tells, more is shown");
    assert_eq!(shown("bonjour"), shown("bonjour"), "the list is the same for the same question");
}

#[test]
fn hostile_names_become_one_short_line_each_and_no_two_are_alike() {
    let long = "x".repeat(200);
    let names = [
        "<|im_end|>",
        "a \"quoted\" 'name'",
        long.as_str(),
        "",
        "\u{0}\n\t",
        "Twin",
        "twin",
        "Küche 台所",
        "two\nlines",
    ];
    let devices = names.iter().map(|name| Device::new(*name, Kind::Light, "Hall")).collect();
    let (home, left_out) = Home::new(devices);
    let names: Vec<String> = home.devices().iter().map(|device| device.name.clone()).collect();
    assert_eq!(left_out, 2);
    assert_eq!(
        names,
        ["<|im_end|>", "a \"quoted\" 'name'", &long[..64], "Twin", "twin (Hall)", "Küche 台所", "two lines"]
    );
    let (_, left_out) = Home::new(numbered(1200));
    assert_eq!(left_out, 200);
}

#[test]
fn figures_are_right_to_the_minute_over_two_days_and_to_the_hour_over_a_month() {
    let now: Timestamp = "2026-06-15T12:00:30Z".parse().unwrap();
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    let mut series = Series::default();
    let at = |minutes: i64| now.checked_sub(minutes.minutes()).unwrap();
    for (minutes, text) in
        [(50 * 60, "30"), (36 * 60, "10 °C"), (90, "21.5"), (30, "-3"), (10, "1,000.5 W"), (5, "off")]
    {
        series.push(text, at(minutes));
    }
    let of = |series: &Series, operation, window: &str| {
        let window = Window::named(window, now, &zone).unwrap();
        series.figure(operation, window).map(|figure| figure.value)
    };
    let figure = |operation, window: &str| of(&series, operation, window);
    assert_eq!(figure(Operation::Max, "1h"), Some(1000.5));
    assert_eq!(figure(Operation::Min, "1h"), Some(-3.0));
    assert_eq!(figure(Operation::Count, "24h"), Some(3.0));
    assert_eq!(figure(Operation::Mean, "24h"), Some((21.5 - 3.0 + 1000.5) / 3.0));
    assert_eq!(figure(Operation::Trend, "24h"), Some(1000.5 - 21.5));
    // Where the zone is two hours ahead, midnight was at 22:00 and 36 hours ago was 02:00 of yesterday.
    assert_eq!(figure(Operation::Count, "yesterday"), Some(1.0));
    assert_eq!(figure(Operation::Count, "today"), Some(3.0));
    assert_eq!(figure(Operation::Max, "7d"), Some(1000.5));
    assert_eq!(figure(Operation::Count, "30d"), Some(5.0));
    assert_eq!(Series::default().figure(Operation::Max, Window::named("1h", now, &zone).unwrap()), None);
    assert!(Window::named("2h", now, &zone).is_none());
    // A clock that went back loses nothing and mixes no order.
    series.push("7", at(60));
    assert_eq!(of(&series, Operation::Count, "24h"), Some(4.0));
}

#[test]
fn a_series_is_bounded_however_long_it_runs() {
    let begin: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut series = Series::default();
    for minute in 0..60 * 24 * 40 {
        series.push("1", begin.checked_add(i64::from(minute).minutes()).unwrap());
    }
    let now = begin.checked_add((40 * 24).hours()).unwrap();
    let figure = series.figure(Operation::Count, Window::named("30d", now, &TimeZone::UTC).unwrap()).unwrap();
    assert!((figure.value - 43_200.0).abs() <= 120.0, "{figure:?}");
    assert!(std::mem::size_of_val(&series) < 100 && format!("{series:?}").len() < 2_000_000);
}

#[test]
fn what_home_assistant_and_zigbee2mqtt_announce_is_read() {
    let config = json!({
        "name": "Temperature", "~": "plant/ahu3", "stat_t": "~/state", "unit_of_meas": "°C", "val_tpl": "{{ value_json.supply }}",
        "dev": {"name": "AHU-3", "sa": "Roof"}
    });
    let device =
        discovery::home_assistant("homeassistant/sensor/ahu3/supply/config", config.to_string().as_bytes()).unwrap();
    let told = ("AHU-3 Temperature", Kind::Sensor, "Roof", "°C", "plant/ahu3/state");
    assert_eq!(
        (device.name.as_str(), device.kind, device.area.as_str(), device.unit.as_str(), device.topic.as_str()),
        told
    );
    assert_eq!(discovery::state(&device, br#"{"supply": 18.25, "fan": true}"#).as_deref(), Some("18.25"));
    assert_eq!(discovery::state(&device, br#"{"fan": true}"#), None);
    let garage = json!({"name": "Garage", "device_class": "garage", "state_topic": "g"}).to_string();
    let garage = discovery::home_assistant("homeassistant/cover/garage/config", garage.as_bytes()).unwrap();
    assert_eq!((garage.risk(), discovery::state(&garage, b"open").as_deref()), (Risk::High, Some("open")));
    for (topic, payload) in [
        ("homeassistant/sensor/x/config", ""),
        ("homeassistant/sensor/x/config", "[]"),
        ("homeassistant/camera/x/config", r#"{"name": "x"}"#),
        ("homeassistant/sensor/x/state", r#"{"name": "x"}"#),
        ("config", r#"{"name": "x"}"#),
    ] {
        assert_eq!(discovery::home_assistant(topic, payload.as_bytes()), None, "{topic} {payload}");
    }

    let zigbee = json!([
        {"friendly_name": "Coordinator", "definition": null},
        {"friendly_name": "Kitchen Spot", "definition": {"exposes": [
            {"type": "light", "features": [{"property": "state"}]},
            {"type": "numeric", "property": "linkquality", "unit": "lqi"},
        ]}},
        {"friendly_name": "Cellar", "definition": {"exposes": [
            {"type": "numeric", "property": "temperature", "unit": "°C"},
            {"type": "binary", "property": "contact"},
        ]}},
        {"friendly_name": 7},
    ]);
    let devices = discovery::zigbee2mqtt("zigbee2mqtt", zigbee.to_string().as_bytes());
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["Kitchen Spot", "Cellar temperature", "Cellar contact"]);
    let payload = br#"{"state": "ON", "temperature": 11.5, "contact": true}"#;
    let states: Vec<Option<String>> = devices.iter().map(|device| discovery::state(device, payload)).collect();
    assert_eq!(states, [Some("on".into()), Some("11.5".into()), Some("closed".into())]);
    assert!(discovery::zigbee2mqtt("z", b"{").is_empty() && discovery::zigbee2mqtt("z", b"{}").is_empty());
}

#[test]
fn what_a_device_says_of_itself_is_told_with_its_unit_and_of_strangers_nothing_is_kept() {
    let freezer = Device { unit: "°C".into(), ..Device::new("Freezer", Kind::Sensor, "") };
    let (home, _) = Home::new(vec![freezer, Device::new("Lamp", Kind::Light, "")]);
    let now = Timestamp::now();
    home.observe("Freezer", "-18", now);
    home.observe("Nobody", "1", now);
    let call = |name: &str, arguments: Value| crate::job::ToolCall {
        id: "1".into(),
        name: name.into(),
        arguments: arguments.to_string(),
    };
    let served = |name: &str, arguments: Value| home.serve(&call(name, arguments), now);
    assert_eq!(served("device_get", json!({"device": "Freezer"})), Served::Say("Freezer is -18 °C.".into()));
    assert_eq!(served("device_get", json!({"device": "Lamp"})), Served::Pass(Risk::None));
    let stats = |operation: &str, window: &str| {
        served("sensor_stats", json!({"device": "Freezer", "operation": operation, "window": window}))
    };
    let Served::Say(mean) = stats("mean", "24h") else { panic!() };
    assert!(mean.starts_with("The mean of Freezer over the last 24 hours was -18 °C (known since "), "{mean}");
    assert_eq!(stats("max", "yesterday"), Served::Say("I have no values of Freezer yesterday.".into()));
    // A device that is gone takes its past with it.
    assert_eq!(home.replace(vec![Device::new("Lamp", Kind::Light, "")]), 0);
    assert_eq!(served("device_get", json!({"device": "Freezer"})), Served::Pass(Risk::None));
    for risk in [
        served("device_set", json!({"device": "Lamp", "property": "state", "value": "on"})),
        served("timer_set", json!({"minutes": 1})),
    ] {
        assert_eq!(risk, Served::Pass(Risk::Low));
    }
    assert_eq!(home.serve(&call("launch", json!({})), now), Served::Pass(Risk::High));
}
