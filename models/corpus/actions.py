"""What a request intends, free of any tool: verb, target, value; and what it changes in the home."""
from dataclasses import dataclass, field

# verb -> (kinds it applies to, property changed, fixed value or None when the request gives it)
VERBS = {
    "on": (("light", "switch", "fan", "climate", "media_player", "pump"), "state", "on"),
    "off": (("light", "switch", "fan", "climate", "media_player", "pump"), "state", "off"),
    "open": (("cover", "valve"), "state", "open"),
    "close": (("cover", "valve"), "state", "closed"),
    "lock": (("lock",), "state", "locked"),
    "unlock": (("lock",), "state", "unlocked"),
    "play": (("media_player",), "playback", "playing"),
    "pause": (("media_player",), "playback", "paused"),
    "clean": (("vacuum",), "state", "cleaning"),
    "dock": (("vacuum",), "state", "docked"),
    "brightness": (("light",), "brightness", None),
    "color": (("light",), "color", None),
    "position": (("cover", "valve"), "position", None),
    "temperature": (("climate",), "temperature", None),
    "mode": (("climate",), "mode", None),
    "speed": (("fan", "pump"), "speed", None),
    "volume": (("media_player",), "volume", None),
}
OTHER_VERBS = ("timer", "timer_cancel", "timer_status", "timer_pause", "timer_resume", "rule", "read", "stats")  # change no device


@dataclass(frozen=True)
class Target:
    """sort is device, area, floor or all; `name` is the device's, area's or floor's name."""

    sort: str
    name: str
    kind: str

    def members(self, home):
        """Devices meant, in the order of the home's list."""
        if self.sort == "device":
            return [d for d in home.devices if d.name == self.name]
        same = [d for d in home.devices if d.kind == self.kind]
        if self.sort == "area":
            return [d for d in same if d.area == self.name]
        if self.sort == "floor":
            return [d for d in same if d.floor == self.name]
        return same


@dataclass(frozen=True)
class Action:
    verb: str
    target: Target = None
    value: object = None
    extra: dict = field(default_factory=dict)  # timers: hours, minutes, seconds, label; rules: above, below; statistics: operation, window


def intended(action, home):
    """The changes an action is to make: {(device key, property): value}; timers and rules under their own key."""
    if action.verb in OTHER_VERBS:
        detail = tuple(sorted(action.extra.items()))
        return {(action.verb, action.target.name if action.target else ""): detail}
    kinds, prop, fixed = VERBS[action.verb]
    value = action.value if fixed is None else fixed
    return {(d.key, prop): value for d in action.target.members(home) if d.kind in kinds}
