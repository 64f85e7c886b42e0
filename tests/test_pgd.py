import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import art_classifier, build_classifier, no_warning, saturate
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from pyimagesearch.attacks import projected_gradient_descent, shrinking_steps
from pyimagesearch.fgsm import generate_image_adversary

DIMS = (6, 6, 1)
MODEL = build_classifier()


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
    sizes = np.broadcast_to(step_size, 5)
    how = {"steps": 5, "random_start": False, "clip": (0, 1), "step_size": step_size}
    adversaries = projected_gradient_descent(model, images, one_hot, 0.1, **how)
    expected = iterated_loop(model, images, one_hot, 0.1, sizes, (0, 1))
    assert adversaries.dtype == np.float32
    np.testing.assert_allclose(adversaries, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "eps", "step_size", "clip"),
    [
        (np.inf, 0.1, 0.03, (0.0, 1.0)),
        (2, 0.5, 0.2, (-9.0, 9.0)),  # the ball decides
        (2, 5.0, 0.3, (0.0, 1.0)),  # the range decides
    ],
)
def test_agrees_with_the_adversarial_robustness_toolbox(
    model, images, one_hot, norm, eps, step_size, clip
):
    from art.attacks.evasion import ProjectedGradientDescent

    theirs = ProjectedGradientDescent(
        art_classifier(model, keras.losses.CategoricalCrossentropy(), clip),
        norm=norm,
        eps=eps,
        eps_step=step_size,
        max_iter=7,
        verbose=False,
    )
    how = {"steps": 7, "step_size": step_size, "random_start": False, "clip": clip}
    ours = projected_gradient_descent(model, images, one_hot, eps, norm=norm, **how)
    np.testing.assert_allclose(ours, theirs.generate(images, one_hot), atol=2e-5)


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_one_full_step_is_the_fast_gradient_method(model, images, labels, norm):
    how = {"steps": 1, "step_size": 0.1, "random_start": False, "norm": norm}
    np.testing.assert_allclose(
        projected_gradient_descent(model, images, labels, 0.1, **how),
        generate_image_adversary(
            model, images, labels, 0.1, loss="cross_entropy", norm=norm
        ),
        atol=1e-6,
    )


@settings(max_examples=25, deadline=None)
@given(
    eps=st.floats(0, 2),
    step_size=st.none() | st.floats(0, 4),
    steps=st.integers(1, 3),
    clip=st.sampled_from([None, (0, 1), (0.25, 0.5)]),
    targeted=st.booleans(),
    norm=st.sampled_from([np.inf, 2]),
)
def test_neither_ball_nor_range_is_left(eps, step_size, steps, clip, targeted, norm):
    images = np.random.default_rng(1).random((5, *DIMS), dtype=np.float32)
    if clip is not None:
        images = np.clip(images, *clip)
    how = {"steps": steps, "step_size": step_size, "restarts": 2, "norm": norm}
    adversaries = projected_gradient_descent(
        MODEL, images, [0, 1, 2, 1, 0], eps, clip=clip, targeted=targeted, **how
    )
    changes = (adversaries - images).reshape(5, -1)
    assert np.linalg.norm(changes, norm, axis=1).max() <= eps * (1 + 1e-6) + 2e-6
    if clip is not None:
        assert adversaries.min() >= clip[0] and adversaries.max() <= clip[1]


def test_norm_2_uses_its_ball_up(model, images, labels):
    adversaries = projected_gradient_descent(model, images, labels, 0.5, norm=2)
    changes = (adversaries - images).reshape(20, -1)
    np.testing.assert_allclose(np.linalg.norm(changes, axis=1), 0.5, rtol=1e-3)


def random_starts(model, images, eps=0.2, **how):
    how = {"steps": 1, "step_size": 0} | how
    labels = np.zeros(len(images), int)
    return projected_gradient_descent(model, images, labels, eps, **how) - images


def test_random_start_is_uniform_in_the_ball(model):
    images = np.full((50, *DIMS), 0.5, np.float32)
    counts, _ = np.histogram(random_starts(model, images), bins=4, range=(-0.2, 0.2))
    assert counts.sum() == 1800  # all inside the ball
    assert counts.min() > 380  # 450 expected, 18 the standard deviation


def test_random_start_is_uniform_in_the_ball_of_norm_2():
    """Half the volume of the square's disc lies within 0.707 of its radius."""
    model = keras.Sequential([keras.Input((2, 1)), layers.Flatten(), layers.Dense(2)])
    images = np.zeros((4000, 2, 1), np.float32)
    noise = random_starts(model, images, norm=2)[..., 0]
    radii = np.linalg.norm(noise, axis=1)
    assert 0.19 < radii.max() <= 0.2 * (1 + 1e-6)
    assert abs((radii < 0.2 * 0.5**0.5).mean() - 0.5) < 0.04  # five deviations
    quadrants = np.unique(noise > 0, axis=0, return_counts=True)[1]
    assert len(quadrants) == 4 and abs(quadrants - 1000).max() < 140


def test_random_start_is_governed_by_the_seed(model):
    images = np.full((50, *DIMS), 0.5, np.float32)
    start = functools.partial(random_starts, model, images)
    noise = start(rng=3)
    np.testing.assert_array_equal(start(rng=3), noise)
    assert (start(rng=4) != noise).mean() > 0.99
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(start(rng=generator), noise)
    assert (start(rng=generator) != noise).mean() > 0.99
    keras.utils.set_random_seed(7)
    first, second = start(), start()
    assert (first != second).mean() > 0.99
    keras.utils.set_random_seed(7)
    np.testing.assert_array_equal(start(), first)


def test_chunks_do_not_share_their_random_start():
    images = np.zeros((48, 128, 128, 1), np.float32)  # chunks of 24
    start = random_starts(build_classifier((128, 128, 1)), images, rng=0)
    assert (start[:24] != start[24:]).mean() > 0.99


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_result_does_not_depend_on_the_batch(model, images, labels, norm):
    how = {"eps": 0.3, "steps": 5, "random_start": False, "norm": norm}
    attack = functools.partial(projected_gradient_descent, model, **how)
    whole = attack(images, labels)
    for i in (0, 7, 19):
        rows = slice(i, i + 1)
        part = attack(images[rows], labels[rows])
        np.testing.assert_allclose(part, whole[rows], atol=1e-6)


@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_keep_what_fools_or_else_the_highest_loss(model, images, targeted):
    labels = (answers(model, images) + targeted) % 3  # all correct, or none
    one_hot = np.eye(3, dtype=np.float32)[labels]

    def losses_and_fooled(adversaries):
        outputs = model(adversaries).numpy()
        loss = keras.losses.categorical_crossentropy(one_hot, outputs).numpy()
        hit = outputs.argmax(axis=-1) == labels
        return (-loss, hit) if targeted else (loss, ~hit)

    how = {"steps": 1, "step_size": 0.03, "targeted": targeted, "rng": 5}
    attack = functools.partial(
        projected_gradient_descent, model, images, labels, 0.06, **how
    )
    once, many = attack(), attack(restarts=30)
    loss_once, fooled_once = losses_and_fooled(once)
    loss_many, fooled_many = losses_and_fooled(many)
    assert 0 < fooled_once.sum() < fooled_many.sum() < 20
    np.testing.assert_array_equal(many[fooled_once], once[fooled_once])
    stands = ~fooled_many
    assert (loss_many[stands] >= loss_once[stands] - 1e-6).all()
    assert (loss_many[stands] > loss_once[stands]).any()


def test_restarts_prefer_what_fools_to_a_higher_loss(model, images):
    """A loss that falls where the model is fooled."""
    labels = answers(model, images)

    def contrary(targets, outputs):
        return tf.reduce_sum(targets * outputs, axis=-1)

    how = {"steps": 1, "step_size": 0, "loss": contrary, "rng": 0}
    attack = functools.partial(
        projected_gradient_descent, model, images, labels, 0.5, **how
    )
    fooled = [(answers(model, attack(restarts=n)) != labels).sum() for n in (1, 40)]
    assert fooled[0] < fooled[1]


SQUARED = {
    "mean of the batch": lambda targets, outputs: tf.reduce_mean(
        (targets - outputs) ** 2
    ),
    "a value an element": lambda targets, outputs: (targets - outputs) ** 2,
    "sum over the batch": keras.losses.MeanSquaredError(reduction="sum"),
}


@pytest.mark.parametrize("loss", SQUARED)
def test_restarts_with_losses_of_any_shape(loss, model, images, labels):
    attack = functools.partial(
        projected_gradient_descent, model, images, labels, 0.1, restarts=3, rng=0
    )
    expected = attack(steps=3, loss="mean_squared_error")
    np.testing.assert_allclose(attack(steps=3, loss=SQUARED[loss]), expected, atol=1e-6)


def test_restarts_warn_once_of_a_gradient_of_no_use(images):
    model = saturate(build_classifier())
    labels = answers(model, images)
    with pytest.warns(UserWarning, match="of 20 .*cross_entropy") as seen:
        projected_gradient_descent(
            model, images, labels, 0.01, steps=2, restarts=4, loss="mse"
        )
    assert len(seen) == 1 and seen[0].filename == __file__


def test_a_gradient_that_comes_back_after_the_start_is_not_warned_of():
    """PGD leaves the point that has no gradient, from where FGSM cannot start."""
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Flatten(), layers.ReLU(), layers.Dense(2)]
    )
    images, labels = np.zeros((20, 4, 4, 1)), np.zeros(20, int)
    with pytest.warns(UserWarning, match="20 of 20"):
        generate_image_adversary(model, images, labels, 0.1)
    with no_warning():
        projected_gradient_descent(model, images, labels, 0.1, rng=1)


def test_targeted_reaches_its_label(model, images):
    goals = (answers(model, images) + 1) % 3
    for how in ({"eps": 0.5}, {"eps": 3.0, "norm": 2}):
        adversaries = projected_gradient_descent(
            model, images, goals, targeted=True, loss="margin", **how
        )
        assert (answers(model, adversaries) == goals).all()


class Nested(keras.Model):
    """A subclassed model around another one."""

    def __init__(self, last):
        super().__init__()
        self.inner = keras.Sequential([layers.Flatten(), layers.Dense(3), last])

    def call(self, images):
        return self.inner(images)


ENDS = {
    "Activation": lambda: layers.Activation("softmax"),
    "Softmax": layers.Softmax,
    "Dense": lambda: layers.Dense(3, activation="softmax"),
    "TensorFlow": lambda: layers.Lambda(lambda x: tf.nn.softmax(x)),
    "twice": lambda: keras.Sequential(
        [layers.Dense(3, activation="softmax"), layers.Softmax()]
    ),
    "logits": lambda: layers.Activation("linear"),
}


@pytest.mark.parametrize(
    ("end", "loss", "wrap"),
    [(end, "cross_entropy", False) for end in ENDS]
    + [("Activation", "margin", True), ("logits", "margin", True)],
)
@pytest.mark.filterwarnings("error")
def test_confidence_does_not_blind_it(images, end, loss, wrap):
    model = Nested(ENDS[end]())
    model(images)
    attacked = keras.Sequential([keras.Input(DIMS), model]) if wrap else model
    labels = answers(model, images)
    fallen = []
    for _ in range(2):
        adversaries = generate_image_adversary(attacked, images, labels, 0.2, loss=loss)
        fallen.append((answers(model, adversaries) != labels).sum())
        saturate(model.inner)  # float32 then rounds every answer's probability to 1.0
    assert 5 < fallen[0] <= fallen[1]


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


def test_regression_needs_the_loss_it_was_trained_with(images):
    """The default loss is for classifiers; it would climb the wrong thing, silently."""
    model = build_classifier(classes=1, activation=None)
    targets = np.linspace(-2, 30, 20, dtype=np.float32)
    with pytest.raises(ValueError, match=r"labels .*'cross_entropy'.*regression"):
        projected_gradient_descent(model, images, targets)
    how = {"steps": 5, "random_start": False}
    adversaries = projected_gradient_descent(
        model, images, targets, 0.1, loss="mse", **how
    )
    errors = [
        np.mean((model(tried).numpy()[:, 0] - targets) ** 2)
        for tried in (images, adversaries)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_several_labels_an_image_need_another_loss(images, loss):
    model = build_classifier(activation="sigmoid")
    with pytest.raises(ValueError, match=r"label .*several labels an image"):
        generate_image_adversary(model, images, np.ones((20, 3)), loss=loss)


def test_more_than_one_answer_an_image(images):
    model = keras.Sequential([keras.Input(DIMS), layers.Conv2D(1, 1)])
    with pytest.raises(ValueError, match="restarts"):
        projected_gradient_descent(model, images, images, loss="mse", restarts=2)
    with pytest.raises(ValueError, match=r"'margin' needs a model of classes.*\(6, 6"):
        generate_image_adversary(model, images, images, loss="margin")


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_losses_are_those_of_the_literature(loss):
    """By the slope at points of which the right one is known: a linear network."""
    kernel = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, use_bias=False)])
    model.set_weights([kernel])
    images = np.random.default_rng(1).normal(size=(10, 8)).astype(np.float32)
    labels = np.arange(10) % 4
    logits = images @ kernel
    others = np.where(np.eye(4)[labels] > 0, -np.inf, logits)
    weights = np.exp(others) / np.exp(others).sum(axis=1, keepdims=True)
    if loss == "margin":
        weights = np.eye(4)[others.argmax(axis=1)]
    slopes = (weights - np.eye(4)[labels]) @ kernel.T
    adversaries = generate_image_adversary(
        model, images, labels, 1.0, loss=loss, norm=2
    )
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
    np.testing.assert_allclose(adversaries - images, slopes, atol=1e-5)


def test_compiled_once_for_all_settings_of_a_norm(images, labels):
    traced = []

    def loss(targets, outputs):
        traced.append(outputs.shape)
        return keras.losses.mean_squared_error(targets, outputs)

    attack = functools.partial(projected_gradient_descent, build_classifier())
    for count in (1, 7, 20):
        how = {"steps": count, "step_size": 0.1 / count, "clip": (0, count)}
        attack(images[:count], labels[:count], 0.1 * count, loss=loss, **how)
    assert set(traced) == {(None, 3)} and len(traced) <= 2  # a loop may trace twice


def test_arguments_are_left_unchanged(model, images, labels):
    copy = images.copy()
    projected_gradient_descent(model, images, labels, 0.1, restarts=2)
    np.testing.assert_array_equal(images, copy)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": np.zeros((0, *DIMS))}, ValueError, r"images .*\(0, 6, 6, 1\)"),
        ({"images": np.zeros(DIMS), "labels": 0}, ValueError, "images .*batch axis"),
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
        ({"norm": "l2"}, ValueError, "norm .*l2"),
        ({"rng": "a"}, TypeError, "rng .*'a'"),
        ({"loss": "no such loss"}, ValueError, "loss.*no such loss"),
    ],
)
def test_wrong_arguments_are_named(model, images, labels, changed, error, message):
    arguments = {"model": model, "images": images, "labels": labels}
    with pytest.raises(error, match=message):
        projected_gradient_descent(**(arguments | changed))


def test_shrinking_steps_go_from_twice_eps_to_a_hundredth_of_it():
    sizes = shrinking_steps(0.3, 5)
    np.testing.assert_allclose(sizes[[0, -1]], [0.6, 0.003])
    ratios = sizes[1:] / sizes[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
