"""Tasks D and E: states, readings, settings and limits, answered from the list or through a reading tool."""
import json

from corpus import phrases
from corpus.actions import Action, Target
from corpus.layouts import state_text
from corpus.fixed_dialects import OPERATIONS, WINDOWS
from corpus.patterns import exists, families, pattern
from corpus.speech import NO_STATE, call_message, limit_of, own_or, say, user_turn
from corpus.world import KINDS


def readable(scene):
    return [d for d in scene.home.devices if d.name not in scene.touched and state_text(d)]


def answer_state(scene, text, device, answer):
    """Answer from the list, through a reading tool, or say that the state is out of sight."""
    rng, messages = scene.rng, [user_turn(scene, text, True)]
    if scene.states:
        return messages + [say(answer)], ([], [], scene.home)
    calls = scene.dialect.calls(Action("read", Target("device", device.name, device.kind)), scene.home)
    if calls is None:
        if rng.random() < 0.1:  # the state comes with the question
            messages[0]["content"] = f"Current state: {device.name} = {state_text(device)}\n" + messages[0]["content"]
            return messages + [say(answer)], ([], [], scene.home)
        return None if rng.random() > 0.15 else (messages + [say(NO_STATE)], ([], [], scene.home))
    seen = rng.choice((state_text(device), f"{device.name}: {state_text(device)}", json.dumps({"state": state_text(device)}, ensure_ascii=False), json.dumps({"name": device.name, "state": state_text(device)}, ensure_ascii=False)))
    action = Action("read", Target("device", device.name, device.kind))
    return messages + [call_message(calls), {"role": "tool", "content": seen}, say(answer)], ([action], calls, scene.home)


def reading(value, unit):
    return f"{value} {unit}"


CONFUSED = {"temperature": ("climate",), "illuminance": ("light",), "speed": ("fan", "pump"), "level": ("light",)}  # what else in a room has such a value


def room_question(scene, device):
    """Now and then, "how warm is it in the den", where only one sensor there measures that."""
    same = [d for d in scene.home.devices if d.area == device.area and (d.measures == device.measures or d.kind in CONFUSED.get(device.measures, ()))]
    if scene.rng.random() > 0.35 or len(same) != 1 or not exists(f"ask_{device.measures}"):
        return None
    return pattern(scene.rng, f"ask_{device.measures}", scene.split.wording).format(a=phrases.place_phrase(scene.rng, device.area))


def ask_group(scene):
    """D: the state of all devices of a kind in an area: from the list, or one call of a reading tool that takes areas."""
    rng, home = scene.rng, scene.home
    groups = {}
    for d in home.devices:
        if KINDS[d.kind]["states"] and d.name not in scene.touched:
            groups.setdefault((d.kind, d.area), []).append(d)
    fitting = [(k, v) for k, v in groups.items() if 2 <= len(v) <= 4 and len(v) == sum((d.kind, d.area) == k for d in home.devices)]
    if not fitting:
        return None
    (kind, area), members = rng.choice(fitting)
    scene.last, target = None, Target("area", area, kind)
    brief = rng.choice(("state", "state", "status"))
    text = pattern(rng, "ask_group", scene.split.wording, brief).format(t=phrases.group_phrase(rng, target, home, True), s=rng.choice(KINDS[kind]["states"]))
    answer = ", ".join(f"{d.name} is {d.state['state']}" for d in members) + "."
    if scene.states:
        return [user_turn(scene, text, True), say(answer)], ([], [], home)
    action = Action("read", target)
    tool = scene.dialect.find(action, home)
    if tool is None:
        return None
    calls = scene.dialect.calls(action, home)
    seen = "\n".join(f"{d.name}: {d.state['state']}" for d in members)
    return [user_turn(scene, text, True), call_message(calls), {"role": "tool", "content": seen}, say(answer)], ([action], calls, home)


def statistics(scene):
    """(text, action) of a question about a sensor's past."""
    rng = scene.rng
    sensors = [d for d in scene.home.devices if d.kind == "sensor"]
    if not sensors:
        return None
    device, operation = rng.choice(sensors), rng.choice(OPERATIONS)
    window = rng.choice(WINDOWS)
    text = pattern(rng, f"stats_{operation}", scene.split.wording).format(t=phrases.device_phrase(rng, device, scene.home), w=rng.choice(families("windows")[window]))
    return text, Action("stats", Target("device", device.name, device.kind), None, {"operation": operation, "window": window})


def ask(scene):
    """D: one device's state, a sensor's value, a setting."""
    rng = scene.rng
    devices = readable(scene)
    if not devices:
        return None
    device = rng.choice(devices)
    scene.last = None
    phrase = phrases.device_phrase(rng, device, scene.home)
    if device.kind == "sensor":
        text = room_question(scene, device) or pattern(rng, "ask_sensor", scene.split.wording).format(t=phrase)
        return answer_state(scene, text, device, f"{device.name} is {reading(device.state['value'], device.state['unit'])}.")
    settings = [k for k in ("brightness", "position", "temperature", "mode", "speed", "volume") if k in device.state]
    if settings and rng.random() < 0.5:
        setting = rng.choice(settings)
        value = device.state[setting]
        shown = f"{value} °C" if setting == "temperature" else value if setting == "mode" else f"{value} %"
        text = pattern(rng, "ask_setting", scene.split.wording, setting).format(t=phrase)
        return answer_state(scene, text, device, f"{device.name} is set to {shown}.")
    now = device.state["state"]
    if rng.random() < 0.7:
        pairs = [KINDS[device.kind]["states"]] if KINDS[device.kind]["states"] else [p for p in (("open", "closed"), ("wet", "dry"), ("motion", "clear")) if now in p]
        if pairs[0][0] == "motion":
            return None
        asked = rng.choice(pairs[0])
        text = pattern(rng, own_or(scene, "ask_state", device.kind), scene.split.wording).format(t=phrase, s=asked)
        return answer_state(scene, text, device, f"{'Yes' if asked == now else 'No'}, {device.name} is {now}.")
    text = pattern(rng, own_or(scene, "ask_value", device.kind), scene.split.wording).format(t=phrase)
    return answer_state(scene, text, device, f"{device.name} is {now}.")


def ask_which(scene):
    """D: which or how many of a kind are in a state; needs the listed states."""
    if not scene.states or scene.touched:
        return None
    rng = scene.rng
    kinds = sorted({d.kind for d in scene.home.devices if KINDS[d.kind]["states"]})
    if not kinds:
        return None
    kind = rng.choice(kinds)
    state = rng.choice(KINDS[kind]["states"])
    found = [d.name for d in scene.home.devices if d.kind == kind and d.state["state"] == state]
    if len(found) > 4:
        return None
    brief = rng.choice(("which", "count"))
    plural = rng.choice(phrases.PLURALS.get(kind, [KINDS[kind]["plural"]]))
    text = pattern(rng, "ask_which", scene.split.wording, brief).format(p=plural, s=state)
    names = ", ".join(found)
    answer = (names or "None") + "." if brief == "which" else f"{len(found)}: {names}." if found else "None."
    return [user_turn(scene, text, True), say(answer)], ([], [], scene.home)


def threshold(scene):
    """E: is the value above or below a limit."""
    sensors = [d for d in readable(scene) if d.kind == "sensor"]
    if not sensors:
        return None
    device = scene.rng.choice(sensors)
    limit, words = limit_of(scene, device)
    value = device.state["value"]
    if value == limit:
        return None
    side = scene.rng.choice(("above", "below"))
    text = pattern(scene.rng, own_or(scene, "threshold", device.measures), scene.split.wording, side).format(t=phrases.device_phrase(scene.rng, device, scene.home), v=words)
    holds = value > limit if side == "above" else value < limit
    return answer_state(scene, text, device, f"{'Yes' if holds else 'No'}, {device.name} is {reading(value, device.state['unit'])}.")
