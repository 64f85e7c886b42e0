"""How much of a classifier survives attack: a table of accuracies."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import compile_logits
from pyimagesearch.core.gradients import check_outputs
from pyimagesearch.core.labels import as_classes
from pyimagesearch.core.warning import warn
from pyimagesearch.robustness.classifier import check_answers, check_compiled
from pyimagesearch.robustness.suite import Suite

SQUARE = "Square, on what is left"
_DOUBTED_IMAGES = 200


class Row(NamedTuple):
    """What an attack leaves of a classifier; changes are in the images' units."""

    attack: str
    eps: float  # largest change that the attack may make
    accuracy: float  # share of all images that stay correct, 0 to 1
    loss: float  # mean cross-entropy
    seconds: float
    mean_perturbation: float  # absolute change of a value, mean over all images
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
    from_logits: bool | None = None,
    rng: checks.Seed | None = None,
    verbose: bool | None = None,
) -> list[Row]:
    """Attack a classifier in many ways, on valid images only.

    An image that is wrong when clean is not attacked, and counts as wrong throughout.
    Every attack gets all others, but the slow Square attack only what is left. In the
    row `worst case` an image is correct only if every attack failed on it. The attacks
    are noise, FGSM, BIM, PGD (on two losses, towards wrong classes, and seeing through
    the first ReLUs), and Square.

    It warns where gradients seem to mislead the attacks: if PGD is weaker than FGSM or
    than the Square attack, if three times the steps leave 0.01 less, or if more than 5%
    withstand an eps of half the range.

    Args:
        model: A Keras model that maps one image tensor to the probabilities or logits
            of classes, or to one of them for two classes.
        images: Images `(n, height, width, channels)` in the range `clip`.
        labels: One-hot rows or class ids.
        eps: Largest change of a value, in the units of the images; or several.
        clip: The valid range of a value, `(low, high)`.
        steps: Steps of PGD; fewer are quicker and weaker.
        queries: Queries of the Square attack; likewise.
        from_logits: Whether the model returns logits. By default its last operation
            tells, or the loss that it was compiled with, or that two or more
            probabilities add up to one.
        rng: Seed or NumPy generator; by default a seed from NumPy's global state.
        verbose: Whether to show a progress bar; by default on a terminal.

    Returns:
        The row `clean`, then for each eps a row per attack and the worst case.

    Raises:
        TypeError, ValueError: If an argument is of a wrong type, out of range or does
            not fit the model, or if the model is no classifier, answers at random, or
            returns NaN or infinity.
    """
    if clip is None:
        raise ValueError("clip must be (low, high), got None")
    images, _, clip = checks.attack_arguments("images", images, 0, clip)
    all_eps = _check_eps(eps, float(clip[1] - clip[0]))
    steps = checks.positive_integer("steps", steps)
    queries = checks.positive_integer("queries", queries)
    rng = checks.generator(rng)
    predict, shape = compile_logits(model, images, from_logits)
    ids = as_classes("labels", labels, len(images), shape)
    check_answers(model, predict, images)

    started = time.perf_counter()
    judge = _Judge(model, predict, images, ids)
    clean = judge.outcome_of(images)
    if from_logits is None:
        check_compiled(model, images, ids, shape, clean.correct.mean())
    suite = Suite(model, predict, tuple(clip), from_logits, steps, queries, rng)
    verbose = checks.is_live() if verbose is None else verbose
    progress = keras.utils.Progbar(
        len(all_eps) * (len(suite.attacks()) + 1),
        verbose=int(bool(verbose)),
        unit_name="attack",
    )
    rows = [judge.row("clean", 0.0, clean, started)]
    for value in all_eps:
        new_rows, before_square, worst = _attack_all(
            judge, suite, clean, value, progress
        )
        rows += new_rows
        if value > 0:
            _warn_of_doubts(judge, suite, new_rows, before_square, worst)
    return rows


def _check_eps(eps, width):
    """Return the values of eps once each, or raise."""
    values = checks.array("eps", eps)
    if values.ndim > 1 or values.size == 0:
        raise ValueError(f"eps must be a number, or several, got {checks.shown(eps)}")
    numbers = [checks.number_in("eps", value, 0, width) for value in values.ravel()]
    return list(dict.fromkeys(numbers))


class _Outcome(NamedTuple):
    """What became of each image: its adversary, whether it is right, and its loss."""

    images: np.ndarray
    correct: np.ndarray
    losses: np.ndarray


@dataclass
class _Judge:
    """Attacks images, and says what became of them."""

    model: keras.Model
    predict: object
    images: np.ndarray
    ids: np.ndarray

    def outcome_of(self, adversaries):
        logits = self.predict(adversaries).astype(float)
        check_outputs(self.model, np.isfinite(logits).all(axis=1))
        true = logits[np.arange(len(self.ids)), self.ids]
        with np.errstate(under="ignore"):
            losses = np.logaddexp.reduce(logits, axis=1) - true
        return _Outcome(adversaries, logits.argmax(axis=1) == self.ids, losses)

    def attacked(self, start, attack, eps, rows=None):
        """Return what an attack makes of the images that are right at the start.

        If rows are given, it gets no others.
        """
        if rows is None:
            rows = np.flatnonzero(start.correct)
        if eps == 0 or rows.size == 0:
            return start
        adversaries = start.images.copy()
        adversaries[rows] = attack(self.images[rows], self.ids[rows], eps)
        found = self.outcome_of(adversaries)
        # What was wrong at the start stays wrong.
        return found._replace(correct=found.correct & start.correct)

    def row(self, name, eps, outcome, started):
        changes = np.abs(outcome.images - self.images).reshape(len(self.images), -1)
        return Row(
            attack=name,
            eps=eps,
            accuracy=float(outcome.correct.mean()),
            loss=float(outcome.losses.mean()),
            seconds=time.perf_counter() - started,
            mean_perturbation=float(changes.mean(axis=1, dtype=float).mean()),
            largest_perturbation=float(changes.max()),
        )


def _attack_all(judge, suite, clean, eps, progress):
    """Return the rows of one eps, and what is left before and after Square."""
    begun = time.perf_counter()
    rows = []
    worst = clean
    for name, attack in suite.attacks().items():
        started = time.perf_counter()
        found = judge.attacked(clean, attack, eps)
        rows.append(judge.row(name, eps, found, started))
        worst = _worse_of(worst, found)
        progress.add(1)
    started = time.perf_counter()
    searched = judge.attacked(worst, suite.square, eps)
    rows.append(judge.row(SQUARE, eps, searched, started))
    progress.add(1)
    before_square = worst
    worst = _worse_of(worst, searched)
    rows.append(judge.row("worst case", eps, worst, begun))
    return rows, before_square, worst


def _worse_of(one, other):
    """Return for each image the outcome that is worse for the model."""
    is_worse = other.correct < one.correct
    is_worse |= (other.correct == one.correct) & (other.losses > one.losses)
    column = is_worse.reshape(-1, *[1] * (one.images.ndim - 1))
    return _Outcome(
        images=np.where(column, other.images, one.images),
        correct=one.correct & other.correct,
        losses=np.where(is_worse, other.losses, one.losses),
    )


def _warn_of_doubts(judge, suite, rows, before_square, worst):
    """Warn where gradients seem to mislead the attacks.

    Source: Athalye et al., "Obfuscated gradients give a false sense of security", 2018.
    """
    eps = rows[0].eps
    accuracy = {row.attack: row.accuracy for row in rows}
    pgd = min(a for name, a in accuracy.items() if name.startswith("PGD"))
    square_drop = before_square.correct.mean() - worst.correct.mean()

    few = np.flatnonzero(worst.correct)[:_DOUBTED_IMAGES]
    by_more_steps = judge.attacked(worst, suite.pgd_longer, eps, few).correct[few]
    half = (suite.clip[1] - suite.clip[0]) / 2
    at_half = judge.attacked(worst, suite.pgd_longer, half, few).correct[few]
    share = max(1, few.size)
    steps_drop = worst.correct.mean() * (1 - by_more_steps.sum() / share)
    left_at_half = at_half.sum() / share

    doubts = {
        "PGD is weaker than FGSM": pgd > accuracy["FGSM"] + 0.01,
        f"the Square attack, without a gradient, leaves {square_drop:.1%} less": (
            square_drop > 0.01
        ),
        f"more steps leave {steps_drop:.1%} less": steps_drop > 0.01,
        f"{left_at_half:.1%} withstand even half of the range": left_at_half > 0.05,
    }
    for doubt, holds in doubts.items():
        if holds:
            reason = f"{doubt}; the true robustness may be far lower"
            warn(f"model {judge.model.name!r}, eps {eps:g}: {reason}")
