"""Gradients and outputs that are of no use to an attack, and what it says of them."""

import numpy as np

from pyimagesearch.core.compiled import in_chunks
from pyimagesearch.core.warning import warn


class DivergedError(ValueError, FloatingPointError):
    """A model returns numbers that are not finite."""


def attack_in_chunks(attack, model, images, targets, eps, settings) -> np.ndarray:
    """Return a compiled attack's adversaries; warn of its gradients.

    The attack takes images, targets and the settings of a chunk, and returns, besides
    adversaries, the absolute sums of gradients and whether outputs are finite.
    """

    def attack_chunk(*arrays):
        return attack(*arrays, *settings())

    adversaries, sizes, finite = in_chunks(attack_chunk, images, targets)
    if eps == 0:
        return adversaries
    check_outputs(model, finite)
    unknown, still, count = np.isnan(sizes).sum(), (sizes == 0).sum(), len(sizes)
    if unknown:
        warn(
            f"the gradient of model {model.name!r} is NaN for {unknown} of {count} "
            "images, and counts as zero: a layer may take a root, a power or a "
            "logarithm of 0"
        )
    if 100 * still >= count:
        warn(
            f"the gradient of the loss is zero for {still} of {count} images of model "
            f"{model.name!r}, which gain nothing. Of a classifier loss='cross_entropy' "
            "moves those it is sure of, and square_attack needs no gradient; or try "
            "another loss="
        )
    return adversaries


def check_outputs(model: object, finite: np.ndarray) -> None:
    """Raise unless a model's outputs are finite, given for which images they are."""
    if not finite.all():
        name, count = getattr(model, "name", "function"), np.sum(~finite)
        raise DivergedError(
            f"model {name!r} returns NaN or infinity for {count} of {len(finite)} "
            "images: its training has diverged, or a layer cannot take such values"
        )
