"""The floor: a keyword matcher that reads the request's own tools and device list.

Written before the model was trained and without sight of the held-out requests. It sees what the
model sees: messages and tools.
"""
import re

ACTIONS = [  # (words in the request, words looked for in a tool's name, enum or description), first match wins
    (r"\bunlock|\bunbolt", ("unlock", "release", "unlatch")), (r"\block|\bsecure|\bbolt", ("lock", "secure", "bolt")),
    (r"\bcancel|timer.*\bstop|stop.*\btimer", ("cancel", "delete", "clear", "remove", "abort")), (r"\btimer|\bcountdown|\bremind", ("timer", "countdown", "remind")),
    (r"\b(tell|alert|notify|warn).*\b(when|if)\b", ("rule", "alert", "watch", "monitor", "notify")),
    (r"\bvolume|\blouder|\bquieter", ("volume", "loud", "audio", "sound")), (r"\bspeed|\bfast", ("speed", "rate")),
    (r"\bdegrees|\btemperature|°", ("temp", "setpoint", "heat_to", "climate")), (r"\bmode\b", ("mode",)),
    (r"\b(red|green|blue|yellow|orange|purple|pink|white|cyan|turquoise|violet|teal|lime|magenta|gold)\b", ("color", "colour", "hue", "tint")),
    (r"\b(dim|bright)", ("bright", "dim", "light")), (r"\bpause", ("pause", "hold", "freeze")), (r"\b(play|resume)", ("play", "resume")),
    (r"\b(dock|home|base)\b", ("dock", "base", "home", "park")), (r"\b(clean|vacuum)", ("clean", "vacuum", "sweep")),
    (r"\b(open|raise)", ("open", "raise", "lift", "turnon", "turn_on")), (r"\b(close|shut|lower)\b", ("clos", "shut", "lower", "turnoff", "turn_off")),
    (r"\boff\b|\bstop|\bdisable", ("off", "disable", "stop", "deactivate", "halt")), (r"\bon\b|\bstart|\benable|\bactivate", ("on", "enable", "start", "activate", "run")),
]
QUESTION = re.compile(r"^(what|which|how|is|are|does|do|did|has|who|when|where|why)\b|\?$")
PLURAL = re.compile(r"\b(all|every|lights|blinds|fans|locks|plugs|speakers|switches)\b")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NAMES = (r'"name": "([^"]+)"', r"names: ([^\n,]+)", r"'([^']+)'", r"^(?:[a-z_]+\.\S+ )?([^\n(/:{]+?)(?: / [^(]+)? \(", r"(?:^|; |: )(?:[a-z_]+\.\S+ )?([^;:\n\[]+?)(?: aka [^\[]+)? \[", r"^(?:[a-z_]+\.\w+,)?([^,\n]+),")


def device_names(system):
    """Names in the device list, by the layouts one meets."""
    found = {}
    for expression in NAMES:
        found |= dict.fromkeys(m.strip() for m in re.findall(expression, system, re.M))
    return [name for name in found if 2 < len(name) < 60]


def choose_device(text, system):
    """The listed name that shares most words with the request, the whole name before all."""
    words = set(re.findall(r"\w+", text.lower()))
    best, score = None, 0.0
    for name in device_names(system):
        own = set(re.findall(r"\w+", name.lower()))
        value = len(own & words) / len(own) + (1 if name.lower() in text.lower() else 0)
        if value > score:
            best, score = name, value
    return best if score >= 0.5 else None


def identifier(name, system):
    """The id written on the name's line where the list has ids."""
    for line in system.splitlines():
        found = re.search(r"\b[a-z_]+\.\w+", line)
        if name in line and found:
            return found.group()
    return name


def fill(tool, text, system, words):
    """Arguments by parameter name and type; None when a required one stays empty."""
    body, arguments = tool["function"].get("parameters", {}), {}
    required, device = body.get("required", []), choose_device(text, system)
    numbers = NUMBER.findall(text)
    for name, schema in body.get("properties", {}).items():
        short = name.lower()
        if schema.get("enum"):
            fit = [e for e in schema["enum"] if any(w in str(e) for w in words)]
            value = fit[0] if fit else None
        elif short.startswith(("hour", "hr", "min", "sec")) or short in ("h", "m", "s"):
            found = re.search(r"(\d+) ?" + short[0], text)
            value = int(found.group(1)) if found else None
        elif schema.get("type") in ("integer", "number") or short in ("value", "to", "level"):
            value = float(numbers[-1]) if numbers else None
            value = int(value) if value is not None and value == int(value) else value
        elif re.search(r"device|name|entity|target|thing|item|unit|which|^id$|asset|node|object|appliance|equipment", short) and device:
            value = identifier(device, system) if "." in tool["function"]["name"] or "id" in short else device
        else:
            value = None
        if value is None and name in required:
            return None
        if value is not None:
            arguments[name] = value
    return arguments


def answer(messages, tools):
    """The matcher's calls [{name, arguments}] for a request."""
    text = messages[-1]["content"].lower()
    system = messages[0]["content"]
    if QUESTION.search(text.strip()) and not re.match(r"(can|could|would)", text):
        return []
    for expression, words in ACTIONS:
        if not re.search(expression, text):
            continue
        for tool in tools or []:
            function = tool["function"]
            haystack = (function["name"] + " " + function.get("description", "") + " " + " ".join(str(p.get("enum", "")) for p in function.get("parameters", {}).get("properties", {}).values())).lower()
            if any(word in haystack for word in words):
                arguments = fill(tool, text, system, words)
                if arguments:
                    return [{"name": function["name"], "arguments": arguments}]
        return []
    return []
