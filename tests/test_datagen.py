import functools
import gc
import inspect
import itertools
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_classifier, network_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import layers
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
COLOURED = build_classifier((4, 5, 3))
ARGUMENTS = ["model", "total", "images", "labels", "dims"]


def add_ten(model, images, labels, eps):
    """Stand in for an attack: adversaries are recognised by their values."""
    return images + 10


def mixed(model, total, images, labels, dims=DIMS, *settings, attack=add_ten, rng=0):
    """Generate mixed batches; if nothing is said of it, with that attack."""
    arguments = model, total, images, labels, dims, *settings
    return generate_mixed_adversarial_batch(*arguments, attack=attack, rng=rng)


def numbered(count, dims=DIMS):
    """Make images whose every pixel holds the image's row number, as a fraction."""
    rows = np.arange(count) / count
    return np.broadcast_to(rows.reshape(-1, 1, 1, 1), (count, *dims)).copy()


@pytest.mark.parametrize(
    ("function", "names", "defaults"),
    [
        (fgsm, ["model", "image", "label"], {"eps": 2 / 255.0}),
        (generate_adversarial_batch, ARGUMENTS, {"eps": 0.01}),
        (generate_mixed_adverserial_batch, ARGUMENTS, {"eps": 0.01, "split": 0.5}),
    ],
)
def test_signatures_of_the_tutorials(function, names, defaults):
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == [*names, *defaults]
    assert [p.default for p in positional[len(names) :]] == list(defaults.values())


LABEL_FORMATS = [
    lambda ids: np.eye(3, dtype=np.float32)[ids],
    lambda ids: ids,
    lambda ids: ids.astype(np.uint8)[:, np.newaxis],
]


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 20),
    spare=st.integers(0, 5),
    split=st.floats(0, 1),
    label_format=st.sampled_from(LABEL_FORMATS),
)
@example(total=10, spare=0, split=1.0, label_format=LABEL_FORMATS[0])  # no adversary
def test_batches(total, spare, split, label_format):
    normal = int(total * split)
    count = max(normal, total - normal) + spare  # both halves may hold all images
    dims = (4, 5, 3)
    images = numbered(count, dims)
    labels = label_format(np.arange(count) % 3)
    images_copy = images.copy()
    batches = mixed(COLOURED, total, images, labels, dims, 0.1, split)
    for batch_images, batch_labels in itertools.islice(batches, 3):
        assert batch_images.shape == (total, *dims)
        assert batch_images.dtype == np.float32
        assert batch_labels.dtype == labels.dtype

        pixels = batch_images[:, 0, 0, 0]
        is_adversary = pixels >= 10
        assert np.sum(~is_adversary) == normal
        rows = np.round((pixels - 10 * is_adversary) * count).astype(int)
        for half in (rows[is_adversary], rows[~is_adversary]):
            assert len(set(half)) == len(half)  # without replacement
        assert_array_equal(batch_labels, labels[rows])
    assert_array_equal(images, images_copy)


def test_every_image_is_drawn_and_mixed_evenly(model):
    batches = mixed(model, 10, numbered(20), np.zeros(20, int))
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


def test_adversaries_of_all_images_come_in_random_order(model):
    images = numbered(20)
    batches = generate_adversarial_batch(
        model, 20, images, np.zeros(20), DIMS, attack=add_ten, rng=0
    )
    order = next(batches)[0][:, 0, 0, 0]
    assert_allclose(np.sort(order), images[:, 0, 0, 0] + 10, rtol=1e-6)
    assert (np.diff(order) < 0).any()


@pytest.mark.parametrize("label", [2, np.float32([0, 0, 1])])
def test_adversaries_follow_the_weights(label, model, images):
    """The label of a single image may lack its axis."""
    batches = generate_adversarial_batch(model, 1, images[:1], label, DIMS, 0.1)
    for _ in range(2):
        adversary, labels = next(batches)
        assert_array_equal(adversary, fgsm(model, images[:1], [2], 0.1))
        assert_array_equal(labels, np.asarray(label)[np.newaxis])
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


def random_batches(model, images, labels, eps, rng=None):
    batches = generate_adversarial_batch(model, 8, images, labels, DIMS, eps, rng=rng)
    return np.concatenate([next(batches)[0] for _ in range(3)])


@pytest.mark.parametrize(
    "function",
    [
        random_batches,
        functools.partial(pgd, steps=1),
        functools.partial(square_attack, queries=5),
    ],
)
def test_rng(function, model, images, labels):
    draw = functools.partial(function, model, images, labels, 0.1)
    generator = np.random.default_rng(3)
    drawn = draw(rng=3)
    assert_array_equal(draw(rng=3), drawn)
    assert_array_equal(draw(rng=generator), drawn)
    assert (draw(rng=generator) != drawn).any()
    keras.utils.set_random_seed(7)
    drawn = draw()
    assert (draw() != drawn).any()
    keras.utils.set_random_seed(7)
    assert_array_equal(draw(), drawn)


class OnDisk:
    """An array-like without a length, as zarr's are, that counts what is read of it."""

    def __init__(self, array):
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.rows = 0

    def __getitem__(self, rows):
        self.rows += len(rows)
        return self.array[rows]

    def __array__(self, *args, **kwargs):
        raise AssertionError("all of it was read")


def test_only_the_first_and_the_sampled_rows_are_read(tmp_path, model, labels):
    """Of a memory map with values of another byte order."""
    numbered(20).astype(">f8").tofile(tmp_path / "images")
    images = OnDisk(np.memmap(tmp_path / "images", ">f8", mode="r", shape=(20, 36)))
    batches = mixed(model, 6, images, labels)
    assert images.rows <= 1
    drawn, _ = next(batches)
    assert images.rows <= 7 and drawn.shape == (6, *DIMS)
    assert drawn.dtype == np.float32
    rows = drawn[:, 0, 0, 0] % 10 * 20
    assert_allclose(rows, np.round(rows), atol=1e-4)
    assert len(set(np.round(rows))) > 2


@pytest.mark.parametrize("dims", [(64,), (100, 1), [4, 5, 6, 1]])
def test_dims_of_any_length(dims):
    """Flat networks, series and volumes."""
    model = network_of(layers.Flatten(), layers.Dense(3), image_shape=dims)
    images = np.random.default_rng(0).random((20, *dims), dtype=np.float32)
    without_channel = images[..., 0] if dims[-1] == 1 else images
    flat = images.reshape(20, -1)
    for given_images in (images, flat, without_channel, flat.tolist()):
        arguments = given_images, np.zeros(20, int), dims, 0.0
        batch, _ = next(generate_adversarial_batch(model, 20, *arguments))
        assert batch.shape == (20, *dims)
        assert_array_equal(np.sort(batch.ravel()), np.sort(images.ravel()))


@pytest.mark.parametrize(
    ("attack", "pixel", "message"),
    [
        (lambda model, images, *_: images[:-1], 0, "attack.*shape"),
        (lambda model, images, *_: images * np.nan, 0, "attack.*NaN"),
        (add_ten, np.nan, "images .*NaN"),
    ],
)
def test_wrong_results_of_an_attack_and_nan_in_sampled_images(
    model, images, labels, attack, pixel, message
):
    images[1:, 0, 0, 0] = pixel
    batches = mixed(model, 8, images, labels, attack=attack)
    with pytest.raises(ValueError, match=message):
        next(batches)


def test_endless_run_does_not_grow(model, images, labels):
    batches = mixed(model, 8, images, labels, attack=fgsm)

    def memory_after_100_batches():
        for _ in range(100):
            next(batches)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = memory_after_100_batches()
    assert memory_after_100_batches() - before < 50_000
    tracemalloc.stop()
