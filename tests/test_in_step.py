import contextlib
import functools
import gc
import itertools
import signal
import threading
import warnings
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_classifier, network_of, stripes
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.core.gradients import DivergedError
from pyimagesearch.datagen import generate_mixed_adverserial_batch, in_step
from pyimagesearch.fgsm import generate_image_adversary as fgsm

DIMS = (6, 6, 1)
FIT = {"shuffle": False, "verbose": 0}


@pytest.fixture
def model(model):
    """The shared fixture's model, compiled."""
    model.compile("sgd", "mse")
    return model


def batch_of_ones(count=4):
    return np.ones((count, *DIMS), np.float32), np.ones((count, 3), np.float32)


# In step with the weights.


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


def train_once(meanwhile=contextlib.nullcontext):
    keras.utils.set_random_seed(3)
    model = build_classifier()
    model.compile("adam", "categorical_crossentropy")
    rng = np.random.default_rng(0)
    images = rng.random((64, *DIMS), dtype=np.float32)
    one_hot = np.eye(3, dtype=np.float32)[rng.integers(3, size=64)]
    batches = generate_mixed_adverserial_batch(model, 16, images, one_hot, DIMS, 0.3)
    with meanwhile((model, images, one_hot)):
        model.fit(in_step(batches), steps_per_epoch=20, epochs=2, **FIT)
    return model.get_weights()


@contextlib.contextmanager
def calls_from_a_thread(attacked):
    model, images, one_hot = attacked
    ended = threading.Event()

    def call():
        while not ended.is_set():
            fgsm(model, images, one_hot, 0.1)
            model(images)

    caller = threading.Thread(target=call)
    caller.start()
    yield
    ended.set()
    caller.join()


def test_same_weights_again_even_if_a_thread_attacks_the_model_meanwhile():
    expected = train_once()
    for again in (train_once(), train_once(calls_from_a_thread)):
        for first, second in zip(expected, again, strict=True):
            assert_array_equal(first, second)


@pytest.mark.parametrize("wrap", [in_step, iter])
def test_fit_of_somebody_elses_model(wrap):
    """Of colour images from 0 to 255 it returns logits."""
    model = build_classifier((8, 8, 3), 4, None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(30, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(4, size=30)
    attack = functools.partial(fgsm, loss=loss, clip=(0, 255))
    batches = generate_mixed_adverserial_batch(
        model, 10, images, labels, (8, 8, 3), eps=8, attack=attack
    )
    before = model.get_weights()
    history = model.fit(wrap(batches), steps_per_epoch=5, epochs=2, **FIT)
    assert np.isfinite(history.history["loss"]).all()
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("wrap", [in_step, iter])
def test_fit_distributed_over_two_devices(wrap):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    images, labels = stripes(300)
    images = images / 2 + np.random.default_rng(0).uniform(0, 0.5, images.shape)
    with strategy.scope():
        hidden = layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()
        model = network_of(*hidden, layers.Flatten(), layers.Dense(3, "softmax"))
        optimizer = keras.optimizers.Adam(0.01)
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    made_at = []

    def attack(*args):
        made_at.append(int(model.optimizer.iterations.numpy()))
        return fgsm(*args)

    def accuracy_under_attack():
        adversaries = fgsm(model, images, labels, 0.1)
        return model.evaluate(adversaries, labels, verbose=0)[1]

    batches = generate_mixed_adverserial_batch(
        model, 32, images, labels, DIMS, 0.1, attack=attack, rng=0
    )
    before = accuracy_under_attack()
    with strategy.scope():
        model.fit(wrap(batches), steps_per_epoch=30, epochs=2, verbose=0)
    assert accuracy_under_attack() > max(0.9, before + 0.3)
    for weight in model.trainable_weights:
        first, second = strategy.experimental_local_results(weight.value)
        assert_array_equal(first, second)
    # Batches are drawn ahead of the weights, by a few steps.
    assert len(made_at) < 60 + 20
    assert made_at[59] > 60 - 20


# What it yields, and where it ends.


def different_batches():
    return [(np.full((n, 2), n, np.uint8), np.arange(n)) for n in (3, 1, 2)]


@pytest.mark.parametrize("make", [list, iter, tuple])
def test_every_batch_once_with_its_dtype_in_a_loop_that_ends(make):
    dataset = in_step(make(different_batches()))
    assert [spec.dtype for spec in dataset.element_spec] == [tf.uint8, tf.int64]
    drawn = list(dataset)
    for (images, labels), expected in zip(drawn, different_batches(), strict=True):
        assert_array_equal(images, expected[0])
        assert_array_equal(labels, expected[1])
    assert len(list(dataset)) == (0 if make is iter else 3)


@pytest.mark.parametrize("make", [list, iter])
def test_it_can_be_transformed(make):
    sums = in_step(make(different_batches())).map(lambda *pair: tf.reduce_sum(pair[1]))
    assert [int(total) for total in sums] == [3, 0, 1]


@pytest.mark.parametrize("steps_per_epoch", [None, 5])
def test_a_list_starts_over_in_each_epoch(model, steps_per_epoch):
    """Keras does not say that the input ran out, either, if it need not know it."""
    done = []

    class CountSteps(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            assert logs["loss"] > 0
            done.append(int(model.optimizer.iterations))

    batches = in_step([batch_of_ones()] * 5)
    callbacks = [CountSteps()]
    with warnings.catch_warnings(record=True) as seen:
        model.fit(
            batches,
            steps_per_epoch=steps_per_epoch,
            epochs=3,
            callbacks=callbacks,
            **FIT,
        )
    assert done == [5, 10, 15]
    assert steps_per_epoch or not seen


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_an_iterator_that_ends_gives_no_epoch_without_a_batch(model):
    assert model.evaluate(in_step(iter([batch_of_ones()] * 5)), verbose=0) > 0
    model.fit(in_step(iter([batch_of_ones()] * 5)), **FIT)
    assert model.optimizer.iterations == 5
    with pytest.raises(ValueError, match="the batches have ended"):
        model.fit(in_step(iter([batch_of_ones()] * 5)), epochs=3, **FIT)
    assert model.optimizer.iterations == 10


def test_predict_and_validation(model, images, one_hot):
    pieces = [(images[:12], one_hot[:12]), (images[12:], one_hot[12:])]
    predicted = model.predict(in_step(pieces), verbose=0)
    assert_allclose(predicted, model(images), atol=1e-5)
    history = model.fit(images, one_hot, validation_data=in_step(pieces), verbose=0)
    expected = model.evaluate(images, one_hot, verbose=0)
    assert_allclose(history.history["val_loss"][-1], expected, rtol=1e-4)


@pytest.mark.parametrize("use", ["fit", "evaluate", "predict"])
def test_a_generator_needs_a_count_of_steps(model, images, one_hot, use):
    """It may never end, and then nor would the epoch."""
    batches = generate_mixed_adverserial_batch(model, 8, images, one_hot, DIMS)
    with pytest.raises(ValueError, match="specify a `steps_per_epoch`"):
        getattr(model, use)(in_step(batches), verbose=0)
    assert model.optimizer.iterations == 0


def test_images_do_not_stay_in_memory_after_fit(model):
    images, labels = batch_of_ones()
    reference = weakref.ref(images)
    batches = in_step(itertools.repeat((images, labels)))
    model.fit(batches, steps_per_epoch=2, **FIT)
    del images, batches
    gc.collect()
    assert reference() is None


class OnePyDataset(keras.utils.PyDataset):
    def __getitem__(self, index):
        return batch_of_ones()

    def __len__(self):
        return 1


ONES, TARGETS = batch_of_ones()


@pytest.mark.filterwarnings("ignore:.*super().__init__")
@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "must .*got an empty one"),
        (iter([]), ValueError, "must .*got an empty one"),
        (5, TypeError, "must be an iterator or a list, got 5"),
        (OnePyDataset(), TypeError, "must be an iterator or a list, got <.*PyDataset"),
        (iter([ONES]), TypeError, "must be tuples of arrays, got array"),
        ([{"images": ONES}], TypeError, "must be tuples of arrays, got {'images'"),
        ([({"image": ONES}, TARGETS)], TypeError, "must be tuples of arrays"),
        ([(ONES, (TARGETS, TARGETS))], TypeError, "must be tuples of arrays"),
        ([(ONES, [TARGETS, ONES])], TypeError, "must be tuples of arrays"),
        ([(ONES, None)], TypeError, "must be tuples of arrays"),
        ([(ONES, 1.0)], TypeError, "must be tuples of arrays, a row an image"),
        ([(ONES, TARGETS[1:])], TypeError, "must be tuples of arrays, a row an image"),
    ],
)
def test_what_is_no_batch_fails_at_the_call(batches, error, message):
    with pytest.raises(error, match=f"batches {message}") as raised:
        in_step(batches)
    assert len(str(raised.value)) <= 300 and "\n" not in str(raised.value)


def test_weighted_batches_train_as_they_do_from_a_bare_generator(model):
    batch = ONES, TARGETS, np.arange(4.0)
    before = model.get_weights()
    model.fit((batch for _ in range(3)), steps_per_epoch=3, verbose=0)
    expected = model.get_weights()
    model.set_weights(before)
    model.fit(in_step([batch, list(batch), batch]), steps_per_epoch=3, verbose=0)
    for first, second in zip(expected, model.get_weights(), strict=True):
        assert_allclose(second, first, rtol=1e-6)


# Interrupts and errors.


def fail():
    raise OSError("while a batch was drawn")


@pytest.mark.parametrize(
    ("stop", "error"),
    [(fail, OSError), (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt)],
)
def test_a_generator_that_was_interrupted_says_so_in_the_next_fit(
    model, images, one_hot, request, stop, error
):
    """It ends with what its attack raises, and Keras would train nothing."""
    # Where tests run in the background, Ctrl-C would be ignored.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))
    batch_number = itertools.count()

    def attack(*arguments):
        if next(batch_number) == 3:
            stop()
        return pgd(*arguments, steps=2)

    batches = generate_mixed_adverserial_batch(
        model, 8, images, one_hot, DIMS, attack=attack
    )
    dataset = in_step(batches)
    with pytest.raises(error):
        model.fit(dataset, steps_per_epoch=9, **FIT)
    assert model.optimizer.iterations == 3
    for _ in range(2):
        with pytest.raises(ValueError, match=r"ended.* an interrupt or an error"):
            model.fit(dataset, steps_per_epoch=9, **FIT)
    assert model.optimizer.iterations == 3


def test_an_interrupt_between_batches_loses_nothing(model):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    dataset = in_step(iter([batch_of_ones()] * 6))
    with pytest.raises(KeyboardInterrupt):
        model.fit(dataset, steps_per_epoch=3, callbacks=[Stop()], **FIT)
    model.fit(dataset, steps_per_epoch=4, **FIT)
    assert model.optimizer.iterations == 6


@pytest.mark.parametrize("split", [0.0, 0.5])
def test_training_that_diverges_inside_fit(images, one_hot, split):
    model = build_classifier(activation=None)
    model.compile(keras.optimizers.SGD(1e30), "mse")
    batches = generate_mixed_adverserial_batch(
        model, 8, images, one_hot, DIMS, 0.1, split
    )
    with pytest.raises(DivergedError, match=rf"{model.name}.*training has diverged"):
        model.fit(in_step(batches), steps_per_epoch=9, **FIT)
