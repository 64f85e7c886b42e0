"""Training that can be repeated: an epoch is a function of seed, phase and epoch."""

import itertools
import math
from argparse import Namespace
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.datagen import Batches, in_step
from pyimagesearch.datasets import Split


def steps_at_once(data: Split, options: Namespace) -> int:
    """Return the best `steps_per_execution` for `fit`, up to 16.

    Results stay the same, and Keras does its own work around a step once for all of
    them. They divide an epoch evenly; otherwise its progress bar would run over.
    """
    steps = math.ceil(len(data[0]) / options.batch_size)
    return max(count for count in range(1, 17) if steps % count == 0)


def fit(model: keras.Model, data: Split, options: Namespace, phase: int, **kwargs):
    """Call `model.fit` on images and labels, shuffled anew for each epoch.

    Keras's own `shuffle=True` repeats one order in every epoch once
    `keras.utils.set_random_seed` was called.

    Args:
        model: A compiled model.
        data: Images `(n, ...)` and labels `(n, ...)`.
        options: `batch_size`, `seed` and `verbose` of the run.
        phase: The number of this training in the run; each has its own randomness.
        **kwargs: More for `model.fit`.
    """
    images, labels = data
    order = np.arange(len(images))

    def take(step):
        rows = order[step * options.batch_size : (step + 1) * options.batch_size]
        return images[rows], labels[rows]

    def batch(step):  # in NumPy: tf.data would hold two more copies of the images
        arrays = tf.numpy_function(take, [step], [images.dtype, labels.dtype])
        shapes = [(None, *array.shape[1:]) for array in data]
        return tuple(map(tf.ensure_shape, arrays, shapes))

    steps = math.ceil(len(images) / options.batch_size)
    batches = tf.data.Dataset.range(steps).map(batch).prefetch(2)
    _fit(model, batches, options, phase, order, **kwargs)


def fit_batches(
    model: keras.Model,
    make_batches: Callable[..., Batches],
    options: Namespace,
    phase: int,
    **kwargs,
):
    """Call `model.fit`, in step, on batches from a generator made anew for each epoch.

    Args:
        model: A compiled model.
        make_batches: A function that takes `rng=` and returns a batch generator.
        options: `seed` and `verbose` of the run.
        phase: As for `fit`.
        **kwargs: More for `model.fit`, `steps_per_epoch` among it.
    """

    def batches():
        for epoch in itertools.count(kwargs.get("initial_epoch", 0)):
            epoch_batches = make_batches(rng=(options.seed, phase, epoch))
            yield from itertools.islice(epoch_batches, kwargs["steps_per_epoch"])

    _fit(model, in_step(batches()), options, phase, **kwargs)


def _fit(model, batches, options, phase, order=None, **kwargs):
    def seed_epoch(epoch, logs):
        rng = np.random.default_rng((options.seed, phase, epoch))
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign(rng.integers(2**31, size=2))
        if order is not None:
            order[:] = rng.permutation(len(order))

    model.fit(
        batches,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=seed_epoch)],
        shuffle=False,
        validation_batch_size=512,
        verbose=options.verbose,
        **kwargs,
    )
