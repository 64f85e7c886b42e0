"""The tutorials' endless generators of adversarial and of mixed batches."""

from collections.abc import Iterator

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.in_step import in_step
from pyimagesearch.core.sampling import Attack, Sampler
from pyimagesearch.fgsm import generate_image_adversary

__all__ = [
    "generate_adversarial_batch",
    "generate_mixed_adversarial_batch",
    "generate_mixed_adverserial_batch",
    "in_step",
]

Batches = Iterator[tuple[np.ndarray, np.ndarray]]


def generate_adversarial_batch(
    model: keras.Model,
    total: int,
    images: np.ndarray,
    labels: np.ndarray,
    dims: tuple[int, ...],
    eps: float = 0.01,
    *,
    attack: Attack = generate_image_adversary,
    rng: checks.Seed | None = None,
) -> Batches:
    """Yield endless batches of adversaries, made against the model as it then is.

    Its arguments, batches and errors are those of `generate_mixed_adverserial_batch`,
    without the normal images.
    """
    return generate_mixed_adverserial_batch(
        model, total, images, labels, dims, eps, split=0.0, attack=attack, rng=rng
    )


def generate_mixed_adverserial_batch(
    model: keras.Model,
    total: int,
    images: np.ndarray,
    labels: np.ndarray,
    dims: tuple[int, ...],
    eps: float = 0.01,
    split: float = 0.5,
    *,
    attack: Attack = generate_image_adversary,
    rng: checks.Seed | None = None,
) -> Batches:
    """Yield endless shuffled batches of normal images and fresh adversaries.

    The two kinds are drawn independently, each without replacement. Only the drawn
    rows of `images` are read, and the first, so it may be a memory map larger than
    memory.

    Args:
        model: A Keras model that maps one image tensor to one output.
        total: Images in a batch.
        images: Images `(n, *dims)`, or flat ones, of any real dtype: an array, or an
            array-like that takes sorted row numbers as its index.
        labels: A label an image, in any format that `attack` takes.
        dims: Shape of an image, `(height, width, channels)`, or of whatever else the
            model takes, such as `(length, channels)` or `(values,)`.
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
        TypeError, ValueError: If an argument is of a wrong type, out of range or does
            not fit the others; on drawing a batch, if it holds NaN or infinity, or if
            the model returns them (its training has diverged).
    """
    total = checks.positive_integer("total", total)
    normal_total = int(total * checks.number_in("split", split, 0, 1))
    adversarial_total = total - normal_total
    sampler = Sampler(model, images, labels, dims, eps, attack, rng)
    if max(normal_total, adversarial_total) > sampler.count:
        limit = f"so that no half exceeds the {sampler.count} images"
        raise ValueError(f"total must be smaller, {limit}, got {total} (split {split})")

    def batches():
        while True:
            normal, normal_labels = sampler.draw(normal_total)
            adversaries, adversaries_labels = sampler.draw_attacked(adversarial_total)
            batch = np.concatenate([normal, adversaries])
            batch_labels = np.concatenate([normal_labels, adversaries_labels])
            if normal_total > 0:  # what is drawn has a random order already
                order = sampler.rng.permutation(total)
                batch = batch[order]
                batch_labels = batch_labels[order]
            yield batch, batch_labels

    return batches()


generate_mixed_adversarial_batch = generate_mixed_adverserial_batch
