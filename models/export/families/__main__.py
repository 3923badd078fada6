"""Makes every family again, compares it with PyTorch, with onnxruntime-genai and with what is committed."""
import argparse
import pathlib
import shutil
import sys
import time

import torch

from export.families import broken, catalogue, checkpoint, decoder, experts, folder, generator, proof, references, stock, table

MODELS = pathlib.Path(__file__).parents[2]
COMMITTED = MODELS / "families"
WORK = MODELS.parent / "target" / "families"


class Fault(Exception):
    """A family that does not hold."""


def export(family, model, work):
    """The family's graph with its weights inside, and the stock exporter's config where it made one."""
    if not family.stock:
        return decoder.export(family, model), None
    checkpoint.save(model, work / "checkpoint")
    graph = stock.export(work / "checkpoint", work / "stock", family.precision, family.provider, **family.options)
    return graph, work / "stock" / "genai_config.json"


def prove(family, work):
    """Makes and checks one family in the work folder; returns (folder, what to print). Raises Fault."""
    model = checkpoint.make(family)
    graph, config = export(family, model, work)
    if lost := experts.lost(graph, model.state_dict()):
        raise Fault(f"the graph does not use {lost}")
    made = references.record(model, family)
    folder.write(family, work / "made", model, graph, made, config)
    notes = compare(family, model, work / "made", made)
    notes.append(second_opinion(family, work / "made", made["rows"]))
    references.write(work / "made" / "references.json", made)
    return work / "made", ", ".join(notes)


def compare(family, model, made, recorded):
    """Every comparison with PyTorch, as notes to print; the largest difference is added to what was recorded. Raises Fault."""
    rows = recorded["rows"]
    ways = proof.drivers(family, made / ("onnx/model.onnx" if family.hugging_face else "model.onnx"), model.config)
    run = ways[0]
    texts = [row["prompt"] + row["greedy"] for row in rows[::8]]
    measured = {"difference": max(proof.largest_difference(way, model, texts) for way in ways)}
    recorded["largest_difference"] = float(f"{measured['difference']:.1e}")
    if "query_seqlens" in run.inputs:
        measured["chunks, single tokens and idle rows in one run"] = proof.mixed(run, model, rows[-4:])
    if "position_ids" in run.inputs and len(run.inputs["position_ids"].shape) == 3:
        measured["three rows of positions"] = proof.turned(run, model, texts[-1])
    for what, apart in measured.items():
        if not apart <= family.tolerance:
            raise Fault(f"{what}: logits differ from PyTorch's by {apart:.2e}, the most is {family.tolerance:.0e}")
    for way, wrong in (("alone", proof.alone(run, rows)), ("together", proof.together(run, rows))):
        if wrong:
            raise Fault(f"decoded {way}, rows {wrong} differ from PyTorch's")
    return [*(f"{what} {apart:.1e}" for what, apart in measured.items()), f"{len(rows)} prompts alone and batched"]


def second_opinion(family, made, rows):
    if family.hugging_face or not family.generator:
        return "genai does not take this graph"
    if wrong := generator.wrong_rows(made, rows):
        raise Fault(f"onnxruntime-genai answers rows {wrong} differently")
    return f"genai agrees on {len(rows)}"


def spoil(family, maker, work):
    """Makes a folder that must be refused. Raises Fault where our own check would let it pass."""
    made, lost = broken.make(family, maker, work)
    if not lost:
        raise Fault("every expert is used, so the folder is not broken")
    return made, f"refused, {len(lost)} expert weights are not used"


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


def settle_page(write):
    """Writes the table of families, or compares with it; true where it is as it should be."""
    path, text = COMMITTED / "README.md", table.page(COMMITTED)
    if write:
        path.write_text(text, encoding="utf-8")
    same = path.read_text(encoding="utf-8") == text
    print("README.md: " + ("as the graphs are" if same else "FAULT: not what the graphs say; run with --write"))
    return same


def run(family, steps, write):
    """One family's line; true where it passed."""
    start, work = time.monotonic(), WORK / family.name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        made, notes = steps(work)
        settle(family, made, write)
    except Exception as error:  # one family's fault must not hide another's
        notes = f"FAULT: {'' if isinstance(error, Fault) else type(error).__name__ + ': '}{error}"[:2000]
        print(f"{family.name}: {notes}", flush=True)
        return False
    print(f"{family.name}: {notes} ({time.monotonic() - start:.0f} s)", flush=True)
    return True


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--write", action="store_true", help="replace the committed folders")
    options.add_argument("--only", nargs="*", default=[], help="names of families")
    options = options.parse_args()
    torch.set_num_threads(1)  # tiny models: a second thread only waits
    work = [(family, lambda work, family=family: prove(family, work)) for family in catalogue.FAMILIES]
    work += [(family, lambda work, family=family, maker=maker: spoil(family, maker, work)) for family, maker in broken.FOLDERS]
    results = [run(family, steps, options.write) for family, steps in work if family.name in options.only or not options.only]
    results.append(settle_page(options.write))
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
