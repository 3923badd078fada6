"""Tool dialects: how an action becomes tool calls, and what a call does (the oracle's way back)."""
from dataclasses import dataclass, field

from corpus.actions import OTHER_VERBS, VERBS, Action, Target, intended

PLAIN_KINDS = {"media_player": "speaker", "climate": "thermostat", "cover": "blinds", "contact": "sensor"}


@dataclass
class Param:
    """One parameter; `role` says what it carries: device, area, floor, kind, value, hours, ..."""

    name: str
    role: str
    type: str = "string"
    required: bool = False
    enum: list = None
    low: int = None
    high: int = None
    listed: bool = False  # the value is wrapped in an array

    def schema(self):
        base = {"type": ["string", "number"] if self.type == "any" else self.type}
        if self.enum:
            base["enum"] = self.enum
        if self.low is not None:
            base["minimum"], base["maximum"] = self.low, self.high
        return {"type": "array", "items": base} if self.listed else base


@dataclass
class Tool:
    """verbs: verb -> constants {param name: value} that select it; kinds: what it works on, all when empty."""

    name: str
    description: str
    params: list
    verbs: dict = field(default_factory=dict)
    kinds: tuple = ()

    def schema(self):
        body = {"type": "object", "properties": {p.name: p.schema() for p in self.params}}
        required = [p.name for p in self.params if p.required]
        if required:
            body["required"] = required
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": body}}

    def role(self, role):
        return next((p for p in self.params if p.role == role), None)


@dataclass
class Dialect:
    """reference: 'name' or 'key', how a device is named in calls; kind_words maps kinds to what `kind` params carry."""

    title: str
    tools: list
    reference: str = "name"
    kind_words: dict = None

    def word(self, kind):
        return (self.kind_words or {}).get(kind, kind)

    def find(self, action, home):
        """The tool that can express this action with one call, or None."""
        if action.target and action.target.sort != "device":
            kinds = {d.kind for d in home.devices if action.verb not in VERBS or d.kind in VERBS[action.verb][0]}
            if any(self.word(kind) == self.word(action.target.kind) for kind in kinds - {action.target.kind}):
                return None  # the call would reach another kind as well
        for tool in self.tools:
            if action.verb in tool.verbs and _reaches(tool, action):
                return tool
        return None

    def calls(self, action, home):
        """Tool calls [{name, arguments}] for an action; one per device where no tool takes the group; None if impossible."""
        tool = self.find(action, home)
        if tool:
            return [self._call(tool, action, home)]
        if action.target and action.target.sort != "device":
            parts = [Action(action.verb, Target("device", d.name, d.kind), action.value, action.extra) for d in action.target.members(home)]
            calls = [self.calls(part, home) for part in parts]
            if calls and len(calls) <= 3 and all(calls):
                return [call for group in calls for call in group]
        return None

    def _call(self, tool, action, home):
        constants = tool.verbs[action.verb]
        arguments = {}
        for param in tool.params:
            value = constants.get(param.name, self._fill(param, action, home))
            if value is not None:
                arguments[param.name] = [value] if param.listed else value
        return {"name": tool.name, "arguments": arguments}

    def _fill(self, param, action, home):
        target = action.target
        if param.role == "device" and target and target.sort == "device":
            device = home.named(target.name)
            return device.key if self.reference == "key" else device.name
        if param.role in ("area", "floor") and target and target.sort == param.role:
            return target.name
        if param.role == "area" and target and target.sort == "all" and param.required:
            return "all"
        if param.role == "kind" and target and target.sort != "device":
            return self.word(target.kind)
        if param.role == "value":
            return action.value
        if param.role.startswith("value:"):  # a value parameter of one property only
            return action.value if action.verb == param.role[6:] else None
        return action.extra.get(param.role)

    def execute(self, call, home):
        """The changes a call makes, read from its text alone; raises ValueError for a call nobody could run."""
        arguments = {k: v[0] if isinstance(v, list) else v for k, v in call["arguments"].items()}
        for tool in self.tools:
            if tool.name != call["name"]:
                continue
            for verb, constants in tool.verbs.items():
                if any(arguments.get(k) != v for k, v in constants.items()):
                    continue
                action = self._read(tool, verb, constants, arguments, home)
                changes = intended(action, home) if action else {}
                if changes:
                    return changes
        raise ValueError(f"no effect: {call}")

    def _read(self, tool, verb, constants, arguments, home):
        by_role = {p.role: arguments[p.name] for p in tool.params if p.name in arguments and p.name not in constants}
        special = {r[6:]: v for r, v in by_role.items() if r.startswith("value:")}
        if special and verb not in special:
            return None
        if VERBS.get(verb, (0, 0, "fixed"))[2] is None and "value" not in by_role and not special:
            return None
        target = self._read_target(by_role, verb, home)
        if target is None and not verb.startswith("timer"):
            return None
        if tool.kinds and target is not None and target.kind not in tool.kinds:
            return None
        extra = {k: by_role[k] for k in ("hours", "minutes", "seconds", "label", "above", "below", "operation", "window") if k in by_role} if verb in OTHER_VERBS else {}
        return Action(verb, target, by_role.get("value", special.get(verb)), extra)

    def _read_target(self, by_role, verb, home):
        if "device" in by_role:
            for d in home.devices:
                if by_role["device"] == (d.key if self.reference == "key" else d.name):
                    return Target("device", d.name, d.kind)
            return None
        kinds = [k for k in {d.kind for d in home.devices} if self.word(k) == by_role.get("kind")]
        if verb in VERBS:
            kinds = [k for k in kinds if k in VERBS[verb][0]]
        if not kinds:
            return None
        for sort in ("area", "floor"):
            if by_role.get(sort, "all") != "all":
                return Target(sort, by_role[sort], kinds[0])
        return Target("all", "", kinds[0])


def _reaches(tool, action):
    """Whether the tool has the parameters that this action's target, value and extras need."""
    target, roles = action.target, {p.role for p in tool.params}
    if tool.kinds and target is not None and target.kind not in tool.kinds:
        return False
    if target is not None:
        if target.sort == "device" and "device" not in roles:
            return False
        if target.sort in ("area", "floor") and not {target.sort, "kind"} <= roles:
            return False
        if target.sort == "all" and "kind" not in roles:
            return False
        if target.sort != "device" and any(p.role == "device" and p.required for p in tool.params):
            return False
        if target.sort == "device" and any(p.role in ("area", "floor", "kind") and p.required for p in tool.params):
            return False
    return all(key in roles for key in action.extra)
