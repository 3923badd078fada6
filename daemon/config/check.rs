//! What types cannot say: ranges, words of a closed list, settings that exclude each other. Reports all faults at once.

use crate::config::Config;
use crate::fault::Fault;
use crate::job::Priority;

/// Slots beyond this make every decode step slower than any device's patience.
const SLOTS_MAX: usize = 256;
/// No machine that this runs on has more; a typo does.
const THREADS_MAX: usize = 1024;

/// Whether a config that no file was read for holds; [`super::load`] judges files, and names their lines.
pub fn check(config: &Config) -> Result<(), Fault> {
    let lines: Vec<String> = faults(config).iter().map(|(key, text)| format!("config: `{key}` {text}")).collect();
    if lines.is_empty() { Ok(()) } else { Err(Fault::config(lines.join("\n"))) }
}

/// Every fault of a config as its setting and what is wrong, in the order of the sections.
pub fn faults(config: &Config) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let mut expect = |holds: bool, key: &str, text: String| {
        if !holds {
            faults.push((key.to_owned(), text));
        }
    };
    let name = &config.node.name;
    expect(name.is_empty() || is_name(name), "node.name", format!("is `{name}`, it must match [A-Za-z0-9_.-]{{1,64}}"));
    let mode = &config.socket.mode;
    let octal = u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o777 && mode & 0o600 == 0o600);
    expect(
        octal,
        "socket.mode",
        format!("is `{mode}`, it must be octal, at most 0777, and let the owner read and write"),
    );
    expect(
        config.socket.body_max.0 >= 1024,
        "socket.body_max",
        format!("is {} bytes, the least is 1024", config.socket.body_max.0),
    );
    expect(config.socket.connections_max >= 1, "socket.connections_max", "is 0, the least is 1".to_owned());
    let mqtt = &config.mqtt;
    expect(
        ["5", "3.1.1"].contains(&mqtt.version.as_str()),
        "mqtt.version",
        format!("is `{}`, it must be `5` or `3.1.1`", mqtt.version),
    );
    expect((1..=64).contains(&mqtt.window), "mqtt.window", format!("is {}, it must be 1 to 64", mqtt.window));
    let keep_alive = mqtt.keep_alive.0.as_secs();
    expect((5..=3600).contains(&keep_alive), "mqtt.keep_alive", format!("is {keep_alive} s, it must be 5 s to 1 h"));
    let root_is_plain = !mqtt.root.is_empty() && mqtt.root.split('/').all(is_name);
    expect(root_is_plain, "mqtt.root", format!("is `{}`, each level must match [A-Za-z0-9_.-]{{1,64}}", mqtt.root));
    for (key, prefix) in [("homeassistant", &config.home.homeassistant), ("zigbee2mqtt", &config.home.zigbee2mqtt)] {
        let plain = prefix.is_empty() || prefix.split('/').all(is_name);
        expect(plain, &format!("home.{key}"), format!("is `{prefix}`, each level must match [A-Za-z0-9_.-]{{1,64}}"));
        expect(
            prefix.is_empty() || !mqtt.url.is_empty(),
            &format!("home.{key}"),
            format!("is `{prefix}`, and `mqtt.url` names no broker to hear it from"),
        );
    }
    let pool_is_plain = mqtt.pool.is_empty() || is_name(&mqtt.pool);
    expect(pool_is_plain, "mqtt.pool", format!("is `{}`, it must match [A-Za-z0-9_.-]{{1,64}}", mqtt.pool));
    let (leave, rejoin) = config.pool_marks();
    expect(
        rejoin < leave,
        "mqtt.pool_rejoin",
        format!("is {rejoin}, a member that left at {leave} (`mqtt.pool_leave`) must come back below that"),
    );
    for filter in &mqtt.reply_topics {
        let mut levels = filter.split('/').peekable();
        let first_is_plain = levels.peek().is_some_and(|first| is_name(first));
        let last = filter.split('/').count() - 1;
        let holds =
            levels.enumerate().all(|(place, level)| is_name(level) || level == "+" || (level == "#" && place == last));
        expect(
            first_is_plain && holds && !filter.starts_with(&format!("{}/", mqtt.root)),
            "mqtt.reply_topics",
            format!("has `{filter}`, it must be a filter that begins with a plain level and is not below `mqtt.root`"),
        );
    }
    let every = mqtt.metrics_every.0;
    expect(
        every.is_zero() || (100..=86_400_000).contains(&every.as_millis()),
        "mqtt.metrics_every",
        format!("is {} ms, it must be 0s or 100ms to 24h", every.as_millis()),
    );
    let discovery = &mqtt.discovery;
    expect(
        ["", "homeassistant"].contains(&discovery.as_str()),
        "mqtt.discovery",
        format!("is `{discovery}`, it must be `homeassistant` or empty"),
    );
    expect(
        discovery.is_empty() || !every.is_zero(),
        "mqtt.discovery",
        "shows the gauges, and `mqtt.metrics_every` is 0s".to_owned(),
    );
    for admin in &mqtt.admins {
        expect(is_name(admin), "mqtt.admins", format!("has `{admin}`, each must match [A-Za-z0-9_.-]{{1,64}}"));
    }
    let provider = &config.engine.provider;
    expect(
        ["auto", "cpu", "cuda"].contains(&provider.as_str()),
        "engine.provider",
        format!("is `{provider}`, it must be `auto`, `cpu` or `cuda`"),
    );
    let prepare = &config.engine.prepare;
    expect(
        ["auto", "never"].contains(&prepare.as_str()),
        "engine.prepare",
        format!("is `{prepare}`, it must be `auto` or `never`"),
    );
    let slots = config.engine.slots;
    expect((1..=SLOTS_MAX).contains(&slots), "engine.slots", format!("is {slots}, it must be 1 to {SLOTS_MAX}"));
    let threads = config.engine.threads;
    expect(threads <= THREADS_MAX, "engine.threads", format!("is {threads}, the most is {THREADS_MAX}"));
    let chunk = config.engine.prefill_chunk;
    expect(
        chunk == 0 || (3..=65536).contains(&chunk),
        "engine.prefill_chunk",
        format!("is {chunk}, it must be 0 (measured) or 3 to 65536"),
    );
    let reserve = config.engine.alarm_slots;
    expect(reserve <= SLOTS_MAX, "engine.alarm_slots", format!("is {reserve}, the most is {SLOTS_MAX}"));
    expect(config.queue.waiting_max >= 1, "queue.waiting_max", "is 0, the least is 1".to_owned());
    let quota = &config.quota;
    let shares = quota.client.iter().map(|(name, share)| (format!("quota.client.{name}"), share));
    let shares = shares.chain(quota.uid.iter().map(|(user, share)| (format!("quota.uid.{user}"), share)));
    let shares = shares.chain(quota.gid.iter().map(|(group, share)| (format!("quota.gid.{group}"), share)));
    let own = shares.filter_map(|(key, share)| Some((key, share.priority.clone()?)));
    for (key, priority) in [("quota".to_owned(), quota.priority.clone())].into_iter().chain(own) {
        expect(
            Priority::from_name(&priority).is_some(),
            &format!("{key}.priority"),
            format!("is `{priority}`, it must be `alarm`, `interactive` or `background`"),
        );
    }
    for name in quota.client.keys() {
        expect(is_name(name), "quota.client", format!("has `{name}`, which is no client's name"));
    }
    for user in quota.uid.keys() {
        expect(user.parse::<u32>().is_ok(), "quota.uid", format!("has `{user}`, which is no user's number"));
    }
    for group in quota.gid.keys() {
        expect(group.parse::<u32>().is_ok(), "quota.gid", format!("has `{group}`, which is no group's number"));
    }
    expect(
        config.journal.size_max.0 >= 1 << 20,
        "journal.size_max",
        format!("is {} bytes, the least is 1MiB", config.journal.size_max.0),
    );
    expect(config.journal.rows_max >= 1, "journal.rows_max", "is 0, the least is 1".to_owned());
    let period = config.board.period.0.as_millis();
    expect((10..=60_000).contains(&period), "board.period", format!("is {period} ms, it must be 10ms to 1m"));
    let period = config.board.power_period.0.as_millis();
    expect((5..=250).contains(&period), "board.power_period", format!("is {period} ms, it must be 5ms to 250ms"));
    let governor = &config.governor;
    expect(
        ["auto", "off"].contains(&governor.mode.as_str()),
        "governor.mode",
        format!("is `{}`, it must be `auto` or `off`", governor.mode),
    );
    expect(
        governor.heat_max == 0 || (40..=120).contains(&governor.heat_max),
        "governor.heat_max",
        format!("is {}, it must be 0 (found) or 40 to 120", governor.heat_max),
    );
    expect(
        (1..=60).contains(&governor.heat_margin),
        "governor.heat_margin",
        format!("is {}, it must be 1 to 60", governor.heat_margin),
    );
    expect(
        (0.0..=5000.0).contains(&governor.power_max),
        "governor.power_max",
        format!("is {}, it must be 0 (no budget) to 5000", governor.power_max),
    );
    let level = &config.log.level;
    expect(
        ["error", "warn", "info", "debug", "trace"].contains(&level.as_str()),
        "log.level",
        format!("is `{level}`, it must be error, warn, info, debug or trace"),
    );
    let format = &config.log.format;
    expect(
        ["auto", "text", "json"].contains(&format.as_str()),
        "log.format",
        format!("is `{format}`, it must be auto, text or json"),
    );
    faults
}

/// A word that may stand between the slashes of a topic.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::parse;

    #[test]
    fn the_defaults_hold_and_all_faults_come_at_once() {
        check(&Config::default()).unwrap();
        let fault = parse(
            "[node]\nname = \"a b\"\n[socket]\nmode = \"999\"\n[engine]\nslots = 0\nprovider = \"tpu\"\nprepare = \"always\"\n[mqtt]\nversion = \"4\"\nroot = \"a//b\"\npool = \"a b\"\npool_leave = 3\npool_rejoin = 3\nreply_topics = [\"#\"]\n",
            "x",
        )
        .unwrap_err();
        let message = fault.message;
        for key in [
            "node.name",
            "socket.mode",
            "engine.slots",
            "engine.provider",
            "engine.prepare",
            "mqtt.version",
            "mqtt.root",
            "mqtt.pool",
            "mqtt.pool_rejoin",
            "mqtt.reply_topics",
        ] {
            assert!(message.contains(&format!("`{key}`")), "{key} is not in: {message}");
        }
    }
}
