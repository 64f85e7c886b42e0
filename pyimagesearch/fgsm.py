"""The fast gradient sign method, and the compiled gradient under the attacks."""

import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch import checks
from pyimagesearch.losses import ON_LOGITS, find_logits

Loss = str | keras.losses.Loss | Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Pixels that go through the model at once, so that memory stays flat.
_CHUNK_PIXELS = 512 * 28 * 28
# {model: {(function, loss, image shape, layers and weights): compiled function}}. They
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
            Or "cross_entropy" or "margin", which climb the logits of any classifier,
            however sure of itself it is (`pyimagesearch.losses`).
        clip: The valid range `(low, high)` to which adversaries are clipped.
        targeted: Descend the loss towards `label` instead of climbing away from it.

    Returns:
        The adversaries, float32, in the shape of `image`.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the model.

    Source: Goodfellow et al., "Explaining and harnessing adversarial examples", 2015.
    """
    images, eps, clip = check_attack("image", image, eps, clip)
    step = np.float32(-eps if checks.truth("targeted", targeted) else eps)
    sign, targets = prepare_attack(
        gradient_sign, model, images, label, loss, name="label"
    )
    adversaries = np.empty_like(images)
    for chunk in chunks(images):
        signs = sign(tf.constant(images[chunk]), tf.constant(targets[chunk])).numpy()
        moved = np.add(images[chunk], step * signs, out=adversaries[chunk])
        np.clip(moved, *clip, out=moved)
    if model.compute_dtype == "float16" and eps > 0:
        still = (adversaries == images).reshape(len(images), -1).all(axis=1)
        if still.any():
            warnings.warn(
                f"the loss's gradient underflows to zero in the float16 of model "
                f"{model.name!r}; loss='cross_entropy' attacks what withstands it so",
                stacklevel=2,
            )
    return adversaries


def check_attack(
    name: str, images: np.ndarray, eps: float, clip: tuple[float, float] | None
) -> tuple[np.ndarray, np.float32, tuple[float, float]]:
    """Return what every attack takes, images, eps and clip, as float32, or raise."""
    images = checks.real_array(name, images, np.float32)
    if images.ndim < 2 or images.size == 0:
        raise ValueError(
            f"{name} must be (n, height, width, channels), got {images.shape}"
        )
    low, high = -np.inf, np.inf
    if clip is not None:
        if checks.real_array("clip", clip).shape != (2,):
            got = checks.shown(clip)
            raise ValueError(f"clip must be (low, high) or None, got {got}")
        low = checks.number_in("clip's low", clip[0])
        high = checks.number_in("clip's high", clip[1], low)
    return images, np.float32(checks.number_in("eps", eps, low=0)), (low, high)


def chunks(images: np.ndarray) -> Iterator[slice]:
    """Yield slices of images to work through one by one, so that memory stays flat."""
    rows = max(16, _CHUNK_PIXELS // math.prod(images.shape[1:]))
    for start in range(0, len(images), rows):
        yield slice(start, start + rows)


def in_chunks(compiled: Callable, *arrays: np.ndarray) -> list[np.ndarray]:
    """Return what a compiled function returns for arrays of any length."""
    results = []
    for chunk in chunks(arrays[0]):
        result = compiled(*(tf.constant(array[chunk]) for array in arrays))
        results.append([part.numpy() for part in tf.nest.flatten(result)])
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


class Network(NamedTuple):
    """A model with a loss, as `prepare_attack` hands it to what it compiles."""

    output: Callable  # from images
    losses: Callable  # an image each, from targets and output
    logits: Callable  # targets and logits of classes, from targets and output


def gradient_sign(network: Network, images: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Return the sign of the loss's gradient with respect to the images."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        total = tf.reduce_sum(network.losses(targets, network.output(images)))
    gradient = tape.gradient(total, images)
    if gradient is None:
        raise ValueError("model and loss have no gradient with respect to images")
    return tf.sign(gradient)


def judge(network: Network, images: tf.Tensor, targets: tf.Tensor) -> tuple:
    """Return an image's loss, whether its class is the target's, and its logits."""
    output = network.output(images)
    classes, logits = network.logits(targets, output)
    correct = tf.argmax(logits, axis=-1) == tf.argmax(classes, axis=-1)
    return network.losses(targets, output), correct, logits


def predict_logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return a classifier's logits `(n, classes)` for float32 images."""
    any_class = np.zeros(len(images), int)
    judged, targets = prepare_attack(judge, model, images, any_class, "cross_entropy")
    return in_chunks(judged, images, targets)[2]


def prepare_attack(
    function: Callable,
    model: keras.Model,
    images: np.ndarray,
    label: np.ndarray,
    loss: Loss,
    *more: tf.TensorSpec,
    name: str = "labels",
) -> tuple[Callable, np.ndarray]:
    """Compile `function(network, images, targets, ...)`; return it and the targets.

    The result takes tensors `images`, `targets` and those that `more` describes. It is
    compiled once for a model, a loss and a shape of images, for any number of them.
    Arguments and errors are those of `generate_image_adversary`, with float32 images;
    `name` is what its caller calls the labels.
    """
    check_model(model)
    if not isinstance(loss, str) and (not callable(loss) or loss.__hash__ is None):
        got = checks.shown(loss)
        raise ValueError(f"loss must be a Keras loss or its name, got {got}")
    functions = _compiled.setdefault(model, {})
    parts = tuple(map(id, [*model.layers, *model.variables]))
    key = (function, loss, images.shape[1:], parts)
    if key not in functions:
        example = example_output(model, images.shape[1:])
        network, shape = _network(model, loss, example), example.shape[1:]
        specs = [tf.TensorSpec((None, *s)) for s in (images.shape[1:], shape)]
        compiled = tf.function(
            partial(function, network), input_signature=[*specs, *more], autograph=False
        )
        # Traced here and now: TensorFlow warns of functions that are traced at a call.
        functions[key] = compiled.get_concrete_function(), shape
    compiled, shape = functions[key]
    targets = match_labels(name, label, len(images), shape)
    if targets.dtype == np.int64:
        targets = np.eye(shape[-1], dtype=np.float32)[targets]
    return compiled, targets


def _network(model, loss, example):
    model_reference, name = weakref.ref(model), model.name

    def output(images):
        return keras.tree.flatten(model_reference()(images, training=False))[0]

    def logits(targets, output):
        return find_logits(targets, output, example, name)

    if isinstance(loss, str) and loss in ON_LOGITS:
        if example.ndim != 2:
            got = f"an output of shape {example.shape[1:]}"
            raise ValueError(f"loss {loss!r} needs a model of classes, got {got}")

        def losses(targets, output):
            return ON_LOGITS[loss](*logits(targets, output))

        return Network(output, losses, logits)

    loss = keras.losses.get(loss)
    sparse_function = keras.losses.sparse_categorical_crossentropy
    takes_class_ids = getattr(loss, "func", loss) is sparse_function or (
        isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    )
    # Calling a loss object would average over the batch; gradients divided by many
    # images underflow to zero. Its `call` returns one value an image.
    loss_function = loss.call if isinstance(loss, keras.losses.Loss) else loss

    def losses(targets, output):
        if takes_class_ids:
            targets = tf.argmax(targets, axis=-1)
        values = loss_function(targets, tf.cast(output, tf.float32))
        if not tf.is_tensor(values):
            raise TypeError(f"loss must return a tensor, got {checks.shown(values)}")
        if values.shape.rank == 0:  # averaged after all: undo the division
            values *= tf.cast(tf.shape(output)[0], values.dtype)
        return values

    return Network(output, losses, logits)


def check_model(model: keras.Model) -> None:
    """Raise a TypeError unless `model` is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a Keras model, got {type(model).__name__}")


def example_output(model: keras.Model, image_shape: tuple[int, ...]) -> np.ndarray:
    """Return the model's output for an image of zeros and one of 255s, or raise."""
    check_model(model)
    try:
        zeros = tf.zeros(image_shape)
        output = model(tf.stack([zeros, zeros + 255]), training=False)
    except Exception as error:  # the user's own code may run in there
        reason = f"model must take images of shape {image_shape}: {error}"
        raise ValueError(reason) from error
    outputs = keras.tree.flatten(output)
    if len(outputs) != 1:
        raise ValueError(f"model must have one output, got {len(outputs)}")
    return tf.cast(outputs[0], tf.float32).numpy()


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
