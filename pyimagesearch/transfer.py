"""The black-box attack: adversaries against a substitute that copies its target."""

import math

import keras
import numpy as np

from pyimagesearch import checks
from pyimagesearch.fgsm import check_attack
from pyimagesearch.simplecnn import SimpleCNN

_STEPS = 1600


def train_substitute(
    images: np.ndarray,
    answers: np.ndarray,
    clip: tuple[float, float] = (0.0, 1.0),
    classes: int | None = None,
) -> keras.Model:
    """Train a network on a target's answers, for an attacker who cannot see inside it.

    Adversaries against this substitute often fool the target, too, whatever it is.
    `keras.utils.set_random_seed` governs the training.

    Args:
        images: The attacker's own images `(n, height, width, channels)`.
        answers: The class ids `(n,)` that the target answers with.
        clip: The valid range of a value, `(low, high)`.
        classes: Number of classes; by default the largest answer's, plus one.

    Returns:
        A SimpleCNN for such images.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the others.

    Source: Papernot et al., "Transferability in machine learning", 2016.
    """
    images, _, (low, high) = check_attack("images", images, 0, clip)
    if images.ndim != 4 or not np.isfinite(high - low) or low == high:
        got = f"shape {images.shape}, range {clip}"
        raise ValueError(
            f"images must be (n, h, w, c) in a range (low, high), got {got}"
        )
    answers = checks.real_array("answers", answers)
    ids = answers.astype(np.int64)
    if answers.shape != (len(images),) or (ids != answers).any() or ids.min() < 0:
        wanted = f"{len(images)} class ids from 0"
        raise ValueError(f"answers must be {wanted}, got shape {answers.shape}")
    if classes is None:
        classes = max(2, int(ids.max()) + 1)
    if checks.positive_integer("classes", classes) <= ids.max():
        raise ValueError(f"answers must be below classes {classes}, got {ids.max()}")
    height, width, depth = images.shape[1:]
    substitute = keras.Sequential(
        [
            keras.Input((height, width, depth)),
            keras.layers.Rescaling(1 / (high - low), -low / (high - low)),
            SimpleCNN.build(width, height, depth, classes),
        ]
    )
    substitute.compile("adam", "sparse_categorical_crossentropy")
    # As many steps for few images: batch normalisation needs over a thousand.
    epochs = math.ceil(_STEPS / math.ceil(len(images) / 64))
    substitute.fit(images, ids, batch_size=64, epochs=epochs, verbose=0)
    return substitute
