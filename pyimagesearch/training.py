"""Epochs that can be repeated: each is a function of its seed and its number alone."""

import itertools
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.datagen import Batches


class SeededEpochs(keras.callbacks.Callback):
    """Set, as each epoch begins, dropout's seeds and the order of the images.

    `fit(shuffle=True)` will not do: after `keras.utils.set_random_seed` it repeats one
    and the same order in every epoch.
    """

    def __init__(self, seed: tuple[int, ...], order: tf.Variable | None = None):
        """Take the seed, and the order from `shuffled` if there is one."""
        super().__init__()
        self.seed = seed
        self.order = order

    def on_epoch_begin(self, epoch, logs=None):
        """Seed the epoch."""
        rng = np.random.default_rng((*self.seed, epoch))
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign(rng.integers(2**31, size=2))
        if self.order is not None:
            self.order.assign(rng.permutation(self.order.shape[0]))


def shuffled(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> tuple[tf.data.Dataset, tf.Variable]:
    """Return the batches of one epoch, and the order `(n,)` in which they take rows.

    The data set knows its length, which `fit` needs for `steps_per_execution`.
    """
    with tf.device("CPU"):
        images, labels = tf.constant(images), tf.constant(labels)
        order = tf.Variable(np.arange(len(images)), trainable=False)

    def batch(step):
        rows = order[step * batch_size : (step + 1) * batch_size]
        return tf.gather(images, rows), tf.gather(labels, rows)

    steps = math.ceil(len(images) / batch_size)
    return tf.data.Dataset.range(steps).map(batch).prefetch(2), order


def by_epoch(
    make_batches: Callable[..., Batches], steps: int, seed: tuple[int, ...]
) -> Batches:
    """Chain, endlessly, a generator an epoch: `make_batches(rng=(*seed, epoch))`."""
    for epoch in itertools.count():
        yield from itertools.islice(make_batches(rng=(*seed, epoch)), steps)
