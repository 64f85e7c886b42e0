"""The losses that attacks climb, and the logits under some.

In float32 a confident softmax gives the true class a probability of 1.0, and most of
the gradient of cross-entropy cancels, even where it is computed from logits. The losses
on logits compare the true class with the others alone, so that nothing cancels.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks
from pyimagesearch.core.warning import warn

_LAST_OPERATIONS = ("Softmax", "Sigmoid", "Identity", "Cast")
_ON_LOGITS = ("cross_entropy", "margin")


class OnLogits(NamedTuple):
    """A loss on a classifier's logits, of each image.

    `cross_entropy` is by how much all other classes together exceed the true one; the
    softplus of it is cross-entropy, with a gradient of the same sign. `margin` is the
    largest other logit less the true one (f6 in Carlini and Wagner, "Towards evaluating
    the robustness of neural networks", 2017): positive if misclassified.
    """

    name: str
    from_logits: bool | None = None  # None finds it out

    def __call__(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the losses for one-hot targets and logits `(n, classes)`."""
        if targets.shape[-1] == 1:
            targets = tf.concat([1 - targets, targets], axis=-1)
        is_true = tf.one_hot(tf.argmax(targets, axis=-1), logits.shape[-1]) > 0
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


def loss_key(loss: object) -> object:
    """Return what is equal for equal losses of Keras, also if they are made anew."""
    if type(loss).__module__.startswith("keras.src.losses"):
        return type(loss), repr(loss.get_config())
    if isinstance(loss, functools.partial):
        key = loss_key(loss.func), loss.args, *loss.keywords.items()
        with contextlib.suppress(TypeError):  # an argument without a hash
            hash(key)
            return key
    return loss


def takes_class_ids(loss: Loss) -> bool:
    """Return whether it is Keras's sparse categorical cross-entropy, in any form."""
    function = keras.losses.sparse_categorical_crossentropy
    return getattr(loss, "func", loss) is function or isinstance(
        loss, keras.losses.SparseCategoricalCrossentropy
    )


def each_loss(loss: Loss, targets: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Return the loss of each image `(n,)`, whatever the loss itself averages over."""
    if takes_class_ids(loss):
        targets = tf.argmax(targets, axis=-1)
    # Calling a loss object would average over the batch; gradients divided by many
    # images underflow to zero. Its `call` returns one value an image.
    function = loss.call if isinstance(loss, keras.losses.Loss) else loss
    values = function(targets, output)
    if not tf.is_tensor(values):
        raise TypeError(f"loss must return a tensor, got {checks.shown(values)}")
    if values.shape.rank == 0:  # averaged or added up after all: image by image, then
        rows = tf.expand_dims(targets, 1), tf.expand_dims(output, 1)
        one = tf.TensorSpec((), values.dtype)
        values = tf.map_fn(lambda row: function(*row), rows, fn_output_signature=one)
    return tf.reduce_mean(tf.reshape(values, (tf.shape(values)[0], -1)), axis=1)


def compiled_loss(model: keras.Model) -> Loss | None:
    """Return the loss that a model was compiled with, if there is one."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    loss = losses[0] if len(losses) == 1 else None
    return keras.losses.get(loss) if isinstance(loss, str) else loss


def compiled_from_logits(model: keras.Model) -> bool | None:
    """Return whether the loss that a model was compiled with takes logits."""
    loss = compiled_loss(model)
    if isinstance(loss, keras.losses.Loss):
        return loss.get_config().get("from_logits")
    parameters = inspect.signature(loss).parameters if callable(loss) else {}
    return getattr(parameters.get("from_logits"), "default", None)


def are_probabilities(output: np.ndarray) -> bool:
    """Return whether rows `(n, classes)` look like probabilities, a single one too."""
    is_positive = output.min() >= 0 and output.max() <= 1.02  # bfloat16 rounds
    sums = output.sum(axis=-1)
    return is_positive and (output.shape[-1] == 1 or np.allclose(sums, 1, atol=0.02))


def find_logits(output: tf.Tensor, is_logits: bool, is_sure: bool, name: str):
    """Return a classifier's float32 logits `(n, classes)`, in a traced function.

    They are what its softmax or sigmoid gets, if its output `(n, classes)` or `(n, 1)`
    comes from one; or else the output, by `is_logits`, which counts first if `is_sure`.
    """
    is_found, logits = False, output
    while not (is_sure and is_logits) and logits.op.type in _LAST_OPERATIONS:
        is_found |= logits.op.type in ("Softmax", "Sigmoid")
        logits = logits.op.inputs[0]
    logits = tf.cast(logits, tf.float32)
    if not is_found and not is_logits:
        warn(
            f"no logits behind the probabilities of model {name!r}: their logarithms "
            "take their place, and confident answers may withstand attacks unduly"
        )
        others = tf.maximum(1 - logits, 1e-30) if logits.shape[-1] == 1 else 1.0
        logits = tf.math.log(tf.maximum(logits, 1e-30) / others)
    if logits.shape[-1] == 1:
        logits = tf.concat([tf.zeros_like(logits), logits], axis=-1)
    return logits
