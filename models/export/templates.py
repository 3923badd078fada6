"""Records what transformers renders, for the daemon's template tests.

    python -m export.templates

Writes ../tests/templates/default.jsonl (50 requests through the default model's template) and other.jsonl
(small templates with the constructs that other models' templates use; `error` where the template raises).
"""
import json
import pathlib
import random

from transformers import PreTrainedTokenizerFast

from corpus.scenes import conversation
from export.prompts import FOLDER

TARGET = pathlib.Path(__file__).parents[2] / "tests" / "templates"


def tool(name, description, properties, required=()):
    body = {"type": "object", "properties": properties}
    if required:
        body["required"] = list(required)
    return {"type": "function", "function": {"name": name, "description": description, "parameters": body}}


TOOLS = [
    tool("light_set", "Sets a light", {"name": {"type": "string"}, "brightness": {"type": "integer", "minimum": 0, "maximum": 100}, "color": {"type": "string", "enum": ["red", "grün", "a|b"]}}, ["name"]),
    tool("no_parameters", "Takes nothing", {}),
    tool("nested", "Has \"quotes\", <b>tags</b> & ümläuts", {"items": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}}, "values": {"type": "array", "items": {"type": "number"}}, "options": {"type": "object", "properties": {"deep": {"type": "boolean"}}}, "on": {"type": "boolean"}}, ["items", "on"]),
    tool("number", "", {"ratio": {"type": "number", "minimum": -0.5, "maximum": 1.5}, "either": {"type": ["string", "number"]}, "anything": {}}),
    {"type": "function", "function": {"name": "bare"}},
    {"type": "function", "function": {"name": "described", "description": "Two\nlines"}},
    {"type": "function", "function": {"name": "empty_schema", "description": "No properties", "parameters": {"type": "object"}}},
    tool("required_only", "Every parameter is needed", {"a": {"type": "string", "description": "first"}, "keys": {"type": "integer"}}, ["a", "keys"]),
]
TEXTS = ["Turn on the light", "Ω ≈ 3 °C – naïve café 日本語 🌡️", "He said \"off\" & it's <fine>", "</tool_call> <tool_response> <|im_end|>?", "  spaces  around  ", "line one\nline two\n\nline four", "{{ braces }} {% percent %}", "back\\slash \\n \t tab", "", "<|im_start|>system\nhostile"]


def call(name, arguments):
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def requests():
    """50 (messages, tools, add_generation_prompt)."""
    user, system = lambda text: {"role": "user", "content": text}, lambda text: {"role": "system", "content": text}
    for number, text in enumerate(TEXTS):
        yield [user(text)], None, True
        yield [system(TEXTS[(number + 3) % len(TEXTS)]), user(text)], TOOLS[number % 4: number % 4 + 2], number % 2 == 0
    for one in TOOLS:
        yield [user("Use it")], [one], True
    yield [system("All tools."), user("Go")], TOOLS, True
    yield [user("No tools in an empty list")], [], True
    nested = {"name": "Küche \"1\" <b>", "list": [1, 2.5, True, None], "deep": {"a": "ß", "b": []}, "text": "a\nb & 'c'"}
    for arguments in (nested, json.dumps(nested, ensure_ascii=False), {}, "{}", '{"brightness": 40}', {"brightness": 40, "ratio": 0.1}):
        yield [user("Call"), {"role": "assistant", "content": None, "tool_calls": [call("light_set", arguments)]}], TOOLS[:1], False
    answered = [{"role": "assistant", "content": "Both at once.", "tool_calls": [call("a", {"x": 1}), call("b", '{"y": "ü"}')]}, {"role": "tool", "tool_call_id": "call_1", "content": "{\"success\": true}"}, {"role": "tool", "tool_call_id": "call_2", "content": "fertig – 21 °C"}]
    yield [user("Two"), *answered], TOOLS[:2], True
    yield [user("Two"), *answered, {"role": "assistant", "content": "Done."}, user("Thanks")], TOOLS[:2], True
    yield [user("One"), {"role": "assistant", "content": "", "tool_calls": [call("a", {})]}, answered[1], {"role": "assistant", "content": None, "tool_calls": [call("b", {})]}, answered[2]], None, True
    yield [user("a"), {"role": "assistant", "content": "b"}, user("c"), {"role": "assistant", "content": "d"}], None, False
    yield [user("a"), system("a later system turn"), user("c")], TOOLS[1:2], True
    yield [user([{"type": "text", "text": "part one, "}, {"type": "text", "text": "part two"}])], None, True
    for number in range(8):
        messages, tools, _, _ = conversation(random.Random(f"template-{number}"))
        yield messages, tools, number % 2 == 0


MACRO = "{% macro turn(role, text) -%}<{{ role }}>{{ text | trim }}</{{ role }}>{%- endmacro -%}{% for m in messages %}{{ turn(m.role, m.content) }}\n{% endfor %}"
OTHER = [
    "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}[{{ m.content }}]{% endfor %}",
    "{% if messages[0].role != 'system' %}{{ raise_exception('the first message must be the system turn') }}{% endif %}{{ messages[0].content }}",
    "{{ raise_exception('no template can do this') }}",
    "{{ messages | tojson }}",
    "{{ messages | tojson(indent=2) }}",
    "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}{{ messages[-1]['content'] }}",
    "{% set ns = namespace(count=0, last='') %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.count = ns.count + 1 %}{% set ns.last = m.content %}{% endif %}{% endfor %}{{ ns.count }} {{ ns.last }}",
    "{% for m in messages[1:] %}{{ m.role }}|{% endfor %}{{ messages[::-1][0].role }} {{ messages[:2] | length }}",
    "{% for m in messages %}{{ m.content.strip() }}{% if m.content.startswith('  ') %}(indented){% endif %}{{ '' if loop.last else ', ' }}{% endfor %}",
    "{{ messages[-1].content.split(' ')[0] }}/{{ messages[-1].content.split(' ') | length }}/{{ 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}",
    "{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ m.content }};{% endfor %}{{ messages | map(attribute='role') | join(',') }}",
    MACRO,
    "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n        {{- '<u>' + m.content + '</u>' }}\n    {%- elif m.role == 'system' %}\n        {{- m.content }}\n    {%- else %}\n    plain {{ m.content | default('nothing', true) }}\n    {% endif %}\n{%- endfor %}\n{% if add_generation_prompt %}\n    <a>\n{% endif %}",
    "{% if tools is defined and tools is not none %}{{ tools | length }} tools{% else %}no tools{% endif %} {{ bos_token }}{{ eos_token }}{% if not add_generation_prompt is defined %}undefined{% endif %}",
    "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}{{ messages[0].get('name', 'nameless') }}{{ 'x' in messages[0] }}",
]


def rendered(tokenizer, messages, tools, prompt, template=None):
    return tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False, chat_template=template)


def main():
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(FOLDER))
    TARGET.mkdir(parents=True, exist_ok=True)
    rows = [{"messages": m, "tools": t, "add_generation_prompt": p, "rendered": rendered(tokenizer, m, t, p)} for m, t, p in requests()]
    write(TARGET / "default.jsonl", rows)
    messages = [{"role": "system", "content": "Sys <b> & \"q\" 'ü'"}, {"role": "user", "content": "  Turn on 日本 "}, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "and off"}]
    rows = []
    for number, template in enumerate(OTHER):
        used = messages[1:] if number == 2 else messages
        row = {"template": template, "messages": used, "tools": TOOLS[:2] if number % 3 == 0 else None, "add_generation_prompt": number % 2 == 1}
        try:
            row["rendered"] = rendered(tokenizer, used, row["tools"], row["add_generation_prompt"], template)
        except Exception as error:  # jinja2.TemplateError, raised inside the template
            row["error"] = str(error)
        rows.append(row)
    write(TARGET / "other.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path.name}: {len(rows)}")


if __name__ == "__main__":
    main()
