"""A classifier's logits, and how they are told from probabilities.

In float32 a confident softmax gives the true class a probability of 1.0, and most of
the gradient is lost; so attacks go for the logits behind it. What an output is, is
told by the first of these that says anything:

1. the user's `from_logits=True`;
2. the model's last operation: what a softmax or a sigmoid gets are logits;
3. the user's `from_logits=False`;
4. the `from_logits` of the loss that the model was compiled with;
5. two or more scores an image: they are probabilities if they add up to one.

A single score that nothing tells about is refused where it has to be judged.
"""

import inspect

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core.models import example_output
from pyimagesearch.core.warning import warn

SINGLE_SCORE = (
    "model returns a single score, which may be a logit or a probability: give "
    "from_logits=, or compile the model with a loss that tells, such as "
    "BinaryCrossentropy(from_logits=True)"
)
_AFTER_LOGITS = ("Softmax", "Sigmoid")
_LAST_OPERATIONS = (*_AFTER_LOGITS, "Identity", "Cast")
_SMALLEST = 1e-30  # probability that has a logarithm


def find_logits(
    output: tf.Tensor,
    model: keras.Model,
    images: np.ndarray,
    from_logits: bool | None,
    is_judged: bool,
) -> tf.Tensor:
    """Return float32 logits `(n, classes)`, in a function that is being traced.

    The output is `(n, classes)`, or `(n, 1)` for two classes; some images serve as
    examples. If classes are not judged, but only the direction of gradients counts, a
    single score may be either.
    """
    behind = None if from_logits else _behind_last_operation(output)
    logits = tf.cast(output if behind is None else behind, tf.float32)
    is_single = output.shape[-1] == 1
    if from_logits is None and behind is None:
        from_logits = _compiled_from_logits(model)
        if from_logits is None and not is_single:
            with tf.init_scope():  # not in the function that is being traced
                examples = example_output(model, images, len(images))
            from_logits = not are_probabilities(examples)
        if from_logits is None and is_judged:
            raise ValueError(SINGLE_SCORE)
    if from_logits is False and behind is None:
        logits = _logarithms(logits)
    if is_single:
        logits = tf.concat([tf.zeros_like(logits), logits], axis=-1)
    return logits


def _behind_last_operation(output):
    """Return what a last softmax or sigmoid gets, or None."""
    is_found = False
    tensor = output
    while tensor.op.type in _LAST_OPERATIONS:
        is_found |= tensor.op.type in _AFTER_LOGITS
        tensor = tensor.op.inputs[0]
    return tensor if is_found else None


def _compiled_from_logits(model):
    """Return whether the loss that a model was compiled with takes logits, or None."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    loss = losses[0] if len(losses) == 1 else None
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if not callable(loss):
        return None
    if isinstance(loss, keras.losses.Loss):
        return loss.get_config().get("from_logits")
    parameter = inspect.signature(loss).parameters.get("from_logits")
    return getattr(parameter, "default", None)


def _logarithms(probabilities):
    warn(
        "there are no logits behind the model's probabilities: their logarithms take "
        "their place, and robustness may look better than it is"
    )
    others = 1.0
    if probabilities.shape[-1] == 1:
        others = tf.maximum(1 - probabilities, _SMALLEST)
    return tf.math.log(tf.maximum(probabilities, _SMALLEST) / others)


def are_probabilities(scores: np.ndarray) -> bool:
    """Return whether rows `(n, classes)` of two and more are from 0 on and add to 1."""
    is_in_range = scores.min() >= 0 and scores.max() <= 1.02  # bfloat16 rounds
    return bool(is_in_range and np.allclose(scores.sum(axis=-1), 1, atol=0.02))
