"""Folders that must be refused: their config names experts that their graph does not use. Both graphs run, and answer wrongly."""
from export.families import catalogue, checkpoint, decoder, experts, folder, stock
from export.families.catalogue import Family

GRANITE = Family("broken-missing-experts", "GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig",
                 catalogue.GRANITE, 31,
                 about="the stock exporter's own mistake: Granite's routed experts are not in the graph at all")
QWEN = Family("broken-unused-experts", "Qwen3MoeForCausalLM", "Qwen3MoeConfig", catalogue.MOE | dict(head_dim=16), 32, stock=False,
              about="the experts of layer 1 are in the graph, but nothing reads what they give")


def missing(work):
    """What the stock exporter makes of a Granite checkpoint with experts."""
    model = checkpoint.make(GRANITE)
    checkpoint.save(model, work / "checkpoint")
    graph = stock.export(work / "checkpoint", work / "stock")
    return model, graph, work / "stock" / "genai_config.json"


def unused(work):
    """A whole Qwen3-MoE graph whose last layer passes its experts by."""
    model = checkpoint.make(QWEN)
    graph = decoder.export(QWEN, model)
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            if name == "/layers.1/moe/out":
                node.input[index] = "/layers.1/post_norm/out"
    return model, graph, None


FOLDERS = [(GRANITE, missing), (QWEN, unused)]


def make(family, maker, work):
    """Writes the folder; returns (folder, the expert weights that the exporter's check misses)."""
    model, graph, config = maker(work)
    lost = experts.lost(graph, model.state_dict())
    folder.write(family, work / "made", model, graph, None, config)
    return work / "made", lost
