"""What other people's pipelines hand over: each gives the right value or a sentence."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import answers, build_classifier, gradients, network_of, no_warning
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.datagen import generate_adversarial_batch, in_step
from pyimagesearch.experiment.data import load_data
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.training import hold_out, robust_attack, robust_optimizer

FIT = {"epochs": 2, "verbose": 0}


class Series:
    """A column as of pandas, which an index takes by labels; these run backwards."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.dtype = self.values.dtype
        self.shape = self.values.shape
        self.iloc = self

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        return self.values[::-1][rows]

    def __array__(self, dtype=None, copy=None):
        return self.values.astype(dtype or self.dtype)


@pytest.mark.parametrize("kind", [np.asarray, list, tf.constant, Series])
def test_labels_are_drawn_by_place(kind):
    numbers = np.arange(100)
    columns = numbers.reshape(100, 1) * 0.01
    for images, labels in hold_out((columns, kind(numbers)), seed=0):
        assert_allclose(images[:, 0], labels * 0.01)
    for images, labels in hold_out((kind(numbers), kind(numbers)), seed=0):
        assert_array_equal(images, labels)
    model = keras.Sequential([keras.Input((1,)), layers.Dense(100)])
    batches = generate_adversarial_batch(
        model, 50, columns, kind(numbers), (1,), eps=0, rng=0
    )
    images, labels = next(batches)
    assert_allclose(images[:, 0], labels * 0.01, rtol=1e-6)


class Loader:
    """Batches of somebody's loader, which does not know its length."""

    def __init__(self, batches, error):
        self.batches = batches
        self.error = error

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        raise self.error


@pytest.mark.parametrize("error", [TypeError, NotImplementedError, RuntimeError])
def test_a_loader_of_unknown_length(error, model, images, labels):
    model.compile("sgd", "sparse_categorical_crossentropy")
    batches = in_step(Loader([(images, labels)] * 3, error))
    history = model.fit(batches, **FIT)
    assert len(history.history["loss"]) == 2
    assert model.optimizer.iterations == 2 * 3


@pytest.mark.parametrize("endless", [False, True])
def test_a_dataset_of_unknown_or_endless_length(endless, model, images, labels):
    model.compile("sgd", "sparse_categorical_crossentropy")
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(5)
    dataset = dataset.repeat() if endless else dataset.filter(lambda *batch: True)
    if endless:
        with pytest.raises(ValueError, match="specify a `steps_per_epoch`"):
            model.fit(in_step(dataset), **FIT)
    model.fit(in_step(dataset), steps_per_epoch=4 if endless else None, **FIT)
    assert model.optimizer.iterations == 2 * 4


def test_a_model_of_tf_keras_is_named(images, labels):
    """It reads `in_step`'s batches from its own module."""
    old = types.ModuleType("tf_keras.trainer")
    exec("def fit(batches): return list(batches)", vars(old))
    with pytest.raises(
        TypeError, match="in_step is for Keras 3, got a model of tf_keras"
    ):
        old.fit(in_step([(images, labels)]))
    old_model = type("Sequential", (), {"__module__": "tf_keras.models"})()
    for attack in (generate_image_adversary, projected_gradient_descent):
        with pytest.raises(TypeError, match=r"a Keras 3 model, got tf_keras\.models"):
            attack(old_model, images, labels)


def test_the_recipe_counts_batches_not_updates_of_weights(model, labels):
    grey = np.full((20, 6, 6, 1), 0.5, np.float32)
    recipe = robust_attack(8, rng=0)
    reached = []

    def attack(*arguments):
        adversaries = recipe(*arguments)
        reached.append(abs(adversaries - 0.5).max())
        return adversaries

    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=4)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    batches = generate_adversarial_batch(
        model, 8, grey, labels, (6, 6, 1), eps=0.3, attack=attack, rng=0
    )
    model.fit(in_step(batches), steps_per_epoch=8, verbose=0)
    full = (1.4 - 0.3) * 0.3
    expected = full * np.array([0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    assert_allclose(reached, expected, atol=1e-6)


def test_labels_that_only_look_like_classes_do_not_stop_an_image(images):
    """Of several labels an image, where most rows happen to have one."""
    model = build_classifier(activation="sigmoid")
    labels = np.eye(3, dtype=np.float32)[np.arange(20) % 3]
    more = labels.copy()
    more[0] = 1
    by_labels = [
        projected_gradient_descent(
            model,
            images,
            given,
            0.1,
            steps=2,
            restarts=4,
            loss="binary_crossentropy",
            rng=0,
        )
        for given in (labels, more)
    ]
    assert_array_equal(by_labels[0][1:], by_labels[1][1:])


@pytest.mark.parametrize(
    ("function", "changed", "message"),
    [
        (projected_gradient_descent, {"random_start": "False"}, "random_start must be"),
        (square_attack, {"from_logits": "False"}, "from_logits must be True or False"),
        (evaluate_robustness, {"from_logits": "no"}, "from_logits must be"),
        (evaluate_robustness, {"eps": [[0.1, 0.0]]}, "eps must be a number, or"),
    ],
)
def test_text_for_a_truth_and_a_mask_for_strengths(
    function, changed, message, model, images, labels
):
    with pytest.raises((TypeError, ValueError), match=message):
        function(model, images, labels, **changed)


def test_a_mask_in_the_recipe_and_in_a_generator(model, labels):
    grey = np.full((20, 6, 6, 1), 0.5, np.float32)
    mask = np.zeros((6, 6, 1), np.float32)
    mask[2:4] = 0.1
    for attack in (generate_image_adversary, robust_attack(1, rng=0)):
        batches = generate_adversarial_batch(
            model, 20, grey, labels, (6, 6, 1), mask, attack=attack, rng=0
        )
        next(batches)  # which the recipe leaves as it is
        moved = abs(next(batches)[0] - grey)
        assert moved[:, 2:4].max() >= 0.1 - 1e-6
        assert moved[:, :2].max() == moved[:, 4:].max() == 0
    with pytest.raises(ValueError, match="eps must broadcast"):
        generate_adversarial_batch(model, 4, grey, labels, (6, 6, 1), np.ones(5))
    with pytest.raises(TypeError, match="clip must be"):
        robust_attack(1, clip=None)


def test_as_many_labels_as_images_are_held_out():
    with pytest.raises(ValueError, match="images must be 90, as labels, got 100"):
        hold_out((np.zeros((100, 4)), np.zeros(90)), seed=0)


def test_an_activation_inside_a_recurrent_layer(labels):
    recurrent = layers.GRU(4, reset_after=False)
    model = keras.Sequential([keras.Input((6, 2)), recurrent, layers.Dense(3)])
    series = np.random.default_rng(0).random((20, 6, 2), dtype=np.float32)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    generate_image_adversary(model, series, one_hot, 0.1)
    recurrent.cell.recurrent_activation = keras.activations.relu
    changed = generate_image_adversary(model, series, one_hot, 0.1)
    expected = series + 0.1 * np.sign(gradients(model, series, one_hot))
    assert_allclose(changed, expected, atol=1e-6)


def test_bfloat16_is_a_real_number(model, images, one_hot):
    given = tf.cast(images, tf.bfloat16)
    expected = generate_image_adversary(model, given.numpy().astype("float32"), one_hot)
    for labels in (one_hot, tf.cast(one_hot, tf.bfloat16)):
        assert_array_equal(generate_image_adversary(model, given, labels), expected)


def test_tiny_doubles_raise_no_floating_point_error(model, images, labels):
    tiny = images.astype(float) * 1e-300
    targets = np.eye(3)[labels] * 1e-60
    report = {"steps": 1, "queries": 2, "verbose": False}
    with np.errstate(all="raise"):
        generate_image_adversary(model, tiny, targets, 0.1)
        projected_gradient_descent(model, tiny, labels, 0.1, steps=2)
        square_attack(model, tiny, labels, 0.1, queries=2)
        next(generate_adversarial_batch(model, 4, tiny, labels, (6, 6, 1)))
        evaluate_robustness(model, tiny, labels, 0.1, **report)


def test_an_attack_in_a_datasets_map(model, images, labels):
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(5)
    for attack in (generate_image_adversary, square_attack):
        with pytest.raises(TypeError, match=r"tf\.numpy_function"):
            dataset.map(lambda *batch, attack=attack: attack(model, *batch))

    def by_numpy(images, labels):
        def attack(images, labels):
            return generate_image_adversary(model, images, labels, 0.1)

        return tf.numpy_function(attack, (images, labels), tf.float32)

    adversaries = np.concatenate(list(dataset.map(by_numpy)))
    expected = generate_image_adversary(model, images, labels, 0.1)
    assert_allclose(adversaries, expected, atol=1e-6)


class Eager(keras.Sequential):
    """A model whose call needs a number from its images."""

    number_of = staticmethod(float)

    def call(self, images, training=None, mask=None):
        return super().call(images * self.number_of(images[0, 0, 0, 0]))


@pytest.mark.parametrize("number_of", [float, bool, lambda value: value.numpy()])
def test_a_model_that_runs_eagerly_alone(number_of, images, labels, monkeypatch):
    monkeypatch.setattr(Eager, "number_of", staticmethod(number_of))
    model = Eager(build_classifier().layers)
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="cannot be compiled by tf") as raised:
        generate_image_adversary(model, images, labels)
    assert "\n" not in str(raised.value) and len(str(raised.value)) <= 300


def test_a_cast_to_integers_is_named_where_gradients_are_zero(images, labels):
    image = keras.Input((6, 6, 1), dtype="uint8")
    output = build_classifier()(layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, output)
    with pytest.warns(UserWarning, match=r"Input\(dtype='uint8'\)"):
        generate_image_adversary(model, images * 255, labels, 8)


def test_code_that_runs_without_a_name(images, labels):
    stopped = network_of(layers.Flatten(), layers.Dense(3, kernel_initializer="zeros"))
    code = "list(in_step([(images, labels)])); attack(stopped, images, labels)"
    names = {"in_step": in_step, "attack": generate_image_adversary}
    with pytest.warns(UserWarning, match="gradient of the loss is zero"):
        exec(code, names | {"images": images, "labels": labels, "stopped": stopped})


class Block(layers.Layer):
    """A user's own layer, which holds others."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, activation="tanh")
        self.dropout = layers.Dropout(0.5)

    def call(self, inputs, training=None):
        return self.dropout(self.dense(inputs), training=training)


def test_layers_inside_a_users_own_layer(images, one_hot):
    block = Block()
    model = network_of(layers.Flatten(), block)
    before = generate_image_adversary(model, images, one_hot, 0.1)
    block.dense.activation = keras.activations.sigmoid
    changed = generate_image_adversary(model, images, one_hot, 0.1)
    assert (changed != before).any()
    expected = images + 0.1 * np.sign(gradients(model, images, one_hot))
    assert_allclose(changed, expected, atol=1e-6)
    robust_optimizer(model, 10)
    assert block.dropout.rate == 0


def test_new_heads_on_one_model_are_no_new_losses(images, labels):
    """Changing a model often is not what the advice to make a loss once is for."""
    model = network_of(layers.Flatten(), layers.Dense(3))
    with no_warning():
        for _ in range(34):
            model.pop()
            model.add(layers.Dense(3))
            head = generate_image_adversary(model, images, labels, 0.1)
    fresh = network_of(layers.Flatten(), layers.Dense(3))
    fresh.set_weights(model.get_weights())
    expected = generate_image_adversary(fresh, images, labels, 0.1)
    assert_allclose(head, expected, atol=1e-6)


def test_a_softmax_compiled_with_a_metric_of_another_kind(model, images):
    metric = keras.metrics.BinaryAccuracy()
    model.compile("adam", "categorical_crossentropy", metrics=[metric])
    labels = answers(model, images)
    clean, *_ = evaluate_robustness(
        model, images, labels, steps=1, queries=2, verbose=False
    )
    assert clean.accuracy == 1


def test_soft_labels_go_by_the_loss(model, images):
    """On logits their largest class counts; Keras's losses take them as they are."""
    soft = np.float32([[0.6, 0.4, 0.0], [0.0, 0.4, 0.6]] * 10)
    hard = np.eye(3)[soft.argmax(axis=1)]
    for labels in (soft, hard):
        attacked = generate_image_adversary(
            model, images, labels, 1.0, loss="categorical_crossentropy"
        )
        loss = keras.losses.categorical_crossentropy
        expected = np.sign(gradients(model, images, labels, loss))
        assert_allclose(attacked - images, expected, atol=1e-6)
    by_logits = [
        generate_image_adversary(model, images, labels, 0.1, loss="cross_entropy")
        for labels in (soft, hard)
    ]
    assert_array_equal(*by_logits)


def test_a_user_without_a_home(monkeypatch):
    def expanduser(path):
        raise RuntimeError("Could not determine home directory.")

    def fail_to_download():
        raise OSError("no network")

    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.expanduser", expanduser)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail_to_download)
    with pytest.warns(UserWarning, match="neither cached .*; using scikit-learn's"):
        assert load_data(None).name == "digits"
