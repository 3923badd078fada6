"""moed and llama-server as their users meet them: a process, a socket, clients that ask at the same time."""
import asyncio
import json
import os
import pathlib
import random
import subprocess
import tempfile
import time

from tokenizers import Tokenizer

import peers

SLOTS = 32
ROOM = 1024  # tokens a slot
ANSWER = 96
WORDS = "the light in kitchen is on and door to garden was left open while heating runs at night please turn it off before morning".split()
# Sampling keeps a random model from repeating itself, which would flatter caches and drafts.
SAMPLING = {"temperature": 1.0, "top_k": 40, "top_p": 1.0, "min_p": 0.0, "ignore_eos": True}
PATIENCE = 120


class Server:
    """A server process in a private folder; `with` ends it."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def _start(self, *command, env=None):
        begun = time.perf_counter()
        self.log = open(pathlib.Path(self.folder.name) / "log", "w+", encoding="utf-8")
        self.process = subprocess.Popen([str(part) for part in command], stdout=self.log, stderr=self.log, env=env)
        while True:
            if self.process.poll() is not None or time.perf_counter() - begun > PATIENCE:
                self.log.seek(0)
                raise peers.Failed(f"{command[0]} did not start: {self.log.read()[-400:]}")
            try:
                if asyncio.run(self.request("GET", "/health", None))[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.005)
        self.ready_s = time.perf_counter() - begun

    async def request(self, method, path, body):
        """(status, body as text) over a new connection."""
        reader, writer = await self.connect()
        payload = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + payload)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            rest = b"".join(_chunks(rest))
        if not head:
            raise OSError("the server closed the connection")
        return int(head.split()[1]), rest.decode()


def _chunks(data):
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return
        yield data[:length]
        data = data[length + 2:]


class Moed(Server):
    """`moed serve` on a socket of its own."""

    def __init__(self, model, slots=SLOTS, room=ROOM, prepare="auto"):
        self.folder = tempfile.TemporaryDirectory()
        home = pathlib.Path(self.folder.name)
        self.socket = home / "moed.sock"
        config = [f'socket.path = "{self.socket}"', f'model.dir = "{peers.MODELS[model]}"', f'journal.dir = "{home}"', f"engine.slots = {slots}", f"engine.context_max = {room}", *peers.ENGINE,
                  f'engine.prepare = "{prepare}"', f'runtime.onnxruntime = "{peers.ROOT}/.runtime/libonnxruntime.so"', 'log.level = "warn"']
        (home / "moed.toml").write_text("\n".join(config) + "\n", encoding="utf-8")
        self._start(peers.MOED, "serve", "--config", home / "moed.toml", env={"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PATH": os.environ["PATH"]})

    async def connect(self):
        return await asyncio.open_unix_connection(str(self.socket), limit=1 << 22)

    async def ask(self, prompt):
        """(prompt tokens, generated tokens)."""
        body = {"messages": [{"role": "user", "content": prompt.text}], "max_tokens": ANSWER} | SAMPLING
        status, text = await self.request("POST", "/v1/chat/completions", body)
        if status != 200:
            raise peers.Failed(f"moed answered {status}: {text[:200]}")
        usage = json.loads(text)["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"]

    def metrics(self):
        """name with labels -> value."""
        page = asyncio.run(self.request("GET", "/metrics", None))[1]
        pairs = (line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


class Llama(Server):
    """`llama-server` on a port of its own; asked with the token ids that moed's template and tokenizer give."""

    def __init__(self, model, kind, slots=SLOTS, room=ROOM):
        self.folder = tempfile.TemporaryDirectory()
        self.port = _free_port()
        self._start(peers.BENCH / "llama/bin/llama-server", "-m", peers.gguf(model, kind), "-np", slots, "-c", slots * room, "-t", peers.THREADS, "--host", "127.0.0.1", "--port", self.port,
                    "--no-webui")

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)

    async def ask(self, prompt):
        status, text = await self.request("POST", "/completion", {"prompt": prompt.ids, "n_predict": ANSWER} | SAMPLING)
        if status != 200:
            raise peers.Failed(f"llama-server answered {status}: {text[:200]}")
        answer = json.loads(text)
        return len(prompt.ids), answer["tokens_predicted"]


def _free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prompt:
    def __init__(self, text, ids):
        self.text, self.ids = text, ids


class Prompts:
    """Prompts of 20 to 60 words, none twice, as text and as the ids that the model's template makes of them."""

    def __init__(self, model, seed=1):
        import jinja2

        folder = peers.MODELS[model]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string((folder / "chat_template.jinja").read_text(encoding="utf-8"))
        self.draw = random.Random(seed)

    def some(self, count):
        return [self._one() for _ in range(count)]

    def filling(self, count, room=ROOM):
        """Prompts that leave just enough of a slot for the answer."""
        return [self._one(room - ANSWER) for _ in range(count)]

    def _one(self, most=None):
        """A short prompt, or one of nearly `most` tokens."""
        if most is None:
            return self._of(self.draw.randint(20, 60))
        words = most // 2
        while len((prompt := self._of(words)).ids) <= most:
            kept, words = prompt, words + 1 + (most - len(prompt.ids)) // 3
        return kept

    def _of(self, words):
        text = " ".join(self.draw.choice(WORDS) for _ in range(words))
        whole = self.template.render(messages=[{"role": "user", "content": text}], tools=None, add_generation_prompt=True)
        return Prompt(text, self.tokenizer.encode(whole, add_special_tokens=False).ids)


async def _together(server, prompts):
    return await asyncio.gather(*(server.ask(prompt) for prompt in prompts))


def throughput(server, prompts):
    """tokens/s that the clients get, one prompt each, all at the same time; the prompts' reading included."""
    begun = time.perf_counter()
    answers = asyncio.run(_together(server, prompts))
    took = time.perf_counter() - begun
    for prompt, (read, made) in zip(prompts, answers):
        if (read, made) != (len(prompt.ids), ANSWER):
            raise peers.Failed(f"{type(server).__name__} read {read} and made {made} tokens, not {len(prompt.ids)} and {ANSWER}")
    return len(prompts) * ANSWER / took
