"""Whether a text can still become an answer whose calls fit the offered tools: what a server with a grammar lets through.

The first token is free: text or call. Inside a call only offered tools, their parameters, values of their types and
choices are possible, and a call ends when it has what it requires.
"""
import json

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Cut(Exception):
    """The text ends where more may follow."""


class Misfit(Exception):
    """No continuation fits."""


def _literal(text, at, wanted):
    rest = text[at : at + len(wanted)]
    if not wanted.startswith(rest):
        raise Misfit
    if rest != wanted:
        raise Cut
    return at + len(wanted)


def _one_of(text, at, options):
    """(place after it, the option that stands at `at`); no option may begin another."""
    for option in options:
        if text.startswith(option, at):
            return at + len(option), option
    if any(option.startswith(text[at:]) for option in options):
        raise Cut
    raise Misfit


def _text(text, at):
    at = _literal(text, at, '"')
    while at < len(text):
        if text[at] == '"':
            return at + 1
        if text[at] == "\n":
            raise Misfit
        at += 2 if text[at] == "\\" else 1
    raise Cut


def _number(text, at, whole):
    end, dot = at + (text[at : at + 1] == "-"), False
    while end < len(text) and (text[end].isdigit() or (text[end] == "." and not whole and not dot and text[end - 1].isdigit())):
        dot |= text[end] == "."
        end += 1
    if end == len(text):
        raise Cut
    if not text[end - 1].isdigit() or end == at:
        raise Misfit
    return end


def _value(text, at, schema):
    if schema.get("enum"):
        return _one_of(text, at, [json.dumps(choice, ensure_ascii=False) for choice in schema["enum"]])[0]
    kind = schema.get("type")
    if kind == "array":
        at = _literal(text, at, "[")
        return _literal(text, _value(text, at, schema["items"]), "]")
    if at == len(text):
        raise Cut
    if kind in ("integer", "number") or (isinstance(kind, list) and text[at] != '"'):
        return _number(text, at, kind == "integer")
    if kind == "boolean":
        return _one_of(text, at, ["true", "false"])[0]
    return _text(text, at)


def _call(text, at, tools):
    at = _literal(text, at, OPEN + '\n{"name": "')
    at, name = _one_of(text, at, [f'{name}"' for name in tools])
    body = tools[name[:-1]]
    left, required = dict(body.get("properties", {})), set(body.get("required", []))
    at = _literal(text, at, ', "arguments": {')
    first = True
    while True:
        ends = [] if required & set(left) else ["}"]
        options = ends + [("" if first else ", ") + f'"{key}": ' for key in left]
        at, chosen = _one_of(text, at, options)
        if chosen == "}":
            return _literal(text, at, "}\n" + CLOSE)
        key = chosen.removeprefix(", ")[1:-3]
        at, first = _value(text, at, left.pop(key)), False


def fits(text, tools, ended):
    """Whether `text` (to be ended here, or to go on) can be an answer; tools: OpenAI tools of the request."""
    if not text.startswith(OPEN):
        return OPEN not in text
    known = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools or []}
    at = 0
    try:
        while True:
            at = _call(text, at, known)
            if at == len(text):
                return True
            at = _literal(text, at, "\n")
    except Cut:
        return not ended
    except Misfit:
        return False
