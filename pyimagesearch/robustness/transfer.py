"""The black-box attack: adversaries against a substitute that copies its target."""

import math

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import one_hot
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
        TypeError, ValueError: If an argument is of a wrong type, out of range or does
            not fit the others.

    Source: Papernot et al., "Transferability in machine learning", 2016.
    """
    images, _, (low, high) = checks.attack_arguments("images", images, 0, clip)
    width = float(high - low)
    if images.ndim != 4 or not 0 < width < np.inf:
        shapes = f"{images.shape} in {clip}"
        raise ValueError(f"images must be (n, h, w, c) in a clip, got {shapes}")
    if classes is None:
        classes = max(2, int(checks.array("answers", answers).max()) + 1)
    network = SimpleCNN.build(*images.shape[2:0:-1], images.shape[3], classes)
    ids = one_hot("answers", answers, len(images), (classes,)).argmax(axis=1)
    epochs = RepeatableEpochs(*checks.generator(rng).integers(2**31, size=2))
    for weight in network.trainable_weights:
        if weight.name == "kernel":  # drawn as Keras does, but from this generator
            *field, fan_in, fan_out = weight.shape
            limit = math.sqrt(6 / (fan_in + fan_out) / math.prod(field))
            weight.assign(epochs.rng.uniform(-limit, limit, weight.shape))
    scale = keras.layers.Rescaling(1 / width, -float(low) / width)
    substitute = keras.Sequential([keras.Input(images.shape[1:]), scale, network])
    substitute.compile("adam", "sparse_categorical_crossentropy")
    substitute.fit(
        shuffled((images, ids), 64, epochs.rng),
        steps_per_epoch=_STEPS,
        callbacks=[epochs],
        shuffle=False,
        verbose=0,
    )
    return substitute
