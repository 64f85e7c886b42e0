"""What each choice of the robust recipe is worth, on images that stay out of training.

    python tests/choices.py MODEL.keras [--data FILE.npz] [--eps 0.3] [--epochs 3]

Each line is the recipe with one choice changed, from the same network and seed: the
share of 2,000 held-out training images that withstands PGD, PGD that sees through the
first ReLUs, and all attacks of the report.
"""

import argparse
import os
import time
from contextlib import ExitStack
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from pyimagesearch.attacks import projected_gradient_descent
from pyimagesearch.datagen import generate_adversarial_batch, in_step
from pyimagesearch.experiment.data import load
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.training import robust

BATCH = 64
HELD_OUT = 2_000


def with_settings(**changed):
    """Return PGD that takes some settings in place of those that it is given."""

    def attack(*arguments, **settings):
        return projected_gradient_descent(*arguments, **settings | changed)

    return attack


def in_place(images, rng):
    """Shift no image."""
    return images


# What each choice replaces in the recipe's module.
PGD = "projected_gradient_descent"
CHOICES = {
    "the recipe": {},
    "PGD's own gradient": {PGD: with_settings(chords=False)},
    "equal steps": {PGD: with_settings(step_size=None)},
    "one step": {PGD: with_settings(steps=1, step_size=None)},
    "no random start": {PGD: with_settings(random_start=False)},
    "loss on probabilities": {PGD: with_settings(loss="categorical_crossentropy")},
    "no shift": {"_shift": in_place},
}


def train(path, data, eps, epochs, seed):
    """Fine-tune a saved network by the recipe as it now is; return it and seconds."""
    keras.utils.set_random_seed(seed)
    model = keras.saving.load_model(path, compile=False)
    images, labels = data
    steps = len(images) // BATCH
    optimizer = robust.robust_optimizer(model, steps * epochs)
    model.compile(optimizer, "categorical_crossentropy")
    batches = generate_adversarial_batch(
        model,
        BATCH,
        images,
        labels,
        images.shape[1:],
        eps,
        attack=robust.robust_attack(steps * epochs, rng=seed),
        rng=seed,
    )
    started = time.perf_counter()
    model.fit(
        in_step(batches), steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0
    )
    return model, time.perf_counter() - started


def main():
    """Train and judge the recipe once for each choice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a network trained on these data")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images, labels = load(options.data).train
    order = np.random.default_rng(0).permutation(len(images))
    held_out = order[:HELD_OUT]
    rest = order[HELD_OUT:]
    data = (images[rest], labels[rest])
    print(f"{'':24}{'PGD':>8}{'chords':>8}{'worst':>8}{'minutes':>9}")
    for name, replaced in CHOICES.items():
        with ExitStack() as stack:
            for attribute, value in replaced.items():
                stack.enter_context(patch.object(robust, attribute, value))
            model, seconds = train(
                options.model, data, options.eps, options.epochs, options.seed
            )
        rows = evaluate_robustness(
            model,
            images[held_out],
            labels[held_out],
            options.eps,
            steps=20,
            queries=300,
            rng=1,
            verbose=False,
        )
        left = {row.attack: row.accuracy for row in rows}
        shown = ("PGD, cross-entropy", "PGD, chords of ReLUs", "worst case")
        cells = "".join(f"{left[attack]:8.3f}" for attack in shown)
        print(f"{name:24}{cells}{seconds / 60:9.1f}", flush=True)


if __name__ == "__main__":
    main()
