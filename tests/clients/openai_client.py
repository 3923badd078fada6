"""The official OpenAI client against the daemon's socket: `python openai_client.py SOCKET MODEL`.

With the tiny model every answer is known; with another one only shapes are judged.
"""

import sys

import httpx2
import openai

SOCKET, MODEL = sys.argv[1:3]
ALPHABET = "abcdefghijklmnopqrstuvwxyzé€"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        },
    }
    for name, description in [("turn_on", "Turn a device on"), ("turn_off", "Turn a device off")]
]


def client() -> openai.OpenAI:
    """A stock client whose transport is the Unix socket."""
    transport = httpx2.HTTPTransport(uds=SOCKET)
    return openai.OpenAI(
        base_url="http://localhost/v1",
        api_key="unused",
        max_retries=0,
        http_client=httpx2.Client(transport=transport, timeout=120),
        _strict_response_validation=True,
    )


def refused(kind: type[openai.APIStatusError], part: str, **request: object) -> None:
    """The request must raise this error, and its message must name the part."""
    try:
        ask(**request)
    except kind as error:
        assert part in str(error), error
    else:
        raise AssertionError(f"{request} was accepted")


def ask(**more: object):
    """A chat completion with one user message."""
    request = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]} | more
    return api.chat.completions.create(**request)


api = client()
names = [model.id for model in api.models.list()]
assert names == [MODEL], names
assert api.models.retrieve(MODEL).owned_by == "moed"

whole = ask(max_tokens=60, seed=1, temperature=0.7, user="me", extra_body={"top_k": 20, "min_p": 0.05, "priority": "alarm"})
assert whole.object == "chat.completion" and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert whole.choices[0].finish_reason in ("stop", "length")

stream = list(ask(stream=True, stream_options={"include_usage": True}, max_tokens=40))
text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
assert stream[-1].usage.completion_tokens > 0 and not stream[-1].choices
assert stream[-2].choices[0].finish_reason in ("stop", "length")

with api.chat.completions.with_streaming_response.create(
    model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True, max_tokens=40
) as response:
    assert next(response.iter_lines()).startswith("data: ")

again = [ask(seed=7, temperature=1.2, max_tokens=30).choices[0].message.content for _ in range(2)]
assert again[0] == again[1], again

refused(openai.BadRequestError, "temperature", temperature=-1)
refused(openai.BadRequestError, "`speed`", extra_body={"speed": 1})
refused(openai.BadRequestError, "messages", messages=[])
refused(openai.BadRequestError, "`not`", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}})
refused(openai.NotFoundError, "gpt-4o", model="gpt-4o")

if MODEL == "tiny":
    assert text == ALPHABET, text
    assert ask().choices[0].message.content == ALPHABET
    assert ask(stop="def").choices[0].message.content == "abc"
    assert ask(tools=TOOLS).choices[0].message.content == ALPHABET
    refused(openai.BadRequestError, "at most 8192", messages=[{"role": "user", "content": "x" * 9000}])
else:
    devices = "You control the devices of a home.\nDevices:\nhall: Ceiling Lamp [light]; Fan [switch]\nkitchen: Kettle [switch]"
    messages = [{"role": "system", "content": devices}, {"role": "user", "content": "Turn on the ceiling lamp"}]
    answer = ask(messages=messages, tools=TOOLS, max_tokens=80).choices[0]
    if answer.finish_reason == "tool_calls":
        call = answer.message.tool_calls[0]
        assert call.type == "function" and call.function.name in ("turn_on", "turn_off"), call
        messages += [answer.message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
        assert ask(messages=messages, tools=TOOLS, max_tokens=40).choices[0].finish_reason in ("stop", "length", "tool_calls")
        print(f"call: {call.function.name}({call.function.arguments})")
    none = ask(messages=messages[:2], tools=TOOLS, tool_choice="none", max_tokens=20).choices[0]
    assert none.message.tool_calls is None

print("ok")
