"""The robust recipe: a fine-tuning whose defence holds."""

import itertools

import keras
import numpy as np
from keras import layers
from numpy.lib.stride_tricks import sliding_window_view

from pyimagesearch.attacks import projected_gradient_descent, shrinking_steps
from pyimagesearch.core import checks
from pyimagesearch.core.compiled import compile_logits
from pyimagesearch.core.labels import as_classes
from pyimagesearch.core.models import all_layers
from pyimagesearch.core.sampling import Attack, rows_of
from pyimagesearch.core.warning import warn

Data = tuple[np.ndarray, np.ndarray]

# With their spatial kin.
_DROPOUT = (layers.AlphaDropout, layers.Dropout, layers.GaussianDropout)


def robust_attack(
    steps: int, clip: tuple[float, float] = (0.0, 1.0), rng: checks.Seed | None = None
) -> Attack:
    """Return the recipe's attack, for a generator that is given the eps to withstand.

    It shifts each image by up to a pixel in both directions, its edge repeated; what
    has no height and width is not shifted. Then PGD climbs from a random start, with
    `chords=True`, or the network would learn to hide behind its first ReLUs. Let e be
    eps as a share of the range. PGD takes `1 + 10 e` steps, at least two, and reaches
    `1.35 - e / 2` times eps. Its steps fall from 1.25 times the reach to `1 / steps` of
    it: networks learn to escape equal ones. The reach rises from 0 over the first `2 e`
    of the training, at most 0.3 of it: no network learns from strong adversaries at
    once.

    Args:
        steps: Batches in all epochs together. The attack counts its own calls, one a
            batch, so make a new one for each training.
        clip: The valid range of a value.
        rng: Seed or NumPy generator of the random starts and shifts.

    Returns:
        An attack on images, which move further than eps by the shift, on series or on
        vectors.
    """
    steps = checks.positive_integer("steps", steps)
    rng = checks.generator(rng)
    low, high = checks.array("clip", clip)
    calls = itertools.count()

    def attack(model, images, labels, eps):
        if images.ndim == 4:
            images = _shift(images, rng)
        largest = float(np.max(eps))
        share = largest / (high - low)
        rise = min(0.3, max(2 * share, 1e-9))
        risen = min(1.0, next(calls) / steps / rise)
        reach = (1.35 - share / 2) * risen  # in eps
        pgd_steps = max(2, round(1 + 10 * share))
        return projected_gradient_descent(
            model,
            images,
            labels,
            reach * eps,
            steps=pgd_steps,
            step_size=reach * largest * np.geomspace(1.25, 1 / pgd_steps, pgd_steps),
            clip=clip,
            chords=True,
            rng=rng,
        )

    return attack


def _shift(images, rng):
    """Shift each image by up to a pixel in both directions."""
    count, height, width, _ = images.shape
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))
    down, right = rng.integers(3, size=(2, count))
    return np.moveaxis(windows[np.arange(count), down, right], 1, -1)


def robust_optimizer(model: keras.Model, steps: int) -> keras.optimizers.Optimizer:
    """Switch dropout off in a model, and return the recipe's optimizer for it.

    Dropout of every kind gets the rate 0: robust training has no use for it. The
    optimizer is Adam with a rate that rises from 1e-4 to 1e-2 and falls again. In the
    end the weights are replaced by their average over about a tenth of the steps.
    Compile the model afterwards.

    Args:
        model: The model, which is changed.
        steps: Batches in all epochs together.
    """
    steps = checks.positive_integer("steps", steps)
    for layer in all_layers(model):
        if isinstance(layer, _DROPOUT):
            layer.rate = 0.0
    warmup = int(0.3 * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-4, steps - warmup, alpha=1e-3, warmup_target=1e-2, warmup_steps=warmup
    )
    momentum = max(0.0, 1 - 10 / steps)
    return keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=momentum)


class WatchRobustness(keras.callbacks.Callback):
    """Attacks images that stay out of the training, and notices when that fails.

    After each epoch it adds `robust_accuracy` to what Keras logs: under ten shrinking
    steps of PGD with `chords=True` and the full eps. If that ends below four fifths of
    its best, the model gets the weights of its best epoch again, and a warning says so.

    Attributes:
        accuracies: The accuracy after each epoch of the last training.
        best_weights: The model's weights after the best epoch.
    """

    def __init__(self, data: Data, eps: float, clip: tuple[float, float] = (0.0, 1.0)):
        """Watch some images and labels, of the kind that the training has."""
        super().__init__()
        self._images, self._labels = data
        self._eps = eps
        self._clip = clip
        self.accuracies = []
        self.best_weights = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Start anew, as for another fold, or raise if the model is no classifier."""
        self.accuracies = []
        compile_logits(self.model, checks.array("images", self._images, np.float32))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Attack the images."""
        attacked = projected_gradient_descent(
            self.model,
            self._images,
            self._labels,
            self._eps,
            steps=10,
            step_size=shrinking_steps(self._eps, 10),
            clip=self._clip,
            chords=True,
            rng=0,
        )
        predict, shape = compile_logits(self.model, attacked)
        ids = as_classes("labels", self._labels, len(attacked), shape)
        accuracy = float((predict(attacked).argmax(axis=1) == ids).mean())
        if accuracy >= max(self.accuracies, default=0.0):
            self.best_weights = self.model.get_weights()
            self._best_epoch = epoch + 1
        self.accuracies.append(accuracy)
        logs["robust_accuracy"] = accuracy

    def on_train_end(self, logs: dict | None = None) -> None:
        """Go back to the best epoch if the training has failed."""
        best = max(self.accuracies, default=0.0)
        if self.accuracies and self.accuracies[-1] < 0.8 * best:
            self.model.set_weights(self.best_weights)
            warn(
                f"the defence has failed: {self.accuracies[-1]:.3f} of the images "
                f"withstand PGD, and {best:.3f} did in epoch {self._best_epoch}, whose "
                "weights it has again"
            )


def hold_out(data: Data, seed: int) -> tuple[Data, Data]:
    """Return the data without 200 images (at most 5%), drawn at random, and these."""
    images = rows_of("images", data[0])
    labels = checks.array("labels", data[1])
    count = len(labels)
    if len(images) != count:
        raise ValueError(f"images must be {count}, as labels, got {len(images)}")
    held_out = max(1, min(200, count // 20))
    order = np.random.default_rng(seed).permutation(count)
    few = np.sort(order[:held_out])
    rest = np.sort(order[held_out:])
    return (images[rest], labels[rest]), (images[few], labels[few])
