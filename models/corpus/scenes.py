"""A sample: one home, one dialect, several independent user turns with the oracle's answers."""
import json
from dataclasses import dataclass, field

from corpus import fixed_dialects, turns
from corpus.actions import VERBS
from corpus.dialects import Dialect
from corpus.layouts import system_text
from corpus.random_dialects import distractor, random_dialect
from corpus.world import make_home


@dataclass
class Split:
    """Which parts of a sample come from the held-out side.

    numbers: of a request's values, at least one; compositions: kinds of group commands and pairs of commands in one
    request; noise: what speech and hurry do to the words.
    """

    names: bool = False
    wording: bool = False
    tools: bool = False
    numbers: bool = False
    compositions: bool = False
    noise: bool = False


@dataclass
class Scene:
    """State of a sample while it is built; `touched` holds devices whose listed state is stale."""

    rng: object
    home: object
    dialect: object
    split: Split
    states: bool
    offered: list = field(default_factory=list)
    touched: set = field(default_factory=set)
    last: object = None  # the device of the previous turn, for "turn it off again"


def choose_dialect(rng, home, held_out, flavour=0):
    """An invented dialect, or one of the five fixed ones; neighbours of one seed with another `flavour` differ in invented words only."""
    draw = rng.random()
    if held_out or draw < 0.40:
        return random_dialect(rng, held_out, flavour)
    if draw < 0.65:
        return fixed_dialects.home_assistant()
    if draw < 0.72:
        return fixed_dialects.services(list(dict.fromkeys(d.kind for d in home.devices if any(d.kind in v[0] for v in VERBS.values()))))
    if draw < 0.92:
        return fixed_dialects.own()
    return fixed_dialects.things() if draw < 0.95 else fixed_dialects.matter(rng.choice(("name", "name", "key")))


RARE = {"timer_cancel", "timer_status", "timer_pause", "timer_resume", "stats", "rule"}  # would crowd out the common ones


WHOLE = 0.35  # of the requests in a fixed dialect are offered all of it, as Home Assistant does


def offer_tools(rng, dialect, home, most=8):
    """The tools of a request: most of those the home can use, a few missing now and then, and distractors; of a fixed dialect also all there are."""
    kinds = {d.kind for d in home.devices}
    useful = [t for t in dialect.tools if any(v not in VERBS or kinds & set(VERBS[v][0]) for v in t.verbs)]
    useless = [t for t in dialect.tools if t not in useful]
    useful = [t for t in useful if not set(t.verbs) <= RARE or rng.random() < 0.6]
    rng.shuffle(useful)
    whole = not dialect.title.startswith("random") and rng.random() < WHOLE
    chosen = dialect.tools[:] if whole else useful[: rng.randrange(2, most)]
    chosen += [] if whole else [t for t in useless if rng.random() < 0.15][:2]
    names = {t.name for t in chosen}
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        extra = distractor(rng)
        if extra.name not in names:
            names.add(extra.name)
            chosen.append(extra)
    if rng.random() < 0.7:
        rng.shuffle(chosen)
    return chosen


def make_scene(rng, split=Split(), size=None, flavour=0):
    home = make_home(rng, split.names, size)
    dialect = choose_dialect(rng, home, split.tools, flavour)
    offered = offer_tools(rng, dialect, home)
    narrowed = Dialect(dialect.title, [t for t in offered if t.verbs], dialect.reference, dialect.kind_words)
    scene = Scene(rng, home, narrowed, split, rng.random() < 0.7, offered)
    return scene


def conversation(rng, split=Split(), turn_count=None, size=None, flavour=0):
    """(messages, OpenAI tools, scene, checks): checks are (actions, calls, home) triples for the oracle.

    The same seed with another `flavour` gives the same home and requests under other tool and parameter names.
    """
    scene = make_scene(rng, split, size, flavour)
    listed = scene.home.copy()
    wanted = turn_count or rng.randrange(9, 15)
    messages, checks = [], []
    budget = 5600  # characters; about 1,700 tokens, longer samples are dropped
    tries = 0
    while len(checks) < wanted and tries < 60:
        tries += 1
        made = turns.make_turn(scene)
        if made is None:
            continue
        added, triple = made
        messages += added
        checks.append(triple)
        budget -= sum(len(json.dumps(m)) for m in added)
        if budget < 0:
            break
    system = system_text(rng, listed, scene.states, scene.dialect.reference == "key")
    return [{"role": "system", "content": system}] + messages, [t.schema() for t in scene.offered], scene, checks


def pack(rng, split=Split(), count=12, size=None, flavour=0):
    """(system message, OpenAI tools, units, scene, checks): units are lists of messages that know nothing of one another.

    A unit is one request to the home as listed; now and then it goes on for a turn or two.
    """
    scene = make_scene(rng, split, size or rng.randrange(*rng.choices(((2, 5), (5, 9), (9, 17)), (30, 45, 25))[0]), flavour)
    listed = scene.home
    units, checks, tries = [], [], 0
    while len(units) < count and tries < 6 * count:
        tries += 1
        scene.home, scene.touched, scene.last = listed.copy(), set(), None
        unit, long = [], rng.random() < 0.1
        for _ in range(rng.choice((2, 3)) if long else 1):
            made = turns.follow_up(scene) if unit and scene.last is not None and rng.random() < 0.6 else turns.make_turn(scene)
            if made is not None:
                unit += made[0]
                checks.append(made[1])
        if unit:
            units.append(unit)
    system = system_text(rng, listed, scene.states, scene.dialect.reference == "key")
    return {"role": "system", "content": system}, [t.schema() for t in scene.offered], units, scene, checks


def choosing(rng, count=16, most=4, flavour=0):
    """As `pack`, but every unit wants a call, no tool more than `most` times, and the home is small: lessons in which tool does what is said."""
    while True:
        scene = make_scene(rng, Split(), rng.randrange(2, 6), flavour)
        listed = scene.home
        units, used = [], {}
        for _ in range(5 * count):
            scene.home, scene.touched, scene.last = listed.copy(), set(), None
            made = turns.make_turn(scene)
            calls = made and made[0][1].get("tool_calls")
            if not calls or len(units) == count:
                continue
            name = calls[0]["function"]["name"]
            used[name] = used.get(name, 0) + 1
            if used[name] <= most:
                units.append(made[0][:2])
        if len(used) > 2:
            break
    system = system_text(rng, listed, scene.states, scene.dialect.reference == "key")
    return {"role": "system", "content": system}, [t.schema() for t in scene.offered], units
