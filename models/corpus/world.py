"""The simulated home or plant: typed devices in areas and floors, with states; requests change it."""
import copy
from dataclasses import dataclass, field

from corpus import names

# kind -> nouns (the first is the plain one), plural, states, numeric or chosen properties
KINDS = {
    "light": dict(nouns=["light", "lamp", "lights", "bulb", "spotlight", "led strip", "lantern"], plural="lights", states=["on", "off"]),
    "switch": dict(nouns=["plug", "switch", "outlet", "heater", "coffee maker", "socket", "kettle", "charger", "humidifier", "fountain"], plural="switches", states=["on", "off"]),
    "fan": dict(nouns=["fan", "ceiling fan", "extractor", "ventilator"], plural="fans", states=["on", "off"]),
    "cover": dict(nouns=["blinds", "shutter", "curtain", "shade", "awning", "garage door", "roller blind", "gate"], plural="blinds", states=["open", "closed"]),
    "lock": dict(nouns=["lock", "door lock", "deadbolt", "door"], plural="locks", states=["locked", "unlocked"]),
    "climate": dict(nouns=["thermostat", "ac", "heating", "air conditioner", "heat pump", "radiator"], plural="thermostats", states=["on", "off"]),
    "media_player": dict(nouns=["speaker", "tv", "radio", "soundbar", "stereo", "amplifier"], plural="speakers", states=["on", "off"]),
    "vacuum": dict(nouns=["vacuum", "robot vacuum", "mop", "robot"], plural="vacuums", states=["docked", "cleaning"]),
    "valve": dict(nouns=["valve", "sprinkler", "irrigation valve", "water valve"], plural="valves", states=["open", "closed"]),
    "pump": dict(nouns=["pump", "motor", "conveyor", "compressor", "drive", "mixer"], plural="pumps", states=["on", "off"]),
    "sensor": dict(nouns=["sensor"], plural="sensors", states=[]),
    "contact": dict(nouns=["contact", "window", "leak sensor", "motion sensor"], plural="contacts", states=[]),
}
READINGS = {  # what a sensor measures: unit, lowest, highest, decimals
    "temperature": ("°C", -25, 95, 1), "humidity": ("%", 15, 95, 0), "pressure": ("bar", 1, 12, 1),
    "power": ("W", 0, 3500, 0), "level": ("%", 0, 100, 0), "co2": ("ppm", 390, 2200, 0),
    "flow": ("l/min", 0, 90, 1), "battery": ("%", 1, 100, 0), "voltage": ("V", 210, 245, 0),
    "vibration": ("mm/s", 0, 12, 1), "speed": ("rpm", 0, 2990, 0), "illuminance": ("lx", 0, 9000, 0),
}
CONTACT_STATES = {"contact": ("open", "closed"), "window": ("open", "closed"), "leak sensor": ("wet", "dry"), "motion sensor": ("motion", "clear")}
COLORS = "red green blue yellow orange purple pink white cyan turquoise violet teal lime magenta gold".split()
MODES = ["heat", "cool", "auto", "dry", "eco"]


@dataclass
class Device:
    key: str            # entity id, for example light.kitchen_ceiling
    name: str
    kind: str
    noun: str
    area: str
    floor: str
    alias: str = ""
    state: dict = field(default_factory=dict)  # property -> value; sensors have "value" and "unit"
    measures: str = ""


@dataclass
class Home:
    devices: list
    areas: list
    floors: list

    def copy(self):
        return copy.deepcopy(self)

    def named(self, name):
        return next(d for d in self.devices if d.name == name)


def initial_state(rng, kind, noun):
    """States a device of this kind starts with."""
    state = {}
    if KINDS[kind]["states"]:
        state["state"] = rng.choice(KINDS[kind]["states"])
    if kind == "light" and rng.random() < 0.5:
        state["brightness"] = rng.randrange(1, 101)
    if kind == "cover" and rng.random() < 0.3:
        state["position"] = 0 if state["state"] == "closed" else rng.randrange(1, 101)
    if kind == "climate":
        state["temperature"] = number(rng, 14, 29, 1)
        state["mode"] = rng.choice(MODES)
    if kind in ("fan", "pump") and rng.random() < 0.3:
        state["speed"] = rng.randrange(1, 101)
    if kind == "media_player" and rng.random() < 0.6:
        state["volume"] = rng.randrange(0, 101)
    if kind == "contact":
        state["state"] = rng.choice(CONTACT_STATES[noun])
    return state


def number(rng, low, high, decimals):
    """A uniform number with that many decimals; whole values come as int."""
    value = round(rng.uniform(low, high), decimals if rng.random() < 0.6 else 0)
    return int(value) if value == int(value) else value


def _key(kind, name):
    domain = {"pump": "switch", "contact": "binary_sensor"}.get(kind, kind)
    return domain + "." + "".join(c if c.isalnum() else "_" for c in name.lower()).replace("__", "_")


def make_device(rng, kind, area, floor, held_out, plant):
    noun = rng.choice(KINDS[kind]["nouns"][:1] * 3 + KINDS[kind]["nouns"])
    measures = ""
    if kind == "sensor":
        measures = rng.choice(list(READINGS)[:6] if not plant else list(READINGS))
        noun = measures if rng.random() < 0.6 else measures + " sensor"
    name = names.device_name(rng, noun, area, held_out, plant)
    device = Device(_key(kind, name), name, kind, noun, area, floor, measures=measures)
    device.state = initial_state(rng, kind, noun)
    if kind == "sensor":
        unit, low, high, decimals = READINGS[measures]
        device.state = {"value": number(rng, low, high, decimals), "unit": unit}
    if rng.random() < 0.12:
        device.alias = names.device_name(rng, noun, area, held_out, False)
    return device


def make_home(rng, held_out=False, size=None):
    """A home (or, one time in five, a plant) with 2-6 devices, at times 12, rarely 24; names are unique."""
    plant = rng.random() < 0.2
    size = size or rng.choices((rng.randrange(2, 7), rng.randrange(7, 13), rng.randrange(13, 25)), (78, 18, 4))[0]
    floors = rng.sample(names.FLOORS, rng.choice((0, 0, 1, 2)))
    areas = []
    while len(areas) < max(1, min(8, round(size * rng.uniform(0.25, 0.8)))):
        area = names.area_name(rng, held_out)
        if area.lower() not in [a.lower() for a in areas]:
            areas.append(area)
    where = {area: rng.choice(floors) if floors else "" for area in areas}
    kinds = ["light"] * 6 + ["switch"] * 3 + ["fan"] * 2 + ["cover"] * 3 + ["lock"] * 2 + ["climate"] * 2 + ["media_player"] * 2 + ["vacuum", "valve"] + ["sensor"] * 4 + ["contact"] * 2
    if plant:
        kinds = ["pump"] * 4 + ["valve"] * 3 + ["fan"] * 2 + ["sensor"] * 6 + ["light", "switch", "contact", "climate"]
    devices, taken = [], set()
    while len(devices) < size:
        area = rng.choice(areas)
        device = make_device(rng, rng.choice(kinds), area, where[area], held_out, plant)
        if device.name.lower() not in taken and device.alias.lower() not in taken:
            taken |= {device.name.lower(), device.alias.lower()} - {""}
            devices.append(device)
    areas = [area for area in areas if any(d.area == area for d in devices)]
    return Home(devices, areas, [f for f in floors if any(d.floor == f for d in devices)])
