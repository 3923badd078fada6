"""Invented tool dialects: renamed tools and parameters, other groupings, reworded descriptions.

A model that meets a new set of names in every sample has to read the tools. The words on the
held-out side of the border are used for held-out dialects only.
"""
from corpus.actions import VERBS
from corpus.dialects import Dialect, Param, Tool
from corpus.fixed_dialects import STATE_WORDS
from corpus.split import side

VERB_WORDS = {
    "on": "turn_on;switch_on;power_on;enable;activate;start;energize;power_up;set_on;engage;run;light_up;put_on".split(";"),
    "off": "turn_off;switch_off;power_off;disable;deactivate;stop;shut_down;power_down;set_off;disengage;halt;kill;put_off".split(";"),
    "open": "open;open_up;raise;unfold;open_device;set_open;open_it;move_up;lift;uncover".split(";"),
    "close": "close;shut;lower;fold;close_device;set_closed;close_it;move_down;seal;cover_up".split(";"),
    "lock": "lock;secure;lock_up;bolt;engage_lock;set_locked;lock_door;latch".split(";"),
    "unlock": "unlock;release;unbolt;open_lock;disengage_lock;set_unlocked;unlock_door;unlatch".split(";"),
    "play": "play;resume;continue_playback;media_play;start_playback;unpause".split(";"),
    "pause": "pause;hold;pause_playback;media_pause;stop_playback;freeze".split(";"),
    "clean": "clean;start_cleaning;vacuum_start;sweep;begin_cleaning;run_vacuum".split(";"),
    "dock": "dock;go_home;return_to_base;send_home;park;recharge".split(";"),
    "brightness": "set_brightness;dim;set_light_level;brightness;adjust_brightness;set_dimmer;light_level;set_luminance;dim_to".split(";"),
    "color": "set_color;set_colour;paint_light;color;change_color;tint;light_color;set_hue".split(";"),
    "position": "set_position;move_to;position;set_opening;adjust_position;travel_to;set_cover".split(";"),
    "temperature": "set_temperature;set_temp;set_setpoint;temperature;adjust_temperature;heat_to;set_target;climate_set;thermostat_set".split(";"),
    "mode": "set_mode;change_mode;mode;set_hvac_mode;select_mode;operation_mode;climate_mode".split(";"),
    "speed": "set_speed;speed;fan_speed;adjust_speed;change_speed;set_rate;run_at;drive_speed".split(";"),
    "volume": "set_volume;volume;adjust_volume;change_volume;sound_level;set_loudness;audio_level".split(";"),
    "timer": "start_timer;set_timer;timer;new_timer;create_timer;add_timer;countdown;remind_in;timer_start".split(";"),
    "timer_cancel": "cancel_timer;stop_timer;delete_timer;remove_timer;timer_stop;clear_timer;abort_timer".split(";"),
    "rule": "add_rule;watch;alert_when;notify_if;create_alert;monitor;set_alarm_limit;subscribe;add_alert;guard".split(";"),
    "read": "get_state;read;query;status;get_status;lookup;read_state;fetch_state;inspect;get_value;check;device_state;poll;measure".split(";"),
}
GROUP_WORDS = "control;control_device;device_control;set_device;actuate;command;operate;execute;device_action;act;set_state;switch;do;apply;change;manage;device_command;iot_command;send_command;update_device".split(";")
PROPERTY_WORDS = "write_property;set_property;write;put_value;set_value;update_attribute;set_attribute;write_attribute;assign;property_write;set_point;put".split(";")
PARAM_WORDS = {
    "device": "device;name;target;entity;thing;id;device_name;item;appliance;unit;which;device_id;object;node;asset;equipment".split(";"),
    "area": "area;room;zone;location;place;where;space;section;area_name;room_name".split(";"),
    "floor": "floor;level;storey;floor_name".split(";"),
    "kind": "kind;type;domain;category;device_type;class;sort;device_class".split(";"),
    "value": "value;level;amount;to;setting;target_value;new_value;val;data;set_to".split(";"),
    "action": "action;command;state;operation;mode;cmd;verb;what;do".split(";"),
    "property": "property;attribute;field;prop;key;parameter;characteristic;feature".split(";"),
    "hours": "hours;hour;h;hrs".split(";"), "minutes": "minutes;minute;min;mins;m".split(";"), "seconds": "seconds;second;sec;secs;s".split(";"),
    "label": "name;label;title;timer;timer_name;purpose".split(";"),
    "above": "above;over;high;max;upper;greater_than".split(";"), "below": "below;under;low;min;lower;less_than".split(";"),
}
DESCRIPTIONS = {
    "on": ["Turns a device on", "Switch something on", "Power on", "Start a device"], "off": ["Turns a device off", "Switch something off", "Power off", "Stop a device"],
    "open": ["Opens a cover or valve", "Open it"], "close": ["Closes a cover or valve", "Close it"], "lock": ["Locks a door"], "unlock": ["Unlocks a door"],
    "play": ["Resume playback", "Plays media"], "pause": ["Pause playback", "Pauses media"], "clean": ["Start a vacuum", "Start cleaning"], "dock": ["Send a vacuum home", "Return to the dock"],
    "brightness": ["Set the brightness of a light in percent", "Dim a light"], "color": ["Set the color of a light", "Change light color"], "position": ["Set how far a cover is open, in percent", "Move to a position"],
    "temperature": ["Set the target temperature", "Change the setpoint of a thermostat"], "mode": ["Set the mode of a thermostat", "Change the climate mode"], "speed": ["Set the speed in percent", "Change how fast it runs"],
    "volume": ["Set the volume in percent", "Change the volume"], "timer": ["Start a timer", "Begin a countdown"], "timer_cancel": ["Cancel a timer", "Stop a countdown"], "rule": ["Tell the user when a sensor passes a limit", "Alert on a threshold"],
    "read": ["Read the current state of a device", "Get a value", "Current state of a device"],
}
PAIRS = [("on", "off"), ("open", "close"), ("lock", "unlock"), ("play", "pause"), ("clean", "dock")]
NUMERIC = {"brightness": (0, 100), "position": (0, 100), "speed": (0, 100), "volume": (0, 100)}


class _Naming:
    """Chooses words for one dialect and joins them in that dialect's style."""

    def __init__(self, rng, held_out):
        self.rng, self.held_out = rng, held_out
        self.style = rng.choice(("snake", "snake", "snake", "camel", "pascal", "dot", "kebab"))
        self.prefix = rng.choice(("", "", "", "", "home_", "iot_", "svc_", "dev_", "x_"))
        self.used, self.params = set(), {}

    def tool(self, words):
        choices = side("tool", words, self.held_out) or words
        word = self.prefix + self.rng.choice(choices)
        if word in self.used:
            word += "_" + self.rng.choice("abcdefgh2345")
        self.used.add(word)
        parts = word.split("_")
        return {"snake": word, "camel": parts[0] + "".join(p.title() for p in parts[1:]), "pascal": "".join(p.title() for p in parts),
                "dot": ".".join((parts[0], "_".join(parts[1:]))) if len(parts) > 1 else word, "kebab": "-".join(parts)}[self.style]

    def param(self, role):
        if role not in self.params:
            words = side("tool", PARAM_WORDS[role], self.held_out) or PARAM_WORDS[role]
            free = [w for w in words if w not in self.params.values()] or [w for w in PARAM_WORDS[role] if w not in self.params.values()]
            self.params[role] = self.rng.choice(free)
        return self.params[role]

    def describe(self, verb):
        return self.rng.choice(DESCRIPTIONS[verb]) if self.rng.random() < 0.8 else ""


def random_dialect(rng, held_out=False):
    """A dialect in one of four groupings."""
    naming = _Naming(rng, held_out)
    grouping = rng.choice(("verbs", "verbs", "pairs", "pairs", "one", "property"))
    groups = rng.random() < 0.6  # whether areas can be addressed
    maker = {"verbs": _per_verb, "pairs": _per_pair, "one": _one_tool, "property": _by_property}[grouping]
    tools = maker(naming, groups) + _other_tools(naming)
    for tool in tools:
        if rng.random() < 0.3:
            rng.shuffle(tool.params)
    words = {"media_player": "speaker", "climate": "thermostat", "cover": "blind", "contact": "contact"} if rng.random() < 0.5 else None
    return Dialect("random_" + grouping, tools, rng.choice(("name", "name", "key")), words)


def _targets(naming, groups, required=False):
    params = [Param(naming.param("device"), "device", required=required and not groups)]
    if groups:
        params += [Param(naming.param("area"), "area"), Param(naming.param("kind"), "kind")]
    return params


def _value(naming, verb):
    low, high = NUMERIC.get(verb, (None, None))
    kind = "string" if verb in ("color", "mode") else "number" if verb == "temperature" else "integer"
    return Param(naming.param("value"), "value", kind, True, low=low, high=high)


def _per_verb(naming, groups):
    return [Tool(naming.tool(VERB_WORDS[v]), naming.describe(v), _targets(naming, groups, True) + ([_value(naming, v)] if VERBS[v][2] is None else []), {v: {}}) for v in VERBS]


def _per_pair(naming, groups):
    tools = []
    for first, second in PAIRS:
        name = naming.tool([f"set_{k}" for k in ("power", "switch", "relay")] if first == "on" else [f"{first}_{second}", f"set_{first}", f"{first}_control"])
        action, words = naming.param("action"), [STATE_WORDS[first], STATE_WORDS[second]] if naming.rng.random() < 0.5 else [first, second]
        params = _targets(naming, groups, True) + [Param(action, "-", required=True, enum=words)]
        tools.append(Tool(name, "", params, {first: {action: words[0]}, second: {action: words[1]}}))
    return tools + [t for t in _per_verb(naming, groups) if VERBS[next(iter(t.verbs))][2] is None]


def _one_tool(naming, groups):
    action = naming.param("action")
    words = {v: naming.rng.choice((side("tool", VERB_WORDS[v], naming.held_out) or VERB_WORDS[v])[:6]) if naming.rng.random() < 0.5 else v for v in VERBS}
    if len(set(words.values())) < len(words):
        words = {v: v for v in VERBS}
    params = _targets(naming, groups, True) + [Param(action, "-", required=True, enum=list(words.values())), Param(naming.param("value"), "value", "any")]
    return [Tool(naming.tool(GROUP_WORDS), naming.rng.choice(("Controls a device", "Do something with a device", "")), params, {v: {action: w} for v, w in words.items()})]


def _by_property(naming, groups):
    prop, value = naming.param("property"), naming.param("value")
    verbs = {v: {prop: "state", value: STATE_WORDS[v]} for v in STATE_WORDS} | {v: {prop: v} for v in VERBS if VERBS[v][2] is None}
    params = _targets(naming, groups, True) + [Param(prop, "-", required=True), Param(value, "value", "any", True)]
    return [Tool(naming.tool(PROPERTY_WORDS), naming.rng.choice(("Writes a property of a thing", "Set an attribute", "")), params, verbs)]


def _other_tools(naming):
    device = Param(naming.param("device"), "device", required=True)
    units = [Param(naming.param(u), u, "integer") for u in ("hours", "minutes", "seconds")]
    limits = [Param(naming.param(x), x, "number") for x in ("above", "below")]
    label = Param(naming.param("label"), "label")
    return [
        Tool(naming.tool(VERB_WORDS["timer"]), naming.describe("timer"), units + [label], {"timer": {}}),
        Tool(naming.tool(VERB_WORDS["timer_cancel"]), naming.describe("timer_cancel"), [label], {"timer_cancel": {}}),
        Tool(naming.tool(VERB_WORDS["rule"]), naming.describe("rule"), [device] + limits, {"rule": {}}),
        Tool(naming.tool(VERB_WORDS["read"]), naming.describe("read"), [Param(device.name, "device", required=True)], {"read": {}}),
    ]


DISTRACTORS = [
    ("get_weather", "Weather forecast", [("city", "string")]), ("send_message", "Send a text message", [("to", "string"), ("text", "string")]),
    ("add_to_list", "Add an item to a shopping list", [("item", "string"), ("list", "string")]), ("web_search", "Search the web", [("query", "string")]),
    ("play_music", "Play an artist or song", [("query", "string")]), ("get_time", "Current time", []), ("create_event", "Add a calendar event", [("title", "string"), ("date", "string")]),
    ("take_snapshot", "Take a camera picture", [("camera", "string")]), ("broadcast", "Announce a message", [("message", "string")]), ("set_scene", "Activate a scene", [("scene", "string")]),
    ("reboot_gateway", "Restart the gateway", []), ("export_log", "Write the log to a file", [("days", "integer")]), ("calculate", "Evaluate a sum", [("expression", "string")]),
    ("call_contact", "Start a phone call", [("contact", "string")]), ("lock_screen", "Lock the wall panel", []), ("firmware_update", "Install firmware", [("version", "string")]),
    ("get_news", "Headlines", [("topic", "string")]), ("translate", "Translate a text", [("text", "string"), ("language", "string")]), ("order_part", "Order a spare part", [("part", "string"), ("count", "integer")]),
    ("open_ticket", "Report a fault to maintenance", [("subject", "string")]), ("HassListAddItem", "Add item to a todo list", [("item", "string"), ("name", "string")]), ("HassBroadcast", "Broadcast a message through the home", [("message", "string")]),
]


def distractor(rng):
    """A tool that none of the requests needs."""
    name, description, params = rng.choice(DISTRACTORS)
    return Tool(name, description if rng.random() < 0.8 else "", [Param(n, "-", t, True) for n, t in params], {})
