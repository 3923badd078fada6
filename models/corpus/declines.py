"""Tasks G and H: what cannot be done here - absent, unable, ambiguous, foreign."""
from corpus import phrases
from corpus.actions import VERBS, Action, Target
from corpus.patterns import drawn, exists, families, pattern
from corpus.speech import FOREIGN, NO_TARGET, NO_TOOL, NO_VALUE, NOT_ABLE, NOT_HERE, WELCOME, apply, call_message, say, user_turn, wording
from corpus.world import KINDS, make_home


def absent(scene):
    """G: a device that is not there, in command or question form."""
    rng = scene.rng
    other = make_home(rng, scene.split.names, 3)
    known = " ".join([d.name + " " + d.alias + " " + d.area + " " + d.noun for d in scene.home.devices] + scene.home.areas).lower()
    able = [d for d in other.devices if any(w not in known for w in d.name.lower().split(" ")[:-1])]
    if not able:
        return None
    device = rng.choice(able)
    phrase = rng.choice((f"the {device.name.lower()}", device.name, device.name.lower(), f"the {device.name}"))
    held = scene.split.wording
    scene.last = None
    if rng.random() < 0.3:
        name = "ask_sensor" if device.kind == "sensor" else "ask_value"
        return [user_turn(scene, pattern(rng, name, held).format(t=phrase), True), say(NOT_HERE)], ([], [], scene.home)
    verbs = [v for v in VERBS if device.kind in VERBS[v][0]]
    if not verbs:
        return None
    verb = rng.choice(verbs)
    words = phrases.value_phrase(rng, verb, scene.split.numbers)[1] if VERBS[verb][2] is None else ""
    return [user_turn(scene, wording(scene, verb, device.kind).format(t=phrase, v=words)), say(NOT_HERE)], ([], [], scene.home)


def unable(scene):
    """G: a device that cannot do what is asked."""
    rng = scene.rng
    device = rng.choice(scene.home.devices)
    verbs = {"light": ("lock", "volume", "temperature", "open"), "switch": ("brightness", "lock", "open", "volume"), "lock": ("brightness", "volume", "temperature", "color"), "sensor": ("on", "off", "lock", "open", "brightness"),
             "contact": ("lock", "brightness", "volume"), "cover": ("volume", "temperature", "lock", "color"), "fan": ("lock", "open", "color", "volume"), "climate": ("lock", "color", "volume"),
             "media_player": ("lock", "temperature", "color"), "vacuum": ("lock", "temperature", "color", "volume"), "valve": ("volume", "color", "temperature"), "pump": ("lock", "color", "volume")}[device.kind]
    verb = rng.choice(verbs)
    words = phrases.value_phrase(rng, verb, scene.split.numbers)[1] if VERBS[verb][2] is None else ""
    text = wording(scene, verb, "").format(t=rng.choice((device.name, device.name.lower(), "the " + device.name.lower())), v=words)
    if verb in ("brightness", "volume", "temperature") and not any(w in text for w in ("volume", "bright", "dim", "degree", "temperature", "loud", "quiet")):
        return None
    scene.last = None
    return [user_turn(scene, text), say(NOT_ABLE.format(name=device.name))], ([], [], scene.home)


def ambiguous(scene):
    """G: a noun that several devices share; the answer names them and asks."""
    rng, home = scene.rng, scene.home
    groups = {}
    for d in home.devices:
        groups.setdefault((d.kind, d.area), []).append(d)
    fitting = [k for k, v in groups.items() if 2 <= len(v) <= 4 and any(k[0] in x[0] for x in VERBS.values())]
    if not fitting:
        return None
    kind, area = rng.choice(fitting)
    members, noun = groups[kind, area], KINDS[kind]["nouns"][0]
    plain = f"{area} {noun}".lower()
    if any(d.name.lower() == plain or d.alias.lower() == plain or plain in d.name.lower() for d in home.devices) or noun.endswith("s"):
        return None
    phrase = rng.choice((f"the {noun} in the {area.lower()}", f"the {area.lower()} {noun}", f"{area} {noun}"))
    verb = rng.choice([v for v in VERBS if kind in VERBS[v][0]])
    value, words = phrases.value_phrase(rng, verb, scene.split.numbers) if VERBS[verb][2] is None else (None, "")
    names = [d.name for d in members]
    question = say(f"Which one: {', '.join(names[:-1])} or {names[-1]}?")
    messages = [user_turn(scene, wording(scene, verb, kind).format(t=phrase, v=words)), question]
    chosen = rng.choice(members)
    action = Action(verb, Target("device", chosen.name, kind), value)
    calls = scene.dialect.calls(action, home)
    if calls is None:
        return None
    scene.last = None
    if rng.random() < 0.6:
        return messages, ([], [], home)
    before = apply(scene, action)
    short = rng.choice((chosen.name, chosen.name.lower(), "the " + chosen.name.lower(), "i mean " + chosen.name.lower(), *(("the first one", "the first") if chosen is members[0] else ("the last one",) if chosen is members[-1] else ())))
    return messages + [user_turn(scene, short), call_message(calls)], ([action], calls, before)


def incomplete(scene):
    """G: a command without a value, or without a device; the answer asks for it."""
    rng, held = scene.rng, scene.split.wording
    scene.last = None
    if rng.random() < 0.2:
        return [user_turn(scene, pattern(rng, "missing_target", held)), say(NO_TARGET)], ([], [], scene.home)
    able = [(d, v) for d in scene.home.devices for v in VERBS if d.kind in VERBS[v][0] and exists(f"missing_{v}")]
    if not able:
        return None
    device, verb = rng.choice(able)
    text = pattern(rng, f"missing_{verb}", held).format(t=phrases.device_phrase(rng, device, scene.home))
    return [user_turn(scene, text), say(NO_VALUE)], ([], [], scene.home)


def scene_mode(scene):
    """G: a scene or routine where no tool knows scenes."""
    if any(t.name == "set_scene" for t in scene.offered):
        return None
    scene.last = None
    return [user_turn(scene, pattern(scene.rng, "scene", scene.split.wording)), say(NO_TOOL)], ([], [], scene.home)


# what a foreign request of a brief could be meant for; with such a tool on offer it is no foreign request
SERVED = {"weather": ("get_weather",), "maths": ("calculate",), "translation": ("translate",), "shopping": ("add_to_list", "HassListAddItem", "order_part"), "messages": ("send_message", "broadcast", "HassBroadcast"),
          "calls": ("call_contact",), "calendar": ("create_event", "get_time"), "news": ("get_news",), "media search": ("play_music",), "jokes and stories": ("play_music",)}
SERVED |= {brief: ("get_weather", "calculate", "translate", "get_time", "get_news", "send_message", "add_to_list", "HassListAddItem", "call_contact", "create_event", "play_music", "take_snapshot") for brief in ("questions", "questions two", "tasks", "tasks two")}
TALK = ("chat", "chat two", "garbled", "garbled two", "identity", "feelings", "abuse and tricks", "other languages")


def foreign(scene):
    """H: what no device can answer; and thanks."""
    rng = scene.rng
    scene.last = None
    if rng.random() < 0.12:
        return [user_turn(scene, pattern(rng, "thanks", scene.split.wording)), say(WELCOME)], ([], [], scene.home)
    brief, text = drawn(rng, "foreign", scene.split.wording)
    if {t.name for t in scene.offered} & {*SERVED.get(brief, ()), *(() if brief in TALK else ("web_search",))}:
        return None
    slots = {name: rng.choice(words) for name, words in families("lists").items()}
    text = text.format(n=rng.randrange(2, 500), m=rng.randrange(2, 90), **slots)
    return [user_turn(scene, text, text.startswith(("what", "who", "how", "why", "when", "where", "is ", "do ", "are "))), say(FOREIGN)], ([], [], scene.home)
