"""What is said of gradients and outputs that are of no use to an attack."""

import numpy as np

from pyimagesearch.core.warning import warn


class DivergedError(ValueError, FloatingPointError):
    """A model returns numbers that are not finite."""


def warn_of_gradients(sizes: np.ndarray) -> None:
    """Warn if gradients are zero or NaN, given their absolute sums, one an image."""
    if np.isnan(sizes).any():
        warn(
            "the gradient of the loss is NaN for some images, and counts as zero: a "
            "layer may take a root, a power or a logarithm of 0"
        )
    if 100 * np.sum(sizes == 0) >= len(sizes):
        warn(
            "the gradient of the loss is zero for 1% of the images or more, which stay "
            "as they are. For a classifier, loss='cross_entropy' also moves confident "
            "images, and square_attack needs no gradient; or try another loss=. "
            "A cast to integers, as by Input(dtype='uint8'), stops gradients"
        )


def check_outputs(model: object, are_finite: np.ndarray) -> None:
    """Raise unless a model's outputs are finite, given for which images they are."""
    if not are_finite.all():
        name = getattr(model, "name", "function")
        count = np.sum(~are_finite)
        raise DivergedError(
            f"model {name!r} returns NaN or infinity for {count} of {len(are_finite)} "
            "images: its training has diverged, or a layer cannot take such values"
        )
