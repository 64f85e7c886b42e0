"""What each choice of the robust recipe is worth, on images that stay out of training.

    python tests/choices.py MODEL.keras [--data FILE.npz] [--eps 0.3] [--epochs 3]

Each line is the recipe with one choice changed, from the same network and seed: the
share of 2,000 held-out training images that withstands PGD, PGD that sees through the
first ReLUs, and both with the Square attack.
"""

import argparse
import os
import time
from contextlib import ExitStack
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from pyimagesearch.attacks import (
    projected_gradient_descent,
    shrinking_steps,
    square_attack,
)
from pyimagesearch.datagen import generate_adversarial_batch, in_step
from pyimagesearch.experiment.data import load
from pyimagesearch.training import robust

BATCH = 64
HELD_OUT = 2_000
CLIP = (0.0, 1.0)


def with_settings(**changed):
    """Return PGD that takes some settings in place of those that it is given."""

    def attack(*arguments, **settings):
        return projected_gradient_descent(*arguments, **settings | changed)

    return attack


def in_place(images, rng):
    """Shift no image."""
    return images


def cross_entropy_of(model, images, labels, eps, **settings):
    """Climb the loss that the network is trained on, probabilities included."""
    settings["loss"] = "categorical_crossentropy"
    return projected_gradient_descent(model, images, labels, eps, **settings)


# What each choice replaces in the recipe's module.
CHOICES = {
    "the recipe": {},
    "PGD's own gradient": {"projected_gradient_descent": with_settings(chords=False)},
    "one step": {"projected_gradient_descent": with_settings(steps=1)},
    "ten steps": {"projected_gradient_descent": with_settings(steps=10)},
    "no random start": {
        "projected_gradient_descent": with_settings(random_start=False)
    },
    "loss on probabilities": {"projected_gradient_descent": cross_entropy_of},
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
        attack=robust.robust_attack(steps * epochs, CLIP, rng=seed),
        rng=seed,
    )
    started = time.perf_counter()
    model.fit(
        in_step(batches), steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0
    )
    return model, time.perf_counter() - started


def what_withstands(model, data, eps, queries):
    """Return the shares under PGD, PGD with chords, and these with Square."""
    images, labels = data
    ids = labels.argmax(axis=1)
    sizes = shrinking_steps(eps, 40)
    stands = model.predict(images, verbose=0).argmax(axis=1) == ids
    shares = []
    for chords in (False, True):
        attacked = projected_gradient_descent(
            model, images, ids, eps, step_size=sizes, clip=CLIP, chords=chords, rng=1
        )
        by_this = model.predict(attacked, verbose=0).argmax(axis=1) == ids
        shares.append((stands & by_this).mean())
        if chords:
            stands &= by_this
    rows = np.flatnonzero(stands)
    attacked = square_attack(
        model, images[rows], ids[rows], eps, queries=queries, clip=CLIP, rng=1
    )
    stands[rows] = model.predict(attacked, verbose=0).argmax(axis=1) == ids[rows]
    return [*shares, stands.mean()]


def main():
    """Train and judge the recipe once for each choice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a network trained on these data")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=500)
    options = parser.parse_args()
    images, labels = load(options.data).train
    order = np.random.default_rng(0).permutation(len(images))
    held_out = order[:HELD_OUT]
    rest = order[HELD_OUT:]
    print(f"{'':24}{'PGD':>8}{'chords':>8}{'Square':>8}{'minutes':>9}")
    for name, replaced in CHOICES.items():
        with ExitStack() as stack:
            for attribute, value in replaced.items():
                stack.enter_context(patch.object(robust, attribute, value))
            model, seconds = train(
                options.model,
                (images[rest], labels[rest]),
                options.eps,
                options.epochs,
                options.seed,
            )
        data = (images[held_out], labels[held_out])
        shares = what_withstands(model, data, options.eps, options.queries)
        cells = "".join(f"{share:8.3f}" for share in shares)
        print(f"{name:24}{cells}{seconds / 60:9.1f}", flush=True)


if __name__ == "__main__":
    main()
