"""The same weights in other programs: greedy answers of transformers, llama.cpp and onnxruntime-genai beside the shipped graph's.

    python -m export.peers --server FILE [--prompts 200] [--out FILE]

FILE is llama.cpp's llama-server. The weights are read back from the shipped graph, so that all four have the same ones:
transformers and llama.cpp (a GGUF in float32) compute in float32; genai runs the shipped folder itself, whose products
round activations to 8 bits. Printed: how many answers are equal, pair by pair, and every difference with its
first place, the two tokens and how far apart transformers' scores of them are. A difference beyond TIE is a fault: rounding
does not explain it.
"""
import argparse
import contextlib
import itertools
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import numpy as np
import torch

from distil.checkpoint import as_transformers
from distil.network import Shape
from export.mid import llama
from export.prompts import FOLDER, prompts, tokenizer
from export.restore import weights_of
from export.session import Session

MOST = 48  # tokens of an answer
STOP = 2
TIE = 1.0  # logits; 8-bit activations move a score by a few tenths
START_S = 60


def of_graph(samples):
    """Our graph under ONNX Runtime."""
    session = Session(str(FOLDER / "model.onnx"), Shape())
    return [session.greedy(ids, MOST, STOP)[0] for _, ids, _ in samples]


def of_transformers(model, samples, guesses):
    """Greedy decoding in float32. One pass shows whether a guess is the answer; only where it is not the tokens are made one by one."""
    answers = []
    for (_, ids, _), guess in zip(samples, guesses):
        with torch.no_grad():
            best = model(torch.tensor([ids + guess])).logits[0].argmax(-1).tolist()
            if best[len(ids) - 1 : -1] == guess:
                answers.append(guess)
                continue
            whole = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False, max_new_tokens=MOST, eos_token_id=STOP, pad_token_id=0)
        answers.append(whole[0, len(ids) :].tolist())
    return answers


def of_genai(samples):
    """genai's own loop over the shipped folder; in a process of its own, for it brings its own ONNX Runtime."""
    asked = "\n".join(json.dumps(ids) for _, ids, _ in samples)
    done = subprocess.run([sys.executable, "-c", GENAI, str(FOLDER), str(MOST)], input=asked, capture_output=True, text=True, check=True)
    # genai keeps the stop token to itself.
    return [answer if len(answer) == MOST or answer[-1:] == [STOP] else [*answer, STOP] for answer in map(json.loads, done.stdout.splitlines())]


GENAI = """
import json, sys
import numpy as np
import onnxruntime_genai as genai
model, most = genai.Model(sys.argv[1]), int(sys.argv[2])
for line in sys.stdin:
    ids = json.loads(line)
    options = genai.GeneratorParams(model)
    options.set_search_options(max_length=len(ids) + most, do_sample=False)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array([ids], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    print(json.dumps(generator.get_sequence(0)[len(ids):].tolist()), flush=True)
"""


@contextlib.contextmanager
def llama_server(program, weights):
    """A server on loopback that answers token ids; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [program, "-m", weights, "--host", "127.0.0.1", "--port", str(port), "-np", "1", "-c", "2048", "-t", "2", "--no-webui", "-fa", "off", "-ctk", "f32", "-ctv", "f32"]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen([str(part) for part in command], stdout=log, stderr=log) as process:
        try:
            begun = time.monotonic()
            while True:
                try:
                    urllib.request.urlopen(address + "/health", timeout=5)
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() - begun > START_S:
                        log.seek(0)
                        raise SystemExit(f"llama-server did not start: {log.read()[-400:]}") from None
                    time.sleep(0.05)
            yield address
        finally:
            process.terminate()


def of_llama(program, named, samples):
    """llama.cpp over a GGUF in float32."""
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "f32.gguf"
        llama.write(path, Shape(), named, FOLDER, "default", np.float32)
        with llama_server(program, path) as address:
            for _, ids, _ in samples:
                body = {"prompt": ids, "n_predict": MOST, "temperature": 0, "cache_prompt": False, "return_tokens": True}
                request = urllib.request.Request(address + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=60) as reply:
                    answer = json.load(reply)
                stopped = [STOP] if answer["stop_type"] == "eos" and answer["tokens"][-1:] != [STOP] else []
                answers.append(answer["tokens"] + stopped)
    return answers


def first_difference(one, other):
    """Place of the first token that differs; an answer that ended is told from one that goes on."""
    return next(place for place, (a, b) in enumerate(itertools.zip_longest(one, other)) if a != b)


def differences(model, samples, answers):
    """[(prompt, one, other, place, token of one, token of other, distance of transformers' scores)] over all pairs."""
    found = []
    for number, (_, ids, _) in enumerate(samples):
        for one, other in itertools.combinations(answers, 2):
            left, right = answers[one][number], answers[other][number]
            if left == right:
                continue
            place = first_difference(left, right)
            with torch.no_grad():
                scores = model(torch.tensor([ids + left[:place]])).logits[0, -1]
            pair = [answer[place] if place < len(answer) else STOP for answer in (left, right)]
            found.append((number, one, other, place, *pair, float((scores[pair[0]] - scores[pair[1]]).abs())))
    return found


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--server", type=pathlib.Path, required=True)
    options.add_argument("--prompts", type=int, default=200)
    options.add_argument("--out", type=pathlib.Path)
    options = options.parse_args()
    named = weights_of(FOLDER / "model.onnx")
    model, samples, coder = as_transformers(named), prompts(options.prompts, "reference"), tokenizer()
    answers = {"the shipped graph": of_graph(samples), "onnxruntime-genai": of_genai(samples), "llama.cpp": of_llama(options.server, named, samples)}
    answers["transformers"] = of_transformers(model, samples, answers["llama.cpp"])
    found = differences(model, samples, answers)
    lines = [f"{options.prompts} prompts, {MOST} tokens at most, greedy; equal answers:"]
    for one, other in itertools.combinations(answers, 2):
        lines.append(f"- {one} and {other}: {options.prompts - sum(row[1:3] == (one, other) for row in found)} of {options.prompts}")
    lines += ["", "Every difference, by prompt: where it begins, the two tokens, and how far apart transformers' scores of them are:"] if found else []
    for number, one, other, place, left, right, distance in found:
        lines.append(f"- {number}, token {place}: {one} {coder.decode([left], skip_special_tokens=False)!r}, {other} {coder.decode([right], skip_special_tokens=False)!r}, {distance:.3f}")
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    beyond = [row for row in found if row[-1] > TIE]
    if beyond:
        print(f"FAULT: {len(beyond)} differences are no near ties (scores more than {TIE} apart)")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
