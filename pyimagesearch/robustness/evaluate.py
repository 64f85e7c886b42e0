"""How much of a classifier survives attack: a table of accuracies."""

import time
from functools import partial
from typing import NamedTuple

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import class_ids, compile_for, judge, predict_logits
from pyimagesearch.core.gradients import check_outputs
from pyimagesearch.core.losses import OnLogits
from pyimagesearch.core.warning import warn
from pyimagesearch.robustness.classifier import check_compiled
from pyimagesearch.robustness.suite import SQUARE, TRANSFER, make_suite
from pyimagesearch.robustness.transfer import train_substitute

_DOUBTED_IMAGES = 200
_PASSES = 16  # over which the answers of a model that answers at random are averaged


class Row(NamedTuple):
    """What an attack leaves of a classifier; changes are in the images' units."""

    attack: str
    eps: float  # largest change that the attack may make
    accuracy: float  # share of all images that stay correct, 0 to 1
    loss: float  # mean cross-entropy
    seconds: float
    mean_perturbation: float  # absolute change of a value, mean over all images
    largest_perturbation: float


class _Outcome(NamedTuple):
    """What became of each image: its adversary, whether it is right, and its loss."""

    images: np.ndarray
    correct: np.ndarray
    losses: np.ndarray


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

    An image that is wrong when clean is not attacked, and counts as wrong throughout.
    Every attack gets all others, but the slow Square attack only what is left. In the
    row `worst case` an image is correct only if every attack failed on it. The attacks
    are noise, FGSM, BIM, PGD on two losses and towards wrong classes, and Square.

    It warns where gradients seem to mislead the attacks: if PGD is weaker than FGSM,
    the black-box attack or the Square attack, if three times the steps leave 0.01
    less, or if more than 5% withstand an eps of half the range. The answers of a model
    that answers at random are averaged over 16 passes, with a warning.

    Args:
        model: A Keras model that maps one image tensor to the probabilities or logits
            of classes, or to one of them for two classes.
        images: Images `(n, height, width, channels)` in the range `clip`.
        labels: One-hot rows or class ids.
        eps: Largest change of a value, in the units of the images; or several.
        clip: The valid range of a value, `(low, high)`.
        steps: Steps of PGD; fewer are quicker and weaker.
        queries: Queries of the Square attack; likewise.
        attacker_images: Images of a black-box attacker, who attacks a substitute for
            the model (`train_substitute`); its training is not timed.
        from_logits: Whether the model returns logits. By default its last operation
            tells, or the loss that it was compiled with, or its answers.
        rng: Seed or NumPy generator; by default a seed from NumPy's global state.
        verbose: Whether to show a progress bar; by default on a terminal.

    Returns:
        The row `clean`, then for each eps a row per attack and the worst case.

    Raises:
        TypeError, ValueError: If an argument is of a wrong type, out of range or does
            not fit the model, or if the model is no classifier, or returns NaN or
            infinity.
    """
    if clip is None:
        raise ValueError("clip must be (low, high), got None")
    images, _, clip = checks.attack_arguments("images", images, 0, clip)
    width = float(clip[1] - clip[0])
    all_eps = checks.array("eps", eps).ravel().tolist()
    all_eps = dict.fromkeys(checks.number_in("eps", e, 0, width) for e in all_eps)
    steps = checks.positive_integer("steps", steps)
    queries = checks.positive_integer("queries", queries)
    rng = checks.generator(rng)
    loss = OnLogits("margin", from_logits)
    _, targets = compile_for(judge, model, images, labels, loss)
    ids = class_ids(targets)

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
        check_compiled(model, images, targets, ids, logits.argmax(axis=1) == ids)
    substitute = None
    if attacker_images is not None:
        own, *_ = checks.attack_arguments("attacker_images", attacker_images, 0, clip)
        if images.ndim != 4 or own.shape[1:] != images.shape[1:]:
            shapes = f"{own.shape} for images {images.shape}"
            raise ValueError(f"attacker_images must be (n, h, w, c), got {shapes}")
        answers = predict(own).argmax(axis=1)
        substitute = train_substitute(own, answers, clip, logits.shape[1], rng=rng)
    suite = make_suite(
        model, substitute, predict, clip, steps, queries, from_logits, rng
    )
    longer = partial(suite["PGD, cross-entropy"], steps=3 * steps)

    def outcome_of(adversaries):
        logits = predict(adversaries).astype(float)
        losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(ids)), ids]
        return _Outcome(adversaries, right & (logits.argmax(axis=1) == ids), losses)

    def attacked(start, attack, eps, rows):
        if eps == 0 or rows.size == 0:
            return start
        adversaries = start.images.copy()
        adversaries[rows] = attack(images[rows], ids[rows], eps)
        return outcome_of(adversaries)

    def add_row(name, eps, outcome, started):
        seconds = time.perf_counter() - started
        changes = np.abs(outcome.images - images).reshape(len(images), -1)
        shares = outcome.correct.mean(), outcome.losses.mean()
        moves = changes.mean(axis=1, dtype=float).mean(), changes.max()
        table.append(Row(name, eps, *map(float, (*shares, seconds, *moves))))

    table, started = [], time.perf_counter()
    right = np.ones(len(images), bool)
    clean = outcome_of(images)
    right = clean.correct  # from here on, what is wrong when clean stays wrong
    add_row("clean", 0.0, clean, started)
    verbose = checks.is_live() if verbose is None else verbose
    total = len(all_eps) * len(suite)
    progress = keras.utils.Progbar(total, verbose=int(verbose), unit_name="attack")
    for value in all_eps:
        started, worst = time.perf_counter(), _Outcome(*map(np.copy, clean))
        for name, attack in suite.items():
            begun, before = time.perf_counter(), worst.correct.mean()
            start = worst if name == SQUARE else clean
            found = attacked(start, attack, value, np.flatnonzero(start.correct))
            add_row(name, value, found, begun)
            is_worse = found.correct < worst.correct
            is_worse |= (found.correct == worst.correct) & (found.losses > worst.losses)
            for kept, new in zip(worst, found, strict=True):
                kept[is_worse] = new[is_worse]
            progress.add(1)
        if passes > 1 and value > 0:  # unlucky draws are no attack
            worst = outcome_of(worst.images)
        add_row("worst case", value, worst, started)
        if passes > 1 or value == 0:
            continue
        few = np.flatnonzero(worst.correct)[:_DOUBTED_IMAGES]
        left, at_largest = (
            attacked(worst, longer, e, few).correct[few].sum() / max(1, few.size)
            for e in (value, width / 2)
        )
        shares = {row.attack: row.accuracy for row in table if row.eps == value}
        drops = before - shares[SQUARE], worst.correct.mean() * (1 - left)
        for doubt in _find_doubts(shares, *drops, at_largest):
            reason = f"{doubt}; the true robustness may be far lower"
            warn(f"model {model.name!r}, eps {value:g}: {reason}")
    return table


def _find_doubts(shares, drop, longer, at_largest):
    """Return what speaks for gradients that mislead the attacks.

    Given are the accuracies under each attack, by how much the Square attack and more
    steps lower the worst case, and what withstands an eps that can make images grey.
    Source: Athalye et al., "Obfuscated gradients give a false sense of security", 2018.
    """
    pgd = min(share for name, share in shares.items() if name.startswith("PGD"))
    transfer = shares.get(TRANSFER, 1)
    doubts = {
        "PGD is weaker than FGSM": pgd > shares["FGSM"] + 0.01,
        "the black-box attack is stronger than PGD": pgd > transfer + 0.01,
        f"the Square attack, without a gradient, leaves {drop:.1%} less": drop > 0.01,
        f"more steps leave {longer:.1%} less": longer > 0.01,
        f"{at_largest:.1%} withstand even half of the range": at_largest > 0.05,
    }
    return [doubt for doubt, holds in doubts.items() if holds]
