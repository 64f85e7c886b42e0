"""The iterated attack: BIM, PGD and one step from a random start."""

import math

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import Network, chunks, compile_for, in_chunks, judge
from pyimagesearch.core.gradients import check_gradients, each_warning_once
from pyimagesearch.core.losses import Loss
from pyimagesearch.fgsm import gradient_direction


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

    The published attacks are settings of it:

    - BIM or I-FGSM (Kurakin et al., "Adversarial examples in the physical world",
      2016): `random_start=False, step_size=eps / steps`.
    - PGD (Madry et al., "Towards deep learning models resistant to adversarial
      attacks", 2017): the defaults, and `restarts`.
    - One step from a random start (Wong et al., "Fast is better than free", 2020):
      `steps=1`.

    It warns of gradients as `generate_image_adversary` does.

    Args:
        model: A Keras model that maps one image tensor to one output.
        images: Images `(n, height, width, channels)` of any real dtype.
        labels: As for `generate_image_adversary`.
        eps: Largest change of a value, in the units of the images; for norm 2 the
            largest length of the whole change.
        steps: Number of steps.
        step_size: Size of a step in the units of eps, or an array of `steps` sizes;
            steps that shrink find more. By default 2.5 eps / steps, as in Madry et al.,
            but at most 1.25 eps, as in Wong et al.
        random_start: Whether to start at random inside the eps-ball.
        restarts: How often to start; more than once for classifiers only. Later starts
            attack only the images that do not fool the model yet. Of its tries an
            image keeps the first that fools the model, or else that of highest loss.
        loss: As for `generate_image_adversary`. The default climbs the logits of any
            classifier, however sure of itself it is; for regression give the loss that
            the model was trained with.
        clip: The valid range `(low, high)` of images, start and steps.
        targeted: Descend the loss towards `labels` instead of climbing away from them;
            then a model is fooled if it answers with the label.
        norm: `np.inf` or 2, the norm of the eps-ball and of the steps.
        rng: Seed or NumPy generator of the starts; by default a seed drawn from NumPy's
            global state. A seed, unlike a generator, repeats its starts in each call.

    Returns:
        The adversaries, float32, in the shape of `images`, no further than eps from
        them, to float32's rounding.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the model, or if the
            model returns NaN or infinity.
    """
    images, eps, clip = checks.attack_arguments("images", images, eps, clip)
    steps = checks.positive_integer("steps", steps)
    if step_size is None:
        step_size = min(2.5 / steps, 1.25) * eps
    step_sizes = checks.finite_array("step_size", step_size, np.float32)
    if step_sizes.shape not in ((), (steps,)) or (step_sizes < 0).any():
        wanted = f"a number from 0, or an array of {steps} of them"
        raise ValueError(f"step_size must be {wanted}, got {checks.shown(step_size)}")
    step_sizes = np.broadcast_to(-step_sizes if targeted else step_sizes, steps)
    if checks.positive_integer("restarts", restarts) > 1 and not random_start:
        raise ValueError(f"restarts must be 1 without a random start, got {restarts}")
    checks.one_of("norm", norm, (np.inf, 2))
    rng = checks.generator(rng)
    scalar, vector = tf.TensorSpec(()), tf.TensorSpec((None,))
    more = (scalar, scalar, tf.TensorSpec((2,)), vector, tf.TensorSpec((2,), tf.int32))
    climb, targets = compile_for(_climb, model, images, labels, loss, *more, norm=norm)
    reach = eps if random_start else 0.0

    def attack(rows):
        """Attack some of the images once."""
        adversaries, facts = np.empty((len(rows), *images.shape[1:]), np.float32), []
        for chunk in chunks(adversaries):
            batch = images[rows[chunk]], targets[rows[chunk]]
            seed = rng.integers(2**31, size=2, dtype=np.int32)
            settings = eps, reach, clip, step_sizes, seed
            tensors = [tf.constant(value) for value in (*batch, *settings)]
            adversaries[chunk], *found = (part.numpy() for part in climb(*tensors))
            facts.append(found)
        if eps > 0:
            sizes, finite = map(np.concatenate, zip(*facts, strict=True))
            attacked = model, images[rows], targets[rows]
            check_gradients(gradient_direction, *attacked, sizes, finite)
        return adversaries

    rows = np.arange(len(images))
    if restarts == 1:
        return attack(rows)
    if targets.ndim != 2:
        raise ValueError(f"restarts need a model of classes, got {targets.shape[1:]}")
    judged, _ = compile_for(judge, model, images, targets, loss)
    classes = targets.argmax(axis=1) if targets.shape[1] > 1 else targets[:, 0] > 0.5
    adversaries, losses = images.copy(), np.full(len(images), -np.inf, np.float32)
    warned = set()
    for _ in range(restarts):
        with each_warning_once(warned):
            tried = attack(rows)
        values, logits = in_chunks(judged, tried, targets[rows])
        fooled = (logits.argmax(axis=1) == classes[rows]) == targeted
        better = fooled | ((-values if targeted else values) > losses[rows])
        kept = rows[better]
        adversaries[kept] = tried[better]
        losses[kept] = -values[better] if targeted else values[better]
        rows = rows[~fooled]
        if rows.size == 0:
            break
    return adversaries


def shrinking_steps(eps: float, steps: int) -> np.ndarray:
    """Return step sizes from 2 eps down to eps / 100, which find more than equal ones.

    The large ones leave the start behind, the small ones follow narrow ridges.
    """
    return eps * np.geomspace(2, 0.01, steps)


def _climb(network: Network, images, targets, eps, reach, clip, step_sizes, seed, norm):
    axes = range(1, len(images.shape))
    low, high = (
        tf.clip_by_value(images + eps * side, clip[0], clip[1]) for side in (-1, 1)
    )

    def project(adversaries):
        if norm == 2:
            changes = adversaries - images
            longest = tf.maximum(_lengths(changes, axes), eps)
            adversaries = images + changes * tf.math.divide_no_nan(eps, longest)
        return tf.clip_by_value(adversaries, low, high)

    def step(i, adversaries, sizes, finite):
        found = gradient_direction(network, adversaries, targets, norm)
        direction, size, is_finite = found
        adversaries = project(adversaries + step_sizes[i] * direction)
        return i + 1, adversaries, sizes + size, finite & is_finite

    start = project(images + _random_start(images, axes, reach, seed, norm))
    zeros = tf.zeros_like(tf.reduce_sum(images, axes))
    _, adversaries, sizes, finite = tf.while_loop(
        lambda i, *_: i < tf.size(step_sizes), step, (0, start, zeros, zeros == 0)
    )
    return adversaries, sizes, finite


def _random_start(images, axes, reach, seed, norm):
    """Return changes that are uniformly distributed in the ball."""
    if norm == np.inf:
        return tf.random.stateless_uniform(tf.shape(images), seed, -reach, reach)
    directions = tf.random.stateless_normal(tf.shape(images), seed)
    lengths = _lengths(directions, axes)
    uniform = tf.random.stateless_uniform(tf.shape(lengths), seed + 1)
    radii = uniform ** (1 / math.prod(images.shape[1:]))
    return reach * radii * directions / lengths


def _lengths(changes, axes):
    return tf.sqrt(tf.reduce_sum(changes**2, axes, keepdims=True))
