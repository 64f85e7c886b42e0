"""Batches that `fit` draws in step with the weights."""

import itertools
import sys
import weakref
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks


def in_step(batches: Iterable) -> tf.data.Dataset:
    """Wrap a generator for `fit`, so that each batch sees the weights of its step.

    Given a bare generator, Keras draws ahead on another thread: adversaries are made
    against weights a few updates old, and two runs with one seed differ. This draws a
    batch when its step begins, at any `steps_per_execution`:

        model.fit(in_step(batches), steps_per_epoch=100, epochs=10, shuffle=False)

    A second `fit` goes on where the first stopped; a list of batches starts over in
    each epoch. A `tf.distribute` strategy draws ahead again, and so does whatever maps
    the data set, `class_weight=` included: yield sample weights instead.

    Args:
        batches: An iterator or a list of tuples `(images, labels)` or `(images, labels,
            sample_weights)`, each an array or a dictionary or tuple of arrays. The
            first is drawn at once, to learn the shapes, and is the first that is used.

    Raises:
        TypeError: If it is not iterable, or not of tuples of arrays.
        ValueError: If there is no batch; in `fit`, if none is left for an epoch.
    """
    if not isinstance(batches, Iterable):
        got = checks.shown(batches)
        raise TypeError(f"batches must be an iterator or a list, got {got}")
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise ValueError("batches must be an iterator of batches, got an empty one")
    if not isinstance(first, tuple | list):
        got = checks.shown(first)
        raise TypeError(f"batches must yield tuples of arrays, got {got}")
    if iterator is batches:
        batches = itertools.chain([first], iterator)
    return _InStep(batches, _as_arrays(tuple(first)))


def _as_arrays(batch):
    """Return a batch, or a part of it, with arrays for what is no tuple or dict."""
    if isinstance(batch, dict):
        return {key: _as_arrays(part) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(map(_as_arrays, batch))
    array = np.asarray(batch)
    if array.dtype.kind == "O":
        raise TypeError(f"batches must hold arrays, got {checks.shown(batch)}")
    return array


class _InStep(tf.data.Dataset):
    def __init__(self, batches, first):
        self._batches = batches
        signature = keras.tree.map_structure(
            lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), first
        )
        reference = weakref.ref(self)  # TensorFlow keeps a generator for ever
        self._dataset = tf.data.Dataset.from_generator(
            lambda: (_as_arrays(tuple(batch)) for batch in reference()._batches),
            output_signature=signature,
        )
        super().__init__(self._dataset._variant_tensor)

    def __iter__(self):
        # Keras advances an iterator of ours between the steps. It would read one of
        # tf.data's inside the compiled step, where whatever needs no batch, such as
        # weight decay, may overtake the reading.
        caller = sys._getframe(1).f_globals["__name__"]
        return self._draw(is_keras=caller.startswith("keras."))

    def _draw(self, is_keras):
        is_empty = True
        for batch in self._batches:
            is_empty = False
            batch = _as_arrays(tuple(batch))
            yield keras.tree.map_structure(tf.convert_to_tensor, batch)
        if is_keras and is_empty:
            raise ValueError(
                "the batches have ended, as a generator does after an interrupt or an "
                "error: make a new one, or give a list, which starts over"
            )
        if is_keras:  # what it takes for the end of data, where a plain one trips it
            raise tf.errors.OutOfRangeError(None, None, "the batches have ended")

    def cardinality(self):
        """Return how many batches an epoch has, or -2 if that is not known."""
        known = hasattr(self._batches, "__len__")
        return tf.constant(len(self._batches) if known else -2, tf.int64)

    def _inputs(self):
        return [self._dataset]

    @property
    def element_spec(self):
        return self._dataset.element_spec
