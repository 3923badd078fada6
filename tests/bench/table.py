"""bench.json as the README's table.

    python3 tests/bench/table.py [tests/reports/bench.json]
"""
import json
import pathlib
import sys

REPORT = pathlib.Path(__file__).resolve().parents[1] / "reports" / "bench.json"


def number(value):
    """Three figures."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(report):
    """One line a row; what lies below the bar says so."""
    about = report["machine"]
    lines = [f"{about['cpu']}, {about['cores']} cores, ONNX Runtime {about['onnxruntime']}, onnxruntime-genai {about['onnxruntime-genai']}, llama.cpp {about['llama.cpp']}; "
             f"interleaved pairs, 95 % interval, {' and '.join(sorted({row['date'] for row in report['rows']}))}.", "",
             "| what | moed | other | times better | pairs | bar | met |", "|---|---|---|---|---|---|---|"]
    for row in report["rows"]:
        name = f"{row['name']}: {row['of']}" if row["of"] else row["name"]
        if "failed" in row:
            lines.append(f"| {name} | not measured: {row['failed']} | | | 0 | | **no** |")
            continue
        bar = "" if row["bar"] is None else f"≥ {row['bar']:.3g}"
        met = {None: "", True: "yes", False: "**no**"}[row["met"]]
        lines.append(f"| {name} | {number(row['moed'])} | {number(row['peer'])} | {row['ratio']:.2f} ({row['low']:.2f}–{row['high']:.2f}) | {len(row['samples'])} | {bar} | {met} |")
    for model, kinds in about.get("bytes_a_token", {}).items():
        if kinds:
            sizes = ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in kinds.items())
            lines += ["", f"Megabytes of weights a token at batch 1, {model} model: {sizes}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(json.loads(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else REPORT).read_text(encoding="utf-8"))), end="")
