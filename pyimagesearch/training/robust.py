"""The robust recipe: a fine-tuning whose defence holds."""

from functools import partial

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pyimagesearch.attacks import projected_gradient_descent
from pyimagesearch.core import checks
from pyimagesearch.core.compiled import (
    check_model,
    class_ids,
    one_hot,
    predict_logits,
)
from pyimagesearch.core.sampling import Attack
from pyimagesearch.core.warning import warn
from pyimagesearch.fgsm import generate_image_adversary

Data = tuple[np.ndarray, np.ndarray]
_WATCHED = 200


def make_attack(name: str, eps: float, steps: int, rng: np.random.Generator) -> Attack:
    """Return an attack for images in [0, 1], which is called with `eps` in each batch.

    It is `fgsm`, as in the tutorials; `rfgsm`, one step from a random start; `pgd`, two
    smaller steps from there; or `robust`, see `robust_attack`. The last three make
    valid images. `steps` is the number of batches in the whole training.
    """
    if name == "fgsm":
        return generate_image_adversary
    if name == "robust":
        return robust_attack(steps, rng=rng)
    count, size = {"rfgsm": (1, 1.25), "pgd": (2, 0.75)}[name]
    how = {"steps": count, "step_size": size * eps, "clip": (0, 1), "rng": rng}
    return partial(projected_gradient_descent, **how)


def robust_attack(
    steps: int,
    clip: tuple[float, float] = (0.0, 1.0),
    rng: checks.Seed | None = None,
) -> Attack:
    """Return the recipe's attack, for a generator that is given the eps to withstand.

    Each image is first shifted by up to a pixel, up or down and sideways, its edge
    repeated. Then PGD climbs from a random start. Let e be eps as a share of the range.
    PGD takes `0.5 + 15 e` steps, at least two. Its own eps, the reach, is `1.4 - e`
    times eps, at most 1.3 times; a step is `2 / steps` of it, at most 3/4. The reach
    rises from 0 over the first `2 e` of the training, because a network learns nothing
    from strong adversaries at once.

    Args:
        steps: Batches in all epochs together.
        clip: The valid range of a value.
        rng: Seed or NumPy generator of the random starts and shifts.

    Returns:
        An attack on images `(n, height, width, channels)` of a compiled model, whose
        optimizer counts the steps. As it shifts images, they move further than eps.
    """
    steps, rng = checks.positive_integer("steps", steps), checks.generator(rng)
    low, high = clip

    def attack(model, images, labels, eps):
        count, height, width, _ = images.shape
        padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
        windows = sliding_window_view(padded, (height, width), axis=(1, 2))
        down, right = rng.integers(3, size=(2, count))
        shifted = np.moveaxis(windows[np.arange(count), down, right], 1, -1)
        share = eps / (high - low)
        done = int(model.optimizer.iterations.numpy()) / steps
        reach = min(1.3, 1.4 - share) * eps * min(1, done / max(2 * share, 1e-9))
        pgd_steps = max(2, round(0.5 + 15 * share))
        size = min(0.75, 2 / pgd_steps) * reach
        how = {"steps": pgd_steps, "step_size": size, "clip": clip}
        return projected_gradient_descent(model, shifted, labels, reach, rng=rng, **how)

    return attack


def robust_optimizer(model: keras.Model, steps: int) -> keras.optimizers.Optimizer:
    """Switch dropout off, and return the recipe's optimizer.

    It is Adam with a rate that rises from 1e-4 to 1e-2 and falls again. In the end the
    weights are replaced by their average over about a tenth of the steps.
    The model is compiled afterwards; `steps` are the batches in all epochs together.
    """
    check_model(model)
    warmup = int(0.3 * checks.positive_integer("steps", steps))
    layers = list(model.layers)
    for layer in layers:
        layers += getattr(layer, "layers", [])  # of a network in the network
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-4, steps - warmup, alpha=1e-3, warmup_target=1e-2, warmup_steps=warmup
    )
    momentum = max(0.0, 1 - 10 / steps)
    return keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=momentum)


class WatchRobustness(keras.callbacks.Callback):
    """Attacks images that stay out of the training, and notices when that fails.

    After each epoch it adds `robust_accuracy`, under PGD with the full eps, to what
    Keras logs. If that ends below half of its best, the model gets the weights of its
    best epoch again, and a warning says so.

    Attributes:
        accuracies: The accuracy after each epoch.
        best_weights: The model's weights after the best epoch.
    """

    def __init__(self, data: Data, eps: float, clip: tuple[float, float] = (0.0, 1.0)):
        """Watch some images and labels, of the kind that the training has."""
        super().__init__()
        self._data, self.accuracies, self.best_weights = data, [], []
        self._attack = partial(
            projected_gradient_descent, eps=eps, clip=clip, steps=10, rng=0
        )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Attack the images."""
        images, labels = self._data
        logits = predict_logits(self.model, self._attack(self.model, images, labels))
        truth = class_ids(one_hot("labels", labels, len(images), logits.shape[1:]))
        accuracy = float((logits.argmax(axis=1) == truth).mean())
        if accuracy >= max([0.0, *self.accuracies]):
            self.best_weights = self.model.get_weights()
        self.accuracies.append(accuracy)
        logs["robust_accuracy"] = accuracy

    def on_train_end(self, logs: dict | None = None) -> None:
        """Go back to the best epoch if the training has failed."""
        best, last = max(self.accuracies), self.accuracies[-1]
        if last < best / 2:
            self.model.set_weights(self.best_weights)
            epoch = self.accuracies.index(best) + 1
            warn(
                f"the defence has failed: of {len(self._data[0])} images {last:.3f} "
                f"withstand PGD, and {best:.3f} did in epoch {epoch}, whose weights it "
                "has again"
            )


def hold_out(data: Data, seed: int) -> tuple[Data, Data]:
    """Return the data without 200 images (at most 5%), drawn at random, and these."""
    count = len(data[0])
    order = np.random.default_rng(seed).permutation(count)
    cut = watched(count)
    rest, few = np.sort(order[cut:]), order[:cut]
    # Not part[rest], which would read images that `Scaled` keeps as bytes.
    kept = tuple(np.take(part, rest, axis=0) for part in data)
    return kept, tuple(part[few] for part in data)


def watched(count: int) -> int:
    """Return how many of so many images stay out."""
    return max(1, min(_WATCHED, count // 20))
