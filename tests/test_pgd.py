import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import art_classifier, build_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

from pyimagesearch import losses
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.pgd import projected_gradient_descent, shrinking_steps


def answers(model, images):
    return model(images).numpy().argmax(axis=-1)


def iterated_loop(model, images, one_hot, eps, step_sizes, clip):
    """BIM image by image, with eager gradients of Keras's cross-entropy."""
    adversaries = []
    for image, label in zip(images, one_hot, strict=True):
        adversary = image[np.newaxis]
        for step_size in step_sizes:
            with tf.GradientTape() as tape:
                adversary = tf.constant(adversary)
                tape.watch(adversary)
                output = model(adversary, training=False)
                loss = keras.losses.categorical_crossentropy(label[np.newaxis], output)
            sign = np.sign(tape.gradient(loss, adversary))
            adversary = adversary.numpy() + np.float32(step_size) * sign
            adversary = np.clip(adversary, image - np.float32(eps), image + eps)
            adversary = np.clip(adversary, *clip)
        adversaries.append(adversary[0])
    return np.array(adversaries)


@pytest.mark.parametrize("step_size", [0.03, [0.08, 0.04, 0.02, 0.01, 0.005]])
def test_without_a_random_start_it_is_the_plain_loop(model, images, one_hot, step_size):
    expected = iterated_loop(
        model, images, one_hot, 0.1, np.broadcast_to(step_size, 5), (0, 1)
    )
    adversaries = projected_gradient_descent(
        model,
        images,
        one_hot,
        0.1,
        steps=5,
        step_size=step_size,
        random_start=False,
        clip=(0, 1),
    )
    assert adversaries.dtype == np.float32
    np.testing.assert_allclose(adversaries, expected, atol=1e-6)


def test_agrees_with_the_adversarial_robustness_toolbox(model, images, one_hot):
    pytest.importorskip("art")
    from art.attacks.evasion import ProjectedGradientDescent

    classifier = art_classifier(model, keras.losses.CategoricalCrossentropy())
    attack = ProjectedGradientDescent(
        classifier, eps=0.1, eps_step=0.03, max_iter=7, verbose=False
    )
    ours = projected_gradient_descent(
        model,
        images,
        one_hot,
        0.1,
        steps=7,
        step_size=0.03,
        random_start=False,
        clip=(0, 1),
    )
    np.testing.assert_allclose(ours, attack.generate(images, one_hot), atol=1e-6)


def test_one_full_step_is_the_fast_gradient_sign_method(model, images, labels):
    one_step = projected_gradient_descent(
        model, images, labels, 0.1, steps=1, step_size=0.1, random_start=False
    )
    np.testing.assert_allclose(
        one_step,
        generate_image_adversary(model, images, labels, 0.1, loss="cross_entropy"),
        atol=1e-7,
    )


@settings(max_examples=20, deadline=None)
@given(
    eps=st.floats(0, 2),
    step_size=st.none() | st.floats(0, 4),
    steps=st.integers(1, 3),
    clip=st.sampled_from([None, (0, 1), (0.25, 0.5)]),
    targeted=st.booleans(),
)
def test_neither_ball_nor_range_is_left(eps, step_size, steps, clip, targeted):
    images = np.random.default_rng(1).random((5, 6, 6, 1), dtype=np.float32)
    if clip is not None:
        images = np.clip(images, *clip)
    adversaries = projected_gradient_descent(
        MODEL,
        images,
        [0, 1, 2, 1, 0],
        eps,
        steps=steps,
        step_size=step_size,
        restarts=2,
        clip=clip,
        targeted=targeted,
    )
    assert np.abs(adversaries - images).max() <= eps * (1 + 1e-6) + 1e-6
    if clip is not None:
        assert adversaries.min() >= clip[0] and adversaries.max() <= clip[1]


MODEL = build_classifier()


def test_random_start_is_uniform_in_the_ball_and_governed_by_the_seed(model):
    images, labels = np.full((50, 6, 6, 1), 0.5), np.zeros(50, int)
    start = functools.partial(
        projected_gradient_descent, model, images, labels, 0.2, steps=1, step_size=0
    )
    noise = start(rng=3) - 0.5
    counts, _ = np.histogram(noise, bins=4, range=(-0.2, 0.2))
    assert counts.sum() == 1800  # all inside the ball
    assert counts.min() > 380  # 450 expected, 18 the standard deviation
    np.testing.assert_array_equal(start(rng=3) - 0.5, noise)
    assert (start(rng=4) - 0.5 != noise).mean() > 0.99
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(start(rng=generator) - 0.5, noise)
    assert (start(rng=generator) - 0.5 != noise).mean() > 0.99
    keras.utils.set_random_seed(7)
    first, second = start(), start()
    assert (first != second).mean() > 0.99
    keras.utils.set_random_seed(7)
    np.testing.assert_array_equal(start(), first)


def test_chunks_do_not_share_their_random_start():
    model = build_classifier((128, 128, 1))
    images = np.zeros((48, 128, 128, 1), np.float32)  # chunks of 24
    start = projected_gradient_descent(
        model, images, np.zeros(48, int), steps=1, step_size=0, rng=0
    )
    assert (start[:24] != start[24:]).mean() > 0.99


def test_result_does_not_depend_on_the_batch(model, images, labels):
    attack = functools.partial(
        projected_gradient_descent, model, eps=0.3, steps=5, random_start=False
    )
    whole = attack(images, labels)
    for i in (0, 7, 19):
        rows = slice(i, i + 1)
        np.testing.assert_array_equal(attack(images[rows], labels[rows]), whole[rows])


@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_keep_what_fools_or_else_the_highest_loss(model, images, targeted):
    labels = (answers(model, images) + targeted) % 3  # all correct, or none
    one_hot = np.eye(3, dtype=np.float32)[labels]

    def losses_and_fooled(adversaries):
        outputs = model(adversaries).numpy()
        loss = keras.losses.categorical_crossentropy(one_hot, outputs).numpy()
        hit = outputs.argmax(axis=-1) == labels
        return (-loss, hit) if targeted else (loss, ~hit)

    attack = functools.partial(
        projected_gradient_descent,
        model,
        images,
        labels,
        0.06,
        steps=1,
        step_size=0.03,
        targeted=targeted,
    )
    once, many = attack(rng=5), attack(rng=5, restarts=30)
    loss_once, fooled_once = losses_and_fooled(once)
    loss_many, fooled_many = losses_and_fooled(many)
    assert 0 < fooled_once.sum() < fooled_many.sum() < 20
    np.testing.assert_array_equal(many[fooled_once], once[fooled_once])
    stands = ~fooled_many
    assert (loss_many[stands] >= loss_once[stands] - 1e-6).all()
    assert (loss_many[stands] > loss_once[stands]).any()


def test_targeted_reaches_its_label(model, images):
    goals = (answers(model, images) + 1) % 3
    adversaries = projected_gradient_descent(
        model, images, goals, 0.5, targeted=True, loss="margin"
    )
    assert (answers(model, adversaries) == goals).all()


class Nested(keras.Model):
    """A subclassed model around another one."""

    def __init__(self, last):
        super().__init__()
        self.inner = keras.Sequential(
            [keras.layers.Flatten(), keras.layers.Dense(3), last]
        )

    def call(self, images):
        return self.inner(images)


ENDS = {
    "Activation": lambda: keras.layers.Activation("softmax"),
    "Softmax": keras.layers.Softmax,
    "Dense": lambda: keras.layers.Dense(3, activation="softmax"),
    "TensorFlow": lambda: keras.layers.Lambda(lambda x: tf.nn.softmax(x)),
    "twice": lambda: keras.Sequential(
        [keras.layers.Dense(3, activation="softmax"), keras.layers.Softmax()]
    ),
    "logits": lambda: keras.layers.Activation("linear"),
}


def scale_logits(model, factor):
    last = [layer for layer in model.inner.layers if layer.get_weights()][-1]
    last.set_weights([factor * weights for weights in last.get_weights()])


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.filterwarnings("error")
def test_confidence_does_not_blind_it(images, end, loss, wrap):
    model = Nested(ENDS[end]())
    model(images)
    attacked = keras.Sequential([keras.Input((6, 6, 1)), model]) if wrap else model
    labels = answers(model, images)
    fallen = {}
    for factor in (1, 3000):  # float32 then rounds every answer's probability to 1.0
        scale_logits(model, factor)
        adversaries = generate_image_adversary(attacked, images, labels, 0.2, loss=loss)
        fallen[factor] = (answers(model, adversaries) != labels).sum()
    assert fallen[1] > 5
    assert fallen[3000] >= fallen[1]


class Averaged(keras.Model):
    """Probabilities with no logits behind them."""

    def __init__(self):
        super().__init__()
        self.members = [build_classifier(), build_classifier()]

    def call(self, images):
        return sum(member(images) for member in self.members) / 2


def test_without_logits_it_says_so_once_and_climbs_the_logarithm(images, one_hot):
    model = Averaged()
    with pytest.warns(UserWarning, match="no logits") as warned:
        for _ in range(2):
            adversaries = generate_image_adversary(
                model, images, one_hot, 0.1, loss="cross_entropy"
            )
    assert len(warned) == 1
    np.testing.assert_array_equal(
        adversaries,
        generate_image_adversary(
            model, images, one_hot, 0.1, loss="categorical_crossentropy"
        ),
    )


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_binary_classifier_of_one_output(images, activation):
    model = build_classifier(classes=1, activation=activation)
    threshold = 0.5 if activation else 0
    labels = (model(images).numpy() > threshold).astype(int)
    for given_labels in (labels, labels[:, 0]):
        adversaries = projected_gradient_descent(
            model, images, given_labels, 0.5, restarts=2
        )
        assert ((model(adversaries).numpy() > threshold) != labels).all()


def test_losses_are_those_of_the_literature():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(10, 4)).astype(np.float32)
    one_hot = np.eye(4, dtype=np.float32)[rng.integers(4, size=10)]
    expected = -np.log(
        (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[one_hot > 0]
    )
    np.testing.assert_allclose(
        np.logaddexp(0, losses.cross_entropy(one_hot, logits)), expected, rtol=1e-5
    )
    others = np.where(one_hot > 0, -np.inf, logits).max(axis=1)
    np.testing.assert_allclose(
        losses.margin(one_hot, logits), others - logits[one_hot > 0], rtol=1e-5
    )


def test_single_probability_without_a_sigmoid_behind_it_is_warned_of(images):
    class Halved(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = build_classifier(classes=1, activation="sigmoid")

        def call(self, images):
            return self.inner(images) / 2

    with pytest.warns(UserWarning, match="taken for a logit"):
        generate_image_adversary(Halved(), images, np.ones(20), loss="margin")


def test_restarts_prefer_what_fools_to_a_higher_loss(model, images):
    """A loss that falls where the model is fooled."""
    labels = answers(model, images)

    def contrary(targets, outputs):
        return tf.reduce_sum(targets * outputs, axis=-1)

    attack = functools.partial(
        projected_gradient_descent, model, images, labels, 0.5, loss=contrary
    )
    starts = attack(steps=1, step_size=0, restarts=40, rng=0)
    fooled = answers(model, starts) != labels
    once = answers(model, attack(steps=1, step_size=0, rng=0)) != labels
    assert fooled.sum() > once.sum()


def test_restarts_need_classes(images):
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(1, 1)])
    with pytest.raises(ValueError, match="restarts"):
        projected_gradient_descent(
            model, images, images, loss="mean_squared_error", restarts=2
        )


def test_compiled_once_and_freed(images, labels):
    model, traced = build_classifier(), []

    def loss(targets, outputs):
        traced.append(outputs.shape)
        return keras.losses.mean_squared_error(targets, outputs)

    for count in (1, 7, 20):
        projected_gradient_descent(
            model, images[:count], labels[:count], 0.1 * count, steps=count, loss=loss
        )
    assert set(traced) == {(None, 3)} and len(traced) <= 2  # a loop may trace twice
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_arguments_are_left_unchanged(model, images, labels):
    copy = images.copy()
    projected_gradient_descent(model, images, labels, 0.1, restarts=2)
    np.testing.assert_array_equal(images, copy)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": np.zeros((0, 6, 6, 1))}, ValueError, r"images .*\(0, 6, 6, 1\)"),
        ({"labels": np.full(20, 3)}, ValueError, "labels .*0 to 2.*3"),
        ({"eps": -0.1}, ValueError, "eps .*-0.1"),
        ({"steps": 0}, ValueError, "steps .*0"),
        ({"steps": 2.5}, TypeError, "steps .*2.5"),
        ({"step_size": -1}, ValueError, "step_size .*-1"),
        ({"step_size": [1, 2]}, ValueError, r"step_size .*array of 40.*\[1, 2\]"),
        ({"step_size": "a"}, TypeError, "step_size"),
        ({"restarts": 0}, ValueError, "restarts .*0"),
        ({"restarts": 2, "random_start": False}, ValueError, "restarts .*2"),
        ({"clip": (1, 0)}, ValueError, "clip"),
        ({"rng": "a"}, TypeError, "rng .*'a'"),
        ({"loss": "no such loss"}, ValueError, "loss.*no such loss"),
    ],
)
def test_wrong_arguments_are_named(model, images, labels, changed, error, message):
    arguments = {"model": model, "images": images, "labels": labels}
    with pytest.raises(error, match=message):
        projected_gradient_descent(**(arguments | changed))


def test_losses_on_logits_need_classes(images):
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(1, 1)])
    with pytest.raises(ValueError, match=r"'margin' needs a model of classes.*\(6, 6"):
        generate_image_adversary(model, images, images, loss="margin")


def test_shrinking_steps_go_from_twice_eps_to_a_hundredth_of_it():
    sizes = shrinking_steps(0.3, 5)
    np.testing.assert_allclose(sizes[[0, -1]], [0.6, 0.003])
    ratios = sizes[1:] / sizes[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
