"""Batches that `fit` draws in step with the weights."""

import contextlib
import itertools
import operator
import sys
import weakref
from collections.abc import Iterable, Iterator

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
        batches: An iterator, or a list or another collection, of tuples `(images,
            labels)` or `(images, labels, sample_weights)` of arrays. The first is drawn
            at once, to learn the shapes, and is the first that is used.

    Raises:
        TypeError: If `batches` is none of these.
        ValueError: If there is no batch; in `fit`, if none is left for an epoch, or if
            endless batches come without `steps_per_epoch`.
    """
    is_keras_dataset = hasattr(batches, "on_epoch_end")  # which nobody would call here
    if not isinstance(batches, Iterable) or is_keras_dataset:
        got = checks.shown(batches)
        raise TypeError(f"batches must be an iterator or a list, got {got}")
    iterator = iter(batches)
    is_endless = iterator is batches and operator.length_hint(batches, -1) < 0
    if isinstance(batches, tf.data.Dataset):
        is_endless = batches.cardinality() == tf.data.INFINITE_CARDINALITY
    first = next(iterator, None)
    if first is None:
        raise ValueError("batches must be an iterator of batches, got an empty one")
    first = _as_arrays(first)
    if iterator is batches:
        batches = itertools.chain([first], iterator)
    return _InStep(batches, first, is_endless)


def _as_arrays(batch):
    """Return a batch as a tuple of arrays, or raise."""
    arrays = ()
    if isinstance(batch, tuple | list) and not any(isinstance(p, tuple) for p in batch):
        with contextlib.suppress(TypeError, ValueError):  # of a ragged list
            arrays = tuple(map(np.asarray, batch))
    are_rows = all(array.ndim > 0 and array.dtype != object for array in arrays)
    if not are_rows or len({len(array) for array in arrays}) != 1:
        got = checks.shown(batch)
        raise TypeError(f"batches must be tuples of arrays, a row an image, got {got}")
    return arrays


class _InStep(tf.data.Dataset):
    def __init__(self, batches, first, is_endless):
        self._batches = batches
        self._is_endless = is_endless
        signature = tuple(
            tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in first
        )
        reference = weakref.ref(self)  # TensorFlow keeps a generator for ever
        self._dataset = tf.data.Dataset.from_generator(
            lambda: map(_as_arrays, reference()._batches), output_signature=signature
        )
        super().__init__(self._dataset._variant_tensor)

    def __iter__(self) -> Iterator[tuple[tf.Tensor, ...]]:
        # Keras advances an iterator of ours between the steps. It would read one of
        # tf.data's inside the compiled step, where work that does not need the batch,
        # such as weight decay, could run before the batch is read.
        caller = sys._getframe(1)
        name = caller.f_globals.get("__name__", "")
        if name.startswith("tf_keras."):
            raise TypeError("in_step is for Keras 3, got a model of tf_keras")
        is_keras = name.startswith("keras.")
        epochs = caller.f_locals.get("self")
        lacks_steps = getattr(epochs, "steps_per_epoch", 0) is None
        if is_keras and lacks_steps and self._is_endless:
            raise ValueError(
                "specify a `steps_per_epoch` (or `steps`) for batches that may never "
                "end, as from a generator"
            )
        return self._draw(is_keras)

    def _draw(self, is_keras):
        is_empty = True
        for batch in self._batches:
            is_empty = False
            yield tuple(map(tf.convert_to_tensor, _as_arrays(batch)))
        if is_keras and is_empty:
            raise ValueError(
                "the batches have ended, as a generator does after an interrupt or an "
                "error: make a new one, or give a list, which starts over"
            )
        if is_keras:  # which treats this as the end of data; StopIteration would fail
            raise tf.errors.OutOfRangeError(None, None, "the batches have ended")

    def cardinality(self) -> tf.Tensor:
        """Return how many batches an epoch has, or what TensorFlow has for unknown."""
        try:
            count = len(self._batches)
        except Exception:  # whatever a loader raises that does not know its length
            count = tf.data.UNKNOWN_CARDINALITY
        return tf.constant(count, tf.int64)

    def _inputs(self):
        return [self._dataset]

    @property
    def element_spec(self):
        return self._dataset.element_spec
