import functools
import gc
import inspect
import itertools
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    as_shown,
    build_classifier,
    counted_mse,
    network_of,
    no_warning,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.attacks import square_attack
from pyimagesearch.datagen import (
    generate_adversarial_batch,
    generate_mixed_adversarial_batch,
    generate_mixed_adverserial_batch,
)
from pyimagesearch.fgsm import generate_image_adversary as fgsm

DIMS = (6, 6, 1)


def add_ten(model, images, labels, eps):
    """Stand in for an attack: adversaries are recognised by their values."""
    return images + 10


def mixed(model, total, images, labels, dims=DIMS, *settings, attack=add_ten, rng=0):
    """Generate mixed batches; if nothing is said of it, with that attack."""
    arguments = model, total, images, labels, dims, *settings
    return generate_mixed_adverserial_batch(*arguments, attack=attack, rng=rng)


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
    images_copy = given_images.copy()
    labels_copy = labels.copy()
    model = classifier(dims)
    batches = mixed(model, total, given_images, labels, dims, 0.1, split, rng=seed)
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
        assert_array_equal(batch_labels, labels[rows])
    assert_array_equal(given_images, images_copy)
    assert_array_equal(labels, labels_copy)


def test_every_image_is_drawn_and_mixed_evenly():
    batches = mixed(classifier(), 10, numbered(20), np.zeros(20, int))
    adversarial = np.zeros(10)
    drawn = {0: np.zeros(20), 1: np.zeros(20)}
    for batch_images, _ in itertools.islice(batches, 400):
        pixels = batch_images[:, 0, 0, 0]
        adversarial += pixels >= 10
        for pixel in pixels:
            drawn[int(pixel >= 10)][round(float(pixel) % 10 * 20)] += 1
    # Each expectation is a binomial's; five standard deviations allowed.
    assert_allclose(adversarial, 200, atol=50)
    for counts in drawn.values():
        assert_allclose(counts, 100, atol=45)


def test_halves_are_drawn_independently():
    batch_images, _ = next(mixed(classifier(), 20, numbered(10), np.zeros(10)))
    rows = np.sort(np.round(batch_images[:, 0, 0, 0] % 10 * 10))
    assert_array_equal(rows, np.repeat(np.arange(10), 2))


def test_adversaries_are_the_attacks_own_and_follow_the_weights(model, images, one_hot):
    batches = generate_adversarial_batch(model, 20, images, one_hot, DIMS, 0.2, rng=0)
    for _ in range(2):
        batch_images, batch_labels = next(batches)
        expected = fgsm(model, images, one_hot, 0.2)
        distances = np.abs(batch_images[:, np.newaxis] - expected).sum(axis=(2, 3, 4))
        order = distances.argmin(axis=1)
        assert sorted(order) == list(range(20))
        assert_array_equal(batch_images, expected[order])
        assert_array_equal(batch_labels, one_hot[order])
        model.set_weights([-2 * weight for weight in model.get_weights()])


def test_attack_gets_the_protocols_arguments(model, images, labels):
    calls = []

    def attack(*arguments):
        calls.append(arguments)
        return tf.constant(arguments[1])  # a tensor will do

    next(mixed(model, 8, images, labels, DIMS, 0.3, 0.25, attack=attack))
    ((given_model, given_images, given_labels, eps),) = calls
    assert given_model is model
    assert (given_images.shape, given_labels.shape, eps) == ((6, *DIMS), (6,), 0.3)


def test_an_attack_without_gradients_fits(model, images, labels):
    attack = functools.partial(square_attack, queries=3, rng=0)
    batches = generate_adversarial_batch(
        model, 8, images, labels, DIMS, 0.5, attack=attack
    )
    assert next(batches)[0].shape == (8, *DIMS)


def test_rng(model, images, labels):
    def draw(rng=None, numpy_seed=None):
        if numpy_seed is not None:
            keras.utils.set_random_seed(numpy_seed)
        batches = mixed(model, 8, images, labels, rng=rng)
        return np.concatenate([next(batches)[0] for _ in range(3)])

    assert_array_equal(draw(7), draw(np.random.default_rng(7)))
    assert_array_equal(draw((7, 1, 2)), draw((7, 1, 2)))
    assert_array_equal(draw(numpy_seed=5), draw(numpy_seed=5))
    assert (draw(7) != draw(8)).any()
    assert (draw(numpy_seed=5) != draw(numpy_seed=6)).any()
    assert (draw() != draw()).any()


# What images may be.


class OnDisk:
    """An array-like without a length, as zarr's are, that counts what is read of it."""

    def __init__(self, array):
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.rows = 0

    def __getitem__(self, rows):
        assert list(rows) == sorted(set(rows))  # all that HDF5 files allow
        self.rows += len(rows)
        return self.array[rows]

    def __array__(self, *args, **kwargs):
        raise AssertionError("all of it was read")


def test_only_the_first_and_the_sampled_rows_are_read(model, labels):
    images = OnDisk(numbered(20))
    batches = mixed(model, 6, images, labels)
    assert images.rows <= 1
    drawn, _ = next(batches)
    assert images.rows <= 7 and drawn.shape == (6, *DIMS)


def test_memory_map_with_values_of_another_byte_order(tmp_path, model, labels):
    images = np.memmap(tmp_path / "images", ">f8", mode="w+", shape=(20, 36))
    images[:] = numbered(20).reshape(20, 36)
    images = np.memmap(tmp_path / "images", ">f8", mode="r", shape=(20, 36))
    batch, _ = next(mixed(model, 20, images, labels, DIMS, 0.1, 0.0))
    assert batch.dtype == np.float32
    assert_allclose(np.sort(batch[:, 0, 0, 0]), 10 + np.arange(20) / 20)


@pytest.mark.parametrize("convert", [np.ndarray.tolist, tf.constant])
def test_lists_and_tensors(convert, model, images, labels):
    ours = next(mixed(model, 6, convert(images), convert(labels)))
    expected = next(mixed(model, 6, images, labels))
    assert_array_equal(ours[0], expected[0])
    assert_array_equal(ours[1], expected[1])


class Endless:
    """Batches without end, as Keras's `flow` and PyTorch's loaders have them."""

    def __getitem__(self, index):
        raise AssertionError("it was read")

    def __len__(self):
        return 10**9


@pytest.mark.parametrize("argument", ["images", "labels"])
@pytest.mark.parametrize("make", [Endless, lambda: itertools.repeat(0.5)])
def test_what_has_no_shape_is_refused_unread(argument, make, model, images, labels):
    arguments = {"images": images, "labels": labels, argument: make()}
    with pytest.raises(TypeError, match=f"{argument} must be an array"):
        generate_mixed_adverserial_batch(model, 6, dims=DIMS, **arguments)


@pytest.mark.parametrize("dims", [(64,), (100, 1), [4, 5, 6, 1]])
def test_dims_of_any_length(dims):
    """Flat networks, series and volumes."""
    model = network_of(layers.Flatten(), layers.Dense(3), image_shape=dims)
    images = np.random.default_rng(0).random((20, *dims), dtype=np.float32)
    without_channel = images[..., 0] if dims[-1] == 1 else images
    for given_images in (images, images.reshape(20, -1), without_channel):
        arguments = given_images, np.zeros(20, int), dims, 0.0
        batch, _ = next(generate_adversarial_batch(model, 20, *arguments))
        assert batch.shape == (20, *dims)
        assert_array_equal(np.sort(batch.ravel()), np.sort(images.ravel()))


@pytest.mark.parametrize("label", [2, np.float32([0, 0, 1])])
def test_label_of_a_single_image_may_lack_its_axis(label, model, images):
    batches = generate_adversarial_batch(model, 1, images[:1], label, DIMS, 0.1)
    adversary, labels = next(batches)
    assert_array_equal(labels, np.asarray(label)[np.newaxis])
    expected = fgsm(model, images[:1], [2], 0.1)
    assert_array_equal(adversary, expected)


# Troubles.


@pytest.mark.parametrize(
    "attack", [fgsm, functools.partial(pgd, loss="mse", steps=1, restarts=2)]
)
def test_a_trouble_is_told_once_at_the_line_that_draws(attack, images, labels):
    model = network_of(layers.Lambda(ops.stop_gradient), build_classifier())
    batches = mixed(model, 8, images, labels, attack=attack)
    with as_shown() as seen:
        for _ in range(5):
            next(batches)
    (warning,) = seen
    assert "is zero for 1%" in str(warning.message)
    assert warning.filename == __file__


def test_warnings_can_be_errors_and_end_nothing_else(images, labels):
    model = network_of(layers.Lambda(ops.stop_gradient), build_classifier())
    for _ in range(2):
        batches = generate_adversarial_batch(model, 8, images, labels, DIMS)
        with no_warning(), pytest.raises(UserWarning, match="is zero"):
            next(batches)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda m, images, *_: images[:-1], "attack.*shape"),
        (lambda m, images, *_: images * np.nan, "attack.*NaN"),
    ],
)
def test_wrong_results_of_an_attack(model, images, labels, attack, message):
    batches = mixed(model, 8, images, labels, attack=attack)
    with pytest.raises(ValueError, match=message):
        next(batches)


def test_nan_in_sampled_images(model, images, labels):
    images[1:, 0, 0, 0] = np.nan
    batches = mixed(model, 8, images, labels)
    with pytest.raises(ValueError, match=r"images .*NaN"):
        next(batches)


def test_endless_run_does_not_grow_or_retrace(model, images, labels):
    loss, traced = counted_mse()
    batches = mixed(model, 8, images, labels, attack=functools.partial(fgsm, loss=loss))

    def memory_after_100_batches():
        for _ in range(100):
            next(batches)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = memory_after_100_batches()
    assert memory_after_100_batches() - before < 50_000
    tracemalloc.stop()
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": build_classifier((5, 5, 1))}, ValueError, r"\(6, 6, 1\)"),
        ({"total": 41}, ValueError, "total .*20 images.*41"),
        ({"total": 21, "split": 1.0}, ValueError, "total .*21"),
        ({"images": np.zeros((20, 35))}, ValueError, r"images .*\(20, 35\)"),
        ({"images": np.zeros((20, 6, 1, 6))}, ValueError, r"images .*\(20, 6, 1, 6\)"),
        ({"images": np.zeros((0, *DIMS)), "labels": []}, ValueError, "total|images"),
        ({"labels": np.zeros(19)}, ValueError, r"labels .*\(19,\)"),
        ({"dims": (7, 7, 1)}, ValueError, r"dims .*\(7, 7, 1\)"),
        ({"dims": (9, 4, 1)}, ValueError, r"dims .*\(9, 4, 1\)"),
        ({"dims": (4, 9, 1), "images": np.zeros((20, 36))}, ValueError, "dims"),
        ({"dims": (6, -6, -1)}, ValueError, "dims .*-6"),
        ({"split": 1.1}, ValueError, "split .*1.1"),
    ],
)
def test_wrong_arguments_fail_at_the_call(
    model, images, labels, changed, error, message
):
    arguments = {"total": 8, "images": images, "labels": labels, "dims": DIMS}
    with pytest.raises(error, match=message) as raised:
        generate_mixed_adverserial_batch(**({"model": model} | arguments | changed))
    assert len(str(raised.value)) <= 300
