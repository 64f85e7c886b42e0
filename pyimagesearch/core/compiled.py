"""Functions of a model and a loss, compiled once and kept as long as the model."""

import math
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks
from pyimagesearch.core.losses import (
    Loss,
    OnLogits,
    compiled_from_logits,
    each_loss,
    find_logits,
    get_loss,
    loss_key,
)

# Values that go through the model at once, so that memory stays flat.
_CHUNK_VALUES = 512 * 28 * 28
_MOST_FUNCTIONS = 32
# {model: {what it was compiled for: (compiled function, output's shape, metrics)}}. A
# function holds its model by a weak reference, so that an entry dies with its model.
_functions = weakref.WeakKeyDictionary()


class Network(NamedTuple):
    """A model with a loss, as it is handed to the functions that are compiled."""

    output: Callable  # from images
    losses: Callable  # an image each, from targets and output
    logits: Callable  # one-hot targets and logits of classes, from targets and output


def compile_for(
    function: Callable,
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    loss: Loss,
    *more: tf.TensorSpec,
    name: str = "labels",
    **settings: object,
) -> tuple[Callable, np.ndarray]:
    """Compile `function(network, images, targets, ..., **settings)`.

    It is compiled once for a model, a loss, a shape of images and the settings, for any
    number of images, and again after the model's `compile`.

    Args:
        function: A function of tensors that TensorFlow can trace.
        model: A Keras model of one input and one output.
        images: Float32 images `(n, ...)`; what the model returns for some of them tells
            the shape of its output, and probabilities from logits.
        labels: Their labels, in any format that `match_labels` takes.
        loss: As for `generate_image_adversary`.
        *more: The tensors that the function takes besides images and targets.
        name: What the caller's user calls the labels.
        **settings: Hashable settings of the function.

    Returns:
        The compiled function, and the labels as float32 targets in the output's shape.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument does not fit the model.
    """
    check_model(model)
    loss = get_loss(loss)
    functions = _functions.setdefault(model, {})
    # Metrics are new after each `compile`, layers and weights after other changes.
    metrics = model.metrics
    parts = tuple(map(id, [*model.layers, *model.variables, *metrics]))
    options = tuple(settings.items())
    key = function, loss_key(loss), images.shape[1:], parts, options
    entry = functions.pop(key, None)
    if entry is None:
        example = example_output(model, images[next(chunks(images))])
        traced = tf.function(
            partial(function, _network(model, loss, example), **settings),
            input_signature=[
                tf.TensorSpec((None, *images.shape[1:])),
                tf.TensorSpec((None, *example.shape[1:])),
                *more,
            ],
            autograph=False,
        )
        try:  # here and now: TensorFlow warns of functions that are traced at a call
            compiled = traced.get_concrete_function()
        except LookupError as error:
            reason = f"model has an operation without a gradient: {error}"
            raise ValueError(checks.one_line(reason)) from error
        entry = compiled, example.shape[1:], metrics
    functions[key] = entry  # the last used come last
    while len(functions) > _MOST_FUNCTIONS:
        functions.pop(next(iter(functions)), None)
    compiled, shape, _ = entry
    targets = one_hot(name, labels, len(images), shape)
    if isinstance(loss, OnLogits):
        _check_classes(name, loss, targets)
    return compiled, targets


def _check_classes(name, loss, targets):
    if targets.ndim != 2:
        got = f"an output of shape {targets.shape[1:]}"
        raise ValueError(f"loss {loss.name!r} needs a model of classes, got {got}")
    single = targets.shape[1] == 1
    sums = 1.0 if single else targets.sum(axis=1)
    if targets.min() < 0 or targets.max() > 1 or np.any(abs(sums - 1) > 1e-3):
        wanted = "0 or 1" if single else "class ids or one-hot rows"
        got = f"values from {targets.min():g} to {targets.max():g}"
        raise ValueError(
            f"{name} must be {wanted} for loss {loss.name!r}, got {got}; for regression or "
            "several labels an image give the loss that the model was trained with"
        )


def _network(model, loss, example):
    model_reference, name = weakref.ref(model), model.name
    compiled = compiled_from_logits(model)
    from_logits = loss.from_logits if isinstance(loss, OnLogits) else None

    def output(images):
        return keras.tree.flatten(model_reference()(images, training=False))[0]

    def logits(targets, output):
        logits = find_logits(output, from_logits, compiled, example, name)
        if targets.shape[-1] == 1:
            targets = tf.concat([1 - targets, targets], axis=-1)
        return targets, logits

    def losses(targets, output):
        if isinstance(loss, OnLogits):
            return loss(*logits(targets, output))
        return each_loss(loss, targets, tf.cast(output, tf.float32))

    return Network(output, losses, logits)


def judge(network: Network, images: tf.Tensor, targets: tf.Tensor) -> tuple:
    """Return an image's loss, and the logits of its classes."""
    output = network.output(images)
    return network.losses(targets, output), network.logits(targets, output)[1]


def chunks(images: np.ndarray) -> Iterator[slice]:
    """Yield slices of images to work through one by one, so that memory stays flat."""
    rows = max(16, _CHUNK_VALUES // math.prod(images.shape[1:]))
    for start in range(0, len(images), rows):
        yield slice(start, start + rows)


def in_chunks(compiled: Callable, *arrays: np.ndarray) -> list[np.ndarray]:
    """Return what a compiled function returns for arrays of any length."""
    results = []
    for chunk in chunks(arrays[0]):
        result = compiled(*(tf.constant(array[chunk]) for array in arrays))
        results.append([part.numpy() for part in tf.nest.flatten(result)])
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def predict_logits(
    model: keras.Model, images: np.ndarray, from_logits: bool | None = None
) -> np.ndarray:
    """Return a classifier's logits `(n, classes)` for float32 images, or raise."""
    any_class = np.zeros(len(images), int)
    loss = OnLogits("cross_entropy", from_logits)
    judged, targets = compile_for(judge, model, images, any_class, loss)
    return in_chunks(judged, images, targets)[1]


def check_model(model: keras.Model) -> None:
    """Raise a TypeError unless `model` is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a Keras model, got {type(model).__name__}")


def example_output(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the model's one output for some images, or raise."""
    check_model(model)
    if getattr(model, "input_shape", None) == (None, *images.shape):
        got = (
            f"got {images.shape}: a single image needs a batch axis, image[np.newaxis]"
        )
        raise ValueError(f"images must have shape (n, ...), {got}")
    try:
        output = model(tf.constant(images, tf.float32), training=False)
    except Exception as error:  # the user's own code may run in there
        takes = f"model must take images of shape {images.shape[1:]}: {error}"
        raise ValueError(checks.one_line(takes)) from error
    outputs = keras.tree.flatten(output)
    if len(outputs) != 1:
        raise ValueError(f"model must have one output, got {len(outputs)}")
    if outputs[0].shape[:1] != (len(images),):
        got = tuple(outputs[0].shape)
        raise ValueError(f"model must return a row for each image, got {got}")
    return keras.ops.convert_to_numpy(outputs[0]).astype(np.float32)


def match_labels(
    name: str, labels: np.ndarray, count: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Bring labels for `count` outputs of `shape` into one of two forms, or raise.

    Returns:
        Float32 targets `(count, *shape)`, or int64 class ids `(count, *shape[:-1])`.
    """
    labels = checks.finite_array(name, labels)
    if count == 1 and labels.shape in (shape, shape[:-1]):
        labels = labels[np.newaxis]
    targets, class_ids = (count, *shape), (count, *shape[:-1])
    fits_class_ids = labels.shape in (class_ids, (*class_ids, 1))
    if labels.shape == targets or (fits_class_ids and shape[-1:] in ((), (1,))):
        return labels.reshape(targets).astype(np.float32, copy=False)
    if not fits_class_ids:
        wanted = f"{targets}, or class ids {class_ids}"
        raise ValueError(f"{name} must have shape {wanted}, got {labels.shape}")
    if (labels % 1 != 0).any() or labels.min() < 0 or labels.max() >= shape[-1]:
        got = f"values from {labels.min()} to {labels.max()}"
        raise ValueError(f"{name} must hold class ids 0 to {shape[-1] - 1}, got {got}")
    return labels.reshape(class_ids).astype(np.int64)


def one_hot(
    name: str, labels: np.ndarray, count: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Return labels for `count` outputs of `shape` as float32 of that shape, or raise."""
    labels = match_labels(name, labels, count, shape)
    if labels.dtype == np.int64:
        labels = np.eye(shape[-1], dtype=np.float32)[labels]
    return labels
