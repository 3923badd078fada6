"""Dialects as they are met in the field: Home Assistant's intents and services, moed's own, Web of Things operations, Matter's commands."""
from corpus.actions import VERBS
from corpus.dialects import Dialect, Param, Tool

OPERATIONS = ("max", "min", "mean", "trend", "count")
WINDOWS = ("1h", "24h", "today", "yesterday", "7d", "30d")
TARGETS = [Param("name", "device"), Param("area", "area"), Param("floor", "floor"), Param("domain", "kind", listed=True)]


def target_params(rng=None):
    """Home Assistant's target parameters, fresh objects."""
    return [Param(p.name, p.role, listed=p.listed) for p in TARGETS]


def percent(name, role):
    return Param(name, role, "integer", True, low=0, high=100)


def timer_params(label=True):
    params = [Param(unit, unit, "integer") for unit in ("hours", "minutes", "seconds")]
    return params + [Param("name", "label")] if label else params


def home_assistant():
    """Assist intents as Home Assistant hands them to a language model."""
    tools = [
        Tool("HassTurnOn", "Turns on/opens/locks a device or entity", target_params(), {"on": {}, "open": {}, "lock": {}}),
        Tool("HassTurnOff", "Turns off/closes/unlocks a device or entity", target_params(), {"off": {}, "close": {}, "unlock": {}}),
        Tool("HassLightSet", "Sets the brightness percentage or color of a light", target_params() + [Param("color", "value:color"), Param("brightness", "value:brightness", "integer", low=0, high=100)], {"brightness": {}, "color": {}}),
        Tool("HassSetPosition", "Sets the position of a device or entity", target_params() + [percent("position", "value")], {"position": {}}),
        Tool("HassClimateSetTemperature", "Sets the target temperature of a climate device or entity", [Param("temperature", "value", "number", True)] + target_params()[:3] , {"temperature": {}}),
        Tool("HassSetVolume", "Sets the volume percentage of a media player", target_params() + [percent("volume_level", "value")], {"volume": {}}),
        Tool("HassFanSetSpeed", "Sets a fan's speed by percentage", target_params()[:3] + [percent("percentage", "value")], {"speed": {}}),
        Tool("HassMediaPause", "Pauses a media player", target_params(), {"pause": {}}),
        Tool("HassMediaUnpause", "Resumes a media player", target_params(), {"play": {}}),
        Tool("HassVacuumStart", "Starts a vacuum", target_params(), {"clean": {}}),
        Tool("HassVacuumReturnToBase", "Returns a vacuum to base", target_params(), {"dock": {}}),
        Tool("HassStartTimer", "Starts a new timer", timer_params(), {"timer": {}}),
        Tool("HassCancelTimer", "Cancels a timer", [Param("name", "label")], {"timer_cancel": {}}),
        Tool("HassTimerStatus", "Reports the current status of one or more timers", [Param("name", "label")], {"timer_status": {}}),
        Tool("HassPauseTimer", "Pauses a running timer", [Param("name", "label")], {"timer_pause": {}}),
        Tool("HassUnpauseTimer", "Resumes a paused timer", [Param("name", "label")], {"timer_resume": {}}),
        Tool("GetLiveContext", "Provides real-time information about the CURRENT state, value, or mode of devices", [Param("name", "device"), Param("area", "area"), Param("domain", "kind", listed=True)], {"read": {}}),
    ]
    return Dialect("home_assistant", tools, "name", {"pump": "switch", "contact": "binary_sensor"})


SERVICES = {  # verb -> service, value parameter
    "on": ("turn_on", None), "off": ("turn_off", None), "lock": ("lock", None), "unlock": ("unlock", None),
    "play": ("media_play", None), "pause": ("media_pause", None), "clean": ("start", None), "dock": ("return_to_base", None),
    "temperature": ("set_temperature", ("temperature", "number")), "mode": ("set_hvac_mode", ("hvac_mode", "string")),
    "speed": ("set_percentage", ("percentage", "integer")), "volume": ("volume_set", ("volume_level", "integer")),
    "brightness": ("turn_on", ("brightness_pct", "integer")), "color": ("turn_on", ("color_name", "string")),
    "open": ("open", None), "close": ("close", None), "position": ("set_position", ("position", "integer")),
}


def services(kinds):
    """Home Assistant's services, one tool per domain and service; for the kinds present in a home."""
    tools = []
    for kind in kinds:
        domain = "switch" if kind == "pump" else kind
        found = {}
        for verb, (service, value) in SERVICES.items():
            if kind not in VERBS[verb][0] or (kind == "pump" and verb == "speed"):
                continue
            suffix = {"cover": "_cover", "valve": "_valve"}.get(kind, "") if verb in ("open", "close", "position") else ""
            name = f"{domain}.{service.replace('position', '')}{suffix.lstrip('_')}_position" if verb == "position" else f"{domain}.{service}{suffix}"
            tool = found.setdefault(name, Tool(name, f"{name.split('.')[1].replace('_', ' ').capitalize()}", [Param("entity_id", "device"), Param("area_id", "area_" + kind)]))
            tool.params = tool.params[:1] + tool.params[2:] if len(tool.params) > 1 and tool.params[1].role.startswith("area_") else tool.params
            if value:
                tool.params.append(Param(value[0], "value:" + verb, value[1], service != "turn_on"))
            tool.verbs[verb] = {}
            tool.kinds = ("switch", "pump") if domain == "switch" else (kind,)
        for tool in found.values():
            if {"on", "brightness"} <= set(tool.verbs):  # plain turn_on last: it matches only without values
                tool.verbs = {v: {} for v in ("brightness", "color", "on")}
        tools += found.values()
    unique = {}
    for tool in tools:
        unique.setdefault(tool.name, tool)
    extra = [Tool("timer.start", "Start a timer", timer_params(), {"timer": {}}), Tool("timer.cancel", "Cancel a timer", [Param("name", "label")], {"timer_cancel": {}}),
             Tool("get_state", "Read the current state of an entity", [Param("entity_id", "device", required=True)], {"read": {}})]
    return Dialect("services", list(unique.values()) + extra, "key")


STATE_WORDS = {"on": "on", "off": "off", "open": "open", "close": "closed", "lock": "locked", "unlock": "unlocked", "play": "playing", "pause": "paused", "clean": "cleaning", "dock": "docked"}


def own():
    """moed's own tools; the device's property and its value are spelled out."""
    values = {v: {"property": "state", "value": w} for v, w in STATE_WORDS.items()}
    values |= {v: {"property": v} for v in VERBS if VERBS[v][2] is None}
    device = [Param("device", "device", required=True), Param("property", "-", required=True), Param("value", "value", "any", True)]
    group = [Param("area", "area", required=True), Param("kind", "kind", required=True), Param("property", "-", required=True), Param("value", "value", "any", True)]
    tools = [
        Tool("device_set", "Set a property of one device", device, values),
        Tool("area_set", "Set a property of all devices of a kind in an area, or in area all", group, dict(values)),
        Tool("device_get", "Read the current state of one device", [Param("device", "device", required=True)], {"read": {}}),
        Tool("timer_set", "Start a timer", timer_params(), {"timer": {}}),
        Tool("timer_cancel", "Cancel a timer", [Param("name", "label")], {"timer_cancel": {}}),
        Tool("sensor_stats", "Statistics of a sensor's past values", [Param("device", "device", required=True), Param("operation", "operation", "string", True, enum=list(OPERATIONS)), Param("window", "window", "string", True, enum=list(WINDOWS))], {"stats": {}}),
        Tool("rule_add", "Tell the user when a sensor passes a limit", [Param("device", "device", required=True), Param("above", "above", "number"), Param("below", "below", "number")], {"rule": {}}),
    ]
    return Dialect("own", tools, "name")


def things():
    """Web of Things operations: properties are read and written, a few things done by actions."""
    done = {"lock": "lock", "unlock": "unlock", "play": "play", "pause": "pause", "clean": "startCleaning", "dock": "returnToDock"}
    written = {v: {"property": "state", "value": w} for v, w in STATE_WORDS.items() if v not in done}
    written |= {v: {"property": v} for v in VERBS if VERBS[v][2] is None}
    thing = Param("thing", "device", required=True)
    tools = [
        Tool("writeproperty", "Writes a property of a thing", [thing, Param("property", "-", required=True), Param("value", "value", "any", True)], written),
        Tool("readproperty", "Reads the present state of a thing", [thing], {"read": {}}),
        Tool("invokeaction", "Invokes an action of a thing", [thing, Param("action", "-", required=True, enum=list(done.values()))], {v: {"action": word} for v, word in done.items()}),
        Tool("subscribeevent", "Tells when a reading of a thing passes a limit", [thing, Param("above", "above", "number"), Param("below", "below", "number")], {"rule": {}}),
    ]
    return Dialect("things", tools, "key")


COMMANDS = [  # of Matter's clusters: name, description, what it works on, verb, value parameter
    ("OnOff.On", "Turns a node on", VERBS["on"][0], "on", None), ("OnOff.Off", "Turns a node off", VERBS["off"][0], "off", None),
    ("LevelControl.MoveToLevel", "Dims a light to a percentage", ("light",), "brightness", percent("level", "value")), ("ColorControl.MoveToColor", "Changes a light's color", ("light",), "color", Param("color", "value", required=True)),
    ("DoorLock.LockDoor", "Locks a door lock", ("lock",), "lock", None), ("DoorLock.UnlockDoor", "Unlocks a door lock", ("lock",), "unlock", None),
    ("WindowCovering.UpOrOpen", "Opens a window covering", ("cover",), "open", None), ("WindowCovering.DownOrClose", "Closes a window covering", ("cover",), "close", None),
    ("WindowCovering.GoToLiftPercentage", "Moves a window covering to a percentage", ("cover",), "position", percent("percentage", "value")),
    ("ValveControl.Open", "Opens a valve", ("valve",), "open", None), ("ValveControl.Close", "Closes a valve", ("valve",), "close", None), ("ValveControl.OpenTo", "Opens a valve to a percentage", ("valve",), "position", percent("level", "value")),
    ("Thermostat.SetSetpoint", "Sets the temperature of a thermostat", ("climate",), "temperature", Param("temperature", "value", "number", True)), ("Thermostat.SetSystemMode", "Sets the mode of a thermostat", ("climate",), "mode", Param("mode", "value", required=True)),
    ("FanControl.SetSpeed", "Sets the speed of a fan or pump", ("fan", "pump"), "speed", percent("speed", "value")), ("MediaPlayback.Play", "Resumes playback", ("media_player",), "play", None),
    ("MediaPlayback.Pause", "Pauses playback", ("media_player",), "pause", None), ("Speaker.SetVolume", "Sets the volume of a speaker", ("media_player",), "volume", percent("volume", "value")),
    ("RvcRunMode.Start", "Starts a robot vacuum", ("vacuum",), "clean", None), ("RvcOperationalState.GoHome", "Sends a robot vacuum to its dock", ("vacuum",), "dock", None),
]


def matter(reference):
    """Commands of Matter's clusters on nodes, which are called by `reference`: name or key."""
    tools = [Tool(name, told, [Param("node", "device", required=True)] + ([value] if value else []), {verb: {}}, kinds) for name, told, kinds, verb, value in COMMANDS]
    return Dialect("matter", tools + [Tool("Attributes.Read", "Reads the present state of a node", [Param("node", "device", required=True)], {"read": {}})], reference)
