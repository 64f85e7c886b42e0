"""Training epochs that can be repeated: each is a function of its seed and number.

The order of the images, the batches that a generator draws and the units that dropout
drops in an epoch depend on (seed, epoch) and on nothing that came before it.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.datagen import Batch


class EpochSeed(keras.callbacks.Callback):
    """Set, as an epoch begins, the order of its images and dropout's seeds.

    After `keras.utils.set_random_seed`, Keras's own `fit(shuffle=True)` repeats one
    and the same order in every epoch.
    """

    def __init__(self, seed: tuple[int, ...], order: tf.Variable | None = None):
        """Seed the epochs.

        Args:
            seed: Seed of the run and the phase of training.
            order: The order that `shuffled` returned, if the epochs read from it.
        """
        super().__init__()
        self.seed = seed
        self.order = order

    def on_epoch_begin(self, epoch, logs=None):
        """Seed this epoch."""
        rng = np.random.default_rng((*self.seed, epoch))
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign(rng.integers(2**31, size=2))
        if self.order is not None:
            self.order.assign(rng.permutation(self.order.shape[0]))


def shuffled(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> tuple[tf.data.Dataset, tf.Variable]:
    """Make a data set of one epoch that reads its order from a variable.

    Args:
        images: Images `(n, ...)`.
        labels: Labels `(n, ...)`.
        batch_size: Images in a batch; the last one may hold fewer.

    Returns:
        The data set, whose length Keras can see, so that any `steps_per_execution`
        fits; and the order, row numbers `(n,)`, for `EpochSeed` to set.
    """
    with tf.device("CPU"):
        images, labels = tf.constant(images), tf.constant(labels)
        order = tf.Variable(tf.range(len(images), dtype=tf.int64), trainable=False)

    def batch(step):
        rows = order[step * batch_size : (step + 1) * batch_size]
        return tf.gather(images, rows), tf.gather(labels, rows)

    steps = math.ceil(len(images) / batch_size)
    return tf.data.Dataset.range(steps).map(batch).prefetch(2), order


def by_epoch(
    make_batches: Callable[..., Iterator[Batch]], steps: int, seed: tuple[int, ...]
) -> Iterator[Batch]:
    """Chain one generator an epoch, endlessly, each with a seed of its own.

    Args:
        make_batches: A function that takes `rng=` and returns endless batches.
        steps: Batches in an epoch.
        seed: Seed of the run and the phase of training.

    Yields:
        The batches of epoch 0, 1, 2 and so on.
    """
    for epoch in itertools.count():
        yield from itertools.islice(make_batches(rng=(*seed, epoch)), steps)
