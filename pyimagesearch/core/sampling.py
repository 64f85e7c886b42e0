"""How the batch generators draw images, and what they check when they are made."""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.labels import check_labels
from pyimagesearch.core.models import example_output

Attack = Callable[[keras.Model, np.ndarray, np.ndarray, float], np.ndarray]


class Sampler(NamedTuple):
    """Checked images and labels, from which rows are drawn without replacement."""

    images: np.ndarray
    labels: np.ndarray
    dims: tuple[int, ...]
    attack: Attack
    rng: np.random.Generator

    def attacked(self, model, images, labels, eps) -> np.ndarray:
        """Return what the attack makes of images, as float32, or raise."""
        result = self.attack(model, images, labels, eps)
        adversaries = checks.array("attack's result", result, np.float32)
        if adversaries.shape != images.shape:
            shapes = f"{images.shape}, got {adversaries.shape}"
            raise ValueError(f"attack must return images of shape {shapes}")
        return adversaries

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return that many float32 images `(count, *dims)` and their labels."""
        if count == 0:
            return np.empty((0, *self.dims), np.float32), self.labels[:0]
        # Sorted: some files take rows in no other order, and all are read faster.
        rows = np.sort(self.rng.choice(len(self.labels), count, replace=False))
        images = checks.array("images", self.images[rows], np.float32)
        order = self.rng.permutation(count)
        return images.reshape(count, *self.dims)[order], self.labels[rows[order]]


def make_sampler(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    dims: tuple[int, ...],
    *,
    total: int,
    eps: float,
    split: float,
    attack: Attack,
    rng: checks.Seed | None,
) -> Sampler:
    """Return a sampler for the arguments of a batch generator, or raise.

    Of the images the first is read, to see what the model returns for it.
    """
    total = checks.positive_integer("total", total)
    dims = _check_dims(dims)
    checks.strength(eps, (1, *dims))
    if not callable(attack):
        raise TypeError(f"attack must be a function, got {checks.shown(attack)}")
    images = rows_of("images", images)
    shape = tuple(images.shape)
    fitting = [dims, (math.prod(dims),)]
    if dims[-1] == 1:
        fitting.append(dims[:-1])
    if shape[1:] not in fitting:
        got = f"got dims {dims} and images {shape}"
        raise ValueError(f"images must have the shape (n, *dims), or be flat; {got}")
    normal_total = int(total * checks.number_in("split", split, 0, 1))
    if max(normal_total, total - normal_total) > shape[0]:
        limit = f"so that no half exceeds the {shape[0]} images"
        raise ValueError(f"total must be smaller, {limit}, got {total} (split {split})")
    labels = checks.array("labels", labels)
    first = checks.array("images", images[np.arange(1)], np.float32)
    output = example_output(model, first.reshape(1, *dims), 1)
    check_labels("labels", labels, shape[0], output.shape[1:])
    if labels.shape[:1] != shape[:1]:  # of a single image, without its axis
        labels = labels[np.newaxis]
    return Sampler(images, labels, dims, attack, checks.generator(rng))


def rows_of(name: str, values: np.ndarray) -> np.ndarray:
    """Return values that can be drawn by row numbers, or raise.

    Arrays stay where they are, on disk even; lists and tensors are converted once, and
    so is what is drawn by labels, such as a Series of pandas.
    """
    is_array = hasattr(values, "dtype") and hasattr(values, "shape")
    if is_array and not hasattr(values, "numpy") and not hasattr(values, "iloc"):
        return values
    return checks.array(name, values)


def _check_dims(dims):
    if not isinstance(dims, tuple | list | np.ndarray) or len(dims) == 0:
        got = checks.shown(dims)
        raise ValueError(f"dims must be (height, width, channels), got {got}")
    return tuple(checks.positive_integer("dims", size) for size in dims)
