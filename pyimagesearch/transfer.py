"""The black-box attack: adversaries against a substitute that copies its target."""

import math

import keras
import numpy as np

from pyimagesearch import checks
from pyimagesearch.fgsm import check_attack, predict_logits
from pyimagesearch.simplecnn import SimpleCNN

_STEPS = 1600


def train_substitute(
    target, images: np.ndarray, clip: tuple[float, float] = (0.0, 1.0)
) -> keras.Model:
    """Train a network on a target's answers, for an attacker who cannot see inside it.

    Adversaries against the substitute often fool the target, too. What initialises and
    shuffles is governed by `keras.utils.set_random_seed`.

    Args:
        target: A Keras classifier, or anything whose `predict` takes these images and
            returns class ids `(n,)` or scores of classes `(n, classes)`.
        images: The attacker's own images `(n, height, width, channels)`, unlabelled.
        clip: The valid range of a value, `(low, high)`.

    Returns:
        A SimpleCNN for such images.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the target.

    Source: Papernot et al., "Transferability in machine learning", 2016.
    """
    images, _, (low, high) = check_attack("images", images, 0, clip)
    if isinstance(target, keras.Model):
        answers = predict_logits(target, images)
    else:
        answers = checks.real_array("target's answers", target.predict(images))
    if answers.ndim == 2:
        classes, answers = answers.shape[1], answers.argmax(axis=1)
    else:
        classes = int(answers.max()) + 1
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
    substitute.fit(images, answers, batch_size=64, epochs=epochs, verbose=0)
    return substitute
