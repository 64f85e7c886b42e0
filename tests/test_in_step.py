import gc
import itertools
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_classifier, network_of, stripes
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.datagen import generate_mixed_adverserial_batch, in_step
from pyimagesearch.fgsm import generate_image_adversary as fgsm

DIMS = (6, 6, 1)
FIT = {"shuffle": False, "verbose": 0}
ONES = np.ones((4, *DIMS), np.float32)
TARGETS = np.ones((4, 3), np.float32)
BATCH = (ONES, TARGETS)


@pytest.fixture
def model(model):
    """The shared fixture's model, compiled."""
    model.compile("sgd", "mse")
    return model


def rising(targets, outputs):
    return -outputs


@pytest.mark.parametrize("steps_per_execution", [1, 4])
@pytest.mark.parametrize("decay", [None, 0.5])
def test_each_batch_is_drawn_at_its_step(decay, steps_per_execution):
    """Every step adds one to the only weight, and a batch records it when drawn."""
    model = network_of(layers.Dense(1, use_bias=False), image_shape=(1,))
    optimizer = keras.optimizers.SGD(1.0, weight_decay=decay)
    model.compile(optimizer, rising, steps_per_execution=steps_per_execution)
    model.set_weights([np.zeros((1, 1))])
    recorded = []

    def batches():
        while True:
            recorded.append(float(model.get_weights()[0][0, 0]))
            yield np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)

    dataset = in_step(batches())
    model.fit(dataset, steps_per_epoch=4, epochs=3, **FIT)
    model.fit(dataset, steps_per_epoch=8, epochs=1, **FIT)
    expected = [0.0]
    for _ in range(19):
        expected.append(expected[-1] * (1 - (decay or 0)) + 1)
    assert_allclose(recorded, expected)


def train_once():
    keras.utils.set_random_seed(3)
    model = build_classifier()
    model.compile("adam", "categorical_crossentropy")
    images, one_hot = stripes(64)
    batches = generate_mixed_adverserial_batch(model, 16, images, one_hot, DIMS, 0.3)
    model.fit(in_step(batches), steps_per_epoch=20, epochs=2, **FIT)
    return model.get_weights()


def test_same_seed_same_weights():
    for first, second in zip(train_once(), train_once(), strict=True):
        assert_array_equal(first, second)


@pytest.mark.slow
def test_fit_distributed_over_two_devices():
    images, labels = stripes(300)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = build_classifier()
        optimizer = keras.optimizers.Adam(0.01)
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
        batches = generate_mixed_adverserial_batch(model, 32, images, labels, DIMS, 0.1)
        model.fit(in_step(batches), steps_per_epoch=30, epochs=2, **FIT)
    adversaries = fgsm(model, images, labels, 0.1)
    assert model.evaluate(adversaries, labels, verbose=0)[1] > 0.9


@pytest.mark.parametrize("make", [list, iter])
def test_every_batch_once_with_its_dtype_in_a_loop_that_ends(make):
    batches = [(np.full((n, 2), n, np.uint8), np.arange(n)) for n in (3, 1, 2)]
    dataset = in_step(make(batches))
    assert [spec.dtype for spec in dataset.element_spec] == [tf.uint8, tf.int64]
    for (images, labels), expected in zip(dataset, batches, strict=True):
        assert_array_equal(images, expected[0])
        assert_array_equal(labels, expected[1])
    assert len(list(dataset)) == (0 if make is iter else 3)
    sums = in_step(make(batches)).map(lambda *pair: tf.reduce_sum(pair[1]))
    assert [int(total) for total in sums] == [3, 0, 1]


class Loader:
    """Batches of somebody's loader, which does not know its length."""

    def __iter__(self):
        return iter([BATCH] * 5)

    def __len__(self):
        raise RuntimeError


UNKNOWN = tf.data.Dataset.from_tensors(BATCH).repeat(5).filter(lambda *batch: True)
SILENT = pytest.mark.filterwarnings("error")  # Keras need not say that the input ended


@pytest.mark.parametrize(
    ("batches", "steps_per_epoch"),
    [
        pytest.param([BATCH] * 5, None, marks=SILENT),
        ([BATCH] * 5, 5),
        (Loader(), None),
        (UNKNOWN, None),
    ],
)
def test_what_is_no_iterator_starts_over_in_each_epoch(model, batches, steps_per_epoch):
    dataset = in_step(batches)
    history = model.fit(dataset, steps_per_epoch=steps_per_epoch, epochs=3, **FIT)
    assert min(history.history["loss"]) > 0
    assert model.optimizer.iterations == 15


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_an_iterator_that_ends_gives_no_epoch_without_a_batch(model):
    assert model.evaluate(in_step(iter([BATCH] * 5)), verbose=0) > 0
    model.fit(in_step(iter([BATCH] * 5)), **FIT)
    assert model.optimizer.iterations == 5
    with pytest.raises(ValueError, match="the batches have ended"):
        model.fit(in_step(iter([BATCH] * 5)), epochs=3, **FIT)
    assert model.optimizer.iterations == 10


@pytest.mark.parametrize("use", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize(
    "endless",
    [itertools.cycle([BATCH]), tf.data.Dataset.from_tensors(BATCH).repeat()],
)
def test_endless_batches_need_a_count_of_steps(model, endless, use):
    with pytest.raises(ValueError, match="specify a `steps_per_epoch`"):
        getattr(model, use)(in_step(endless), verbose=0)
    model.fit(in_step(endless), steps_per_epoch=4, epochs=2, **FIT)
    assert model.optimizer.iterations == 8


def test_images_do_not_stay_in_memory_after_fit(model):
    images = ONES.copy()
    reference = weakref.ref(images)
    batches = in_step(itertools.repeat((images, TARGETS)))
    model.fit(batches, steps_per_epoch=2, **FIT)
    del images, batches
    gc.collect()
    assert reference() is None


def test_weighted_batches_train_as_they_do_from_a_bare_generator(model):
    batch = ONES, TARGETS, np.arange(4.0)
    before = model.get_weights()
    model.fit((batch for _ in range(3)), steps_per_epoch=3, verbose=0)
    expected = model.get_weights()
    model.set_weights(before)
    model.fit(in_step([batch, list(batch), batch]), steps_per_epoch=3, verbose=0)
    for first, second in zip(expected, model.get_weights(), strict=True):
        assert_allclose(second, first, rtol=1e-6)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_generator_that_was_interrupted_says_so_in_the_next_fit(model, error):
    """It ends with what it raises, and Keras would train nothing."""

    def batches():
        yield from [BATCH] * 3
        raise error

    dataset = in_step(batches())
    with pytest.raises(error):
        model.fit(dataset, steps_per_epoch=9, **FIT)
    with pytest.raises(ValueError, match=r"ended.* an interrupt or an error"):
        model.fit(dataset, steps_per_epoch=9, **FIT)
    assert model.optimizer.iterations == 3
