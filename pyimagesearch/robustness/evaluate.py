"""How much of a classifier survives attack: a table of accuracies."""

import time
from functools import partial
from typing import NamedTuple

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import predict_logits
from pyimagesearch.core.gradients import check_outputs
from pyimagesearch.core.warning import warn
from pyimagesearch.robustness.classifier import check_accuracy, class_ids, find_doubts
from pyimagesearch.robustness.suite import SQUARE, make_suite
from pyimagesearch.robustness.transfer import train_substitute

_DOUBTED_IMAGES = 200
_PASSES = 16  # over which the answers of a model that answers at random are averaged


class Row(NamedTuple):
    """What an attack leaves of a classifier.

    Attributes:
        attack: Name of the attack.
        eps: Largest change that it may make, in the units of the images.
        accuracy: Share of all images that stay correct, 0 to 1.
        loss: Mean cross-entropy.
        seconds: Time that the attack took.
        mean_perturbation: Mean absolute change of a value, over all images, also
            those that are not attacked.
        largest_perturbation: Largest absolute change of a value.
    """

    attack: str
    eps: float
    accuracy: float
    loss: float
    seconds: float
    mean_perturbation: float
    largest_perturbation: float


def evaluate_robustness(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    eps: float | list[float] = 0.1,
    clip: tuple[float, float] = (0.0, 1.0),
    *,
    steps: int = 100,
    queries: int = 2000,
    attacker_images: np.ndarray | None = None,
    from_logits: bool | None = None,
    rng: checks.Seed | None = None,
    verbose: bool | None = None,
) -> list[Row]:
    """Attack a classifier in many ways, on valid images only.

    An image that the model gets wrong unaided has fallen to every attack, and is not
    attacked. Each attack starts on all others, so that its row is its own; only the
    Square attack, which takes longest, gets what the others leave, as its name says. In
    the row `worst case` an image is correct only if every attack failed on it.

    It warns where gradients seem to mislead the attacks: if PGD is weaker than FGSM,
    the black-box attack or the Square attack, if three times the steps leave a point
    less, or if more than 5% withstand an eps of half the range. The answers of a model
    that answers at random are averaged over 16 passes, with a warning.

    Args:
        model: A Keras model that maps one image tensor to the probabilities or logits
            of classes, or to one of them for two classes.
        images: Images `(n, height, width, channels)` in the range `clip`.
        labels: One-hot rows or class ids.
        eps: Largest change of a value, in the units of the images; or several.
        clip: The valid range of a value, `(low, high)`.
        steps: Steps of PGD; fewer of them are weaker, and for large models.
        queries: Queries of the Square attack; likewise.
        attacker_images: Images of an attacker who cannot see the weights. Their
            adversaries are made against a substitute (`train_substitute`), whose
            training is not timed.
        from_logits: Whether the model returns logits, where its last operation does not
            tell. By default the loss says so that it was compiled with, or else its
            answers to the images do.
        rng: Seed or NumPy generator; by default a seed from NumPy's global state.
        verbose: Whether to show a progress bar; by default on a terminal.

    Returns:
        The row `clean`, then for each eps a row per attack and the worst case.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the model, if the
            model is no classifier, or returns NaN or infinity.
    """
    if clip is None:
        raise ValueError("clip must be (low, high), got None")
    images, _, clip = checks.attack_arguments("images", images, 0, clip)
    width = float(clip[1] - clip[0])
    all_eps = checks.array("eps", eps).ravel().tolist()
    all_eps = dict.fromkeys(checks.number_in("eps", e, 0, width) for e in all_eps)
    limits = [checks.positive_integer("steps", steps)]
    limits.append(checks.positive_integer("queries", queries))
    rng = checks.generator(rng)
    labels = class_ids(model, images, labels, from_logits)

    def predict(given):
        logits = sum(predict_logits(model, given, from_logits) for _ in range(passes))
        check_outputs(model, np.isfinite(logits).all(axis=1))
        return logits / passes

    passes = 1
    logits = predict(images)
    if not np.allclose(logits, predict(images), rtol=1e-3, atol=1e-4):
        passes = _PASSES
        warn(
            f"model {model.name!r} answers at random: two passes over the same images "
            f"differ, so answers are averaged over {passes} of them"
        )
    elif from_logits is None:
        check_accuracy(model, images, labels, logits)
    substitute = None
    if attacker_images is not None:
        own, *_ = checks.attack_arguments("attacker_images", attacker_images, 0, clip)
        if own.ndim != 4 or own.shape[1:] != images.shape[1:]:
            got = f"{own.shape} for images {images.shape}"
            raise ValueError(f"attacker_images must be (n, h, w, c), too, got {got}")
        answers = predict(own).argmax(axis=1)
        substitute = train_substitute(own, answers, clip, logits.shape[1], rng=rng)
    suite = make_suite(model, substitute, predict, clip, *limits, from_logits, rng)

    def outcome(adversaries, rows):
        """Return correctness, loss, mean and largest change, each of an image a row."""
        logits = predict(adversaries).astype(float)
        changes = np.abs(adversaries - images[rows]).reshape(len(rows), -1)
        moves = changes.mean(axis=1, dtype=float), changes.max(axis=1)
        true = logits[np.arange(len(rows)), labels[rows]]
        losses = np.logaddexp.reduce(logits, axis=1) - true
        return np.stack([logits.argmax(axis=1) == labels[rows], losses, *moves])

    def summary(name, eps, outcome, seconds):
        accuracy, loss, mean, _ = outcome.mean(axis=1)
        numbers = (accuracy, loss, seconds, mean, outcome[3].max())
        return Row(name, eps, *map(float, numbers))

    started = time.perf_counter()
    clean = outcome(images, np.arange(len(images)))
    table = [summary("clean", 0.0, clean, time.perf_counter() - started)]
    verbose = checks.is_live() if verbose is None else verbose
    total = len(all_eps) * len(suite)
    progress = keras.utils.Progbar(total, verbose=int(verbose), unit_name="attack")
    for value in all_eps:
        started, shares = time.perf_counter(), {}
        worst, worst_images = clean, images.copy()
        for name, attack in suite.items():
            found = (worst if name == SQUARE else clean).copy()
            before, rows = worst[0].mean(), np.flatnonzero(found[0])
            attacked, begun = images.copy(), time.perf_counter()
            if value > 0 and rows.size > 0:
                attacked[rows] = attack(images[rows], labels[rows], value)
                found[:, rows] = outcome(attacked[rows], rows)
            seconds = time.perf_counter() - begun
            table.append(summary(name, value, found, seconds))
            shares[name] = table[-1].accuracy
            is_worse = _damage(found) > _damage(worst)
            worst = np.where(is_worse, found, worst)
            worst_images[is_worse] = attacked[is_worse]
            progress.add(1)
        if passes > 1 and value > 0:  # an unlucky draw is no attack
            right = np.flatnonzero(clean[0])
            worst = clean.copy()
            worst[:, right] = outcome(worst_images[right], right)
        seconds = time.perf_counter() - started
        table.append(summary("worst case", value, worst, seconds))
        if value > 0 and passes == 1:
            few, left = np.flatnonzero(worst[0])[:_DOUBTED_IMAGES], [1.0, 0.0]
            if few.size > 0:
                longer = partial(suite["PGD, cross-entropy"], steps=3 * steps)
                attacked = (
                    longer(images[few], labels[few], e) for e in (value, width / 2)
                )
                left = [outcome(adversaries, few)[0].mean() for adversaries in attacked]
            drops = before - shares[SQUARE], worst[0].mean() * (1 - left[0])
            for doubt in find_doubts(shares, *drops, left[1]):
                warn(f"model {model.name!r}, eps {value:g}: {doubt}")
    return table


def _damage(outcome):
    """Return from 1 on where the model is fooled, else less, rising with the loss."""
    correct, losses, *_ = outcome
    return np.where(correct, losses / (1 + losses), 1 + losses)
