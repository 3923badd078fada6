"""How a requester writes the device list into the system text; six layouts, with states or without."""
import json

INTROS = [
    "You control the devices of a home.", "You are a voice assistant for Home Assistant.", "You are a helpful assistant that controls the devices in a house.",
    "Home assistant.", "You operate the equipment on site.", "Assistant for this building.", "Answer briefly and use the tools to act.", "You are moed.",
    "You are a voice assistant for Home Assistant.\nAnswer questions about the world truthfully.\nAnswer in plain text. Keep it simple and to the point.", "", "",
    "Smart home controller.", "Local device assistant. Use the tools.", "You help people control this place.",
]
HEADERS = ["Devices:", "Devices:", "devices:", "Available devices:", "Here are the devices:", "Static Context: An overview of the areas and the devices in this smart home:", "List of devices:", "Equipment:"]


def state_text(device):
    """The state of a device in words, for example `on, brightness 40`."""
    state = device.state
    if "unit" in state:
        return f"{state['value']} {state['unit']}"
    parts = [str(state.get("state", ""))]
    parts += [f"{key} {state[key]}" for key in ("mode", "temperature", "brightness", "position", "speed", "volume") if key in state]
    return ", ".join(part for part in parts if part)


def _names(device):
    return f"{device.name}, {device.alias}" if device.alias else device.name


def _yaml(home, states, keys):
    lines = []
    for d in home.devices:
        lines.append(f"- names: {_names(d)}\n  domain: {_domain(d)}\n  areas: {d.area}" + (f"\n  floor: {d.floor}" if d.floor else ""))
        if keys:
            lines[-1] += f"\n  entity_id: {d.key}"
        if states:
            lines[-1] += f"\n  state: {state_text(d)}"
    return "\n".join(lines)


def _domain(device):
    return {"pump": "switch", "contact": "binary_sensor"}.get(device.kind, device.kind)


def _quoted(home, states, keys):
    return "\n".join(f"{d.key} '{d.name}'" + (f" aka '{d.alias}'" if d.alias else "") + f" in {d.area}" + (f", {d.floor}" if d.floor else "") + (f" = {state_text(d).replace(', ', ';')}" if states else "") for d in home.devices)


def _json(home, states, keys):
    rows = []
    for d in home.devices:
        row = {"id": d.key} if keys else {}
        row |= {"name": d.name, "area": d.area, "kind": d.kind}
        row |= {"alias": d.alias} if d.alias else {}
        row |= {"floor": d.floor} if d.floor else {}
        row |= {"state": state_text(d)} if states else {}
        rows.append(json.dumps(row, ensure_ascii=False))
    return "\n".join(rows)


def _compact(home, states, keys):
    return "\n".join((f"{d.key} " if keys else "") + _names(d).replace(", ", " / ") + f" ({d.kind.replace('_', ' ')}, {d.area}" + (f", {d.floor}" if d.floor else "") + ")" + (f": {state_text(d)}" if states else "") for d in home.devices)


def _table(home, states, keys):
    head = ("id," if keys else "") + "name,alias,area,floor,kind" + (",state" if states else "")
    return head + "\n" + "\n".join((f"{d.key}," if keys else "") + f"{d.name},{d.alias},{d.area},{d.floor},{d.kind}" + (f",{state_text(d).replace(', ', ' ')}" if states else "") for d in home.devices)


def _by_area(home, states, keys):
    lines = []
    for area in home.areas:
        members = [d for d in home.devices if d.area == area]
        floor = f" ({members[0].floor})" if members[0].floor else ""
        items = [(f"{d.key} " if keys else "") + d.name + (f" aka {d.alias}" if d.alias else "") + f" [{d.kind}]" + (f" {state_text(d)}" if states else "") for d in members]
        lines.append(f"{area}{floor}: " + "; ".join(items))
    return "\n".join(lines)


LAYOUTS = [_yaml, _quoted, _json, _compact, _compact, _table, _by_area]


def system_text(rng, home, states, keys):
    """Intro, header and device list; `keys` when calls name devices by their id."""
    layout = rng.choice(LAYOUTS)
    intro = rng.choice(INTROS)
    header = rng.choice(HEADERS) if rng.random() < 0.9 else ""
    return "\n".join(part for part in (intro, header, layout(home, states, keys)) if part)
