"""What both sides of a conversation say: user turns, calls, results, the fixed answers; and what a command changes."""
from corpus import phrases
from corpus.actions import VERBS, intended
from corpus.noise import finish
from corpus.patterns import exists, pattern
from corpus.split import number_held_out
from corpus.world import READINGS, number

NOT_HERE = "I can't find that device here."
NOT_ABLE = "{name} can't do that."
NO_TOOL = "I have no tool for that."
NO_STATE = "I can't see that from here."
FOREIGN = "I can only help with the devices here."
NO_VALUE = "To what value?"
NO_TARGET = "Which device?"
WELCOME = "You're welcome."
DONE = "Done."


def call_message(calls):
    return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": c} for c in calls]}


def user_turn(scene, text, question=False):
    return {"role": "user", "content": finish(scene.rng, text, question, scene.split.noise)}


def say(text):
    return {"role": "assistant", "content": text}


def results_and_done(scene, calls):
    """After a call, sometimes the tools' answers and a word to the user."""
    if scene.rng.random() > 0.2:
        return []
    answer = scene.rng.choice(('{"success": true}', "ok", '{"result": "ok"}', "done", '{"speech": {}, "response_type": "action_done"}'))
    return [{"role": "tool", "content": answer} for _ in calls] + [say(DONE)]


def apply(scene, action):
    before = scene.home.copy()
    for (key, prop), value in intended(action, scene.home).items() if action.verb in VERBS else ():
        device = next(d for d in scene.home.devices if d.key == key)
        device.state[prop] = value
        scene.touched.add(device.name)
    return before


def own_or(scene, name, kind):
    """Name of the wording to use: now and then the one made for this kind, where there is one."""
    own = f"{name}_{kind}"
    return own if exists(own) and scene.rng.random() < 0.3 else name


def wording(scene, verb, kind):
    """A pattern for a verb; many kinds have some of their own."""
    return pattern(scene.rng, own_or(scene, verb, kind), scene.split.wording)


def limit_of(scene, device):
    unit, low, high, decimals = READINGS[device.measures]
    value = number(scene.rng, low, high, min(decimals, 1) if scene.rng.random() < 0.3 else 0)
    while number_held_out(value) and not scene.split.numbers:
        value = number(scene.rng, low, high, 0)
    words = scene.rng.choice((str(value), str(value), f"{value} {unit}", f"{value}{unit}" if len(unit) < 3 else f"{value} {unit}", phrases.number_words(value)))
    return value, words
