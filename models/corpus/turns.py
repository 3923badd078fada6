"""Tasks A, B, C and F: commands, pairs, follow-ups, timers, rules; and the draw among all tasks."""
from corpus import phrases
from corpus.actions import VERBS, Action, Target
from corpus.coined import coin
from corpus.declines import absent, ambiguous, foreign, incomplete, scene_mode, unable
from corpus.patterns import exists, families, pattern
from corpus.questions import ask, ask_group, ask_which, statistics, threshold
from corpus.split import composition_held_out
from corpus.speech import NO_TOOL, apply, call_message, limit_of, own_or, results_and_done, say, user_turn, wording


def pick_action(scene, sort="device"):
    """(action, value words) on one device or on a group; None when the home has none that fits."""
    rng, home = scene.rng, scene.home
    able = [d for d in home.devices if any(d.kind in v[0] for v in VERBS.values())]
    if not able:
        return None
    device = rng.choice(able)
    verbs = [v for v in VERBS if device.kind in VERBS[v][0]]
    weights = [1.0 if VERBS[v][2] is not None else 1.3 if device.kind != "valve" else 0.4 for v in verbs]
    verb = rng.choices(verbs, weights)[0]
    value, words = phrases.value_phrase(rng, verb, scene.split.numbers) if VERBS[verb][2] is None else (None, "")
    target = Target("device", device.name, device.kind)
    if sort == "group":
        sort = rng.choice(("area", "area", "area", "all", "floor" if device.floor else "area"))
        place = {"area": device.area, "floor": device.floor, "all": ""}[sort]
        target = Target(sort, place, device.kind)
        if len(target.members(home)) < (2 if rng.random() < 0.9 else 1) or composition_held_out(verb, device.kind, sort) != scene.split.compositions:
            return None
    return Action(verb, target, value), words


def phrase_for(scene, target):
    if target.sort != "device":
        return phrases.group_phrase(scene.rng, target, scene.home)
    return phrases.device_phrase(scene.rng, scene.home.named(target.name), scene.home)


def command_text(scene, action, words, phrase=None):
    kind = action.target.kind
    return wording(scene, action.verb, kind).format(t=phrase or phrase_for(scene, action.target), v=words)


def room_text(scene, action, words):
    """Now and then, wording that names the room alone ("it's dark in the den"), where the device is the only one of its kind there."""
    target, name = action.target, f"room_{action.verb}_{action.target.kind}"
    if target.sort != "device" or scene.rng.random() > 0.12 or not exists(name):
        return None
    area = scene.home.named(target.name).area
    if sum(d.kind == target.kind and d.area == area for d in scene.home.devices) != 1:
        return None
    return pattern(scene.rng, name, scene.split.wording).format(a=phrases.place_phrase(scene.rng, area), v=words)


def single(scene, sort="device"):
    """A and B, and C with a group: one command; a missing tool gives the no-tool answer."""
    picked = pick_action(scene, sort)
    if picked is None:
        return None
    action, words = picked
    calls = scene.dialect.calls(action, scene.home)
    text = room_text(scene, action, words) or command_text(scene, action, words)
    if calls is None:
        if scene.rng.random() > 0.05 or sort != "device":
            return None
        return [user_turn(scene, text), say(NO_TOOL)], ([], [], scene.home)
    before = apply(scene, action)
    scene.last = scene.home.named(action.target.name) if sort == "device" else None
    return [user_turn(scene, text), call_message(calls)] + results_and_done(scene, calls), ([action], calls, before)


def group(scene):
    return single(scene, "group")


def both(scene):
    """C: two commands in one sentence."""
    rng = scene.rng
    picked = [pick_action(scene, "device" if rng.random() < 0.85 else "group") for _ in range(2)]
    if None in picked or picked[0][0].target == picked[1][0].target or composition_held_out(*(p[0].verb for p in picked)) != scene.split.compositions:
        return None
    actions = [p[0] for p in picked]
    calls = [scene.dialect.calls(a, scene.home) for a in actions]
    if None in calls:
        return None
    first, second = (command_text(scene, *p) for p in picked)
    if actions[0].verb == actions[1].verb and VERBS[actions[0].verb][2] is not None and rng.random() < 0.6:
        joined = f"{phrase_for(scene, actions[0].target)} and {phrase_for(scene, actions[1].target)}"
        text = command_text(scene, actions[0], "", joined)
    else:
        text = pattern(rng, "pair", scene.split.wording).format(a=first, b=second)
    before = apply(scene, actions[0])
    apply(scene, actions[1])
    scene.last = None
    calls = calls[0] + calls[1]
    return [user_turn(scene, text), call_message(calls)] + results_and_done(scene, calls), (actions, calls, before)


def follow_up(scene):
    """C: "turn it off again" after a turn about one device."""
    if scene.last is None:
        return None
    rng, device = scene.rng, scene.last
    verbs = [v for v in VERBS if device.kind in VERBS[v][0]]
    verb = rng.choice(verbs)
    value, words = phrases.value_phrase(rng, verb, scene.split.numbers) if VERBS[verb][2] is None else (None, "")
    action = Action(verb, Target("device", device.name, device.kind), value)
    calls = scene.dialect.calls(action, scene.home)
    if calls is None:
        return None
    text = command_text(scene, action, words, rng.choice(("it", "it", "it", "that", "that one")))
    text = rng.choice(("{} again", "now {}", "{}", "and {}", "ok now {}", "then {}", "actually, {}", "{} after all", "please {}")).format(text)
    before = apply(scene, action)
    return [user_turn(scene, text), call_message(calls)], ([action], calls, before)


def rule(scene):
    """F: tell me when a sensor passes a limit."""
    sensors = [d for d in scene.home.devices if d.kind == "sensor"]
    if not sensors:
        return None
    device = scene.rng.choice(sensors)
    limit, words = limit_of(scene, device)
    side = scene.rng.choice(("above", "below"))
    action = Action("rule", Target("device", device.name, device.kind), None, {side: limit})
    text = pattern(scene.rng, own_or(scene, "rule", device.measures), scene.split.wording, side).format(t=phrases.device_phrase(scene.rng, device, scene.home), v=words)
    return act_or_decline(scene, text, action)


def act_or_decline(scene, text, action):
    calls = scene.dialect.calls(action, scene.home)
    scene.last = None
    if calls is None:
        return ([user_turn(scene, text), say(NO_TOOL)], ([], [], scene.home)) if scene.rng.random() < 0.15 else None
    return [user_turn(scene, text), call_message(calls)] + results_and_done(scene, calls), ([action], calls, scene.home)


def timer(scene):
    """F: start, cancel, hold, resume a timer, or ask for it."""
    rng = scene.rng
    held = scene.split.wording
    label = coin(rng).lower() if not held and rng.random() < 0.3 else rng.choice(families("lists")["label"])
    if rng.random() < 0.4:
        named, verb = rng.random() < 0.5, rng.choice(("timer_cancel", "timer_cancel", "timer_status", "timer_pause", "timer_resume"))
        text = pattern(rng, verb, held, "named" if named else "unnamed").format(l=label)
        return act_or_decline(scene, text, Action(verb, None, None, {"label": label} if named else {}))
    extra, words = phrases.duration(rng, scene.split.numbers)
    if rng.random() < 0.35:
        text = pattern(rng, "timer_named", held).format(v=words, l=label)
        return act_or_decline(scene, text, Action("timer", None, None, extra | {"label": label}))
    return act_or_decline(scene, pattern(rng, "timer", held).format(v=words), Action("timer", None, None, extra))


def stats(scene):
    """E: a figure over past values, which only a statistics tool can give."""
    made = statistics(scene)
    return act_or_decline(scene, *made) if made else None


TASKS = [(single, 60), (group, 30), (both, 18), (follow_up, 4), (ask, 16), (ask_group, 8), (ask_which, 4), (threshold, 8), (stats, 16), (rule, 14), (timer, 10), (absent, 8), (unable, 3), (ambiguous, 14), (incomplete, 4), (scene_mode, 1), (foreign, 10)]


TRIES = 6  # of a task that was drawn: those that ask much of a home would else be told far less often than their weight says


def make_turn(scene):
    """(messages, (actions, calls, home before)) of one user turn, or None when the drawn task does not fit."""
    task = scene.rng.choices([t for t, _ in TASKS], [w for _, w in TASKS])[0]
    for _ in range(TRIES):
        try:
            made = task(scene)
        except LookupError:  # a small family without wording on this side
            made = None
        if made is not None:
            return made
    return None
