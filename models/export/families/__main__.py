"""Makes every family again, compares it with PyTorch, with onnxruntime-genai and with what is committed."""
import argparse
import pathlib
import shutil
import sys
import time

import torch

from export.families import catalogue, checkpoint, experts, folder, generator, proof, references, stock

MODELS = pathlib.Path(__file__).parents[2]
COMMITTED = MODELS / "families"
WORK = MODELS.parent / "target" / "families"


class Fault(Exception):
    """A family that does not hold."""


def export(family, model, work):
    """The family's graph with its weights inside, and the stock exporter's config where it made one."""
    if not family.stock:
        from export.families import decoder

        return decoder.export(family, model), None
    checkpoint.save(model, work / "checkpoint")
    graph = stock.export(work / "checkpoint", work / "stock", family.precision, family.provider, **family.options)
    return graph, work / "stock" / "genai_config.json"


def prove(family):
    """Makes and checks one family in the work folder; returns (folder, what to print). Raises Fault."""
    work = WORK / family.name
    shutil.rmtree(work, ignore_errors=True)
    model = checkpoint.make(family)
    graph, config = export(family, model, work)
    lost = experts.lost(graph, model.state_dict())
    if lost and family.precision == "fp32":
        raise Fault(f"the graph does not use {lost}")
    made = references.record(model, family)
    rows = made["rows"]
    folder.write(family, work / "made", model, graph, made, config)
    path = work / "made" / ("onnx/model.onnx" if family.hugging_face else "model.onnx")
    prompts = [row["prompt"] + row["greedy"] for row in rows[::8]]
    ways = proof.drivers(family, path, model.config)
    run = ways[0]
    worst = max(proof.largest_difference(way, model, prompts) for way in ways)
    if worst > family.tolerance:
        raise Fault(f"logits differ from PyTorch's by {worst:.2e}, the most is {family.tolerance:.0e}")
    for way, wrong in (("alone", proof.alone(run, rows)), ("together", proof.together(run, rows))):
        if wrong:
            raise Fault(f"decoded {way}, rows {wrong} differ from PyTorch's")
    notes = [f"difference {worst:.1e}", f"{len(rows)} alone and batched"]
    if "query_seqlens" in run.inputs:
        apart = proof.mixed(run, model, rows[-4:])
        if apart > family.tolerance:
            raise Fault(f"chunks, single tokens and idle rows in one run differ by {apart:.2e}")
        notes.append(f"mixed runs {apart:.1e}")
    if "position_ids" in run.inputs and len(run.inputs["position_ids"].shape) == 3:
        apart = proof.turned(run, model, prompts[-1])
        if apart > family.tolerance:
            raise Fault(f"with three different rows of positions logits differ by {apart:.2e}")
        notes.append(f"three rows of positions {apart:.1e}")
    made["largest_difference"] = float(f"{worst:.1e}")
    references.write(work / "made" / "references.json", made)
    notes.append(second_opinion(family, work / "made", rows))
    return work / "made", ", ".join(notes)


def second_opinion(family, made, rows):
    if family.hugging_face or not family.generator:
        return "genai: not for this graph"
    wrong = generator.wrong_rows(made, rows)
    if wrong:
        raise Fault(f"onnxruntime-genai answers rows {wrong} differently")
    return f"genai agrees on {len(rows)}"


def settle(family, made, write):
    """Replaces the committed folder, or compares with it."""
    committed = COMMITTED / family.name
    if write:
        shutil.rmtree(committed, ignore_errors=True)
        shutil.copytree(made, committed)
    elif not committed.is_dir():
        raise Fault("there is no committed folder; make it with --write")
    elif faults := folder.differences(committed, made):
        raise Fault("the committed folder is not what is made now: " + "; ".join(faults))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--write", action="store_true", help="replace the committed folders")
    options.add_argument("--only", nargs="*", default=[])
    options = options.parse_args()
    torch.set_num_threads(1)
    passed = failed = 0
    for family in catalogue.FAMILIES:
        if options.only and family.name not in options.only:
            continue
        start = time.monotonic()
        try:
            made, notes = prove(family)
            settle(family, made, options.write)
            passed += 1
            print(f"{family.name}: {notes} ({time.monotonic() - start:.0f} s)", flush=True)
        except Exception as error:  # one family's fault does not hide another's
            failed += 1
            print(f"{family.name}: FAULT: {type(error).__name__ if not isinstance(error, Fault) else ''} {error}"[:2000], flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
