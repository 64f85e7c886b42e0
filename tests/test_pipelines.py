"""What other people's pipelines hand over: each gives the right value or a sentence."""

import io
import types

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import gradients, network_of
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.datagen import generate_adversarial_batch, in_step
from pyimagesearch.experiment.data import load_data
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.training import hold_out, robust_attack, robust_optimizer

DIMS = (6, 6, 1)


class Series:
    """A column as of pandas, which an index takes by labels; these run backwards."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.dtype = self.values.dtype
        self.shape = self.values.shape
        self.iloc = self

    def __getitem__(self, rows):
        return self.values[::-1][rows]

    def __array__(self, dtype=None, copy=None):
        return self.values.astype(dtype or self.dtype)


def in_hdf5(values):
    return h5py.File(io.BytesIO(), "w").create_dataset("values", data=values)


@pytest.mark.parametrize("kind", [list, tf.constant, in_hdf5, Series])
def test_rows_are_drawn_by_place(kind):
    numbers = np.arange(100)
    columns = numbers.reshape(100, 1) * 0.01
    for images, labels in hold_out((kind(numbers), kind(numbers)), seed=0):
        assert_array_equal(images, labels)
    model = keras.Sequential([keras.Input((1,)), layers.Dense(100)])
    batches = generate_adversarial_batch(
        model, 50, columns, kind(numbers), (1,), eps=0, rng=0
    )
    images, labels = next(batches)
    assert_allclose(images[:, 0], labels * 0.01, rtol=1e-6)


def test_a_model_of_tf_keras_is_named(images, labels):
    """It reads `in_step`'s batches from its own module."""
    old = types.ModuleType("tf_keras.trainer")
    exec("def fit(batches): return list(batches)", vars(old))
    with pytest.raises(TypeError, match="for Keras 3, got a model of tf_keras"):
        old.fit(in_step([(images, labels)]))
    old_model = type("Sequential", (), {"__module__": "tf_keras.models"})()
    with pytest.raises(TypeError, match=r"a Keras 3 model, got tf_keras\.models"):
        generate_image_adversary(old_model, images, labels)


def test_a_mask_in_the_recipe_and_in_a_generator(model, labels):
    grey = np.full((20, *DIMS), 0.5, np.float32)
    mask = np.zeros(DIMS, np.float32)
    mask[2:4] = 0.1
    recipe = robust_attack(1, rng=0)
    batches = generate_adversarial_batch(
        model, 20, grey, labels, DIMS, mask, attack=recipe, rng=0
    )
    next(batches)  # which the recipe leaves as it is
    moved = abs(next(batches)[0] - grey)
    assert moved[:, 2:4].max() >= 0.1 - 1e-6
    assert moved[:, :2].max() == moved[:, 4:].max() == 0


def test_tiny_doubles_raise_no_floating_point_error(model, images, labels):
    tiny = images.astype(float) * 1e-300
    targets = np.eye(3)[labels] * 1e-60
    with np.errstate(all="raise"):
        generate_image_adversary(model, tiny, targets, 0.1)
        next(generate_adversarial_batch(model, 4, tiny, labels, DIMS))
        evaluate_robustness(model, tiny, labels, 0.1, steps=1, queries=2, verbose=False)


def test_an_attack_in_a_datasets_map(model, images, labels):
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(5)

    def attack(images, labels):
        return generate_image_adversary(model, images, labels, 0.1)

    def by_numpy(images, labels):
        return tf.numpy_function(attack, (images, labels), tf.float32)

    with pytest.raises(TypeError, match=r"tf\.numpy_function"):
        dataset.map(attack)
    compiled_attack = tf.function(attack, autograph=False)  # as in a `train_step`
    with pytest.raises(TypeError, match=r"tensor inside .* in_step, or .*tf\.numpy"):
        compiled_attack(images, tf.constant(labels))
    adversaries = np.concatenate(list(dataset.map(by_numpy)))
    assert_allclose(adversaries, attack(images, labels), atol=1e-6)


def test_code_that_runs_without_a_name(images, labels):
    stopped = network_of(layers.Flatten(), layers.Dense(3, kernel_initializer="zeros"))
    code = "list(in_step([(images, labels)])); attack(stopped, images, labels)"
    names = {"in_step": in_step, "attack": generate_image_adversary}
    with pytest.warns(UserWarning, match=r"loss is zero .* Input\(dtype='uint8'\)"):
        exec(code, names | {"images": images, "labels": labels, "stopped": stopped})


class Block(layers.Layer):
    """A user's own layer, which holds others."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, activation="tanh")
        self.dropout = layers.Dropout(0.5)

    def call(self, inputs, training=None):
        return self.dropout(self.dense(inputs), training=training)


def test_layers_inside_recurrent_and_a_users_own_layers(one_hot):
    recurrent = layers.GRU(4, reset_after=False)
    block = Block()
    model = keras.Sequential([keras.Input((6, 2)), recurrent, block])
    series = np.random.default_rng(0).random((3, 6, 2), dtype=np.float32)
    one_hot = one_hot[:3]
    for layer, attribute in [
        (recurrent.cell, "recurrent_activation"),
        (block.dense, "activation"),
    ]:
        before = generate_image_adversary(model, series, one_hot, 0.1)
        setattr(layer, attribute, keras.activations.softplus)
        changed = generate_image_adversary(model, series, one_hot, 0.1)
        assert (changed != before).any()
        expected = series + 0.1 * np.sign(gradients(model, series, one_hot))
        assert_allclose(changed, expected, atol=1e-6)
    robust_optimizer(model, 10)
    assert block.dropout.rate == 0


def test_of_soft_labels_logits_take_the_largest_class(model, images):
    soft = np.float32([[0.6, 0.4, 0.0], [0.0, 0.4, 0.6]] * 10)

    def attacked(labels):
        return generate_image_adversary(model, images, labels, loss="cross_entropy")

    assert_array_equal(attacked(soft), attacked([0, 2] * 10))


def test_a_user_without_a_home(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no home, and no network")

    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.expanduser", fail)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.warns(UserWarning, match="neither cached .*; using scikit-learn's"):
        assert load_data(None).name == "digits"
