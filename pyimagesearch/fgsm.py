"""The fast gradient sign method, and the compiled gradient under the attacks."""

import weakref
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch import checks

Loss = str | keras.losses.Loss | Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Pixels that go through the model at once, so that memory stays flat.
_CHUNK_PIXELS = 512 * 28 * 28
# {model: {(loss, image shape, layers and weights): what _compile returned}}. Functions
# hold their model by a weak reference, so that an entry dies with its model.
_compiled = weakref.WeakKeyDictionary()


def generate_image_adversary(
    model: keras.Model,
    image: np.ndarray,
    label: np.ndarray,
    eps: float = 2 / 255.0,
    *,
    loss: Loss = "mean_squared_error",
    clip: tuple[float, float] | None = None,
    targeted: bool = False,
) -> np.ndarray:
    """Attack one image or a batch: `image + eps * sign(d loss / d image)`.

    The defaults are the tutorials': mean squared error, and no clipping, so that
    adversaries of images in [0, 1] reach from -eps to 1 + eps. The model runs in
    inference mode; what else is in the batch makes no difference to an image.

    Args:
        model: A Keras model that maps one image tensor to one output.
        image: Images `(n, height, width, channels)`, n = 1 for a single one, of any
            real dtype.
        label: One-hot rows or regression targets in the output's shape, or class ids
            `(n,)` or `(n, 1)`. For a single image the first axis may be missing.
        eps: Largest change of a value, in the units of the images.
        loss: A Keras loss or its name; reuse the object, each is compiled once. It
            gets class ids as one-hot rows, unless it is Keras's sparse categorical
            cross-entropy. A model that returns logits needs a loss that takes them.
        clip: The valid range `(low, high)` to which adversaries are clipped.
        targeted: Descend the loss towards `label` instead of climbing away from it.

    Returns:
        The adversaries, float32, in the shape of `image`.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the model.

    Source: Goodfellow et al., "Explaining and harnessing adversarial examples", 2015.
    """
    images = checks.real_array("image", image, np.float32)
    if images.ndim < 2 or images.size == 0:
        raise ValueError(
            f"image must be (n, height, width, channels), got {images.shape}"
        )
    if clip is not None:
        if np.shape(clip) != (2,):
            raise ValueError(f"clip must be (low, high) or None, got {clip!r}")
        low = checks.number_in("clip's low", clip[0])
        checks.number_in("clip's high", clip[1], low)
    step = np.float32(checks.number_in("eps", eps, low=0))
    if targeted:
        step = -step
    gradient_sign, targets = prepare_attack(model, images, label, loss)
    adversaries = np.empty_like(images)
    rows = max(16, _CHUNK_PIXELS // images[0].size)
    for start in range(0, len(images), rows):
        chunk = slice(start, start + rows)
        sign = gradient_sign(tf.constant(images[chunk]), tf.constant(targets[chunk]))
        np.add(images[chunk], step * sign.numpy(), out=adversaries[chunk])
    if clip is not None:
        np.clip(adversaries, *clip, out=adversaries)
    return adversaries


def prepare_attack(
    model: keras.Model, images: np.ndarray, label: np.ndarray, loss: Loss
) -> tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], np.ndarray]:
    """Return the sign of the loss's gradient, compiled, and the targets it takes.

    The function of tensors `(images, targets)` is compiled once for a model, a loss
    and a shape of images, for any number of them. Arguments and errors are those of
    `generate_image_adversary`, with float32 images.
    """
    _check_model(model)
    if not isinstance(loss, str) and not callable(loss):
        raise ValueError(f"loss must be a Keras loss or its name, got {loss!r}")
    functions = _compiled.setdefault(model, {})
    parts = tuple(map(id, [*model.layers, *model.variables]))
    key = (loss, images.shape[1:], parts)
    if key not in functions:
        functions[key] = _compile(model, loss, images.shape[1:])
    gradient_sign, shape = functions[key]
    targets = match_labels("label", label, len(images), shape)
    if targets.dtype == np.int64:
        targets = np.eye(shape[-1], dtype=np.float32)[targets]
    return gradient_sign, targets


def _compile(model, loss, image_shape):
    shape = output_shape(model, image_shape)
    loss = keras.losses.get(loss)
    sparse_function = keras.losses.sparse_categorical_crossentropy
    takes_class_ids = getattr(loss, "func", loss) is sparse_function or (
        isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    )
    # Calling a loss object would average over the batch; gradients divided by many
    # images underflow to zero. Its `call` returns one value an image.
    loss_function = loss.call if isinstance(loss, keras.losses.Loss) else loss
    model_reference = weakref.ref(model)
    specs = [tf.TensorSpec((None, *s), tf.float32) for s in (image_shape, shape)]

    @tf.function(input_signature=specs, autograph=False)
    def gradient_sign(images, targets):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            output = model_reference()(images, training=False)
            output = tf.cast(keras.tree.flatten(output)[0], tf.float32)
            if takes_class_ids:
                targets = tf.argmax(targets, axis=-1)
            losses = loss_function(targets, output)
            if losses.shape.rank == 0:  # averaged after all: undo the division
                losses *= tf.cast(tf.shape(images)[0], losses.dtype)
            total = tf.reduce_sum(losses)
        gradient = tape.gradient(total, images)
        if gradient is None:
            raise ValueError("model and loss have no gradient with respect to images")
        return tf.sign(gradient)

    # Traced here and now: TensorFlow warns of functions that are traced at a call.
    return gradient_sign.get_concrete_function(), shape


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a Keras model, got {type(model).__name__}")


def output_shape(model: keras.Model, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the model's output for one image, or raise."""
    _check_model(model)
    try:
        output = model(tf.zeros((1, *image_shape)), training=False)
    except Exception as error:  # the user's own code may run in there
        reason = f"model must take images of shape {image_shape}: {error}"
        raise ValueError(reason) from error
    outputs = keras.tree.flatten(output)
    if len(outputs) != 1:
        raise ValueError(f"model must have one output, got {len(outputs)}")
    return tuple(outputs[0].shape[1:])


def match_labels(
    name: str, labels: np.ndarray, count: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Bring labels for `count` outputs of `shape` into one of two forms, or raise.

    Returns:
        Float32 targets `(count, *shape)`, or int64 class ids `(count, *shape[:-1])`.
    """
    labels = checks.real_array(name, labels)
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
