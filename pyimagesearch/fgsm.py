"""The fast gradient sign method, and the compiled gradient under the attacks."""

import contextlib
import weakref
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch import checks

Loss = str | keras.losses.Loss | Callable

# Pixels that go through the model at once: memory stays flat however many images
# there are. On two cores, MNIST batches of 256 to 1,024 images run equally fast.
_CHUNK_VALUES = 512 * 28 * 28

# Model -> {(loss, image shape, layers): compiled function}. A function reaches its
# model through a weak reference, so an entry dies with the model.
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
    """Attack one image or a batch with the fast gradient sign method.

    An adversary is `image + eps * sign(d loss / d image)`, the gradient taken with
    the model in inference mode. The defaults are the tutorials': mean squared error
    between one-hot label and output, and no clipping, so adversaries of images in
    [0, 1] reach from -eps to 1 + eps.

    An image's adversary does not depend on the rest of its batch. Each model and
    loss is compiled once, so pass the same `loss` object each time.

    Args:
        model: A Keras model that maps one image tensor to one output.
        image: Images `(n, height, width, channels)`, or one as `(1, height, width,
            channels)`, of any real dtype, in the units that the model takes.
        label: What the model should answer: one-hot rows or regression targets of
            the output's shape, or class ids `(n,)` or `(n, 1)`. For one image the
            first axis may be left out.
        eps: Largest change of a value, in the units of the images.
        loss: A Keras loss (name, object or function) of targets and outputs. Class
            ids reach it as one-hot rows, unless it is Keras's sparse categorical
            cross-entropy. A model that returns logits needs a loss that takes them.
        clip: The valid range `(low, high)` to clip adversaries to.
        targeted: Descend the loss towards `label` instead of climbing away from it.

    Returns:
        The adversaries, float32, of the shape of `image`.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range, or images and labels do not fit
            the model.

    Source: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial
    examples", ICLR 2015; as in "Defending against adversarial image attacks with
    Keras and TensorFlow", PyImageSearch, 2021.
    """
    images = checks.numeric_array("image", image).astype(np.float32, copy=False)
    if images.ndim < 2 or images.size == 0:
        raise ValueError(
            f"image must have shape (n, height, width, channels), got {images.shape}"
        )
    step = np.float32(checks.number_between("eps", eps, low=0.0))
    if clip is not None:
        clip = checks.clip_range(clip)

    gradient_sign, targets = prepare_attack(model, images, label, loss)
    adversaries = np.empty_like(images)
    rows = max(16, _CHUNK_VALUES // images[0].size)
    for start in range(0, len(images), rows):
        chunk = slice(start, start + rows)
        sign = gradient_sign(images[chunk], targets[chunk]).numpy()
        adversaries[chunk] = images[chunk] + (-step if targeted else step) * sign
    if clip is not None:
        np.clip(adversaries, *clip, out=adversaries)
    return adversaries


def prepare_attack(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, loss: Loss
) -> tuple[tf.types.experimental.PolymorphicFunction, np.ndarray]:
    """Compile, once per model and loss, the sign of the loss's gradient.

    Args:
        model: As for `generate_image_adversary`.
        images: Float32 images `(n, height, width, channels)`.
        labels: As for `generate_image_adversary`.
        loss: As for `generate_image_adversary`.

    Returns:
        A function of `(images, targets)`, for any number of images, that returns the
        signs in the images' shape, and the labels as the targets that it takes.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If images, labels or loss do not fit the model.
    """
    _check_model(model)
    functions = _compiled.setdefault(model, {})
    key = (_check_loss(loss), images.shape[1:], tuple(map(id, model.layers)))
    if key not in functions:
        functions[key] = _compile_gradient_sign(model, loss, images.shape[1:])
    gradient_sign, shape, takes_class_ids = functions[key]

    targets = match_labels("label", labels, len(images), shape)
    are_class_ids = targets.dtype == np.int64
    if are_class_ids and not takes_class_ids:
        targets = np.eye(shape[-1], dtype=np.float32)[targets]
    elif takes_class_ids and not are_class_ids:
        targets = targets.argmax(axis=-1)
    return gradient_sign, targets


def _compile_gradient_sign(model, loss, image_shape):
    shape = output_shape(model, image_shape)
    loss = keras.losses.get(loss)
    takes_class_ids = loss is keras.losses.sparse_categorical_crossentropy or (
        isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    )
    image_spec = tf.TensorSpec((None, *image_shape), tf.float32)
    target_spec = tf.TensorSpec((None, *shape), tf.float32)
    if takes_class_ids:
        target_spec = tf.TensorSpec((None, *shape[:-1]), tf.int64)
    # A loss object's `call` returns one value an image, where calling it averages.
    loss_function = loss.call if isinstance(loss, keras.losses.Loss) else loss
    model_reference = weakref.ref(model)

    @tf.function(input_signature=[image_spec, target_spec], autograph=False)
    def gradient_sign(images, targets):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            output = model_reference()(images, training=False)
            output = tf.cast(keras.tree.flatten(output)[0], tf.float32)
            losses = tf.convert_to_tensor(loss_function(targets, output))
            if losses.shape.rank == 0:
                # A loss that averages over the batch: undo its division, which
                # could push small gradients below float32's range.
                losses *= tf.cast(tf.shape(images)[0], losses.dtype)
            total = tf.reduce_sum(losses)
        gradient = tape.gradient(total, images)
        if gradient is None:
            raise ValueError("the model's loss has no gradient with respect to images")
        return tf.sign(gradient)

    return gradient_sign, shape, takes_class_ids


def _check_loss(loss):
    if callable(loss):
        return loss
    if isinstance(loss, str):
        with contextlib.suppress(ValueError):
            if keras.losses.get(loss) is not None:
                return loss
    raise ValueError(f"loss must be a Keras loss or its name, got {loss!r}")


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a Keras model, got {type(model).__name__}")


def output_shape(
    model: keras.Model, image_shape: tuple[int, ...]
) -> tuple[int | None, ...]:
    """Return the shape of the model's output for one image, without a batch axis.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it does not map one image of this shape to one output.
    """
    _check_model(model)
    try:
        output = model.compute_output_spec(keras.KerasTensor((None, *image_shape)))
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"model must take one tensor of images of shape {image_shape}: {reason}"
        ) from error
    outputs = keras.tree.flatten(output)
    if len(outputs) != 1:
        raise ValueError(f"model must have one output, got {len(outputs)}")
    return tuple(outputs[0].shape[1:])


def match_labels(
    name: str, labels: np.ndarray, count: int, shape: tuple[int | None, ...]
) -> np.ndarray:
    """Check labels and bring them into one of two forms.

    Args:
        name: The argument's name, for errors.
        labels: Labels in any format that `generate_image_adversary` takes.
        count: Number of images.
        shape: The model's output shape for one image.

    Returns:
        Float32 targets `(count, *shape)`, or int64 class ids `(count, *shape[:-1])`.

    Raises:
        TypeError: If labels are not numbers.
        ValueError: If labels fit neither form or name a class that does not exist.
    """
    labels = checks.numeric_array(name, labels)
    for given in (labels, labels[None]) if count == 1 else (labels,):
        if given.shape == (count, *shape):
            return given.astype(np.float32, copy=False)
        if given.shape in ((count, *shape[:-1]), (count, *shape[:-1], 1)):
            if shape[-1:] in ((), (1,)):
                return given.reshape(count, *shape).astype(np.float32, copy=False)
            class_ids = given.reshape(count, *shape[:-1]).astype(np.int64)
            if (class_ids != given.reshape(class_ids.shape)).any() or not (
                0 <= class_ids.min() and class_ids.max() < shape[-1]
            ):
                raise ValueError(
                    f"{name} must hold class ids from 0 to {shape[-1] - 1}, got "
                    f"values from {labels.min():g} to {labels.max():g}"
                )
            return class_ids
    raise ValueError(
        f"{name} must have shape {(count, *shape)}, or {(count, *shape[:-1])} for class "
        f"ids, got {labels.shape}"
    )
