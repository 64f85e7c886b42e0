"""Losses on logits, which attack a network however sure of itself it is.

In float32 a confident softmax gives the true class a probability of 1.0, and most of
the gradient of cross-entropy cancels, even where it is computed from logits. These
losses compare the true class with the others alone, so that nothing cancels. They take
one-hot `targets` and `logits`, both `(n, classes)`, and return a value an image.
"""

import warnings

import numpy as np
import tensorflow as tf


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


ON_LOGITS = {loss.__name__: loss for loss in (cross_entropy, margin)}


def _split(targets, logits):
    is_true = tf.one_hot(tf.argmax(targets, axis=-1), logits.shape[-1]) > 0
    true = tf.reduce_sum(tf.where(is_true, logits, 0), axis=-1)
    return true, tf.where(is_true, tf.float32.min, logits)


def are_probabilities(output: np.ndarray) -> bool:
    """Return whether rows `(n, classes)` are probabilities, to bfloat16's rounding."""
    return output.min() >= 0 and np.allclose(output.sum(axis=-1), 1, atol=0.02)


def find_logits(
    targets: tf.Tensor, output: tf.Tensor, example: np.ndarray, name: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the targets and logits behind a classifier's output, in a traced function.

    A single output, with targets 0 or 1, becomes two classes; it is taken for a logit
    unless it comes from a sigmoid.

    Args:
        targets: One-hot rows `(n, classes)`.
        output: What the model returned, `(n, classes)`.
        example: What it returns for some images; it tells probabilities from logits.
        name: The model's name, for the warning that there are no logits.

    Returns:
        Targets and float32 logits, both `(n, classes)`, of two classes at least.
    """
    found, logits = False, output
    while logits.op.type in ("Softmax", "Sigmoid", "Identity", "Cast"):
        found |= logits.op.type in ("Softmax", "Sigmoid")
        logits = logits.op.inputs[0]
    logits = tf.cast(logits, tf.float32)
    if not found and example.shape[-1] == 1 and 0 < example.min() <= example.max() < 1:
        text = (
            f"the output of model {name!r} is taken for a logit, for want of a sigmoid"
        )
        warnings.warn(text, stacklevel=2)
    if not found and example.shape[-1] > 1 and are_probabilities(example):
        warnings.warn(
            f"no logits behind the probabilities of model {name!r}: their logarithms "
            "take their place, and confident answers may withstand attacks unduly",
            stacklevel=2,
        )
        logits = tf.math.log(tf.maximum(logits, np.finfo(np.float32).tiny))
    if logits.shape[-1] == 1:
        logits = tf.concat([tf.zeros_like(logits), logits], axis=-1)
        targets = tf.concat([1 - targets, targets], axis=-1)
    return targets, logits
