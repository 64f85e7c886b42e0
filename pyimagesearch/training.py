"""Training that can be repeated: an epoch is a function of seed, phase and epoch."""

import itertools
import math
import time
from collections.abc import Callable
from functools import partial

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pyimagesearch import checks
from pyimagesearch.datagen import Attack, Batches, in_step
from pyimagesearch.datasets import Split
from pyimagesearch.fgsm import check_model, generate_image_adversary
from pyimagesearch.pgd import projected_gradient_descent
from pyimagesearch.runs import Run

PHASES = ("training", "fine-tuning")


def shuffled_batches(data: Split, batch_size: int, rng: checks.Seed) -> Batches:
    """Yield images and labels once, in random order; the last batch may be smaller."""
    images, labels = data
    order = np.random.default_rng(rng).permutation(len(images))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield images[rows], labels[rows]


def fit(model: keras.Model, data: Split, run: Run, phase: int, **kwargs) -> None:
    """Call `model.fit` on images and labels, shuffled anew for each epoch.

    Keras's own `shuffle=True` repeats one order in every epoch once
    `keras.utils.set_random_seed` was called. Arguments as for `fit_batches`.
    """
    make_batches = partial(shuffled_batches, data, run.options.batch_size)
    steps = math.ceil(len(data[0]) / run.options.batch_size)
    fit_batches(model, make_batches, steps, run, phase, **kwargs)


def fit_batches(
    model: keras.Model,
    make_batches: Callable[..., Batches],
    steps: int,
    run: Run,
    phase: int,
    epochs: int,
    **kwargs,
) -> None:
    """Call `model.fit`, in step, on a batch generator that is made anew for each epoch.

    Args:
        model: A compiled model.
        make_batches: A function that takes `rng=` and returns a batch generator.
        steps: Batches in an epoch.
        run: The run; it may have done some of the epochs, or all, when it was killed.
            Of its options `seed` and `verbose` count here.
        phase: The number of this training in the run; each has its own randomness.
        epochs: How many epochs are to have been done in the end.
        **kwargs: More for `model.fit`.
    """
    done = run.restore(model, PHASES[phase])
    if done == epochs:
        return

    def batches():
        for epoch in itertools.count(done):  # pragma: no branch, it never ends
            yield from itertools.islice(
                make_batches(rng=(run.options.seed, phase, epoch)), steps
            )

    model.fit(
        in_step(batches()),
        initial_epoch=done,
        epochs=epochs,
        steps_per_epoch=steps,
        callbacks=[keras.callbacks.TerminateOnNaN(), _Epochs(run, phase)],
        shuffle=False,
        validation_batch_size=512,
        verbose=run.options.verbose,
        **kwargs,
    )


class _Epochs(keras.callbacks.Callback):
    """Seeds the layers at the start of an epoch, and saves the run at its end."""

    def __init__(self, run, phase):
        super().__init__()
        self.run, self.phase = run, phase

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
        rng = np.random.default_rng((self.run.options.seed, self.phase, epoch))
        weights = {id(weight) for weight in self.model.weights}
        for variable in self.model.variables:
            if id(variable) not in weights:  # but a seed, of dropout or of a shift, say
                variable.assign(rng.integers(2**31, size=2))

    def on_epoch_end(self, epoch, logs=None):
        phase, number = PHASES[self.phase], epoch + 1
        if not np.isfinite(loss := logs["loss"]):
            raise FloatingPointError(f"the loss in epoch {number} of {phase} is {loss}")
        seconds = time.perf_counter() - self.started
        row = {"phase": phase, "epoch": number, "seconds": seconds}
        self.run.save(self.model, row | logs)


def make_attack(name: str, eps: float, rng: np.random.Generator) -> Attack:
    """Return the attack that `--attack` names, for images in [0, 1].

    Args:
        name: `fgsm`, as in the tutorials; `rfgsm`, one step from a random start; or
            `pgd`, two smaller steps from there. These two make valid images.
        eps: The strength that it is to be called with.
        rng: Generator of the random starts.
    """
    if name == "fgsm":
        return generate_image_adversary
    steps, size = {"rfgsm": (1, 1.25), "pgd": (2, 0.75)}[name]
    how = {"steps": steps, "step_size": size * eps, "clip": (0, 1), "rng": rng}
    return partial(projected_gradient_descent, **how)


def attack_shifted(attack: Attack, rng: np.random.Generator) -> Attack:
    """Return `attack`, but on images that are first shifted by up to a pixel.

    Each image moves by itself, up or down and sideways; its edge is repeated.
    """

    def attack_after_shift(model, images, labels, eps):
        count, height, width, _ = images.shape
        padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
        windows = sliding_window_view(padded, (height, width), axis=(1, 2))
        down, right = rng.integers(3, size=(2, count))
        shifted = np.moveaxis(windows[np.arange(count), down, right], 1, -1)
        return attack(model, shifted, labels, eps)

    return attack_after_shift


def prepare_robust(
    model: keras.Model, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Switch dropout off, and return a learning rate that rises and falls once.

    The rate peaks at fifty times the tutorial's.

    Args:
        model: A network that is compiled afterwards.
        steps: Batches in all epochs together.
    """
    check_model(model)
    warmup = int(0.3 * checks.positive_integer("steps", steps))
    layers = list(model.layers)
    for layer in layers:
        layers += getattr(layer, "layers", [])  # of a network in the network
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return keras.optimizers.schedules.CosineDecay(
        1e-4, steps - warmup, alpha=1e-3, warmup_target=5e-3, warmup_steps=warmup
    )
