"""Proof that labels are right: every gold call, run on the home, makes exactly the intended changes.

    python -m corpus.check [--samples 2000]

Also checked: no held-out number or composition is in a training sample, the text pieces equal the chat template's rendering (with jinja2), tool and parameter names cut into the
same tokens in the tool list as in a call (with tokenizers), and no wording stands on both sides of the border. How
broad the wording is, is printed. Plain Python; a check whose package is absent says so.
"""
import argparse
import collections
import json
import random
import sys

from corpus import breadth
from corpus.actions import VERBS, intended
from corpus.coined import coin
from corpus.copying import lesson
from corpus.patterns import FOLDER, LISTS, choices
from corpus.render import call_text, pieces, tool_line
from corpus.scenes import Split, conversation, pack
from corpus.split import composition_held_out, is_held_out, number_held_out


def template(folder=FOLDER.parent):
    """The chat template of a folder (training's own lies beside this file), compiled as transformers compiles it."""
    import jinja2.sandbox

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False)
    return environment.from_string((folder / "chat_template.jinja").read_text(encoding="utf-8"))


def differences(actions, calls, scene, home):
    """Empty when the calls do what the actions mean."""
    meant, done = {}, {}
    for action in actions:
        meant |= intended(action, home)
    for call in calls:
        done |= scene.dialect.execute(call, home)
    return {} if meant == done else {"meant": meant, "done": done}


def crossings(actions, split):
    """Numbers and compositions of actions that stand on the held-out side though this split keeps to the training side."""
    found = []
    values = [v for a in actions for v in (a.value, *a.extra.values()) if isinstance(v, (int, float))]
    if not split.numbers:
        found += [v for v in values if number_held_out(v)]
    if not split.compositions:
        groups = [a for a in actions if a.verb in VERBS and a.target.sort != "device"]
        found += [a for a in groups if composition_held_out(a.verb, a.target.kind, a.target.sort)]
        if len(actions) == 2 and composition_held_out(*(a.verb for a in actions)):
            found.append(actions)
    return found


def wording_sides():
    """(patterns for training, patterns held out) over all wording files."""
    return [len({p for path in FOLDER.glob("*.txt") if path.stem not in LISTS for p in choices(path.stem, None, held)}) for held in (False, True)]


def renderer():
    """The template's rendering function, or None without jinja2."""
    try:
        return template().render
    except ImportError:
        print("jinja2 is absent: the text is not compared with the chat template's")
        return None


def cutter():
    """The tokenizer's text -> tokens, or None without tokenizers."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        print("tokenizers is absent: names are not compared token by token")
        return None
    coder = Tokenizer.from_file(str(FOLDER.parents[1] / "default" / "tokenizer.json"))
    return lambda text: coder.encode(text, add_special_tokens=False).tokens


def uneven(cut, tools, calls):
    """Tool and parameter names of the calls that cut into other tokens in the tool list than in the call."""
    listed = {tool["function"]["name"]: cut(tool_line(tool)) for tool in tools}
    called = []
    for call in calls:
        for text in (call["name"], *call["arguments"]):
            inside = cut(call_text(call))
            whole = cut('{"' + text)[1:]
            if not (_within(whole, inside) and _within(whole, listed[call["name"]])):
                called.append(text)
    return called


def _within(part, whole):
    return any(whole[i : i + len(part)] == part for i in range(len(whole)))


def packed(rng, split):
    """A pack as one conversation: (messages, tools, scene, checks)."""
    system, tools, units, scene, checks = pack(rng, split)
    return [system] + [message for unit in units for message in unit], tools, scene, checks


def borders(count=2000):
    """Words of `coined` and numbers of copy lessons that lie on the held-out side; none may."""
    rng = random.Random("borders")
    words = [coin(rng, sort) for sort in ("name", "tool") for _ in range(count)]
    found = [word for at, word in enumerate(words) if is_held_out(("name", "tool")[at // count], word)]
    numbers = [message["content"] for _ in range(count // 20) for message in lesson(rng)[0] if message["role"] == "assistant" and message["content"].replace(".", "").isdigit()]
    return found + [number for number in numbers if number_held_out(number)]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--samples", type=int, default=2000)
    options.add_argument("--show", type=int, default=0)
    options = options.parse_args()
    render, cut, faults, kinds, odd = renderer(), cutter(), 0, collections.Counter(), collections.Counter()
    for seed in range(options.samples):
        rng = random.Random(f"check-{seed}")
        held = seed % 5 == 4
        split = Split(held, held, held)
        messages, tools, scene, checks = conversation(rng, split) if seed % 2 else packed(rng, split)
        kinds[scene.dialect.title] += 1
        for actions, calls, home in checks:
            kinds["turns"] += 1
            kinds["calls"] += len(calls)
            try:
                fault = differences(actions, calls, scene, home)
            except ValueError as error:
                fault = str(error)
            crossed = crossings(actions, split)
            if fault or crossed:
                fault = fault or f"held out, but in training: {crossed}"
                faults += 1
                print(f"sample {seed}: {fault} {calls}", file=sys.stderr)
        ours = "".join(text for text, _ in pieces(messages, tools))
        for call in (call for _, calls, _ in checks[:2] if cut for call in calls):
            odd["names"] += 1 + len(call["arguments"])
            odd["uneven"] += len(uneven(cut, tools, [call]))
        if render and ours != render(messages=messages, tools=tools, add_generation_prompt=False):
            faults += 1
            print(f"sample {seed}: rendering differs", file=sys.stderr)
        if seed < options.show:
            print(ours, "\n" + "=" * 60)
    train, held = wording_sides()
    both = breadth.crossing()
    crossed = borders()
    faults += len(both) + len(crossed)
    print(dict(kinds))
    print("\n".join(breadth.report()))
    print(f"wording: {train} patterns for training, {held} held out, {len(both)} of these in training too when slots are blanked")
    print(f"coined words and numbers of lessons: {len(crossed)} on the held-out side{': ' * bool(crossed)}{', '.join(crossed[:5])}")
    if cut:
        print(f"tokens: {odd['uneven']} of {odd['names']} names cut otherwise in the tool list than in the call")
    print(f"{options.samples} samples, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
