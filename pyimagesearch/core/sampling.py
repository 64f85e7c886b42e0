"""What the batch generators check when they are made, and how they draw rows."""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import example_output, match_labels
from pyimagesearch.core.warning import each_warning_once

Attack = Callable[[keras.Model, np.ndarray, np.ndarray, float], np.ndarray]


class Sampler(NamedTuple):
    """Checked images and labels, from which rows are drawn without replacement."""

    images: np.ndarray
    labels: np.ndarray
    dims: tuple[int, ...]
    rng: np.random.Generator

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return that many float32 images `(count, *dims)` and their labels."""
        choice = self.rng.choice
        # Sorted: some files take rows in no other order, and all are read faster.
        rows = np.sort(choice(len(self.labels), count, replace=False, shuffle=False))
        drawn = checks.array("images", self.images[rows], np.float32)
        return drawn.reshape(count, *self.dims), self.labels[rows]


def check_batches(model, total, images, labels, dims, eps, split, attack, rng):
    """Return a sampler for the arguments of a batch generator, or raise.

    Of the images the first is read, to see what the model returns for it.
    """
    total = checks.positive_integer("total", total)
    if not isinstance(dims, tuple | list | np.ndarray) or len(dims) == 0:
        got = checks.shown(dims)
        raise ValueError(f"dims must be (height, width, channels), got {got}")
    dims = tuple(checks.positive_integer("dims", size) for size in dims)
    checks.number_in("eps", eps, low=0)
    if not callable(attack):
        raise TypeError(f"attack must be a function, got {checks.shown(attack)}")
    # Arrays stay where they are, on disk even; lists and tensors are converted once.
    is_array = hasattr(images, "dtype") and hasattr(images, "shape")
    if not is_array or hasattr(images, "numpy"):
        images = checks.array("images", images)
    shape, fitting = tuple(images.shape), [dims, (math.prod(dims),)]
    if dims[-1] == 1:
        fitting.append(dims[:-1])
    if shape[1:] not in fitting:
        got = f"got dims {dims} and images {shape}"
        raise ValueError(f"images must have the shape (n, *dims), or be flat; {got}")
    normal = int(total * checks.number_in("split", split, 0, 1))
    if max(normal, total - normal) > shape[0]:
        limit = f"so that no half exceeds the {shape[0]} images"
        raise ValueError(f"total must be smaller, {limit}, got {total} (split {split})")
    labels = checks.array("labels", labels)
    first = checks.array("images", images[np.arange(1)], np.float32)
    output = example_output(model, first.reshape(1, *dims))
    match_labels("labels", labels, shape[0], output.shape[1:])
    if labels.shape[:1] != shape[:1]:  # of a single image, without its axis
        labels = labels[np.newaxis]
    return Sampler(images, labels, dims, checks.generator(rng))


def checked(attack: Attack) -> Attack:
    """Return an attack whose result is checked, and which warns of a trouble once."""
    warned = set()

    def checked_attack(model, images, labels, eps):
        with each_warning_once(warned):
            adversaries = attack(model, images, labels, eps)
        adversaries = checks.array("attack's result", adversaries, np.float32)
        if adversaries.shape != images.shape:
            shapes = f"{images.shape}, got {adversaries.shape}"
            raise ValueError(f"attack must return images of shape {shapes}")
        return adversaries

    return checked_attack
