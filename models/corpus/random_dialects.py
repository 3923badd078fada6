"""Invented tool dialects: renamed tools and parameters, other groupings, reworded descriptions.

A model that meets a new set of names in every sample has to read the tools. The words on the
held-out side of the border (corpus/words.py) are used for held-out dialects only. The words come from a
generator of their own: the same sample can be told again with other names (`flavour`).
"""
import random

from corpus import words
from corpus.actions import VERBS
from corpus.dialects import Dialect, Param, Tool
from corpus.fixed_dialects import OPERATIONS, STATE_WORDS, WINDOWS
from corpus.split import side

DESCRIPTIONS = {
    "on": "Turns a device on;Switch something on;Power on;Start a device;Switches equipment on;Makes it run;Turn on a device or machine;Put a device into operation;Gives power to a device",
    "off": "Turns a device off;Switch something off;Power off;Stop a device;Switches equipment off;Makes it stop;Turn off a device or machine;Take a device out of operation;Cuts the power of a device",
    "open": "Opens a cover or valve;Open it;Open blinds, gates and valves;Moves a cover all the way up;Opens something that opens and closes",
    "close": "Closes a cover or valve;Close it;Close blinds, gates and valves;Moves a cover all the way down;Closes something that opens and closes",
    "lock": "Locks a door;Secure a lock;Lock it;Throw the bolt;Makes a door safe", "unlock": "Unlocks a door;Release a lock;Unlock it;Draw the bolt;Lets people in",
    "play": "Resume playback;Plays media;Continue the music;Go on playing;Unpause a player", "pause": "Pause playback;Pauses media;Hold the music;Stop playing for a while;Pause a player",
    "clean": "Start a vacuum;Start cleaning;Let the robot clean;Begin a cleaning run;Sends the vacuum out", "dock": "Send a vacuum home;Return to the dock;Robot back to its base;End a cleaning run;Park the vacuum",
    "brightness": "Set the brightness of a light in percent;Dim a light;How bright a light is, 0 to 100;Brightness of a lamp;Change a light's level",
    "color": "Set the color of a light;Change light color;Color by name;Give a lamp another colour;Tint a light",
    "position": "Set how far a cover is open, in percent;Move to a position;Open something partly;Drive a blind or valve to a percentage;Opening in percent",
    "temperature": "Set the target temperature;Change the setpoint of a thermostat;Heat or cool to a temperature;Temperature to reach in degrees;New setpoint for a climate device",
    "mode": "Set the mode of a thermostat;Change the climate mode;heat, cool, auto, dry or eco;Choose how a climate device works;Operating mode of the heating or ac",
    "speed": "Set the speed in percent;Change how fast it runs;Speed of a fan or motor;How fast a fan or pump turns, in percent;Run at a percentage of full speed",
    "volume": "Set the volume in percent;Change the volume;How loud a speaker is;Loudness in percent;Volume of a player",
    "timer": "Start a timer;Begin a countdown;Rings after a while;Set a kitchen timer;Count down and ring", "timer_cancel": "Cancel a timer;Stop a countdown;Delete a running timer;Make a timer go away;No longer ring",
    "timer_status": "How long a timer still runs;Remaining time of a timer;Timer state;Ask a timer", "timer_pause": "Pause a timer;Hold a countdown;Freeze a running timer;Let a timer wait",
    "timer_resume": "Resume a paused timer;Let a timer run on;Continue a countdown;Unfreeze a timer",
    "rule": "Tell the user when a sensor passes a limit;Alert on a threshold;Watch a sensor;Notify when a value gets too high or too low;Adds an alarm limit",
    "read": "Read the current state of a device;Get a value;Current state of a device;What a device or sensor shows now;Look up a state;Present value or mode of a device",
    "stats": "Statistics of a sensor over time;Compute the maximum, minimum, mean, sum or count of past readings;Aggregate a sensor's history;What a sensor showed in the past;History figures of a sensor",
}
DESCRIPTIONS = {verb: lines.split(";") for verb, lines in DESCRIPTIONS.items()}
GROUP_DESCRIPTIONS = ["Controls a device", "Do something with a device", "Send a command to a device", "Acts on a device or a group", "One tool for every action", "Operates equipment"]
PROPERTY_DESCRIPTIONS = ["Writes a property of a thing", "Set an attribute", "Change one property of a device", "Write a value to a property", "Sets state, brightness, color, position, temperature, mode, speed or volume"]
PAIRS = [("on", "off"), ("open", "close"), ("lock", "unlock"), ("play", "pause"), ("clean", "dock")]
NUMERIC = {"brightness": (0, 100), "position": (0, 100), "speed": (0, 100), "volume": (0, 100)}
STYLES = ("snake", "snake", "snake", "snake", "camel", "camel", "pascal", "dot", "kebab", "upper")


def joined(word, style):
    """A snake-case word in a naming style."""
    parts = word.split("_")
    if style == "camel":
        return parts[0] + "".join(part.title() for part in parts[1:])
    if style == "pascal":
        return "".join(part.title() for part in parts)
    if style == "dot" and len(parts) > 1:
        return parts[0] + "." + "_".join(parts[1:])
    return {"kebab": "-".join(parts), "upper": word.upper()}.get(style, word)


class _Naming:
    """Chooses words for one dialect and joins them in that dialect's style; `rng` decides form, `own` the words."""

    def __init__(self, rng, held_out, flavour):
        self.rng, self.held_out = rng, held_out
        self.own = random.Random(f"{rng.random()}-{flavour}")
        self.style = self.own.choice(STYLES)
        self.param_style = self.style if self.style in ("camel", "kebab") and self.own.random() < 0.7 else self.own.choice(("snake", "snake", "snake", "camel", "snake", "kebab", "pascal"))
        self.opaque_params, self.opaque_tools = rng.random() < 0.15, rng.random() < 0.06
        self.used, self.params = set(), {}

    def tool(self, verb_words):
        for _ in range(20):
            word = joined(words.tool(self.own, verb_words, self.held_out, self.opaque_tools), self.style)
            if word not in self.used:
                break
        else:
            word += "_" + self.own.choice("abcdefgh2345")
        self.used.add(word)
        return word

    def param(self, role):
        while role not in self.params:
            word = joined(words.param(self.own, role, self.held_out, self.opaque_params), self.param_style)
            if word not in self.params.values():
                self.params[role] = word
        return self.params[role]

    def say(self, lines):
        text = self.own.choice(side("tool", lines, self.held_out) or lines)
        told = self.rng.random() < 0.8 or self.opaque_tools
        return text if told else ""

    def describe(self, verb):
        return self.say(DESCRIPTIONS[verb])


def random_dialect(rng, held_out=False, flavour=0):
    """A dialect in one of four groupings; `flavour` changes its words and nothing else."""
    naming = _Naming(rng, held_out, flavour)
    grouping = rng.choice(("verbs", "verbs", "verbs", "pairs", "pairs", "one", "property"))
    groups = rng.random() < 0.6  # whether areas can be addressed
    maker = {"verbs": _per_verb, "pairs": _per_pair, "one": _one_tool, "property": _by_property}[grouping]
    tools = maker(naming, groups) + _other_tools(naming)
    for tool in tools:
        if rng.random() < 0.3 and not naming.opaque_params:
            rng.shuffle(tool.params)
    kind_words = {"media_player": "speaker", "climate": "thermostat", "cover": "blind", "contact": "contact"} if rng.random() < 0.5 else None
    return Dialect("random_" + grouping, tools, rng.choice(("name", "name", "key")), kind_words)


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
    return [Tool(naming.tool(words.VERBS[v]), naming.describe(v), _targets(naming, groups, True) + ([_value(naming, v)] if VERBS[v][2] is None else []), {v: {}}) for v in VERBS]


def _per_pair(naming, groups):
    tools = []
    for first, second in PAIRS:
        name = naming.tool(words.PAIR_NAMES[first].split(";"))
        action, choices = naming.param("action"), [STATE_WORDS[first], STATE_WORDS[second]] if naming.rng.random() < 0.5 else [first, second]
        params = _targets(naming, groups, True) + [Param(action, "-", required=True, enum=choices)]
        tools.append(Tool(name, naming.say(DESCRIPTIONS[first]) if naming.opaque_tools else "", params, {first: {action: choices[0]}, second: {action: choices[1]}}))
    return tools + [t for t in _per_verb(naming, groups) if VERBS[next(iter(t.verbs))][2] is None]


def _one_tool(naming, groups):
    action, plain = naming.param("action"), naming.rng.random() < 0.4
    chosen = {v: v if plain else joined(words.tool(naming.own, words.VERBS[v], naming.held_out), naming.style) for v in VERBS}
    if len(set(chosen.values())) < len(chosen):
        chosen = {v: v for v in VERBS}
    params = _targets(naming, groups, True) + [Param(action, "-", required=True, enum=list(chosen.values())), Param(naming.param("value"), "value", "any")]
    return [Tool(naming.tool(words.GROUPS), naming.say(GROUP_DESCRIPTIONS), params, {v: {action: w} for v, w in chosen.items()})]


def _by_property(naming, groups):
    prop, value = naming.param("property"), naming.param("value")
    verbs = {v: {prop: "state", value: STATE_WORDS[v]} for v in STATE_WORDS} | {v: {prop: v} for v in VERBS if VERBS[v][2] is None}
    params = _targets(naming, groups, True) + [Param(prop, "-", required=True), Param(value, "value", "any", True)]
    return [Tool(naming.tool(words.PROPERTIES), naming.say(PROPERTY_DESCRIPTIONS), params, verbs)]


def _other_tools(naming):
    device = Param(naming.param("device"), "device", required=True)
    units = [Param(naming.param(u), u, "integer") for u in ("hours", "minutes", "seconds")]
    limits = [Param(naming.param(x), x, "number") for x in ("above", "below")]
    label = Param(naming.param("label"), "label")
    statistics = [Param(device.name, "device", required=True), Param(naming.param("operation"), "operation", "string", True, enum=list(OPERATIONS)), Param(naming.param("window"), "window", "string", True, enum=list(WINDOWS))]
    return [
        Tool(naming.tool(words.VERBS["timer"]), naming.describe("timer"), units + [label], {"timer": {}}),
        Tool(naming.tool(words.VERBS["timer_cancel"]), naming.describe("timer_cancel"), [label], {"timer_cancel": {}}),
        *(Tool(naming.tool(words.VERBS[verb]), naming.describe(verb), [Param(label.name, "label")], {verb: {}}) for verb in ("timer_status", "timer_pause", "timer_resume")),
        Tool(naming.tool(words.VERBS["stats"]), naming.describe("stats"), statistics, {"stats": {}}),
        Tool(naming.tool(words.VERBS["rule"]), naming.describe("rule"), [device] + limits, {"rule": {}}),
        Tool(naming.tool(words.VERBS["read"]), naming.describe("read"), [Param(device.name, "device", required=True)], {"read": {}}),
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
