"""Epochs that can be repeated: each is a function of a seed and its number alone."""

import math

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core.in_step import in_step


class RepeatableEpochs(keras.callbacks.Callback):
    """Seeds the data and the random layers anew for each epoch.

    Keras's own `shuffle=True` repeats one order in every epoch once
    `keras.utils.set_random_seed` was called, and a run that is taken up again would
    see other random numbers.

        epochs = RepeatableEpochs(seed)
        how = {"steps_per_epoch": steps_of(data, 64), "shuffle": False}
        model.fit(shuffled(data, 64, epochs.rng), callbacks=[epochs], **how)

    Attributes:
        rng: The NumPy generator for the data; it is ready for the first epoch.
    """

    def __init__(self, *seed: int, initial_epoch: int = 0):
        """Get ready for training with a seed of one or more integers."""
        super().__init__()
        self._seed, self._initial_epoch = seed, initial_epoch
        self.rng = np.random.default_rng((*seed, initial_epoch))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Seed what the epoch draws; the first one's first batch is drawn already."""
        fresh = np.random.default_rng((*self._seed, epoch))
        if epoch != self._initial_epoch:
            self.rng.bit_generator.state = fresh.bit_generator.state
        weights = {id(weight) for weight in self.model.weights}
        for variable in self.model.variables:
            if id(variable) not in weights:  # but the seed of a layer such as dropout
                variable.assign(fresh.integers(2**31, size=2))


def shuffled(
    data: tuple[np.ndarray, np.ndarray], batch_size: int, rng: np.random.Generator
) -> tf.data.Dataset:
    """Return endless batches for `fit`, which needs `steps_per_epoch=steps_of(...)`.

    Images come in a new order in each epoch.
    """
    images, labels = data

    def batches():
        while True:
            order = rng.permutation(len(images))
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                yield images[rows], labels[rows]

    return in_step(batches())


def steps_of(data: tuple[np.ndarray, np.ndarray], batch_size: int) -> int:
    """Return the steps of such an epoch, of which the last may be smaller."""
    return math.ceil(len(data[0]) / batch_size)
