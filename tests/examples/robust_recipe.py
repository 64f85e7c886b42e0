"""Make a classifier robust by the robust recipe, and report what it withstands."""

from functools import partial

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from pyimagesearch.datagen import generate_adversarial_batch, in_step
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.training import (
    WatchRobustness,
    hold_out,
    robust_attack,
    robust_optimizer,
)

# Replace these lines by your own images (n, height, width, channels) and class ids.
keras.utils.set_random_seed(0)
digits, labels = load_digits(return_X_y=True)
grey = np.kron(digits.reshape(-1, 8, 8, 1) * 15, np.ones((1, 2, 2, 1)))
tints = np.random.default_rng(0).uniform(0.5, 1, (len(grey), 1, 1, 3))
images = np.uint8(grey * tints)  # (n, 16, 16, 3), 0 to 255
train, few = slice(0, 1400), slice(1400, 1500)

model = keras.Sequential(
    [
        keras.Input((16, 16, 3)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(32, 3, strides=2, activation="relu"),
        layers.Conv2D(64, 3, strides=2, activation="relu"),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
model.fit(images[train], labels[train], epochs=10, verbose=0)

eps, clip = 24, (0, 255)  # in the units of the images
report = partial(evaluate_robustness, steps=20, queries=200, rng=0)  # quick
before = report(model, images[few], labels[few], eps, clip)

# Some training images stay out, to see whether the defence holds beyond the others.
own, watched = hold_out((images[train], labels[train]), seed=0)
steps, epochs = len(own[0]) // 64, 15
optimizer = robust_optimizer(model, steps * epochs)
model.compile(optimizer, loss, metrics=["accuracy"])
attack = robust_attack(steps * epochs, clip, rng=1)
batches = generate_adversarial_batch(
    model, 64, *own, (16, 16, 3), eps, attack=attack, rng=1
)
model.fit(
    in_step(batches),
    steps_per_epoch=steps,
    epochs=epochs,
    callbacks=[WatchRobustness(watched, eps, clip)],
    shuffle=False,
    verbose=0,
)

after = report(model, images[few], labels[few], eps, clip)
print(f"{'attack':<26}{'before':>8}{'after':>8}")
for old, new in zip(before, after, strict=True):
    print(f"{old.attack:<26}{old.accuracy:8.3f}{new.accuracy:8.3f}")
