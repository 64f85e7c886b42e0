"""The iterated attack: BIM, PGD and one step from a random start."""

import math

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks
from pyimagesearch.core.chords import chord_slopes
from pyimagesearch.core.compiled import compile_for
from pyimagesearch.core.gradients import check_outputs, warn_of_gradients
from pyimagesearch.core.losses import Loss, find_classes, get_loss
from pyimagesearch.fgsm import gradient_direction


def projected_gradient_descent(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    eps: float | np.ndarray = 2 / 255.0,
    *,
    steps: int = 40,
    step_size: float | np.ndarray | None = None,
    random_start: bool = True,
    restarts: int = 1,
    loss: Loss = "cross_entropy",
    clip: tuple[float, float] | None = None,
    targeted: bool = False,
    norm: float = np.inf,
    chords: bool = False,
    rng: checks.Seed | None = None,
) -> np.ndarray:
    """Attack a batch by steps along the gradient that never leave the eps-ball.

    The defaults, with `restarts`, are PGD (Madry et al., "Towards deep learning models
    resistant to adversarial attacks", 2017). `random_start=False, step_size=eps /
    steps` is BIM (Kurakin et al., "Adversarial examples in the physical world", 2016),
    `steps=1` the single step from a random start of Wong et al. ("Fast is better than
    free", 2020). Warnings and errors are those of `generate_image_adversary`.

    Args:
        model: A Keras model that maps one image tensor to one output.
        images: Images `(n, height, width, channels)` of any real dtype.
        labels: As for `generate_image_adversary`.
        eps: Likewise; for norm 2 the largest length of the whole change.
        steps: Number of steps.
        step_size: Size of a step, or an array of `steps` sizes; steps that shrink find
            more. By default 2.5 eps / steps, but at most 1.25 eps.
        random_start: Whether to start at random inside the eps-ball.
        restarts: How often to start, at random. Each image keeps the try with the
            highest loss; or, where a model has two or more classes, the first try that
            fools it.
        loss: The default climbs the logits of any classifier; for regression give the
            loss that the model was trained with.
        clip: The valid range `(low, high)` of images, start and steps.
        targeted: Descend the loss towards `labels` instead of climbing away from them;
            then a model is fooled if it answers with the label.
        norm: `np.inf` or 2, the norm of the eps-ball and of the steps.
        chords: Whether every other gradient, from the first on, sees through the
            model's first ReLUs (`core.chords`), behind which robust training hides.
            It sees those of `activation="relu"`, `Activation("relu")` and `ReLU()`, in
            models of any kind; where there are none, it changes nothing.
        rng: Seed or NumPy generator of the starts; by default a seed drawn from NumPy's
            global state. A seed, unlike a generator, repeats its starts in each call.

    Returns:
        The adversaries, float32, in the shape of `images`, no further than eps from
        them, to float32's rounding.
    """
    images, eps, bounds = checks.attack_arguments("images", images, eps, clip, norm)
    steps = checks.positive_integer("steps", steps)
    unit = np.ones_like(eps)  # of a step
    if step_size is None:
        step_size = min(2.5 / steps, 1.25)
        unit = eps
    step_sizes = checks.array("step_size", step_size, np.float32)
    if step_sizes.shape not in ((), (steps,)) or (step_sizes < 0).any():
        wanted = f"a number from 0, or an array of {steps} of them"
        raise ValueError(f"step_size must be {wanted}, got {checks.shown(step_size)}")
    is_targeted = checks.truth("targeted", targeted)
    step_sizes = np.broadcast_to(-step_sizes if is_targeted else step_sizes, steps)
    random_start = checks.truth("random_start", random_start)
    if checks.positive_integer("restarts", restarts) > 1 and not random_start:
        raise ValueError(f"restarts must be 1 without a random start, got {restarts}")
    rng = checks.generator(rng)
    climb = compile_for(
        _climb,
        model,
        images,
        loss,
        eps,
        unit,
        images,
        step_sizes,
        bounds,
        norm=norm,
        chords=checks.truth("chords", chords),
    )
    targets = climb.match_labels("labels", labels, len(images))

    def attack(rows):
        start = images[rows]
        if random_start:
            start = start + _random_changes(rng, start.shape, eps[rows], norm)
        arrays = (images[rows], targets[rows], eps[rows], unit[rows], start)
        adversaries, gradient_sizes, are_finite = climb.run(
            *arrays, settings=(step_sizes, bounds)
        )
        if eps.any():
            check_outputs(model, are_finite)
            warn_of_gradients(gradient_sizes)
        return adversaries

    if restarts == 1:
        return attack(slice(None))
    classes = find_classes(targets, climb.output_shape, get_loss(loss))
    judge = compile_for(_judge, model, images, loss)
    adversaries = images.copy()
    largest = np.full(len(images), -np.inf, np.float32)
    rows = np.arange(len(images))
    for _ in range(restarts):
        tried = attack(rows)
        losses, answers = judge.run(tried, targets[rows])
        if is_targeted:
            losses = -losses
        fools = (classes[rows] >= 0) & ((answers == classes[rows]) == is_targeted)
        is_better = fools | (losses > largest[rows])
        adversaries[rows[is_better]] = tried[is_better]
        largest[rows[is_better]] = losses[is_better]
        rows = rows[~fools]
        if rows.size == 0:
            break
    return adversaries


def _judge(network, images, targets):
    output = network.output(images)
    scores = tf.reshape(output, (tf.shape(output)[0], -1))
    return network.losses(targets, output), tf.argmax(scores, axis=1)


def shrinking_steps(eps: float, steps: int) -> np.ndarray:
    """Return step sizes from 2 eps down to eps / 100, which find more than equal ones.

    The large ones leave the start behind, the small ones follow narrow ridges.
    """
    return eps * np.geomspace(2, 0.01, steps)


def _random_changes(rng, shape, eps, norm):
    """Return float32 changes, uniform in the eps-ball."""
    if norm == np.inf:
        return eps * (2 * rng.random(shape, np.float32) - 1)
    axes = tuple(range(1, len(shape)))
    directions = rng.standard_normal(shape, np.float32)
    lengths = np.sqrt(np.sum(directions**2, axis=axes, keepdims=True))
    radii = rng.random(lengths.shape, np.float32) ** (1 / math.prod(shape[1:]))
    return eps * radii * directions / lengths


def _climb(
    network, images, targets, eps, unit, start, step_sizes, bounds, norm, chords
):
    axes = range(1, len(images.shape))
    lowest = tf.clip_by_value(images - eps, bounds[0], bounds[1])
    highest = tf.clip_by_value(images + eps, bounds[0], bounds[1])

    slopes = chord_slopes(network, lowest, highest) if chords else None

    def project(adversaries):
        if norm == 2:
            changes = adversaries - images
            lengths = tf.sqrt(tf.reduce_sum(changes**2, axes, keepdims=True))
            shares = tf.math.divide_no_nan(eps, tf.maximum(lengths, eps))
            adversaries = images + changes * shares
        return tf.clip_by_value(adversaries, lowest, highest)

    def step(i, adversaries, sizes, are_finite):
        def by_own_slopes():
            return gradient_direction(network, adversaries, targets, norm)

        def by_chords():
            return gradient_direction(network, adversaries, targets, norm, slopes)

        # By turns: a network that is trained against one of them hides from that one.
        if slopes:
            direction, size, is_finite = tf.cond(i % 2 == 0, by_chords, by_own_slopes)
        else:
            direction, size, is_finite = by_own_slopes()
        adversaries = project(adversaries + step_sizes[i] * unit * direction)
        return i + 1, adversaries, sizes + size, are_finite & is_finite

    def has_steps_left(i, *_):
        return i < tf.size(step_sizes)

    nothing = tf.zeros_like(tf.reduce_sum(images, axes))
    state = (0, project(start), nothing, nothing == 0)
    _, *results = tf.while_loop(has_steps_left, step, state)
    return results
