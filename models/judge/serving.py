"""A daemon of one's own: moed on a private socket with one model folder, ended with the block it serves."""
import contextlib
import json
import pathlib
import subprocess
import tempfile
import time

from judge.asking import SocketConnection

START_SECONDS = 60


def wait(daemon, path, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and daemon.poll() is None:
        try:
            connection = SocketConnection(path, 5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    daemon.kill()
    raise SystemExit("the daemon is not ready:\n" + log.read_text(encoding="utf-8", errors="replace")[-2000:])


@contextlib.contextmanager
def served(moed, model, runtime, more=""):
    """The path of the socket of a daemon that serves the folder `model`; `more`: TOML tables behind the configuration."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        lines = {"socket.path": folder / "s", "model.dir": pathlib.Path(model).resolve(), "journal.dir": folder / "j", "model.prepared": folder / "p", "runtime.onnxruntime": pathlib.Path(runtime).resolve()}
        text = 'node.name = "judge"\n' + "".join(f"{key} = {json.dumps(str(value))}\n" for key, value in lines.items())
        (folder / "moed.toml").write_text(text + more, encoding="utf-8")
        if not pathlib.Path(moed).is_file():
            raise SystemExit(f"there is no moed at {moed}: make build makes it, --moed FILE names another")
        with open(folder / "log", "wb") as log:
            daemon = subprocess.Popen([moed, "serve", "--config", folder / "moed.toml"], stderr=log)
        try:
            wait(daemon, str(folder / "s"), folder / "log")
            yield str(folder / "s")
        finally:
            daemon.terminate()
            daemon.wait()
