"""How the batch generators draw images, and what they check when they are made."""

import math
from collections.abc import Callable

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.labels import check_labels
from pyimagesearch.core.models import example_output

Attack = Callable[[keras.Model, np.ndarray, np.ndarray, float], np.ndarray]


class Sampler:
    """Images and labels, from which rows are drawn without replacement, and an attack.

    Attributes:
        count: How many images there are.
        rng: The NumPy generator of all that is drawn.
    """

    def __init__(self, model, images, labels, dims, eps, attack, rng):
        """Check the arguments of a generator; of the images the first is read."""
        if not isinstance(dims, tuple | list | np.ndarray) or len(dims) == 0:
            got = checks.shown(dims)
            raise ValueError(f"dims must be (height, width, channels), got {got}")
        dims = tuple(checks.positive_integer("dims", size) for size in dims)
        checks.strength(eps, (1, *dims))
        if not callable(attack):
            raise TypeError(f"attack must be a function, got {checks.shown(attack)}")
        images = rows_of("images", images)
        shape = tuple(images.shape)
        fitting = [dims, (math.prod(dims),)]
        if dims[-1] == 1:
            fitting.append(dims[:-1])
        if shape[1:] not in fitting or shape[0] == 0:
            got = f"got dims {dims} and images {shape}"
            raise ValueError(f"images must be (n, *dims), or flat; {got}")
        self.count = shape[0]
        labels = checks.array("labels", labels)
        first = checks.array("images", images[np.arange(1)], np.float32)
        output = example_output(model, first.reshape(1, *dims), 1)
        check_labels("labels", labels, self.count, output.shape[1:])
        if labels.shape[:1] != (self.count,):  # of a single image, without its axis
            labels = labels[np.newaxis]
        self.rng = checks.generator(rng)
        self._model = model
        self._images = images
        self._labels = labels
        self._dims = dims
        self._eps = eps
        self._attack = attack

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return that many float32 images `(count, *dims)` and their labels."""
        if count == 0:
            return np.empty((0, *self._dims), np.float32), self._labels[:0]
        # Sorted: some files take rows in no other order, and all are read faster.
        rows = np.sort(self.rng.choice(self.count, count, replace=False))
        images = checks.array("images", self._images[rows], np.float32)
        order = self.rng.permutation(count)
        return images.reshape(count, *self._dims)[order], self._labels[rows[order]]

    def draw_attacked(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return adversaries of that many images, and their labels, or raise."""
        images, labels = self.draw(count)
        if count == 0:
            return images, labels
        result = self._attack(self._model, images, labels, self._eps)
        adversaries = checks.array("attack's result", result, np.float32)
        if adversaries.shape != images.shape:
            shapes = f"{images.shape}, got {adversaries.shape}"
            raise ValueError(f"attack must return images of shape {shapes}")
        return adversaries, labels


def rows_of(name: str, values: np.ndarray) -> np.ndarray:
    """Return values that can be drawn by row numbers, or raise.

    Arrays stay where they are, on disk even; lists and tensors are converted once, and
    so is what is drawn by labels, such as a Series of pandas.
    """
    is_array = hasattr(values, "dtype") and hasattr(values, "shape")
    if is_array and not hasattr(values, "numpy") and not hasattr(values, "iloc"):
        return values
    return checks.array(name, values)
