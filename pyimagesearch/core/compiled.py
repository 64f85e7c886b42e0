"""Functions of a model and a loss, compiled once and kept as long as the model."""

import math
import operator
import weakref
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks, labels, losses
from pyimagesearch.core.logits import find_logits
from pyimagesearch.core.losses import OnLogits
from pyimagesearch.core.models import all_layers, check_model, example_output
from pyimagesearch.core.warning import warn

_CHUNK_VALUES = 512 * 28 * 28  # that go through a model at once: memory stays flat
_MOST_FUNCTIONS = 32


class Network(NamedTuple):
    """A model with a loss, as the functions that are compiled see it."""

    model: weakref.ref  # so that a compiled function dies with its model
    loss: losses.Loss
    examples: np.ndarray  # images of the user's that tell probabilities from logits

    def output(self, images: tf.Tensor) -> tf.Tensor:
        """Return the model's output."""
        return keras.tree.flatten(self.model()(images, training=False))[0]

    def losses(self, targets: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
        """Return the loss of each image `(n,)`."""
        if isinstance(self.loss, OnLogits):
            return self.loss(targets, self.logits(output, is_judged=False))
        return losses.each_loss(self.loss, targets, tf.cast(output, tf.float32))

    def logits(self, output: tf.Tensor, is_judged: bool = True) -> tf.Tensor:
        """Return a classifier's logits `(n, classes)`."""
        from_logits = self.loss.from_logits
        return find_logits(output, self.model(), self.examples, from_logits, is_judged)


class Compiled(NamedTuple):
    """A compiled function of images and targets, which goes through them in chunks."""

    function: Callable
    output_shape: tuple[int, ...]  # of the model's output for an image
    as_targets: Callable  # turns a user's labels into what the loss takes

    def match_labels(self, name: str, given: np.ndarray, count: int) -> np.ndarray:
        """Return labels as the targets that the loss takes, or raise."""
        return self.as_targets(name, given, count, self.output_shape)

    def run(self, *arrays: np.ndarray, settings: tuple = ()) -> list[np.ndarray]:
        """Return the results for arrays of any length; all chunks get the settings."""
        settings = [tf.constant(setting) for setting in settings]
        rows = max(1, _CHUNK_VALUES // math.prod(arrays[0].shape[1:]))
        results = []
        for start in range(0, len(arrays[0]), rows):
            tensors = [tf.constant(array[start : start + rows]) for array in arrays]
            try:
                results.append(self.function(*tensors, *settings))
            except tf.errors.InvalidArgumentError as error:  # of the model's own checks
                reason = "model does not take such images; clip= keeps them valid"
                raise ValueError(checks.one_line(f"{reason}: {error}")) from error
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]


class _Cache:
    """What was compiled for a model, as long as the model is what it was."""

    def __init__(self):
        self.parts = []  # weak references
        self.functions = {}  # the last used come last

    def follow(self, model):
        """Forget everything if the model has changed."""
        # Metrics are new after each `compile`, layers and weights after other changes.
        parts = [*model.variables, *model.metrics]
        for layer in all_layers(model):
            attributes = vars(layer)
            parts += [layer, attributes.get("activation")]
            parts.append(attributes.get("recurrent_activation"))
        known = [reference() for reference in self.parts]
        if len(parts) != len(known) or any(map(operator.is_not, parts, known)):
            self.functions.clear()
            self.parts = [_reference(part) for part in parts]


def _reference(part):
    try:
        return weakref.ref(part)
    except TypeError:  # None, or a name
        return lambda: part


_caches = weakref.WeakKeyDictionary()  # by model


def compile_for(
    function: Callable,
    model: keras.Model,
    images: np.ndarray,
    loss: losses.Loss,
    *arrays: np.ndarray,
    **settings,
) -> Compiled:
    """Compile `function(network, images, targets, *arrays, **settings)`.

    The function is written in TensorFlow, and returns tensors with a row an image. It
    is compiled once for a model, a loss, the shapes of the arrays but for their
    lengths, and the settings; and again after the model has changed. It raises what is
    wrong with the model or the loss.
    """
    check_model(model)
    loss = losses.get_loss(loss)
    cache = _caches.setdefault(model, _Cache())
    cache.follow(model)
    shapes = [array.shape[1:] for array in (images, *arrays)]
    key = (function, losses.loss_key(loss), *shapes, *settings.items())
    compiled = cache.functions.pop(key, None)
    if compiled is None:
        output_shape = example_output(model, images, 1).shape[1:]
        cache.follow(model)  # its first call may have built it
        network = Network(weakref.ref(model), loss, images[:4].copy())

        def traced(*tensors):  # no partial: TensorFlow would miss its keywords, slowly
            return function(network, *tensors, **settings)

        compiled = _compile(traced, loss, shapes, output_shape)
    cache.functions[key] = compiled
    while len(cache.functions) > _MOST_FUNCTIONS:
        cache.functions.pop(next(iter(cache.functions)))
        warn(
            "attacks on a model are compiled again and again: make loss= once, outside "
            "the function that attacks, and keep to a few shapes of images"
        )
    return compiled


def _compile(function, loss, shapes, output_shape):
    image_spec, *specs = [tf.TensorSpec((None, *shape)) for shape in shapes]
    target_spec = tf.TensorSpec((None, *output_shape[:-1]), tf.int64)
    if isinstance(loss, OnLogits):
        as_targets = labels.as_classes
    elif losses.takes_class_ids(loss):
        as_targets = labels.as_class_ids
    else:
        as_targets = labels.as_rows
        target_spec = tf.TensorSpec((None, *output_shape))
    signature = [image_spec, target_spec, *specs]
    traced = tf.function(function, input_signature=signature, autograph=False)
    try:  # here and now: TensorFlow warns of functions that are traced at a call
        concrete = traced.get_concrete_function()
    except (AttributeError, LookupError, NotImplementedError, TypeError) as error:
        # No gradient of an operation, or what a tensor of a graph cannot do, such as
        # tensor.numpy() or float(tensor).
        reason = f"model or loss cannot be compiled by tf.function: {error}"
        raise ValueError(checks.one_line(reason)) from error
    return Compiled(concrete, output_shape, as_targets)


def compile_logits(
    model: keras.Model, images: np.ndarray, from_logits: bool | None = None
) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[int, ...]]:
    """Return a function from float32 images to a classifier's logits `(n, classes)`.

    With it comes the shape of the model's output for an image.
    """
    if from_logits is not None:
        from_logits = checks.truth("from_logits", from_logits)
    loss = OnLogits("margin", from_logits)
    compiled = compile_for(_logits, model, images, loss)

    def predict(images):
        unused = np.zeros(len(images), np.int64)
        (logits,) = compiled.run(images, unused)
        return logits

    return predict, compiled.output_shape


def _logits(network, images, targets):
    return [network.logits(network.output(images))]
