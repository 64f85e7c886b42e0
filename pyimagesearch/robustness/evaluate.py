"""How much of a classifier survives attack: a table of accuracies."""

import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import compile_logits
from pyimagesearch.core.gradients import check_outputs
from pyimagesearch.core.labels import as_classes
from pyimagesearch.core.warning import warn
from pyimagesearch.robustness.suite import SQUARE, make_attacks

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

    The attacks are noise, FGSM, BIM, PGD (on two losses, towards wrong classes, and
    seeing through the first ReLUs), and Square, on what the others leave. An image that
    is wrong when clean is not attacked, and counts as wrong. In the row `worst case` an
    image is correct only if every attack failed on it.

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
            tells, the loss that it was compiled with, or a sum of probabilities of one.
        rng: Seed or NumPy generator; by default a seed from NumPy's global state.
        verbose: Whether to show a progress bar; by default on a terminal.

    Returns:
        The row `clean`, then for each eps a row per attack and the worst case.

    Raises:
        TypeError, ValueError: If an argument is of a wrong type, out of range or does
            not fit, or if the model is no classifier, or returns random answers, NaN or
            infinity.
    """
    if clip is None:
        raise ValueError("clip must be (low, high), got None")
    images, _, clip = checks.attack_arguments("images", images, 0, clip)
    width = float(clip[1] - clip[0])
    values = checks.array("eps", eps)
    if values.ndim > 1 or values.size == 0:
        raise ValueError(f"eps must be a number, or several, got {checks.shown(eps)}")
    all_eps = [checks.number_in("eps", value, 0, width) for value in values.ravel()]
    predict, shape = compile_logits(model, images, from_logits)
    ids = as_classes("labels", labels, len(images), shape)
    attacks, longer_pgd = make_attacks(
        model,
        predict,
        clip=clip,
        steps=checks.positive_integer("steps", steps),
        queries=checks.positive_integer("queries", queries),
        from_logits=from_logits,
        rng=checks.generator(rng),
    )

    judge = _Judge(model, predict, images, ids)
    started = time.perf_counter()
    clean = judge.outcome_of(images)
    rows = [judge.row("clean", 0.0, clean, started)]
    if not np.allclose(predict(images), predict(images), rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"model {model.name!r} answers at random: two passes over the same images "
            "differ; switch off what draws random numbers in inference mode, such as "
            "noise or dropout with training=True"
        )
    if verbose is None:
        verbose = checks.is_live()
    count = len(all_eps) * len(attacks)
    progress = keras.utils.Progbar(count, verbose=verbose, unit_name="attack")
    for value in all_eps:
        begun = time.perf_counter()
        worst = clean
        drops = {}
        new_rows = []
        for name, attack in attacks.items():
            started = time.perf_counter()
            before = worst if name == SQUARE else clean
            found = judge.attacked(before, attack, value)
            drops[name] = before.correct.mean() - found.correct.mean()
            new_rows.append(judge.row(name, value, found, started))
            worst = _worse_of(worst, found)
            progress.add(1)
        new_rows.append(judge.row("worst case", value, worst, begun))
        rows += new_rows
        if value > 0:
            by_longer = judge.share_left(worst, longer_pgd, value)
            at_half = judge.share_left(worst, longer_pgd, width / 2)
            _warn_of_doubts(model, new_rows, drops[SQUARE], by_longer, at_half)
    return rows


class _Outcome(NamedTuple):
    """What became of each image: its adversary, whether it is right, and its loss."""

    images: np.ndarray
    correct: np.ndarray
    losses: np.ndarray


class _Judge(NamedTuple):
    """Attacks images, and says what became of them."""

    model: keras.Model
    predict: Callable
    images: np.ndarray
    ids: np.ndarray

    def outcome_of(self, adversaries):
        logits = self.predict(adversaries).astype(float)
        check_outputs(self.model, np.isfinite(logits).all(axis=1))
        true = logits[np.arange(len(self.ids)), self.ids]
        with np.errstate(under="ignore"):
            losses = np.logaddexp.reduce(logits, axis=1) - true
        return _Outcome(adversaries, logits.argmax(axis=1) == self.ids, losses)

    def attacked(self, start, attack, eps, most=None):
        """Return what an attack makes of images, at most so many, that are right."""
        rows = np.flatnonzero(start.correct)[:most]
        if eps == 0 or rows.size == 0:
            return start
        adversaries = start.images.copy()
        adversaries[rows] = attack(self.images[rows], self.ids[rows], eps)
        found = self.outcome_of(adversaries)
        # What was wrong at the start stays wrong.
        return found._replace(correct=found.correct & start.correct)

    def share_left(self, start, attack, eps):
        """Return the share of some images, right at the start, that withstand."""
        found = self.attacked(start, attack, eps, _DOUBTED_IMAGES)
        few = np.flatnonzero(start.correct)[:_DOUBTED_IMAGES]
        return found.correct[few].sum() / max(1, few.size)

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


def _worse_of(one, other):
    """Return for each image the outcome that is worse for the model."""
    is_worse = other.correct < one.correct
    is_worse |= (other.correct == one.correct) & (other.losses > one.losses)
    worse = _Outcome(*[values.copy() for values in one])
    for values, others in zip(worse, other, strict=True):
        values[is_worse] = others[is_worse]
    return worse


def _warn_of_doubts(model, rows, by_square, by_longer, at_half):
    """Warn where gradients seem to mislead the attacks.

    Source: Athalye et al., "Obfuscated gradients give a false sense of security", 2018.
    """
    accuracy = {row.attack: row.accuracy for row in rows}
    pgd = min(accuracy[name] for name in accuracy if name.startswith("PGD"))
    steps_drop = accuracy["worst case"] * (1 - by_longer)
    doubts = {
        "PGD is weaker than FGSM": pgd > accuracy["FGSM"] + 0.01,
        f"the Square attack, without a gradient, leaves {by_square:.1%} less": (
            by_square > 0.01
        ),
        f"more steps leave {steps_drop:.1%} less": steps_drop > 0.01,
        f"{at_half:.1%} withstand even half of the range": at_half > 0.05,
    }
    for doubt, holds in doubts.items():
        if holds:
            reason = f"{doubt}; the true robustness may be far lower"
            warn(f"model {model.name!r}, eps {rows[-1].eps:g}: {reason}")
