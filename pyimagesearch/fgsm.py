"""The fast gradient sign method (FGSM), and the gradient under every attack."""

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks
from pyimagesearch.core.chords import chord_gradient
from pyimagesearch.core.compiled import Network, compile_for
from pyimagesearch.core.gradients import check_outputs, warn_of_gradients
from pyimagesearch.core.losses import Loss

__all__ = ["generate_image_adversary", "gradient_direction"]


def generate_image_adversary(
    model: keras.Model,
    image: np.ndarray,
    label: np.ndarray,
    eps: float | np.ndarray = 2 / 255.0,
    *,
    loss: Loss = "mean_squared_error",
    clip: tuple[float, float] | None = None,
    targeted: bool = False,
    norm: float = np.inf,
) -> np.ndarray:
    """Attack one image or a batch: `image + eps * sign(d loss / d image)`.

    The defaults are the tutorials': mean squared error, and no clipping, so that
    adversaries of images in [0, 1] reach from -eps to 1 + eps. The model runs in
    inference mode; what else is in the batch makes no difference to an image. A warning
    says where gradients are zero (from 1% of the images on) or NaN, which counts as
    zero.

    Args:
        model: A Keras model that maps one image tensor to one output.
        image: Images `(n, height, width, channels)`, n = 1 for a single one, of any
            real dtype. Series `(n, length, channels)` and vectors are welcome, too.
        label: One-hot rows or regression targets in the output's shape, or class ids
            `(n,)` or `(n, 1)`. For a single image the first axis may be missing.
        eps: Largest change of a value, in the units of the images; or an array that
            broadcasts to them, 0 where nothing may change (not for norm 2).
        loss: A Keras loss or its name, which gets one-hot rows (or class ids, if it is
            the sparse one). For logits it must be one that takes them. Or
            "cross_entropy" or "margin", which climb the logits of any classifier,
            however sure of itself it is; of soft labels they take the largest class
            ("categorical_crossentropy" takes them as they are). Numbers that a function
            closes over are frozen when it is compiled: bind those that change by
            `functools.partial`.
        clip: The valid range `(low, high)` of images and adversaries.
        targeted: Descend the loss towards `label` instead of climbing away from it.
        norm: `np.inf`, or 2: then eps is the length of the whole change, which goes
            straight along the gradient.

    Returns:
        The adversaries, float32, in the shape of `image`.

    Raises:
        TypeError, ValueError: If an argument is of a wrong type, out of range or does
            not fit the model, or if the model returns NaN or infinity.

    Source: Goodfellow et al., "Explaining and harnessing adversarial examples", 2015.
    """
    images, eps, (low, high) = checks.attack_arguments("image", image, eps, clip, norm)
    attack = compile_for(_one_step, model, images, loss, eps, norm=norm)
    targets = attack.match_labels("label", label, len(images))
    step = -eps if checks.truth("targeted", targeted) else eps
    adversaries, gradient_sizes, are_finite = attack.run(images, targets, step)
    if eps.any():
        check_outputs(model, are_finite)
        warn_of_gradients(gradient_sizes)
    if clip is not None:
        adversaries.clip(low, high, out=adversaries)
    return adversaries


def _one_step(network, images, targets, step, norm):
    direction, size, is_finite = gradient_direction(network, images, targets, norm)
    return images + step * direction, size, is_finite


def gradient_direction(
    network: Network,
    images: tf.Tensor,
    targets: tf.Tensor,
    norm: float,
    slopes: list[tf.Tensor] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Find where a network's loss grows fastest, in a function that is compiled.

    If slopes are given, they take the place of the first ReLUs' own.

    Returns:
        Directions whose norm, infinity or 2, is 1; for each image the sum of its
        gradient's absolute values, which is zero or NaN where the direction is of no
        use; and whether the model's output is finite.
    """
    if slopes:
        gradient, output = chord_gradient(network, images, targets, slopes)
    else:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            output = network.output(images)
            loss = tf.reduce_sum(network.losses(targets, output))
        gradient = tape.gradient(loss, images, unconnected_gradients="zero")
    axes = range(1, len(images.shape))
    size = tf.reduce_sum(tf.abs(gradient), axes)
    is_finite = tf.reduce_all(tf.math.is_finite(output), range(1, len(output.shape)))
    gradient = tf.where(tf.math.is_nan(gradient), 0.0, gradient)
    direction = _unit_length(gradient, axes) if norm == 2 else tf.sign(gradient)
    return direction, size, is_finite


def _unit_length(gradient, axes):
    gradient = tf.clip_by_value(gradient, tf.float32.min, tf.float32.max)
    largest = tf.reduce_max(tf.abs(gradient), axes, keepdims=True)
    # Scaled first, or tiny squares would vanish.
    gradient = tf.math.divide_no_nan(gradient, largest)
    return tf.math.l2_normalize(gradient, axes, epsilon=1e-12)
