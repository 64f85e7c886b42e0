"""Endless generators of adversarial batches, and `in_step` to train on them."""

import itertools
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch import checks
from pyimagesearch.fgsm import example_output, generate_image_adversary, match_labels

Attack = Callable[[keras.Model, np.ndarray, np.ndarray, float], np.ndarray]
Batches = Iterator[tuple[np.ndarray, np.ndarray]]


def generate_adversarial_batch(
    model: keras.Model,
    total: int,
    images: np.ndarray,
    labels: np.ndarray,
    dims: tuple[int, int, int],
    eps: float = 0.01,
    *,
    attack: Attack = generate_image_adversary,
    rng: checks.Seed | None = None,
) -> Batches:
    """Yield endless batches of adversaries, made against the model as it is by then.

    It is `generate_mixed_adverserial_batch` without normal images; see there.
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
    rng: checks.Seed | None = None,
) -> Batches:
    """Yield endless shuffled batches of normal images and fresh adversaries.

    The two kinds are drawn independently, each without replacement. Only the drawn
    rows of `images` are read, so it may be a memory map larger than memory.

    Args:
        model: A Keras model that maps one image tensor to one output.
        total: Images in a batch.
        images: Images `(n, *dims)`, or flat ones, of any real dtype: an array, or an
            array-like that takes sorted row numbers as its index.
        labels: A label an image, in any format that `attack` takes.
        dims: Shape of an image, `(height, width, channels)`.
        eps: Strength of the attack, in the units of the images.
        split: Share of normal images; a batch holds `int(total * split)` of them.
        attack: A function `attack(model, images, labels, eps)` that returns
            adversaries; bind its settings with `functools.partial`.
        rng: Seed or NumPy generator; by default a seed drawn from NumPy's global
            state, which `keras.utils.set_random_seed` sets.

    Returns:
        A generator of tuples: float32 images `(total, *dims)`, and their labels in
        the user's own format and dtype.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the others; on
            drawing a batch, if it holds NaN or infinity, or `attack` returned images
            of another shape.
    """
    total = checks.positive_integer("total", total)
    if checks.real_array("dims", dims).shape != (3,):
        got = checks.shown(dims)
        raise ValueError(f"dims must be (height, width, channels), got {got}")
    dims = tuple(checks.positive_integer("dims", size) for size in dims)
    # Arrays stay where they are, on disk even; lists and tensors are converted once.
    is_array = hasattr(images, "dtype") and hasattr(images, "shape")
    if not is_array or hasattr(images, "numpy"):
        images = checks.real_array("images", images)
    shapes = [dims, (math.prod(dims),)] + [dims[:2]] * (dims[2] == 1)
    if tuple(images.shape[1:]) not in shapes:
        wanted = f"shape (n,) + {dims}, or flat {(math.prod(dims),)}"
        raise ValueError(f"images must have {wanted}, got {images.shape}")
    checks.real_array("images", np.empty(0, images.dtype))
    eps = checks.number_in("eps", eps, low=0)
    normal_total = int(total * checks.number_in("split", split, 0, 1))
    if max(normal_total, total - normal_total) > len(images):
        limit = f"so that no half exceeds the {len(images)} images"
        raise ValueError(f"total must be smaller, {limit}, got {total} (split {split})")
    match_labels("labels", labels, len(images), example_output(model, dims).shape[1:])
    labels = np.asarray(labels)
    if labels.shape[:1] != (len(images),):  # of a single image, without its axis
        labels = labels[np.newaxis]
    if not callable(attack):
        raise TypeError(f"attack must be a function, got {checks.shown(attack)}")
    rng = checks.generator(rng)

    def draw(count):
        # Sorted: some files take rows in no other order, and all are read faster.
        rows = np.sort(rng.choice(len(images), count, replace=False, shuffle=False))
        drawn = checks.real_array("images", images[rows], np.float32)
        return drawn.reshape(count, *dims), labels[rows]

    def draw_adversaries(count):
        normal, attacked_labels = draw(count)
        adversaries = attack(model, normal, attacked_labels, eps)
        adversaries = checks.real_array("attack's result", adversaries, np.float32)
        if adversaries.shape != normal.shape:
            shapes = f"{normal.shape}, got {adversaries.shape}"
            raise ValueError(f"attack must return images of shape {shapes}")
        return adversaries, attacked_labels

    def batches():
        while True:
            halves = []
            if normal_total < total:
                halves.append(draw_adversaries(total - normal_total))
            if normal_total > 0:
                halves.append(draw(normal_total))
            order = rng.permutation(total)
            yield tuple(
                np.concatenate(parts)[order] for parts in zip(*halves, strict=True)
            )

    return batches()


generate_mixed_adversarial_batch = generate_mixed_adverserial_batch


def in_step(batches: Batches) -> tf.data.Dataset:
    """Wrap a generator for `fit`, so that each batch sees the weights of its step.

    Given a bare generator, Keras draws ahead on another thread: adversaries are made
    against weights a few updates old, and two runs with one seed differ. This draws a
    batch when its step begins, at any `steps_per_execution`:

        model.fit(in_step(batches), steps_per_epoch=100, epochs=10, shuffle=False)

    A second `fit` goes on where the first stopped. A `tf.distribute` strategy draws
    ahead again, and so does whatever maps the data set, `class_weight=` included:
    yield `(images, labels, sample_weights)` instead.

    Args:
        batches: An iterator of tuples of arrays. Its first batch is drawn at once, to
            learn the shapes, and is the first that is used.

    Returns:
        The data set of these batches.

    Raises:
        TypeError: If it is no iterator, or not of tuples.
        ValueError: If there is no batch.
    """
    try:
        batches = iter(batches)
    except Exception:
        got = checks.shown(batches)
        raise TypeError(f"batches must be an iterator, got {got}") from None
    first = next(batches, None)
    if first is None:
        raise ValueError("batches must be an iterator of batches, got an empty one")
    if not isinstance(first, tuple | list):
        got = checks.shown(first)
        raise TypeError(f"batches must yield tuples of arrays, got {got}")
    return _InStep(itertools.chain([first], batches), first)


class _InStep(tf.data.Dataset):
    def __init__(self, batches, first):
        self._batches = batches
        arrays = map(np.asarray, first)
        specs = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays]
        self._dataset = tf.data.Dataset.from_generator(
            lambda: batches, output_signature=tuple(specs)
        )
        super().__init__(self._dataset._variant_tensor)

    def __iter__(self):
        # Keras advances an iterator of ours between the steps. It would read one of
        # tf.data's inside the compiled step, where whatever needs no batch, such as
        # weight decay, may overtake the reading.
        for batch in self._batches:
            yield tuple(map(tf.convert_to_tensor, batch))
        # What Keras takes for the end of data, where it would trip over a plain one.
        raise tf.errors.OutOfRangeError(None, None, "the batches have ended")

    def _inputs(self):
        return [self._dataset]

    @property
    def element_spec(self):
        return self._dataset.element_spec
