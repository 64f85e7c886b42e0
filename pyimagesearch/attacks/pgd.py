"""The iterated attack: BIM, PGD and one step from a random start."""

import math
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import class_ids, compile_for, in_chunks, judge
from pyimagesearch.core.gradients import attack_in_chunks
from pyimagesearch.core.losses import Loss
from pyimagesearch.core.warning import each_warning_once
from pyimagesearch.fgsm import gradient_step


def projected_gradient_descent(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    eps: float = 2 / 255.0,
    *,
    steps: int = 40,
    step_size: float | np.ndarray | None = None,
    random_start: bool = True,
    restarts: int = 1,
    loss: Loss = "cross_entropy",
    clip: tuple[float, float] | None = None,
    targeted: bool = False,
    norm: float = np.inf,
    rng: checks.Seed | None = None,
) -> np.ndarray:
    """Attack a batch by steps along the gradient that never leave the eps-ball.

    The defaults, with `restarts`, are PGD (Madry et al., "Towards deep learning models
    resistant to adversarial attacks", 2017). `random_start=False, step_size=eps /
    steps` is BIM (Kurakin et al., "Adversarial examples in the physical world", 2016),
    `steps=1` the single step from a random start of Wong et al. ("Fast is better than
    free", 2020). It warns of gradients, and raises, as `generate_image_adversary` does.

    Args:
        model: A Keras model that maps one image tensor to one output.
        images: Images `(n, height, width, channels)` of any real dtype.
        labels: As for `generate_image_adversary`.
        eps: Largest change of a value, or for norm 2 largest length of the whole
            change, in the units of the images.
        steps: Number of steps.
        step_size: Size of a step, or an array of `steps` sizes; steps that shrink find
            more. By default 2.5 eps / steps, but at most 1.25 eps.
        random_start: Whether to start at random inside the eps-ball.
        restarts: How often to start; more than once needs a classifier and a random
            start. Later starts attack only the images that do not fool the model yet.
            Of its tries an image keeps the first that fools the model, or else that of
            highest loss.
        loss: As for `generate_image_adversary`. The default climbs the logits of any
            classifier; for regression give the loss that the model was trained with.
        clip: The valid range `(low, high)` of images, start and steps.
        targeted: Descend the loss towards `labels` instead of climbing away from them;
            then a model is fooled if it answers with the label.
        norm: `np.inf` or 2, the norm of the eps-ball and of the steps.
        rng: Seed or NumPy generator of the starts; by default a seed drawn from NumPy's
            global state. A seed, unlike a generator, repeats its starts in each call.

    Returns:
        The adversaries, float32, in the shape of `images`, no further than eps from
        them, to float32's rounding.
    """
    images, eps, clip = checks.attack_arguments("images", images, eps, clip, norm)
    steps = checks.positive_integer("steps", steps)
    step_size = min(2.5 / steps, 1.25) * eps if step_size is None else step_size
    step_sizes = checks.array("step_size", step_size, np.float32)
    if step_sizes.shape not in ((), (steps,)) or (step_sizes < 0).any():
        wanted = f"a number from 0, or an array of {steps} of them"
        raise ValueError(f"step_size must be {wanted}, got {checks.shown(step_size)}")
    step_sizes = np.broadcast_to(-step_sizes if targeted else step_sizes, steps)
    if checks.positive_integer("restarts", restarts) > 1 and not random_start:
        raise ValueError(f"restarts must be 1 without a random start, got {restarts}")
    rng = checks.generator(rng)
    more = [tf.TensorSpec(shape) for shape in ((), (), (2,), (None,))]
    more.append(tf.TensorSpec((2,), tf.int32))
    climb, targets = compile_for(_climb, model, images, labels, loss, *more, norm=norm)
    how = eps, eps if random_start else np.float32(0), clip, step_sizes

    def settings():
        seed = rng.integers(2**31, size=2, dtype=np.int32)
        return map(tf.constant, (*how, seed))

    attack = partial(attack_in_chunks, climb, model, eps=eps, settings=settings)
    if restarts == 1:
        return attack(images, targets)
    if targets.ndim != 2:
        raise ValueError(f"restarts need a model of classes, got {targets.shape[1:]}")
    judged, _ = compile_for(judge, model, images, targets, loss)
    classes = class_ids(targets)
    adversaries, losses = images.copy(), np.full(len(images), -np.inf, np.float32)
    rows = np.arange(len(images))
    with each_warning_once(set()):
        for _ in range(restarts):
            tried = attack(images[rows], targets[rows])
            values, logits = in_chunks(judged, tried, targets[rows])
            values = -values if targeted else values
            fooled = (logits.argmax(axis=1) == classes[rows]) == bool(targeted)
            better = fooled | (values > losses[rows])
            adversaries[rows[better]] = tried[better]
            losses[rows[better]] = values[better]
            rows = rows[~fooled]
            if rows.size == 0:
                break
    return adversaries


def shrinking_steps(eps: float, steps: int) -> np.ndarray:
    """Return step sizes from 2 eps down to eps / 100, which find more than equal ones.

    The large ones leave the start behind, the small ones follow narrow ridges.
    """
    return eps * np.geomspace(2, 0.01, steps)


def _climb(network, images, targets, eps, reach, clip, step_sizes, seed, norm):
    axes = range(1, len(images.shape))
    low, high = (tf.clip_by_value(images + e, clip[0], clip[1]) for e in (-eps, eps))

    def project(adversaries):
        if norm == 2:
            changes = adversaries - images
            longest = tf.maximum(_lengths(changes, axes), eps)
            adversaries = images + changes * tf.math.divide_no_nan(eps, longest)
        return tf.clip_by_value(adversaries, low, high)

    def step(i, adversaries, sizes, finite):
        stepped = gradient_step(network, adversaries, targets, step_sizes[i], norm)
        adversaries, size, is_finite = stepped
        return i + 1, project(adversaries), sizes + size, finite & is_finite

    if norm == 2:  # uniform in the ball
        directions = tf.random.stateless_normal(tf.shape(images), seed)
        lengths = _lengths(directions, axes)
        radii = tf.random.stateless_uniform(tf.shape(lengths), seed + 1)
        radii **= 1 / math.prod(images.shape[1:])
        start = images + reach * radii * directions / lengths
    else:
        uniform = tf.random.stateless_uniform(tf.shape(images), seed, -reach, reach)
        start = images + uniform
    zeros = tf.zeros_like(tf.reduce_sum(images, axes))
    loop = (0, project(start), zeros, zeros == 0)
    return tf.while_loop(lambda i, *_: i < tf.size(step_sizes), step, loop)[1:]


def _lengths(changes, axes):
    return tf.sqrt(tf.reduce_sum(changes**2, axes, keepdims=True))
