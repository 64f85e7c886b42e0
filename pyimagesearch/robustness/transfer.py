"""The black-box attack: adversaries against a substitute that copies its target."""

import math

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.training.epochs import RepeatableEpochs, shuffled

_STEPS = 1600


def train_substitute(
    images: np.ndarray,
    answers: np.ndarray,
    clip: tuple[float, float] = (0.0, 1.0),
    classes: int | None = None,
    *,
    rng: checks.Seed | None = None,
) -> keras.Model:
    """Train a network on a target's answers, for an attacker who cannot see inside it.

    Adversaries against this substitute often fool the target, too, whatever it is. It
    starts from weights of its own, whatever `keras.utils.set_random_seed` was given.

    Args:
        images: The attacker's own images `(n, height, width, channels)`.
        answers: The class ids `(n,)` that the target answers with.
        clip: The valid range of a value, `(low, high)`.
        classes: Number of classes; by default the largest answer's, plus one.
        rng: Seed or NumPy generator; by default a seed from NumPy's global state.

    Returns:
        A SimpleCNN for such images.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the others.

    Source: Papernot et al., "Transferability in machine learning", 2016.
    """
    images, _, (low, high) = checks.attack_arguments("images", images, 0, clip)
    if images.ndim != 4 or not np.isfinite(high - low) or low == high:
        got = f"shape {images.shape}, range {clip}"
        raise ValueError(
            f"images must be (n, h, w, c) in a range (low, high), got {got}"
        )
    answers = checks.array("answers", answers)
    ids = answers.astype(np.int64)
    if answers.shape != (len(images),) or (ids != answers).any() or ids.min() < 0:
        wanted = f"{len(images)} class ids from 0"
        raise ValueError(f"answers must be {wanted}, got shape {answers.shape}")
    if classes is None:
        classes = max(2, int(ids.max()) + 1)
    if checks.positive_integer("classes", classes) <= ids.max():
        raise ValueError(f"answers must be below classes {classes}, got {ids.max()}")
    height, width, depth = images.shape[1:]
    network = SimpleCNN.build(width, height, depth, classes)
    epochs = RepeatableEpochs(*checks.generator(rng).integers(2**31, size=2))
    for kernel in network.trainable_weights:
        if kernel.name == "kernel":  # as if another seed had been set
            limit = math.sqrt(6 / sum(kernel.shape[-2:]) / math.prod(kernel.shape[:-2]))
            kernel.assign(epochs.rng.uniform(-limit, limit, kernel.shape))
    scale = keras.layers.Rescaling(1 / (high - low), -low / (high - low))
    substitute = keras.Sequential([keras.Input((height, width, depth)), scale, network])
    substitute.compile("adam", "sparse_categorical_crossentropy")
    # As many steps for few images: batch normalisation needs over a thousand.
    substitute.fit(
        shuffled((images, ids), 64, epochs.rng),
        steps_per_epoch=_STEPS,
        callbacks=[epochs],
        shuffle=False,
        verbose=0,
    )
    return substitute
