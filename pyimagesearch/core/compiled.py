"""Functions of a model and a loss, compiled once and kept as long as the model."""

import math
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks, losses
from pyimagesearch.core.losses import OnLogits
from pyimagesearch.core.warning import warn

_CHUNK_VALUES = 512 * 28 * 28  # that go through a model at once: memory stays flat
_MOST_FUNCTIONS = 32
# {model: {what it was compiled for: (compiled function, output's shape, metrics)}}. A
# function holds its model by a weak reference, so that an entry dies with its model.
_functions = weakref.WeakKeyDictionary()


class Network(NamedTuple):
    """A model with a loss, as it is handed to the functions that are compiled."""

    output: Callable  # from images
    losses: Callable  # an image each, from targets and output
    logits: Callable  # of classes, from output


def compile_for(
    function, model, images, labels, loss, *more, name="labels", **settings
) -> tuple[Callable, np.ndarray]:
    """Return `function(network, images, targets, *more, **settings)`, compiled.

    With it come the labels as float32 targets in the shape of the model's output. It is
    compiled once for a model, a loss, a shape of images and the settings, and again
    after the model's `compile`. The images tell probabilities from logits.
    """
    check_model(model)
    loss, functions = losses.get_loss(loss), _functions.setdefault(model, {})
    # Metrics are new after each `compile`, layers and weights after other changes.
    metrics = model.metrics
    parts = tuple(map(id, [*model.layers, *model.variables, *metrics]))
    key = function, losses.loss_key(loss), images.shape[1:], parts, *settings.items()
    entry = functions.pop(key, None)
    if entry is None:
        example = example_output(model, images[next(chunks(images))])
        network = _network(model, loss, example)
        specs = [tf.TensorSpec((None, *a.shape[1:])) for a in (images, example)]
        traced = tf.function(
            lambda *tensors: function(network, *tensors, **settings),
            input_signature=[*specs, *more],
            autograph=False,
        )
        try:  # here and now: TensorFlow warns of functions that are traced at a call
            entry = traced.get_concrete_function(), example.shape[1:], metrics
        except LookupError as error:
            reason = f"model has an operation without a gradient: {error}"
            raise ValueError(checks.one_line(reason)) from error
    functions[key] = entry  # the last used come last
    while len(functions) > _MOST_FUNCTIONS:
        functions.pop(next(iter(functions)), None)
        warn(
            f"attacks on model {model.name!r} are compiled again and again: make loss= "
            "once, outside the function that attacks"
        )
    targets = one_hot(name, labels, len(images), entry[1])
    if isinstance(loss, OnLogits):
        _check_classes(name, loss.name, targets)
    return entry[0], targets


def _check_classes(name, loss, targets):
    if targets.ndim != 2:
        got = f"an output of shape {targets.shape[1:]}"
        raise ValueError(f"loss {loss!r} needs a row of classes an image, got {got}")
    single, low, high = targets.shape[1] == 1, targets.min(), targets.max()
    fits = np.isin(targets, (0, 1)) if single else abs(targets.sum(axis=1) - 1) < 1e-3
    if low < 0 or high > 1 or not fits.all():
        wanted = "0 or 1 for a model of one output" if single else "one class an image"
        raise ValueError(
            f"{name} must be {wanted}, got values from {low:g} to {high:g}: regression "
            "and several labels an image need an attack with the loss= that the model "
            f"was trained with, not {loss!r}"
        )


def _network(model, loss, example):
    model_reference, name = weakref.ref(model), model.name
    is_sure = isinstance(loss, OnLogits) and loss.from_logits is not None
    is_logits = loss.from_logits if is_sure else losses.compiled_from_logits(model)
    if is_logits is None:
        is_logits = not losses.are_probabilities(example)

    def output(images):
        return keras.tree.flatten(model_reference()(images, training=False))[0]

    def logits(output):
        return losses.find_logits(output, is_logits, is_sure, name)

    def each_loss(targets, output):
        if isinstance(loss, OnLogits):
            return loss(targets, logits(output))
        return losses.each_loss(loss, targets, tf.cast(output, tf.float32))

    return Network(output, each_loss, logits)


def judge(network: Network, images: tf.Tensor, targets: tf.Tensor) -> tuple:
    """Return an image's loss, and the logits of its classes."""
    output = network.output(images)
    return network.losses(targets, output), network.logits(output)


def class_ids(targets: np.ndarray) -> np.ndarray:
    """Return the classes `(n,)` in a classifier's targets."""
    is_single = targets.shape[1] == 1
    return (targets[:, 0] > 0.5).astype(int) if is_single else targets.argmax(axis=1)


def predict_logits(model, images, from_logits=None) -> np.ndarray:
    """Return a classifier's logits `(n, classes)` for float32 images, or raise."""
    any_class, loss = np.zeros(len(images), int), OnLogits("margin", from_logits)
    judged, targets = compile_for(judge, model, images, any_class, loss)
    return in_chunks(judged, images, targets)[1]


def chunks(images: np.ndarray) -> Iterator[slice]:
    """Yield slices of images to work through one by one, so that memory stays flat."""
    rows = max(16, _CHUNK_VALUES // math.prod(images.shape[1:]))
    for start in range(0, len(images), rows):
        yield slice(start, start + rows)


def in_chunks(compiled: Callable, *arrays: np.ndarray) -> list[np.ndarray]:
    """Return the results of a compiled function for arrays of any length."""
    results = None
    for chunk in chunks(arrays[0]):
        try:
            result = compiled(*(tf.constant(array[chunk]) for array in arrays))
        except tf.errors.InvalidArgumentError as error:  # of the model's own checks
            reason = f"model does not take such images; clip= keeps them valid: {error}"
            raise ValueError(checks.one_line(reason)) from error
        if results is None:  # filled in place, or each would be there twice
            shapes = ((len(arrays[0]), *part.shape[1:]) for part in result)
            types = (part.dtype.as_numpy_dtype for part in result)
            results = list(map(np.empty, shapes, types))
        for whole, part in zip(results, result, strict=True):
            whole[chunk] = part
    return results


def check_model(model: keras.Model) -> None:
    """Raise a TypeError unless `model` is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a Keras model, got {type(model).__name__}")


def example_output(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the model's one output for some images, or raise."""
    check_model(model)
    takes, given = getattr(model, "input_shape", None), images.shape
    if takes == (None, *given):
        how = "a single image needs a batch axis, image[np.newaxis]"
        raise ValueError(f"images must be (n, ...), got {given}: {how}")
    is_known = isinstance(takes, tuple) and len(takes) == len(given)
    if is_known and not tf.TensorShape(takes[1:]).is_compatible_with(given[1:]):
        shapes = f"{given[1:]}, as dims or images are, but takes {takes[1:]}"
        raise ValueError(f"model must take images of shape {shapes}")
    try:
        output = model(tf.constant(images, tf.float32), training=False)
    except Exception as error:  # the user's own code may run in there
        reason = f"model must take images of shape {given[1:]}: {error}"
        raise ValueError(checks.one_line(reason)) from error
    outputs = keras.tree.flatten(output)
    if len(outputs) != 1 or outputs[0].shape[:1] != (len(images),):
        shapes = [tuple(output.shape) for output in outputs]
        raise ValueError(f"model must have one output, a row an image, got {shapes}")
    return keras.ops.convert_to_numpy(outputs[0]).astype(np.float32)


def match_labels(name, labels, count, shape) -> np.ndarray:
    """Return labels as float32 targets `(count, *shape)`, or raise.

    Class ids `(count, *shape[:-1])` stay what they are, as int64.
    """
    labels = checks.array(name, labels)
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


def one_hot(name, labels, count, shape) -> np.ndarray:
    """Return labels for `count` outputs of `shape` as float32 targets, or raise."""
    labels = match_labels(name, labels, count, shape)
    is_class_id = labels.dtype == np.int64
    return np.eye(shape[-1], dtype=np.float32)[labels] if is_class_id else labels
