"""The losses that attacks climb, each as a value an image."""

import functools
import inspect
import weakref
from collections.abc import Callable, Hashable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks

_ON_LOGITS = ("cross_entropy", "margin")


class OnLogits(NamedTuple):
    """A loss on a classifier's logits, of each image.

    It compares the true class with the others alone, so that nothing cancels however
    sure the classifier is. `cross_entropy` is by how much all other classes together
    exceed the true one: cross-entropy is its softplus. `margin` is the largest other
    logit less the true one (f6 in Carlini and Wagner, "Towards evaluating the
    robustness of neural networks", 2017): positive if misclassified.
    """

    name: str
    from_logits: bool | None = None  # None finds it out

    def __call__(self, ids: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the losses for class ids `(n,)` and logits `(n, classes)`."""
        is_true = tf.one_hot(ids, logits.shape[-1]) > 0
        true = tf.reduce_sum(tf.where(is_true, logits, 0), axis=-1)
        others = tf.where(is_true, tf.float32.min, logits)
        if self.name == "margin":
            return tf.reduce_max(others, axis=-1) - true
        return tf.reduce_logsumexp(others, axis=-1) - true


Loss = str | OnLogits | keras.losses.Loss | Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def get_loss(loss: Loss) -> Loss:
    """Return a loss by its name, or the loss itself, or raise."""
    if isinstance(loss, str) and loss in _ON_LOGITS:
        return OnLogits(loss)
    try:
        found = keras.losses.get(loss)
    except ValueError:
        found = None
    if not callable(found) or found.__hash__ is None:
        got = checks.shown(loss)
        raise ValueError(f"loss must be a Keras loss or its name, got {got}")
    return found


def loss_key(loss: Loss) -> Hashable:
    """Return what is equal for equal losses, also for Keras's that are made anew.

    It does not keep a user's own loss alive, which may hold its model.
    """
    if isinstance(loss, OnLogits):
        return loss
    if type(loss).__module__.startswith("keras.src.losses"):
        return type(loss), repr(loss.get_config())
    if isinstance(loss, functools.partial):
        arguments = [*loss.args, *loss.keywords.values()]
        key = (loss_key(loss.func), *map(_weakly, arguments), *loss.keywords)
        try:
            hash(key)
        except TypeError:  # of an argument
            return weakref.ref(loss)
        return key
    return _weakly(loss)


def _weakly(value):
    """Return a weak reference, or the value itself where Python has none to it."""
    try:
        is_method = inspect.ismethod(value)
        return weakref.WeakMethod(value) if is_method else weakref.ref(value)
    except TypeError:
        return value


def takes_class_ids(loss: Loss) -> bool:
    """Return whether a loss is the one of Keras that takes class ids."""
    function = keras.losses.sparse_categorical_crossentropy
    is_object = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    return is_object or getattr(loss, "func", loss) is function


def find_classes(targets: np.ndarray, shape: tuple[int, ...], loss: Loss) -> np.ndarray:
    """Return the class ids `(n,)` that targets for a loss stand for, or -1.

    One-hot rows of two and more classes, and class ids, stand for classes; several
    labels an image, a single output's targets and those of regression do not.
    """
    function = getattr(loss, "func", loss)  # of a partial
    name = getattr(function, "name", None) or getattr(function, "__name__", "")
    if len(shape) == 1 and shape[0] > 1 and not name.startswith("binary"):
        if targets.ndim == 1:
            return targets
        if np.isin(targets, (0, 1)).all() and (targets.sum(axis=1) == 1).all():
            return targets.argmax(axis=1)
    return np.full(len(targets), -1)


def each_loss(loss: Loss, targets: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Return the loss of each image `(n,)`, whatever the loss itself averages over."""
    # Calling a loss object would average over the batch; gradients divided by many
    # images underflow to zero. Its `call` returns one value an image.
    function = loss.call if isinstance(loss, keras.losses.Loss) else loss
    values = function(targets, output)
    if not tf.is_tensor(values):
        raise ValueError(f"loss must return a tensor, got {checks.shown(values)}")
    if values.shape.rank == 0:  # of the whole batch, so it is called for each image
        rows = tf.expand_dims(targets, 1), tf.expand_dims(output, 1)
        one = tf.TensorSpec((), values.dtype)
        values = tf.map_fn(lambda row: function(*row), rows, fn_output_signature=one)
    return tf.reduce_mean(tf.reshape(values, (tf.shape(values)[0], -1)), axis=1)
