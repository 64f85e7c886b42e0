"""The iterated attack: BIM, PGD and one step from a random start."""

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch import checks
from pyimagesearch.fgsm import (
    Loss,
    Network,
    check_attack,
    chunks,
    gradient_sign,
    in_chunks,
    judge,
    prepare_attack,
)


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
    rng: checks.Seed | None = None,
) -> np.ndarray:
    """Attack a batch by gradient-sign steps that never leave the eps-ball.

    The published attacks are settings of it:

    - BIM or I-FGSM (Kurakin et al., "Adversarial examples in the physical world",
      2016): `random_start=False, step_size=eps / steps`.
    - PGD (Madry et al., "Towards deep learning models resistant to adversarial
      attacks", 2017): the defaults, and `restarts`.
    - One step from a random start (Wong et al., "Fast is better than free", 2020):
      `steps=1`.

    Args:
        model: A Keras model that maps one image tensor to one output.
        images: Images `(n, height, width, channels)` of any real dtype.
        labels: As for `generate_image_adversary`.
        eps: Largest change of a value, in the units of the images.
        steps: Number of steps.
        step_size: Size of a step in the units of the images, or an array of `steps`
            sizes; steps that shrink find more. By default 2.5 eps / steps, as in Madry
            et al., but at most 1.25 eps, as in Wong et al.
        random_start: Whether to start at random inside the eps-ball.
        restarts: How often to start; more than once for classifiers only. Later starts
            attack only the images that do not fool the model yet. Of its tries an
            image keeps the first that fools the model, or else that of highest loss.
        loss: As for `generate_image_adversary`. The default climbs the logits of any
            classifier, however sure of itself it is.
        clip: The valid range `(low, high)`, in which start and steps are kept.
        targeted: Descend the loss towards `labels` instead of climbing away from them;
            then a model is fooled if it answers with the label.
        rng: Seed or NumPy generator of the starts; by default a seed drawn from NumPy's
            global state. A seed, unlike a generator, repeats its starts in each call.

    Returns:
        The adversaries, float32, in the shape of `images`, no further than eps from
        them (to float32's rounding, and unless `clip` moves an image further).

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the model.
    """
    images, eps, clip = check_attack("images", images, eps, clip)
    steps = checks.positive_integer("steps", steps)
    if step_size is None:
        step_size = min(2.5 / steps, 1.25) * eps
    step_sizes = checks.real_array("step_size", step_size, np.float32)
    if step_sizes.shape not in ((), (steps,)) or (step_sizes < 0).any():
        wanted = f"a number from 0, or an array of {steps} of them"
        raise ValueError(f"step_size must be {wanted}, got {checks.shown(step_size)}")
    random_start = checks.truth("random_start", random_start)
    targeted = checks.truth("targeted", targeted)
    step_sizes = np.broadcast_to(-step_sizes if targeted else step_sizes, steps)
    if checks.positive_integer("restarts", restarts) > 1 and not random_start:
        raise ValueError(f"restarts must be 1 without a random start, got {restarts}")
    rng = checks.generator(rng)
    scalar, vector = tf.TensorSpec(()), tf.TensorSpec((None,))
    more = (scalar, scalar, tf.TensorSpec((2,)), vector, tf.TensorSpec((2,), tf.int32))
    climb, targets = prepare_attack(_climb, model, images, labels, loss, *more)
    reach = eps if random_start else 0.0

    def attack(rows):
        adversaries = np.empty((len(rows), *images.shape[1:]), np.float32)
        for chunk in chunks(adversaries):
            batch = images[rows[chunk]], targets[rows[chunk]]
            seed = rng.integers(2**31, size=2, dtype=np.int32)
            settings = eps, reach, clip, step_sizes, seed
            tensors = [tf.constant(value) for value in (*batch, *settings)]
            adversaries[chunk] = climb(*tensors).numpy()
        return adversaries

    rows = np.arange(len(images))
    if restarts == 1:
        return attack(rows)
    if targets.ndim != 2:
        raise ValueError(f"restarts need a model of classes, got {targets.shape[1:]}")
    judged, _ = prepare_attack(judge, model, images, labels, loss)
    adversaries, losses = images.copy(), np.full(len(images), -np.inf, np.float32)
    for _ in range(restarts):
        tried = attack(rows)
        values, hits, _ = in_chunks(judged, tried, targets[rows])
        values, fooled = (-values, hits) if targeted else (values, ~hits)
        better = fooled | (values > losses[rows])
        kept = rows[better]
        adversaries[kept], losses[kept] = tried[better], values[better]
        rows = rows[~fooled]
        if rows.size == 0:
            break
    return adversaries


def shrinking_steps(eps: float, steps: int) -> np.ndarray:
    """Return step sizes from 2 eps down to eps / 100, which find more than equal ones.

    The large ones leave the start behind, the small ones follow narrow ridges.
    """
    return eps * np.geomspace(2, 0.01, steps)


def _climb(network: Network, images, targets, eps, reach, clip, step_sizes, seed):
    low = tf.clip_by_value(images - eps, clip[0], clip[1])
    high = tf.clip_by_value(images + eps, clip[0], clip[1])
    noise = tf.random.stateless_uniform(tf.shape(images), seed, -reach, reach)

    def step(i, adversaries):
        moved = step_sizes[i] * gradient_sign(network, adversaries, targets)
        return i + 1, tf.clip_by_value(adversaries + moved, low, high)

    _, adversaries = tf.while_loop(
        lambda i, _: i < tf.size(step_sizes),
        step,
        (0, tf.clip_by_value(images + noise, low, high)),
    )
    return adversaries
