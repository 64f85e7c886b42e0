"""Labels: from what the user has to what a loss needs.

A loss needs either rows in the shape of the model's output (one-hot rows, a sigmoid's 0
or 1, regression targets), or class ids. In all functions `shape` is the shape of the
model's output for an image, and `count` the number of images.
"""

import numpy as np

from pyimagesearch.core import checks

Shape = tuple[int, ...]


def check_labels(
    name: str, labels: np.ndarray, count: int, shape: Shape
) -> tuple[np.ndarray, bool]:
    """Return labels as rows or class ids, and whether they are ids; or raise.

    Rows are `(count, *shape)`, class ids `(count, *shape[:-1])`, perhaps with a last
    axis of 1. For a single image the first axis may be missing.
    """
    labels = checks.array(name, labels)
    if count == 1 and labels.shape in (shape, shape[:-1]):
        labels = labels[np.newaxis]
    rows_shape = (count, *shape)
    ids_shape = (count, *shape[:-1])
    has_ids_shape = labels.shape in (ids_shape, (*ids_shape, 1))
    is_one_output = shape[-1:] in ((), (1,))  # whose class ids, 0 and 1, are rows
    if labels.shape == rows_shape or (has_ids_shape and is_one_output):
        return labels.reshape(rows_shape), False
    if not has_ids_shape:
        wanted = f"{rows_shape}, or class ids {ids_shape}"
        raise ValueError(f"{name} must have shape {wanted}, got {labels.shape}")
    if (labels % 1 != 0).any() or labels.min() < 0 or labels.max() >= shape[-1]:
        got = f"values from {labels.min()} to {labels.max()}"
        raise ValueError(f"{name} must hold class ids 0 to {shape[-1] - 1}, got {got}")
    return labels.reshape(ids_shape).astype(np.int64), True


def as_rows(name: str, labels: np.ndarray, count: int, shape: Shape) -> np.ndarray:
    """Return labels as float32 rows `(count, *shape)`, class ids as one-hot ones."""
    labels, are_ids = check_labels(name, labels, count, shape)
    if are_ids:
        return np.eye(shape[-1], dtype=np.float32)[labels]
    return checks.array(name, labels, np.float32)


def as_class_ids(name: str, labels: np.ndarray, count: int, shape: Shape) -> np.ndarray:
    """Return labels as class ids `(count, *shape[:-1])`; of one output, as 0 and 1.

    A row counts as its largest class.
    """
    labels, are_ids = check_labels(name, labels, count, shape)
    if are_ids:
        return labels
    if shape[-1] == 1:
        return (labels[..., 0] > 0.5).astype(np.int64)
    return labels.argmax(axis=-1)


def as_classes(name: str, labels: np.ndarray, count: int, shape: Shape) -> np.ndarray:
    """Return the class ids `(count,)` of a classifier's labels, or raise.

    It refuses what is no classifier's: regression targets, several labels an image and
    outputs that are no row of classes.
    """
    if len(shape) != 1:
        raise ValueError(
            "model must return a row of classes an image for this attack or loss, got "
            f"an output of shape {shape}"
        )
    rows, are_ids = check_labels(name, labels, count, shape)
    if not are_ids:
        sums = rows.sum(axis=1)
        fits = np.isin(rows, (0, 1)) if shape == (1,) else abs(sums - 1) < 1e-3
        low = rows.min()
        high = rows.max()
        if low < 0 or high > 1 or not fits.all():
            raise ValueError(
                f"{name} must be one class an image, or 0 or 1 for a model of one "
                f"output, got values from {low:g} to {high:g}: regression and several "
                "labels an image need an attack with the loss= that the model was "
                "trained with"
            )
    return as_class_ids(name, labels, count, shape)
