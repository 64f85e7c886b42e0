"""Endless generators of adversarial batches, and `in_step` to train on them."""

import itertools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch import checks
from pyimagesearch.fgsm import generate_image_adversary, match_labels, output_shape

Attack = Callable[[keras.Model, np.ndarray, np.ndarray, float], np.ndarray]
Batch = tuple[np.ndarray, np.ndarray]
Seed = int | tuple[int, ...] | np.random.Generator


def generate_adversarial_batch(
    model: keras.Model,
    total: int,
    images: np.ndarray,
    labels: np.ndarray,
    dims: tuple[int, int, int],
    eps: float = 0.01,
    *,
    attack: Attack = generate_image_adversary,
    rng: Seed | None = None,
) -> Iterator[Batch]:
    """Yield endless batches of adversaries made against the model as it is now.

    It is `generate_mixed_adverserial_batch` with no normal images; see there for the
    arguments, the batches and the errors.

    Source: "Defending against adversarial image attacks with Keras and TensorFlow",
    PyImageSearch, 2021.
    """
    return generate_mixed_adverserial_batch(
        model, total, images, labels, dims, eps, 0.0, attack=attack, rng=rng
    )


def generate_mixed_adverserial_batch(
    model: keras.Model,
    total: int,
    images: np.ndarray,
    labels: np.ndarray,
    dims: tuple[int, int, int],
    eps: float = 0.01,
    split: float = 0.5,
    *,
    attack: Attack = generate_image_adversary,
    rng: Seed | None = None,
) -> Iterator[Batch]:
    """Yield endless shuffled batches of normal and adversarial images.

    Normal and adversarial images are drawn independently of each other, each without
    replacement. Only the drawn rows of `images` are read and converted, so a memory
    map larger than memory will do. Hand the generator to `fit` through `in_step`.

    Args:
        model: A Keras model that maps one image tensor to one output.
        total: Images in a batch.
        images: Images `(n, *dims)`, or flat ones that reshape to it: an array, or
            anything with a shape and a dtype that takes sorted row numbers as index.
        labels: One label an image, in any format that `attack` takes.
        dims: Shape of one image, `(height, width, channels)`.
        eps: Strength of the attack, in the units of the images.
        split: Share of normal images; a batch holds `int(total * split)` of them.
        attack: A function `attack(model, images, labels, eps)` that returns
            adversaries in the images' shape. By default FGSM as in the tutorials,
            not clipped; bind its settings with `functools.partial`.
        rng: Seed or NumPy generator. By default a seed drawn from NumPy's global
            state, which `keras.utils.set_random_seed` sets.

    Returns:
        A generator of tuples: float32 images `(total, *dims)`, and their labels in
        the format and dtype of `labels`.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range, or images, labels, dims and model
            do not fit each other; from the generator itself, if images that were
            drawn or that the attack returned are not finite or of another shape.

    Source: "Mixing normal images and adversarial images when training CNNs",
    PyImageSearch, 2021, which spells the name this way.
    """
    total = checks.positive_integer("total", total)
    if np.ndim(dims) != 1 or len(dims) != 3:
        raise ValueError(f"dims must be (height, width, channels), got {dims!r}")
    dims = tuple(checks.positive_integer("dims", size) for size in dims)
    images = _indexable(images)
    if images.dtype.kind not in "biuf":
        raise TypeError(f"images must hold real numbers, got {images.dtype}")
    if len(images.shape) < 2 or np.prod(images.shape[1:]) != np.prod(dims):
        raise ValueError(
            f"images must have shape (n, *dims), or reshape to it, with dims {dims}; "
            f"got {tuple(images.shape)}"
        )
    labels = np.asarray(labels)
    match_labels("labels", labels, len(images), output_shape(model, dims))
    eps = checks.number_between("eps", eps, low=0.0)
    normal_total = int(total * checks.number_between("split", split, 0.0, 1.0))
    if max(normal_total, total - normal_total) > len(images):
        raise ValueError(
            f"total={total} with split={split:g} draws {normal_total} normal and "
            f"{total - normal_total} adversarial images, but there are {len(images)}"
        )
    if not callable(attack):
        raise TypeError(
            f"attack must be a function (model, images, labels, eps), got {attack!r}"
        )
    if rng is None:
        rng = np.random.randint(2**32, size=4, dtype=np.uint32)
    try:
        rng = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng must be a seed or a Generator, got {rng!r}") from None

    def draw(count):
        # Sorted, because some files index no other way and all read faster.
        rows = np.sort(rng.choice(len(images), count, replace=False, shuffle=False))
        drawn = np.asarray(images[rows], dtype=np.float32).reshape(count, *dims)
        if not np.isfinite(drawn).all():
            raise ValueError("images must hold finite numbers, got NaN or infinity")
        return drawn, labels[rows]

    def batches():
        while True:
            batch_images, batch_labels = draw(total - normal_total)
            if normal_total < total:
                batch_images = _attack(attack, model, batch_images, batch_labels, eps)
            if normal_total > 0:
                normal_images, normal_labels = draw(normal_total)
                batch_images = np.concatenate([batch_images, normal_images])
                batch_labels = np.concatenate([batch_labels, normal_labels])
            order = rng.permutation(total)
            yield batch_images[order], batch_labels[order]

    return batches()


generate_mixed_adversarial_batch = generate_mixed_adverserial_batch


def in_step(batches: Iterator[Batch]) -> tf.data.Dataset:
    """Wrap a generator for `fit`, so that each batch sees the weights of its step.

    Given a bare generator, Keras draws batches ahead of the training step on another
    thread: adversaries are made against weights a few updates old, and two runs with
    one seed differ. This dataset draws a batch only when the step asks for it, as long
    as the model is compiled with `steps_per_execution=1`, Keras's default.

        model.fit(in_step(batches), steps_per_epoch=100, epochs=10, shuffle=False)

    Args:
        batches: An iterator of tuples of arrays. Its first batch is drawn at once,
            to learn shapes and dtypes, and is the first that the dataset yields. It
            should not end before `fit` does.

    Returns:
        A dataset of the same tuples. Iterating it again goes on where it stopped.

    Raises:
        ValueError: If `batches` is empty.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("batches must yield at least one batch, got none")
    specs = [
        tf.TensorSpec((None, *np.shape(array)[1:]), np.asarray(array).dtype)
        for array in first
    ]
    batches = itertools.chain([first], batches)

    # Not Dataset.from_generator: it costs 5% more a step, and in TensorFlow 2.21 it
    # makes the whole process hand freed memory back to the system at once.
    @tf.autograph.experimental.do_not_convert
    def draw(_):
        arrays = tf.numpy_function(next_batch, [], [spec.dtype for spec in specs])
        return tuple(
            tf.ensure_shape(array, spec.shape)
            for array, spec in zip(arrays, specs, strict=True)
        )

    @tf.autograph.experimental.do_not_convert
    def next_batch():
        for batch in batches:
            return batch
        raise ValueError("batches ended before fit did: give fit fewer steps")

    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return tf.data.Dataset.counter().map(draw).with_options(options)


def _attack(attack, model, images, labels, eps):
    adversaries = np.asarray(attack(model, images, labels, eps), dtype=np.float32)
    if adversaries.shape != images.shape:
        raise ValueError(
            f"attack must return images of shape {images.shape}, got {adversaries.shape}"
        )
    if not np.isfinite(adversaries).all():
        raise ValueError("attack must return finite images, got NaN or infinity")
    return adversaries


def _indexable(images):
    """Leave arrays and array-likes on disk where they are; convert all else once."""
    array_like = all(hasattr(images, name) for name in ("shape", "dtype", "__getitem__"))
    # Tensors have a `numpy` method, and do not take row numbers as an index.
    return images if array_like and not hasattr(images, "numpy") else np.asarray(images)
