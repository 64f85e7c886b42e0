"""Functions of a model and a loss, compiled once and kept as long as the model."""

import math
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks, labels, logits, losses
from pyimagesearch.core.losses import OnLogits
from pyimagesearch.core.warning import warn

_CHUNK_VALUES = 512 * 28 * 28  # that go through a model at once: memory stays flat
_MOST_FUNCTIONS = 32
_EXAMPLES = 4  # images of the user's that tell probabilities from logits


class Network(NamedTuple):
    """A model with a loss, as it is handed to the functions that are compiled."""

    output: Callable  # of images
    losses: Callable  # of targets and output: one an image
    logits: Callable  # of output: (n, classes)


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
        count = len(arrays[0])
        settings = [tf.constant(setting) for setting in settings]
        results = []
        for chunk in chunks(arrays[0]):
            tensors = [tf.constant(array[chunk]) for array in arrays]
            try:
                parts = self.function(*tensors, *settings)
            except tf.errors.InvalidArgumentError as error:  # of the model's own checks
                reason = "model does not take such images; clip= keeps them valid"
                raise ValueError(checks.one_line(f"{reason}: {error}")) from error
            if not results:  # filled in place, or each would be there twice
                for part in parts:
                    shape = (count, *part.shape[1:])
                    results.append(np.empty(shape, part.dtype.as_numpy_dtype))
            for whole, part in zip(results, parts, strict=True):
                whole[chunk] = part
        return results


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


# A function holds its model by a weak reference, so that an entry dies with its model.
_caches = weakref.WeakKeyDictionary()


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
    shapes = tuple(array.shape[1:] for array in (images, *arrays))
    key = (function, losses.loss_key(loss), shapes, *settings.items())
    compiled = cache.functions.pop(key, None)
    if compiled is None:
        output_shape = example_output(model, images, 1).shape[1:]
        cache.follow(model)  # its first call may have built it
        network = _network(model, loss, images)

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


def _network(model, loss, images):
    reference = weakref.ref(model)
    from_logits = loss.from_logits if isinstance(loss, OnLogits) else None
    compiled_from_logits = logits.compiled_from_logits(model)

    def output(images):
        return keras.tree.flatten(reference()(images, training=False))[0]

    def example():
        with tf.init_scope():  # not in the function that is being traced
            return example_output(reference(), images, _EXAMPLES)

    def find_logits(output, is_judged=True):
        return logits.find_logits(
            output, from_logits, compiled_from_logits, example, is_judged
        )

    def each_loss(targets, output):
        if isinstance(loss, OnLogits):
            return loss(targets, find_logits(output, is_judged=False))
        return losses.each_loss(loss, targets, tf.cast(output, tf.float32))

    return Network(output, each_loss, find_logits)


def _compile(function, loss, shapes, output_shape):
    image_spec, *specs = [tf.TensorSpec((None, *shape)) for shape in shapes]
    if losses.takes_class_ids(loss):
        targets = tf.TensorSpec((None, *output_shape[:-1]), tf.int64)
        is_ours = isinstance(loss, OnLogits)
        as_targets = labels.as_classes if is_ours else labels.as_class_ids
    else:
        targets = tf.TensorSpec((None, *output_shape))
        as_targets = labels.as_rows
    signature = [image_spec, targets, *specs]
    traced = tf.function(function, input_signature=signature, autograph=False)
    try:  # here and now: TensorFlow warns of functions that are traced at a call
        concrete = traced.get_concrete_function()
    except LookupError as error:
        reason = f"model has an operation without a gradient: {error}"
        raise ValueError(checks.one_line(reason)) from error
    except (AttributeError, NotImplementedError, TypeError) as error:
        # What a tensor of a graph cannot do, such as tensor.numpy() or float(tensor).
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
        return compiled.run(images, unused)[0]

    return predict, compiled.output_shape


def _logits(network, images, targets):
    return [network.logits(network.output(images))]


def chunks(images: np.ndarray) -> Iterator[slice]:
    """Yield slices of images to work through one by one, so that memory stays flat."""
    rows = max(1, _CHUNK_VALUES // math.prod(images.shape[1:]))
    for start in range(0, len(images), rows):
        yield slice(start, start + rows)


def all_layers(model: keras.Model) -> list[keras.Layer]:
    """Return a model and its layers, with those inside of a user's own layers."""
    return model._flatten_layers()


def check_model(model: keras.Model) -> None:
    """Raise unless `model` is a Keras model whose call is what it predicts with."""
    if not isinstance(model, keras.Model):
        kinds = [f"{kind.__module__}.{kind.__name__}" for kind in type(model).__mro__]
        of_tf_keras = [kind for kind in kinds if kind.startswith("tf_keras")]
        got = (of_tf_keras or kinds)[0]
        raise TypeError(f"model must be a Keras 3 model, got {got}")
    if getattr(model, "preprocessor", None) is not None:  # as tasks of KerasHub have
        raise ValueError(
            "model preprocesses images before its call: attack "
            "keras.Model(model.input, model.output) on preprocessed images"
        )


def example_output(model: keras.Model, images: np.ndarray, count: int) -> np.ndarray:
    """Return the model's one output for some of the images, or raise."""
    check_model(model)
    takes = getattr(model, "input_shape", None)
    if takes == (None, *images.shape):
        raise ValueError(
            f"images must be (n, ...), got {images.shape}: a single image needs a "
            "batch axis, image[np.newaxis]"
        )
    given = images.shape[1:]
    is_known = isinstance(takes, tuple) and len(takes) == images.ndim
    if is_known and not tf.TensorShape(takes[1:]).is_compatible_with(given):
        shapes = f"{given}, as dims or images are, but takes {takes[1:]}"
        raise ValueError(f"model must take images of shape {shapes}")
    few = tf.constant(images[:count], tf.float32)
    try:
        output = model(few, training=False)
    except Exception as error:  # the user's own code may run in there
        reason = f"model must take images of shape {given}: {error}"
        raise ValueError(checks.one_line(reason)) from error
    outputs = keras.tree.flatten(output)
    if len(outputs) != 1 or outputs[0].shape[:1] != few.shape[:1]:
        shapes = [tuple(output.shape) for output in outputs]
        raise ValueError(f"model must have one output, a row an image, got {shapes}")
    return keras.ops.convert_to_numpy(outputs[0]).astype(np.float32)
