"""An outside development set, where one is at hand: sentences made elsewhere, over homes made elsewhere.

    OUTSIDE=PATH/device-actions-v2_en.jsonl python -m judge …

The file has one JSON object a line: home, device, area, device_type, action, user. Never trained on. It tells which
device and which action is meant, no call, so the calls that do exactly that in Home Assistant's tools are accepted:
by name, by name and area, or by area and domain where the area has no other device of the domain. Set commands are
taken where the sentence holds exactly one number, which must be the value.
"""
import collections
import json
import random
import re

from corpus.fixed_dialects import home_assistant

DOMAINS = {"light": "light", "light-dimmable": "light", "smart-speaker": "media_player", "smart-tv": "media_player", "hvac": "climate", "heat-pump": "climate", "smart-plug": "switch", "switch": "switch",
           "smart-sprinkler": "switch", "exhaust-fan": "fan", "fan-oscilating": "fan", "garage-door": "cover", "smart-blinds": "cover", "water-valve": "valve", "vacuum": "vacuum"}
ACTIONS = {  # action -> tool, the parameter of its value
    "Turn on": ("HassTurnOn", None), "Turn off": ("HassTurnOff", None), "Open": ("HassTurnOn", None), "Close": ("HassTurnOff", None), "Pause": ("HassMediaPause", None), "Unpause": ("HassMediaUnpause", None),
    "Start": ("HassVacuumStart", None), "Return to base": ("HassVacuumReturnToBase", None), "Set brightness": ("HassLightSet", "brightness"), "Set volume": ("HassSetVolume", "volume_level"),
    "Set temperature": ("HassClimateSetTemperature", "temperature"), "Set position": ("HassSetPosition", "position"),
}
INTRO = "You are a voice assistant for Home Assistant.\nStatic Context: An overview of the areas and the devices in this smart home:\n"
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")


def accepted(row, home):
    """Call lists that do what the row means; empty when the row says no exact value."""
    tool, parameter = ACTIONS[row["action"]]
    values, domain = {}, DOMAINS[row["device_type"]]
    if parameter:
        numbers = NUMBER.findall(row["user"])
        if len(numbers) != 1:
            return []
        values = {parameter: float(numbers[0])}
    named = {"name": row["device"]}
    targets = [named | {"area": row["area"]}, named | {"area": row["area"], "domain": [domain]}]
    if sum(device == row["device"] for device, _, _ in home) == 1:
        targets += [named, named | {"domain": [domain]}]
    if sum(area == row["area"] and DOMAINS[kind] == domain for _, area, kind in home) == 1:
        targets += [{"area": row["area"], "domain": [domain]}]
    return [[{"name": tool, "arguments": target | values}] for target in targets]


def rows(path, count=200, seed=1):
    """Rows as the judge takes them: id, messages, tools, expected, accepted."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    homes = collections.defaultdict(dict)
    for line in lines:
        homes[line["home"]][line["device"], line["area"], line["device_type"]] = None
    rng, made = random.Random(seed), []
    rng.shuffle(lines)
    tools = [t.schema() for t in home_assistant().tools if t.name in {name for name, _ in ACTIONS.values()} | {"HassStartTimer", "GetLiveContext"}]
    for line in lines:
        if line["device_type"] not in DOMAINS or line["action"] not in ACTIONS or len(made) == count:
            continue
        home = list(homes[line["home"]])
        found = accepted(line, home)
        if found:
            listed = "\n".join(f"- names: {device}\n  domain: {DOMAINS[kind]}\n  areas: {area}" for device, area, kind in home if kind in DOMAINS)
            messages = [{"role": "system", "content": INTRO + listed}, {"role": "user", "content": line["user"]}]
            made.append({"id": f"outside-{line['action'].lower().replace(' ', '_')}-{len(made):03}", "messages": messages, "tools": tools, "expected": found[0], "accepted": found})
    return made
