"""The losses that attacks climb, one value an image, and the logits under some.

In float32 a confident softmax gives the true class a probability of 1.0, and most of
the gradient of cross-entropy cancels, even where it is computed from logits. The losses
on logits compare the true class with the others alone, so that nothing cancels. They
take one-hot `targets` and `logits`, both `(n, classes)`, and return a value an image.
"""

import contextlib
import inspect
import types
import warnings
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks


def cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return by how much all other classes together exceed the true one's logit.

    The softplus of it is cross-entropy. An attack needs only the gradient's sign, which
    is the same without that function, where softplus would underflow.
    """
    true, others = _split(targets, logits)
    return tf.reduce_logsumexp(others, axis=-1) - true


def margin(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the largest other logit less the true one's; positive if misclassified.

    Source: Carlini and Wagner, "Towards evaluating the robustness of neural networks",
    2017 (their f6).
    """
    true, others = _split(targets, logits)
    return tf.reduce_max(others, axis=-1) - true


_LAST_OPERATIONS = ("Softmax", "Sigmoid", "Identity", "Cast")
_ON_LOGITS = {loss.__name__: loss for loss in (cross_entropy, margin)}


class OnLogits(NamedTuple):
    """A loss on a classifier's logits.

    Attributes:
        name: "cross_entropy" or "margin".
        from_logits: Whether the classifier returns logits; None finds it out.
    """

    name: str
    from_logits: bool | None = None

    def __call__(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the loss of each image."""
        return _ON_LOGITS[self.name](targets, logits)


Loss = str | OnLogits | keras.losses.Loss | Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def get_loss(loss: Loss) -> Loss:
    """Return a loss by its name, or the loss itself, or raise."""
    if isinstance(loss, str) and loss in _ON_LOGITS:
        return OnLogits(loss)
    found = keras.losses.get(loss)  # which raises a ValueError for a wrong name
    if not callable(found) or found.__hash__ is None:
        got = checks.shown(loss)
        raise ValueError(f"loss must be a Keras loss or its name, got {got}")
    return found


def loss_key(loss: Loss) -> object:
    """Return what is equal for losses that are: made anew in every call, say."""
    if isinstance(loss, keras.losses.Loss) and type(loss).__module__.startswith(
        "keras"
    ):
        return type(loss), repr(loss.get_config())
    if isinstance(loss, types.FunctionType):
        cells = tuple(cell.cell_contents for cell in loss.__closure__ or ())
        key = loss.__code__, loss.__module__, loss.__defaults__, cells
        with contextlib.suppress(TypeError):  # what it closes over has no hash
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
        values = tf.map_fn(
            lambda pair: tf.cast(function(pair[0][None], pair[1][None]), tf.float32),
            (targets, output),
            fn_output_signature=tf.float32,
        )
    return tf.reduce_mean(tf.reshape(values, (tf.shape(values)[0], -1)), axis=1)


def _split(targets, logits):
    is_true = tf.one_hot(tf.argmax(targets, axis=-1), logits.shape[-1]) > 0
    true = tf.reduce_sum(tf.where(is_true, logits, 0), axis=-1)
    return true, tf.where(is_true, tf.float32.min, logits)


def are_probabilities(output: np.ndarray) -> bool:
    """Return whether rows `(n, classes)` are probabilities, to bfloat16's rounding.

    A single value is one of them if it is from 0 to 1.
    """
    if output.shape[-1] == 1:
        return output.min() >= 0 and output.max() <= 1
    return output.min() >= 0 and np.allclose(output.sum(axis=-1), 1, atol=0.02)


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
    if callable(loss):
        parameter = inspect.signature(loss).parameters.get("from_logits")
        return getattr(parameter, "default", None)
    return None


def find_logits(
    output: tf.Tensor,
    from_logits: bool | None,
    compiled: bool | None,
    example: np.ndarray,
    name: str,
) -> tf.Tensor:
    """Return the logits of classes behind a classifier's output, in a traced function.

    They are looked for behind a softmax or a sigmoid at the end of the model. Without
    one, the output is what the loss of `compile` takes, or else what it looks like.

    Args:
        output: What the model returned, `(n, classes)`, or `(n, 1)` for two classes.
        from_logits: Whether these are logits, where the user says so.
        compiled: Whether the loss takes logits that the model was compiled with.
        example: What the model returns for the user's images.
        name: The model's name, for the warning that there are no logits.

    Returns:
        Float32 logits `(n, classes)`, of two classes at least.
    """
    is_found, logits = False, output
    while from_logits is not True and logits.op.type in _LAST_OPERATIONS:
        is_found |= logits.op.type in ("Softmax", "Sigmoid")
        logits = logits.op.inputs[0]
    logits = tf.cast(logits, tf.float32)
    if from_logits is None:
        from_logits = not are_probabilities(example) if compiled is None else compiled
    if not is_found and not from_logits:
        warnings.warn(
            f"no logits behind the probabilities of model {name!r}: their logarithms "
            "take their place, and confident answers may withstand attacks unduly",
            stacklevel=2,
        )
        tiny = np.finfo(np.float32).tiny
        others = tf.maximum(1 - logits, tiny) if logits.shape[-1] == 1 else 1.0
        logits = tf.math.log(tf.maximum(logits, tiny)) - tf.math.log(others)
    if logits.shape[-1] == 1:
        logits = tf.concat([tf.zeros_like(logits), logits], axis=-1)
    return logits
