import contextlib
import functools
import gc
import inspect
import itertools
import threading
import tracemalloc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

from pyimagesearch.datagen import (
    generate_adversarial_batch,
    generate_mixed_adversarial_batch,
    generate_mixed_adverserial_batch,
    in_step,
)
from pyimagesearch.fgsm import generate_image_adversary

DIMS = (6, 6, 1)


def add_ten(model, images, labels, eps):
    """Stand in for an attack: adversaries are recognised by their values."""
    return images + 10


@functools.cache
def classifier(dims=DIMS, classes=3):
    return build_classifier(dims, classes)


def numbered(count, dims=DIMS):
    """Make images whose every pixel holds the image's row number, as a fraction."""
    rows = np.arange(count) / count
    return np.broadcast_to(rows.reshape(-1, 1, 1, 1), (count, *dims)).copy()


@pytest.mark.parametrize(
    ("generate", "names", "defaults"),
    [
        (generate_adversarial_batch, ["eps"], [0.01]),
        (generate_mixed_adverserial_batch, ["eps", "split"], [0.01, 0.5]),
    ],
)
def test_signatures_of_the_tutorials(generate, names, defaults):
    parameters = list(inspect.signature(generate).parameters.values())
    positional = ["model", "total", "images", "labels", "dims", *names]
    assert [p.name for p in parameters[: len(positional)]] == positional
    assert [p.default for p in parameters[5 : len(positional)]] == defaults
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[len(positional) :])


def test_correct_spelling_is_an_alias():
    assert generate_mixed_adversarial_batch is generate_mixed_adverserial_batch


LABEL_FORMATS = {
    "one-hot": lambda ids: np.eye(3)[ids],
    "one-hot float32": lambda ids: np.eye(3, dtype=np.float32)[ids],
    "class ids": lambda ids: ids,
    "uint8 column": lambda ids: ids.astype(np.uint8)[:, np.newaxis],
}


@settings(deadline=None, max_examples=60)
@given(
    dims=st.sampled_from([(6, 6, 1), (4, 5, 3)]),
    total=st.integers(1, 20),
    spare=st.integers(0, 5),
    split=st.floats(0, 1),
    label_format=st.sampled_from(sorted(LABEL_FORMATS)),
    flat=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
    seed=st.integers(0, 9),
)
def test_batches(dims, total, spare, split, label_format, flat, dtype, seed):
    count = total + spare
    images = numbered(count, dims).astype(dtype)
    labels = LABEL_FORMATS[label_format](np.arange(count) % 3)
    given_images = images.reshape(count, -1) if flat else images
    copies = given_images.copy(), labels.copy()
    batches = generate_mixed_adverserial_batch(
        classifier(dims), total, given_images, labels, dims, 0.1, split,
        attack=add_ten, rng=seed,
    )  # fmt: skip
    for batch in itertools.islice(batches, 3):
        assert isinstance(batch, tuple)
        batch_images, batch_labels = batch
        assert batch_images.shape == (total, *dims)
        assert batch_images.dtype == np.float32
        assert batch_labels.dtype == labels.dtype

        pixels = batch_images.reshape(total, -1)[:, 0]
        is_adversary = pixels >= 10
        assert np.sum(~is_adversary) == int(total * split)
        rows = np.round((pixels - 10 * is_adversary) * count).astype(int)
        for half in (rows[is_adversary], rows[~is_adversary]):
            assert len(set(half)) == len(half)  # without replacement
        np.testing.assert_array_equal(batch_labels, labels[rows])
    np.testing.assert_array_equal(given_images, copies[0])
    np.testing.assert_array_equal(labels, copies[1])


def test_every_image_is_drawn_and_mixed_evenly():
    images, labels = numbered(20), np.zeros(20, int)
    batches = generate_mixed_adverserial_batch(
        classifier(), 10, images, labels, DIMS, attack=add_ten, rng=0
    )
    adversarial = np.zeros(10)
    drawn = {0: np.zeros(20), 1: np.zeros(20)}
    for batch_images, _ in itertools.islice(batches, 400):
        pixels = batch_images[:, 0, 0, 0]
        adversarial += pixels >= 10
        for pixel in pixels:
            drawn[int(pixel >= 10)][round(float(pixel) % 10 * 20)] += 1
    # Each expectation is a binomial's; five standard deviations allowed.
    np.testing.assert_allclose(adversarial, 200, atol=50)
    for counts in drawn.values():
        np.testing.assert_allclose(counts, 100, atol=45)


@pytest.mark.parametrize(("split", "attacked"), [(0.0, 20), (1.0, 0)])
def test_batches_of_one_kind(split, attacked):
    batches = generate_mixed_adverserial_batch(
        classifier(), 20, numbered(20), np.zeros(20), DIMS, 0.1, split, attack=add_ten
    )
    assert (next(batches)[0][:, 0, 0, 0] >= 10).sum() == attacked


def test_halves_are_drawn_independently():
    batches = generate_mixed_adverserial_batch(
        classifier(), 20, numbered(10), np.zeros(10), DIMS, attack=add_ten
    )
    batch_images, _ = next(batches)
    rows = np.sort(np.round(batch_images[:, 0, 0, 0] % 10 * 10))
    np.testing.assert_array_equal(rows, np.repeat(np.arange(10), 2))


def test_adversaries_are_the_attacks_own(model, images, one_hot):
    batch_images, batch_labels = next(
        generate_adversarial_batch(model, 20, images, one_hot, DIMS, 0.2, rng=0)
    )
    expected = generate_image_adversary(model, images, one_hot, 0.2)
    order = [np.argmin(np.abs(expected - i).sum(axis=(1, 2, 3))) for i in batch_images]
    assert sorted(order) == list(range(20))
    np.testing.assert_array_equal(batch_images, expected[order])
    np.testing.assert_array_equal(batch_labels, one_hot[order])


def test_attack_gets_the_protocols_arguments(model, images, labels):
    calls = []

    def attack(*arguments):
        calls.append(arguments)
        return tf.constant(arguments[1])  # a tensor will do

    next(
        generate_mixed_adverserial_batch(
            model, 8, images, labels, DIMS, 0.3, 0.25, attack=attack
        )
    )
    ((given_model, given_images, given_labels, eps),) = calls
    assert given_model is model
    assert (given_images.shape, given_labels.shape, eps) == ((6, *DIMS), (6,), 0.3)


def test_batches_follow_the_weights(model, images, one_hot):
    batches = generate_adversarial_batch(model, 20, images, one_hot, DIMS, 0.2)
    before = np.sort(next(batches)[0], axis=0)
    model.set_weights([-2 * weight for weight in model.get_weights()])
    after = np.sort(next(batches)[0], axis=0)
    expected = generate_image_adversary(model, images, one_hot, 0.2)
    np.testing.assert_array_equal(after, np.sort(expected, axis=0))
    assert (before != after).any()


def test_rng(model, images, labels):
    def draw(rng=None, numpy_seed=None):
        if numpy_seed is not None:
            keras.utils.set_random_seed(numpy_seed)
        batches = generate_mixed_adverserial_batch(
            model, 8, images, labels, DIMS, attack=add_ten, rng=rng
        )
        return np.concatenate([next(batches)[0] for _ in range(3)])

    np.testing.assert_array_equal(draw(7), draw(np.random.default_rng(7)))
    np.testing.assert_array_equal(draw((7, 1, 2)), draw((7, 1, 2)))
    np.testing.assert_array_equal(draw(numpy_seed=5), draw(numpy_seed=5))
    assert (draw(7) != draw(8)).any()
    assert (draw(numpy_seed=5) != draw(numpy_seed=6)).any()
    assert (draw() != draw()).any()


class OnDisk:
    """An array-like that counts the rows that are read from it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.rows = 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        assert list(rows) == sorted(set(rows))  # all that HDF5 files allow
        self.rows += len(rows)
        return self.array[rows]

    def __array__(self, *args, **kwargs):
        raise AssertionError("all of it was read")


def test_only_sampled_rows_are_read(model, labels):
    images = OnDisk(numbered(20))
    batches = generate_mixed_adverserial_batch(
        model, 6, images, labels, DIMS, attack=add_ten
    )
    assert images.rows == 0
    next(batches)
    assert images.rows == 6


def test_memory_map_with_values_of_another_byte_order(tmp_path, model, labels):
    images = np.memmap(tmp_path / "images", ">f8", mode="w+", shape=(20, 36))
    images[:] = numbered(20).reshape(20, 36)
    images = np.memmap(tmp_path / "images", ">f8", mode="r", shape=(20, 36))
    batch = next(generate_mixed_adverserial_batch(model, 6, images, labels, DIMS))
    assert batch[0].dtype == np.float32
    assert batch[0].shape == (6, *DIMS)


@pytest.mark.parametrize("convert", [np.ndarray.tolist, tf.constant])
def test_lists_and_tensors(convert, model, images, labels):
    def draw(images, labels):
        return next(
            generate_mixed_adverserial_batch(model, 6, images, labels, DIMS, rng=0)
        )

    ours, expected = draw(convert(images), convert(labels)), draw(images, labels)
    np.testing.assert_array_equal(ours[0], expected[0])
    np.testing.assert_array_equal(ours[1], expected[1])


@pytest.mark.parametrize("label", [2, np.float32([0, 0, 1])])
def test_label_of_a_single_image_may_lack_its_axis(label, model, images):
    batches = generate_adversarial_batch(model, 1, images[:1], label, (6, 6, 1), 0.1)
    adversary, labels = next(batches)
    np.testing.assert_array_equal(labels, np.asarray(label)[np.newaxis])
    expected = generate_image_adversary(model, images[:1], [2], 0.1)
    np.testing.assert_array_equal(adversary, expected)


def test_endless_run_does_not_grow_or_retrace(model, images, labels):
    traced = []

    def loss(targets, outputs):
        traced.append(outputs.shape)
        return keras.losses.mean_squared_error(targets, outputs)

    attack = functools.partial(generate_image_adversary, loss=loss)
    batches = generate_mixed_adverserial_batch(
        model, 8, images, labels, DIMS, attack=attack
    )
    for _ in range(20):
        next(batches)
    gc.collect()
    tracemalloc.start()
    for _ in range(200):
        next(batches)
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 50_000
    assert len(traced) == 1


def test_two_generators_and_a_thread_share_a_model(model, images, one_hot):
    calls = threading.Event()

    def call_the_model():
        while not calls.is_set():
            generate_image_adversary(model, images, one_hot, 0.1)
            model(images)

    def train(with_company):
        keras.utils.set_random_seed(1)
        model.set_weights(weights)
        model.compile("adam", "categorical_crossentropy")
        one, other = (
            generate_mixed_adverserial_batch(model, 8, images, one_hot, DIMS, rng=seed)
            for seed in (1, 2)
        )
        for _ in range(3):
            assert not np.array_equal(next(one)[0], next(other)[0])
        with contextlib.ExitStack() as stack:
            if with_company:
                caller = threading.Thread(target=call_the_model)
                stack.callback(caller.join)
                stack.callback(calls.set)
                caller.start()
            model.fit(in_step(one), steps_per_epoch=30, shuffle=False, verbose=0)
        return model.get_weights()

    weights = model.get_weights()
    for alone, in_company in zip(train(False), train(True), strict=True):
        np.testing.assert_array_equal(alone, in_company)


def test_model_of_a_generator_can_be_freed(images, one_hot):
    model = build_classifier()
    batches = generate_mixed_adverserial_batch(model, 8, images, one_hot, DIMS)
    next(batches)
    reference = weakref.ref(model)
    del model, batches
    gc.collect()
    assert reference() is None


def colour_classifier():
    image = keras.Input((8, 8, 3))
    hidden = keras.layers.Rescaling(1 / 255)(image)
    hidden = keras.layers.Conv2D(4, 3, activation="relu")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(image, keras.layers.Dense(4)(hidden))


@pytest.mark.parametrize("wrap", [in_step, lambda batches: batches])
def test_fit_of_somebody_elses_model(wrap):
    model = colour_classifier()
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(30, 8, 8, 3), dtype=np.uint8)
    attack = functools.partial(
        generate_image_adversary,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip=(0, 255),
    )
    batches = generate_mixed_adverserial_batch(
        model, 10, images, rng.integers(4, size=30), (8, 8, 3), eps=8, attack=attack
    )
    before = model.get_weights()
    history = model.fit(
        wrap(batches), steps_per_epoch=5, epochs=2, shuffle=False, verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()
    assert any(
        (old != new).any() for old, new in zip(before, model.get_weights(), strict=True)
    )


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("wrap", [in_step, lambda batches: batches])
def test_fit_distributed_over_two_devices(wrap):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    columns = np.repeat(np.eye(3), 2, axis=1)[labels]  # each class lights two of six
    images = np.broadcast_to(columns[:, np.newaxis, :, np.newaxis], (300, *DIMS)) * 0.5
    images = images + rng.uniform(0, 0.5, images.shape)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input(DIMS),
                keras.layers.Conv2D(8, 3),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Flatten(),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.Adam(0.01),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    made_at = []

    def attack(*args):
        made_at.append(int(model.optimizer.iterations.numpy()))
        return generate_image_adversary(*args)

    def accuracy_under_attack():
        adversaries = generate_image_adversary(model, images, labels, 0.1)
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
        np.testing.assert_array_equal(first, second)
    # Batches are drawn ahead of the weights, by a few steps.
    assert len(made_at) < 60 + 20
    assert made_at[59] > 60 - 20


@pytest.mark.parametrize("steps_per_execution", [1, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "weight decay"])
def test_in_step_draws_each_batch_at_its_step(optimizer, steps_per_execution):
    """Every step adds one to the only weight, and a batch records it when drawn."""
    decay = 0.5 if optimizer == "weight decay" else None
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(
        keras.optimizers.SGD(1.0, weight_decay=decay),
        lambda targets, outputs: -outputs,
        steps_per_execution=steps_per_execution,
    )
    model.set_weights([np.zeros((1, 1))])
    recorded = []

    def batches():
        while True:
            recorded.append(float(model.get_weights()[0][0, 0]))
            yield np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)

    dataset = in_step(batches())
    model.fit(dataset, steps_per_epoch=4, epochs=3, shuffle=False, verbose=0)
    model.fit(dataset, steps_per_epoch=8, epochs=1, shuffle=False, verbose=0)
    expected = [0.0]
    for _ in range(19):
        expected.append(expected[-1] * (1 - (decay or 0)) + 1)
    np.testing.assert_allclose(recorded, expected)


def test_in_step_yields_every_batch_once_and_keeps_dtypes():
    batches = [(np.full((n, 2), n, np.uint8), np.arange(n)) for n in (3, 1, 2)]
    dataset = in_step(iter(batches))
    assert [spec.dtype for spec in dataset.element_spec] == [tf.uint8, tf.int64]
    drawn = list(itertools.islice(dataset, 3))
    for (images, labels), expected in zip(drawn, batches, strict=True):
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(labels, expected[1])


def test_in_step_can_be_transformed():
    batches = [(np.full((n, 2), n, np.uint8), np.arange(n)) for n in (3, 1, 2)]
    sums = in_step(iter(batches)).map(lambda images, labels: tf.reduce_sum(labels))
    assert [int(total) for total in sums] == [3, 0, 1]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_in_step_may_end(model):
    model.compile("sgd", "mse")

    def dataset():
        batch = np.ones((4, *DIMS), np.float32), np.ones((4, 3), np.float32)
        return in_step(iter([batch] * 5))

    fit = {"shuffle": False, "verbose": 0}
    assert np.isfinite(model.evaluate(dataset(), verbose=0))
    model.fit(dataset(), **fit)
    assert model.optimizer.iterations == 5
    model.fit(dataset(), steps_per_epoch=3, epochs=2, **fit)
    assert model.optimizer.iterations == 10


def test_in_step_wants_a_batch():
    with pytest.raises(ValueError, match="batches"):
        in_step(iter([]))


def train_once(epochs=2):
    keras.utils.set_random_seed(3)
    model = build_classifier()
    model.compile("adam", "categorical_crossentropy")
    rng = np.random.default_rng(0)
    images = rng.random((64, *DIMS), dtype=np.float32)
    one_hot = np.eye(3, dtype=np.float32)[rng.integers(3, size=64)]
    batches = generate_mixed_adverserial_batch(model, 16, images, one_hot, DIMS, 0.3)
    model.fit(
        in_step(batches), steps_per_epoch=20, epochs=epochs, shuffle=False, verbose=0
    )
    return model.get_weights()


def test_in_step_gives_the_same_weights_again():
    for first, second in zip(train_once(), train_once(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": None}, TypeError, "model"),
        ({"model": build_classifier((5, 5, 1))}, ValueError, r"\(6, 6, 1\)"),
        ({"total": 0}, ValueError, "total .*0"),
        ({"total": 8.0}, TypeError, "total .*8.0"),
        ({"total": 41}, ValueError, "total .*20 images.*41"),
        ({"total": 21, "split": 1.0}, ValueError, "total .*21"),
        ({"images": np.zeros((20, 35))}, ValueError, r"images .*\(20, 35\)"),
        ({"images": np.zeros(20)}, ValueError, "images"),
        ({"images": np.zeros((20, 6, 1, 6))}, ValueError, r"images .*\(20, 6, 1, 6\)"),
        ({"images": None}, TypeError, "images"),
        ({"images": np.full((20, *DIMS), "a")}, TypeError, "images"),
        ({"images": np.zeros((0, *DIMS)), "labels": []}, ValueError, "total|images"),
        ({"labels": np.zeros(19)}, ValueError, r"labels .*\(19,\)"),
        ({"labels": np.full(20, 3)}, ValueError, "labels .*0 to 2"),
        ({"dims": (6, 6)}, ValueError, r"dims .*\(6, 6\)"),
        ({"dims": 6}, ValueError, "dims .*6"),
        ({"dims": (6, -6, -1)}, ValueError, "dims .*-6"),
        ({"eps": -1}, ValueError, "eps .*-1"),
        ({"split": 1.1}, ValueError, "split .*1.1"),
        ({"split": "half"}, TypeError, "split .*half"),
        ({"attack": "fgsm"}, TypeError, "attack .*fgsm"),
        ({"rng": "seed"}, TypeError, "rng .*seed"),
        ({"rng": -1}, ValueError, "rng .*-1"),
    ],
)
def test_wrong_arguments_fail_at_the_call(
    model, images, labels, changed, error, message
):
    arguments = {
        "model": model, "total": 8, "images": images, "labels": labels, "dims": DIMS,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        generate_mixed_adverserial_batch(**(arguments | changed))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda m, images, *_: images[:-1], "attack.*shape"),
        (lambda m, images, *_: images * np.nan, "attack.*NaN"),
    ],
)
def test_wrong_results_of_an_attack(model, images, labels, attack, message):
    batches = generate_adversarial_batch(model, 8, images, labels, DIMS, attack=attack)
    with pytest.raises(ValueError, match=message):
        next(batches)


def test_nan_in_sampled_images(model, images, labels):
    images[:, 0, 0, 0] = np.nan
    batches = generate_mixed_adverserial_batch(model, 8, images, labels, DIMS)
    with pytest.raises(ValueError, match=r"images .*NaN"):
        next(batches)
