"""The networks that are trained with the same code: the default model and its controls.

A dense network of width W is written as W / 256 experts that every token goes through, each weighed by 256 / W as top-k weights are: the same
optimiser on matrices of the same size, the same graph; only the choice is gone.
"""
from dataclasses import dataclass

from distil.network import Shape


@dataclass(frozen=True)
class Kind:
    """router: `learned`; `random`, which stays as it was drawn; or `even`, which weighs all alike."""

    shape: Shape
    router: str = "learned"


KINDS = {
    "xs": Kind(Shape()),
    "random-router": Kind(Shape(), "random"),
    "dense-active": Kind(Shape(num_experts=2), "even"),  # as many weights a token
    "dense-total": Kind(Shape(num_experts_per_tok=8), "even"),  # as many weights in all; also the teacher
}


def kind_of(progress):
    """The kind that a checkpoint is of; ones from before there were kinds are the default model."""
    return KINDS[progress.get("kind", "xs")]
