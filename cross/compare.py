#!/usr/bin/env python3
"""Asks two daemons the same questions and compares their answers: text, calls, number of tokens, why they ended.

    cross/compare.py SOCKET OTHER_SOCKET COUNT

The questions are what the users of the first COUNT of models/judge/heldout.jsonl say, to the devices and tools of the demo,
whose beginning is read once: emulated, a prompt of 500 tokens takes half a minute. Each is greedy and at most 40 tokens.
Prints every difference and how far both agree; exits 1 if there is any.
"""

import http.client
import json
import os
import socket
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS_MAX = 40


def read(path):
    with open(os.path.join(HERE, "..", path), encoding="utf-8") as file:
        return file.read()


DEVICES = read("tests/demo/devices.txt").strip()
TOOLS = json.loads(read("tests/demo/tools.json"))


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=300)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(path, question):
    body = {"messages": question, "max_tokens": TOKENS_MAX, "tools": TOOLS}
    connection = Connection(path)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    answer = json.loads(reply.read())
    if reply.status != 200:
        sys.exit(f"error: {path} answers {reply.status}: {answer}")
    choice = answer["choices"][0]
    calls = [call["function"] for call in choice["message"].get("tool_calls") or []]
    return {
        "text": choice["message"].get("content"),
        "calls": calls,
        "finish": choice["finish_reason"],
        "tokens": answer["usage"]["completion_tokens"],
        "prompt": answer["usage"]["prompt_tokens"],
    }


def agreement(one, other):
    """Characters that both begin with."""
    one, other = json.dumps(one, ensure_ascii=False), json.dumps(other, ensure_ascii=False)
    return len(os.path.commonprefix([one, other])), max(len(one), len(other))


def main():
    sockets, count = sys.argv[1:3], int(sys.argv[3])
    held_out = [json.loads(line) for line in read("models/judge/heldout.jsonl").splitlines()[:count]]
    said = [next(turn["content"] for turn in reversed(one["messages"]) if turn["role"] == "user") for one in held_out]
    different, tokens, seconds = 0, 0, [0.0, 0.0]
    for text in said:
        question = [{"role": "system", "content": DEVICES}, {"role": "user", "content": text}]
        answers = []
        for index, path in enumerate(sockets):
            start = time.monotonic()
            answers.append(ask(path, question))
            seconds[index] += time.monotonic() - start
        tokens += answers[0]["tokens"]
        if answers[0] != answers[1]:
            different += 1
            same, length = agreement(*answers)
            # The numbers of two architectures' kernels differ in their last bits; where two tokens are as likely as each
            # other that decides. How far both agree shows whether it is that.
            print(f"{text!r}: different after {same} of {length} characters\n  {answers[0]}\n  {answers[1]}")
    equal = len(said) - different
    print(f"{equal} of {len(said)} answers are equal, {tokens} tokens; {seconds[0]:.1f} s and {seconds[1]:.1f} s")
    sys.exit(1 if different else 0)


main()
