"""Conversation -> text, piece by piece with loss weights; equal to the chat template (checked by corpus.check)."""
import json

USER_WEIGHT = 0.0


def _param(name, schema, required):
    text = f'"{name}"' if name in required else f'"{name}"?'
    if schema.get("enum"):
        text += ": " + "|".join(json.dumps(choice, ensure_ascii=False) for choice in schema["enum"])
    else:
        kind = schema.get("type")
        short = {"integer": ": int", "number": ": num", "boolean": ": bool", "array": ": []", "object": ": {}"}
        text += short.get(kind, "") if isinstance(kind, str) else ""
    if "minimum" in schema:
        text += f" {schema['minimum']}..{schema['maximum']}"
    return text


def tool_line(tool):
    """One OpenAI tool as the template's two lines: name and description, then the name again with its parameters.

    A causal model reads the second name knowing what the tool does, so it can find the tool and copy its name from one
    place. Parameters stand in quotes, so that they cut into the same tokens as in a call.
    """
    function = tool["function"]
    body = function["parameters"]
    inner = ", ".join(_param(n, s, body.get("required", [])) for n, s in body["properties"].items())
    tail = f": {function['description']}" if function["description"] else ""
    return f"\n# {function['name']}{tail}\n{function['name']}({inner})"


def call_text(call):
    return "<tool_call>\n" + json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False) + "\n</tool_call>"


def pieces(messages, tools):
    """[(text, loss weight)] for a conversation whose first message is the system's."""
    head = messages[0]["content"]
    head += ("\n\n" if head and tools else "") + ("Tools:" + "".join(map(tool_line, tools)) if tools else "")
    out = [(f"<|im_start|>system\n{head}<|im_end|>\n", 0.0)]
    for place, message in enumerate(messages[1:], 1):
        role, content = message["role"], message.get("content")
        if role == "tool":  # neighbouring results share one user turn
            opens = "<|im_start|>user" if messages[place - 1]["role"] != "tool" else ""
            closes = "" if place + 1 < len(messages) and messages[place + 1]["role"] == "tool" else "<|im_end|>\n"
            out.append((f"{opens}\n<tool_response>\n{content}\n</tool_response>{closes}", 0.0))
        elif role == "user":
            out += [("<|im_start|>user\n", 0.0), (content, USER_WEIGHT), ("<|im_end|>\n", 0.0)]
        else:
            calls = "\n".join(call_text(c["function"]) for c in message.get("tool_calls") or [])
            out += [("<|im_start|>assistant\n", 0.0), ((content or "") + calls + "<|im_end|>", 1.0), ("\n", 0.0)]
    return out
