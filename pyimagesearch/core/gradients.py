"""What attacks say of gradients and outputs that are of no use to them."""

import contextlib
import contextvars
import sys
import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np

from pyimagesearch.core.compiled import compile_for

_TRIED = 64  # images on which another loss is tried
_warned = contextvars.ContextVar("warned", default=None)


class DivergedError(ValueError, FloatingPointError):
    """A model returns numbers that are not finite."""


@contextlib.contextmanager
def each_warning_once(warned: set[str]) -> Iterator[None]:
    """Let attacks warn of each kind of trouble only where `warned` lacks it."""
    outer = _warned.get()
    token = _warned.set(warned if outer is None else outer)
    try:
        yield
    finally:
        _warned.reset(token)


def check_outputs(model: object, finite: np.ndarray) -> None:
    """Raise unless all of a model's outputs are finite, given which ones are."""
    if not finite.all():
        name = getattr(model, "name", "function")
        count = f"{np.count_nonzero(~finite)} of {len(finite)} images"
        raise DivergedError(
            f"model {name!r} returns NaN or infinity for {count}: its training "
            "has diverged, or a layer cannot take such values"
        )


def check_gradients(
    direction: Callable,
    model: keras.Model,
    images: np.ndarray,
    targets: np.ndarray,
    sizes: np.ndarray,
    finite: np.ndarray,
) -> None:
    """Warn of gradients that are zero or NaN, and raise for outputs that are.

    Args:
        direction: The function that returned the sizes, to try another loss with.
        model: The attacked model.
        images: The attacked images `(n, ...)`.
        targets: Their targets.
        sizes: Absolute sums of each image's gradient `(n,)`.
        finite: Whether the outputs for an image were finite, `(n,)`.
    """
    if finite.all() and (sizes > 0).all():
        return
    check_outputs(model, finite)
    unknown, still = np.count_nonzero(np.isnan(sizes)), np.flatnonzero(sizes == 0)
    if unknown:
        _warn(
            "NaN",
            f"the gradient of model {model.name!r} holds NaN for {unknown} of "
            f"{len(sizes)} images, and NaN counts as zero: a layer may take a root, a "
            "power or a logarithm of 0",
        )
    if len(still) and 100 * len(still) >= len(sizes):
        remedy = "square_attack of pyimagesearch.attacks needs no gradient"
        few = still[:_TRIED]
        with contextlib.suppress(ValueError):  # no classifier
            step, _ = compile_for(
                direction, model, images[few], targets[few], "cross_entropy", norm=2
            )
            if (step(images[few], targets[few])[1].numpy() > 0).mean() > 0.5:
                remedy = "loss='cross_entropy' moves them"
        _warn(
            "zero",
            f"the gradient of the loss is zero for {len(still)} of {len(sizes)} "
            f"images, which stay as they are: {remedy}",
        )


def _warn(kind, text):
    warned = _warned.get()
    if warned is not None and kind in warned:
        return
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].startswith("pyimagesearch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)  # it speaks of the user's own line
    if warned is not None:
        warned.add(kind)
