"""Exports with onnxruntime-genai's own builder, as a user would."""
import os
import shutil
import subprocess
import sys

import onnx


def export(checkpoint, out, precision="fp32", provider="cpu", **options):
    """Writes `model.onnx` (one file) and `genai_config.json` into `out`; returns the graph."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(out), "-p", precision, "-e", provider, "-c", str(out.parent / "cache")]
    if options:
        command += ["--extra_options", *(f"{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"the stock exporter failed: {done.stderr.strip().splitlines()[-1:]}")
    return onnx.load(next(out.glob("*.onnx")))
