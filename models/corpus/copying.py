"""The copy curriculum: lists of names and values, one asked back at a time.

Copying from the prompt appears late and suddenly in training; these dense lessons bring it forward.
"""
from corpus import names
from corpus.coined import coin, known
from corpus.split import number_held_out, side
from corpus.world import make_home

HEADERS = ["", "", "List:", "Values:", "Items:", "Table:"]
JOINTS = [" = ", ": ", " -> ", " | ", ", ", " is ", " '"]
ASKS = ["{}", "{}", "{}?", "what is {}", "{} please", "value of {}", "find {}", "read {}", "say {}", "which is {}"]
MISSING = "None."


def _word(rng):
    """A name's word, a word of no meaning, or a plain one."""
    return rng.choice((names.invented_word(rng, False), coin(rng), rng.choice(side("name", known(), False))))


def _value(rng):
    """A number, a word, a key or two words; no number with a held-out pair of digits."""
    while number_held_out(value := _any_value(rng)):
        pass
    return value


def _any_value(rng):
    draw = rng.random()
    if draw < 0.35:
        return str(rng.randrange(0, 10 ** rng.randrange(1, 5)))
    if draw < 0.45:
        return f"{rng.randrange(0, 90)}.{rng.randrange(0, 10)}"
    if draw < 0.75:
        return _word(rng)
    if draw < 0.9:
        return f"{rng.choice(('light', 'lock', 'fan', 'x', 'unit', 'dev'))}.{names.invented_word(rng, False).lower()}_{rng.randrange(100)}"
    return " ".join(_word(rng) for _ in range(2))


def lesson(rng):
    """(messages, no tools): a list in the system text, then 8-16 questions; lower-case questions are answered in the list's case."""
    home = make_home(rng, False, rng.randrange(2, 9))
    table = {}
    for device in home.devices:
        key = device.name if rng.random() < 0.7 else _word(rng)
        table[key] = _value(rng)
    joint = rng.choice(JOINTS)
    tail = "'" if joint.endswith("'") else ""
    lines = [f"{key}{joint}{value}{tail}" for key, value in table.items()]
    head = rng.choice(HEADERS)
    messages = [{"role": "system", "content": (head + "\n" if head else "") + rng.choice(("\n", "\n", "; ")).join(lines)}]
    for _ in range(rng.randrange(8, 17)):
        key = rng.choice(list(table))
        answer = table[key]
        if rng.random() < 0.25:  # say it after me: the plainest copy there is
            words = " ".join(rng.choice((_word(rng), _value(rng), rng.choice(list(table)))) for _ in range(rng.randrange(1, 4)))
            messages += [{"role": "user", "content": f"say {words}"}, {"role": "assistant", "content": words}]
            continue
        if rng.random() < 0.4:  # copy the name itself, from its lower case or from its value
            asked = key.lower() if rng.random() < 0.6 else f"name {answer}"
            if asked.startswith("name ") and list(table.values()).count(answer) > 1:
                continue
            answer = f"{key}" + ("" if asked.startswith("name ") else f": {answer}")
        else:
            asked = rng.choice(ASKS).format(key)
        if rng.random() < 0.06:
            asked, answer = names.invented_word(rng, False), MISSING
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages, []
