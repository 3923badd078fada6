"""Noun phrases and values as people say them; a phrase for a device resolves to that device alone."""
from corpus.split import number_held_out
from corpus.world import COLORS, KINDS, MODES, number

UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
PLURALS = {"light": ["lights", "lights", "lamps"], "fan": ["fans"], "cover": ["blinds", "covers", "shades", "curtains"], "lock": ["locks", "doors"], "switch": ["switches", "plugs"],
           "climate": ["thermostats"], "media_player": ["speakers", "media players"], "valve": ["valves"], "pump": ["pumps", "motors"], "vacuum": ["vacuums"]}


def number_words(value):
    """Words for 0..9999 and halves: 21.5 -> twenty one and a half."""
    whole = int(value)
    if value != whole:
        tail = " and a half" if abs(value - whole) == 0.5 else " point " + " ".join(UNITS[int(c)] for c in str(value).split(".")[1])
        return number_words(whole) + tail
    if whole < 0:
        return "minus " + number_words(-whole)
    if whole < 20:
        return UNITS[whole]
    if whole < 100:
        return TENS[whole // 10] + (" " + UNITS[whole % 10] if whole % 10 else "")
    if whole < 1000:
        return UNITS[whole // 100] + " hundred" + (" " + number_words(whole % 100) if whole % 100 else "")
    return number_words(whole // 1000) + " thousand" + (" " + number_words(whole % 1000) if whole % 1000 else "")


def _article(rng, text):
    return f"the {text}" if rng.random() < 0.55 and "'" not in text.split(" ")[0] else text


def _spoken(rng, name):
    return name.lower() if rng.random() < 0.6 else name


def place_phrase(rng, area):
    """An area as one says it after "in": with or without the article."""
    text = _spoken(rng, area)
    return f"the {text}" if rng.random() < 0.7 and "'" not in text.split(" ")[0] else text


def device_phrase(rng, device, home):
    """A phrase that means this device: name, alias, noun and area, noun alone where it is the only one."""
    draw = rng.random()
    same_kind = [d for d in home.devices if d.kind == device.kind and d.noun.split(" ")[-1] == device.noun.split(" ")[-1]]
    kin = [d for d in home.devices if d.kind == device.kind]
    in_area = [d for d in kin if d.area == device.area]
    area = _spoken(rng, device.area)
    if draw < 0.10 and device.alias:
        return _article(rng, _spoken(rng, device.alias))
    if draw < 0.28 and len(in_area) == 1 and device.kind != "sensor":
        noun = device.noun.lower()
        if not any(d is not device and noun in d.name.lower() and device.area.lower() in d.name.lower() for d in home.devices):
            return rng.choice((f"the {noun} in the {area}", f"the {noun} in {area}", f"the {area} {noun}", f"{area} {noun}", f"{noun} in the {area}"))
    if draw < 0.34 and len(kin) == len(same_kind) == 1 and device.kind != "sensor":
        return f"the {device.noun.lower()}"
    if draw < 0.40 and device.area.lower() not in device.name.lower():
        return _article(rng, f"{_spoken(rng, device.name)} in the {area}")
    return _article(rng, _spoken(rng, device.name))


def group_phrase(rng, target, home, plain=False):
    """A phrase for all devices of a kind in an area, on a floor, or everywhere; `plain` for a plural with its article."""
    plural = rng.choice(PLURALS.get(target.kind, [KINDS[target.kind]["plural"]]))
    place, singular = _spoken(rng, target.name), KINDS[target.kind]["nouns"][0]
    if plain:
        return rng.choice((f"the {place} {plural}", f"the {plural} in the {place}", f"all {plural} in {place}", f"the {plural} in {place}", f"all the {plural} in the {place}"))
    if target.sort == "area":
        return rng.choice((f"the {place} {plural}", f"the {plural} in the {place}", f"all {plural} in {place}", f"all the {plural} in the {place}", f"{place} {plural}", f"every {singular} in the {place}", f"all of the {place} {plural}"))
    if target.sort == "floor":
        return rng.choice((f"the {plural} on the {place}", f"all {plural} {place}", f"the {place} {plural}", f"all the {plural} on {place}"))
    return rng.choice((f"all {plural}", f"all the {plural}", f"every {singular}", f"all {plural} in the house", f"the {plural} everywhere", f"all of the {plural}"))


def percent(rng):
    """(value, phrase) for 0..100."""
    if rng.random() < 0.12:
        return rng.choice(((50, "half"), (100, "maximum"), (100, "max"), (100, "full"), (25, "a quarter"), (100, "a hundred percent"), (50, "fifty fifty") if rng.random() < 0.1 else (50, "half")))
    value = rng.randrange(1, 101) if rng.random() < 0.6 else rng.randrange(1, 21) * 5
    return value, rng.choice((f"{value}%", f"{value}%", f"{value} percent", f"{value} percent", str(value), f"{value} %", number_words(value) + " percent", number_words(value)))


def degrees(rng):
    value = number(rng, 10, 30, 1) if rng.random() < 0.5 else rng.randrange(28, 61) / 2
    value = int(value) if value == int(value) else value
    return value, rng.choice((f"{value}", f"{value} degrees", f"{value} degrees", f"{value}°", f"{value} °C", f"{value}c", number_words(value) + " degrees", number_words(value)))


def value_phrase(rng, verb, held_out=False):
    """(value as a tool wants it, words) for a verb that takes a value; only `held_out` lets held-out numbers through."""
    while True:
        value, words = _value_phrase(rng, verb)
        if held_out or not number_held_out(value):
            return value, words


def _value_phrase(rng, verb):
    if verb == "color":
        color = rng.choice(COLORS)
        return color, color
    if verb == "mode":
        mode = rng.choice(MODES)
        return mode, mode
    return degrees(rng) if verb == "temperature" else percent(rng)


def duration(rng, held_out=False):
    """({hours, minutes, seconds}, words): units as said, never converted, but for half and quarter hours; numbers as in `value_phrase`."""
    while True:
        extra, words = _duration(rng)
        if held_out or not any(map(number_held_out, extra.values())):
            return extra, words


def _duration(rng):
    draw = rng.random()
    if draw < 0.06:
        return rng.choice((({"minutes": 30}, "half an hour"), ({"hours": 1, "minutes": 30}, "an hour and a half"), ({"minutes": 15}, "a quarter of an hour"), ({"minutes": 45}, "three quarters of an hour")))
    if draw < 0.12:
        return rng.choice((({"hours": 1}, "an hour"), ({"minutes": 1}, "a minute"), ({"hours": 1}, "one hour"), ({"minutes": 1}, "one minute")))
    units = rng.choice((["minutes"], ["minutes"], ["minutes"], ["hours"], ["seconds"], ["hours", "minutes"], ["minutes", "seconds"]))
    extra, words = {}, []
    for unit in units:
        value = rng.randrange(2, 13 if unit == "hours" else 60)
        extra[unit] = value
        spelled = number_words(value) if rng.random() < 0.3 else str(value)
        words.append(f"{spelled} {rng.choice((unit, unit, {'hours': 'hour', 'minutes': 'min', 'seconds': 'sec'}[unit]))}")
    return extra, rng.choice((" and ", " ")).join(words)
