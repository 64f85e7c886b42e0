"""What each choice of the robust recipe is worth, on images that stay out of training.

    python tests/choices.py MODEL.keras [--data FILE.npz] [--eps 0.3] [--epochs 3]

Each line is the recipe with one choice changed, from the same network and seed: the
share of 2,000 held-out training images that withstands PGD, PGD that sees through the
first ReLUs, and all attacks of the report.
"""

import argparse
import os
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
SHOWN = ("PGD, cross-entropy", "PGD, chords of ReLUs", "worst case")


def pgd_with(**changed):
    """Patch PGD to take some settings in place of those that it is given."""

    def attack(*arguments, **settings):
        return projected_gradient_descent(*arguments, **settings | changed)

    return patch.object(robust, "projected_gradient_descent", attack)


def in_place(images, rng):
    """Shift no image."""
    return images


# What each choice replaces in the recipe's module.
CHOICES = {
    "the recipe": pgd_with(),
    "PGD's own gradient": pgd_with(chords=False),
    "equal steps": pgd_with(step_size=None),
    "one step": pgd_with(steps=1, step_size=None),
    "no random start": pgd_with(random_start=False),
    "loss on probabilities": pgd_with(loss="categorical_crossentropy"),
    "no shift": patch.object(robust, "_shift", in_place),
}


def train(path, data, eps, epochs):
    """Fine-tune a saved network by the recipe as it now is, and return it."""
    keras.utils.set_random_seed(0)
    model = keras.saving.load_model(path, compile=False)
    steps = len(data[0]) // BATCH
    optimizer = robust.robust_optimizer(model, steps * epochs)
    model.compile(optimizer, "categorical_crossentropy")
    attack = robust.robust_attack(steps * epochs, rng=0)
    batches = generate_adversarial_batch(
        model, BATCH, *data, data[0].shape[1:], eps, attack=attack, rng=0
    )
    model.fit(
        in_step(batches), steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0
    )
    return model


def main():
    """Train and judge the recipe once for each choice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a network trained on these data")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    images, labels = load(options.data).train
    order = np.random.default_rng(0).permutation(len(images))
    out = order[:HELD_OUT]
    rest = order[HELD_OUT:]
    data = (images[rest], labels[rest])
    held_out = (images[out], labels[out])
    print(f"{'':24}{'PGD':>8}{'chords':>8}{'worst':>8}")
    for name, choice in CHOICES.items():
        with choice:
            model = train(options.model, data, options.eps, options.epochs)
        report = evaluate_robustness(
            model,
            *held_out,
            options.eps,
            steps=20,
            queries=300,
            rng=1,
            verbose=False,
        )
        left = {row.attack: row.accuracy for row in report}
        cells = "".join(f"{left[attack]:8.3f}" for attack in SHOWN)
        print(f"{name:24}{cells}", flush=True)


if __name__ == "__main__":
    main()
