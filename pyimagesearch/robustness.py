"""How much of a classifier survives attack: a table of accuracies.

python -m pyimagesearch.robustness MODEL.keras [MODEL.keras ...]
"""

# What loads TensorFlow is imported inside the functions: --help answers at once.
import csv
import json
import sys
import time
import warnings
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyimagesearch import checks, experiment, runs
from pyimagesearch.datasets import Split

if TYPE_CHECKING:
    import keras

_RESTARTS, _TARGETS = 2, 5  # of the report's attacks
_LEGEND = (
    "Worst case: an image counts as correct only if every attack failed on it.\n"
    "An image that is wrong when clean is not attacked, and counts as wrong always."
)
_ATTACKER_IMAGES, _CHECK_IMAGES, _DOUBTED_IMAGES = 10_000, 2_000, 200


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
    model: "keras.Model",
    images: np.ndarray,
    labels: np.ndarray,
    eps: float | list[float] = 0.1,
    clip: tuple[float, float] = (0.0, 1.0),
    *,
    steps: int = 100,
    attacker_images: np.ndarray | None = None,
    rng: checks.Seed | None = None,
    verbose: bool | None = None,
) -> list[Row]:
    """Attack a classifier in many ways, on valid images only.

    An image that the model gets wrong unaided has fallen to every attack, and is not
    attacked. Each attack starts on all others, whatever fell to another one, so that
    its row is its own; within it, further restarts and targets go on with the images
    that still stand against it. In the row `worst case` an image is correct only if
    every attack failed on it; its loss and change are those of the attack that fooled
    the model with the highest loss, or came nearest.

    It warns where gradients seem to mislead the attacks: if PGD is weaker than FGSM or
    than the black-box attack, if three times the steps leave a point less, or if more
    than 5% withstand an eps of half the range (at the largest eps, on 200 images that
    stand).

    Args:
        model: A Keras model that maps one image tensor to the probabilities or logits
            of classes, or to a sigmoid's one output.
        images: Images `(n, height, width, channels)` in the range `clip`.
        labels: One-hot rows or class ids.
        eps: Largest change of a value, in the units of the images; or several.
        clip: The valid range of a value, `(low, high)`.
        steps: Steps of PGD; fewer of them are weaker, and for large models.
        attacker_images: Images of an attacker who cannot see the weights. Their
            adversaries are made against a substitute (`pyimagesearch.transfer`),
            whose training is Keras's global seed's affair, and not timed.
        rng: Seed or NumPy generator; by default a seed from NumPy's global state.
        verbose: Whether to show a progress bar; by default on a terminal.

    Returns:
        The row `clean`, then for each eps a row per attack and the worst case.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the model.
    """
    import keras

    from pyimagesearch import fgsm, transfer

    images, _, (low, high) = fgsm.check_attack("images", images, 0, clip)
    if clip is None or low == high:
        raise ValueError(f"clip must be (low, high), low below high, got {clip}")
    clip, width = (low, high), high - low
    low, high = np.float32(clip)
    if images.min() < low or images.max() > high:
        got = f"values from {images.min():g} to {images.max():g}"
        raise ValueError(f"images must lie in clip, {low:g} to {high:g}, got {got}")
    given = checks.real_array("eps", eps).ravel().tolist()
    all_eps = dict.fromkeys(checks.number_in("eps", value, 0, width) for value in given)
    judged, targets = fgsm.prepare_attack(
        fgsm.judge, model, images, labels, "cross_entropy"
    )
    substitute = None
    if attacker_images is not None:
        own, _, _ = fgsm.check_attack("attacker_images", attacker_images, 0, clip)
        logits = fgsm.predict_logits(model, own)
        answers, classes = logits.argmax(axis=1), logits.shape[1]
        substitute = transfer.train_substitute(own, answers, clip, classes)
    steps = checks.positive_integer("steps", steps)
    rng = checks.generator(rng)
    verbose = sys.stdout.isatty() if verbose is None else verbose
    verbose = checks.truth("verbose", verbose)
    attacks = _attacks(model, substitute, judged, steps, clip, rng)

    def outcome(adversaries, rows):
        """Return correctness, loss, mean and largest change, each of an image a row."""
        losses, correct, _ = fgsm.in_chunks(judged, adversaries, targets[rows])
        changes = np.abs(adversaries - images[rows]).reshape(len(adversaries), -1)
        if not np.isfinite(losses).all():
            raise ValueError("model must return finite numbers, got NaN or infinity")
        losses = np.logaddexp(0, losses)
        moves = changes.mean(axis=1, dtype=float)
        figures = [correct, losses, moves, changes.max(axis=1)]
        return np.stack(figures).astype(float)

    def summary(name, eps, outcome, seconds):
        accuracy, loss, mean, _ = outcome.mean(axis=1)
        numbers = (accuracy, loss, seconds, mean, outcome[3].max())
        return Row(name, eps, *map(float, numbers))

    started = time.perf_counter()
    clean = outcome(images, np.arange(len(images)))
    table = [summary("clean", 0.0, clean, time.perf_counter() - started)]
    standing = np.flatnonzero(clean[0])
    batches = [standing[chunk] for chunk in fgsm.chunks(images[standing])]
    total = len(all_eps) * len(batches) * len(attacks)
    progress = keras.utils.Progbar(total, verbose=verbose, unit_name="attack")
    for value in all_eps:
        outcomes = {name: clean.copy() for name in attacks}
        seconds = dict.fromkeys(attacks, 0.0)
        for rows in batches:
            for name, attack in attacks.items():
                started = time.perf_counter()
                adversaries = attack(images[rows], targets[rows], value)
                seconds[name] += time.perf_counter() - started
                outcomes[name][:, rows] = outcome(adversaries, rows)
                progress.add(1)
        for name in attacks:
            table.append(summary(name, value, outcomes[name], seconds[name]))
        every = np.stack(list(outcomes.values()))
        correct, losses = every[:, 0], every[:, 1]
        # From 1 on if the model is fooled, below 1 if not, and rising with the loss.
        damage = np.where(correct, losses / (1 + losses), 1 + losses)
        worst = every[damage.argmax(axis=0), :, np.arange(len(images))].T
        table.append(summary("worst case", value, worst, sum(seconds.values())))

        few = np.flatnonzero(worst[0])[:_DOUBTED_IMAGES]
        if few.size and value == max(all_eps):
            data, doubted = (images[few], targets[few]), table[-1].accuracy
            attack = attacks["PGD, cross-entropy"]
            harder, largest = (
                outcome(attack(*data, bound, steps=3 * steps), few)[0].mean()
                for bound in (value, width / 2)
            )
            shares = {row.attack: row.accuracy for row in table if row.eps == value}
            for doubt in _doubts(shares, doubted * (1 - harder), largest):
                warnings.warn(
                    f"model {model.name!r}, eps {value:g}: {doubt}", stacklevel=2
                )
    return table


def _doubts(shares, drop, at_largest):
    """Return what speaks for gradients that mislead the attacks.

    Args:
        shares: Accuracy under each attack.
        drop: By how much more steps and restarts still lower the worst case.
        at_largest: Accuracy with an eps that can turn every image into plain grey.

    Source: Athalye et al., "Obfuscated gradients give a false sense of security", 2018.
    """
    doubts = []
    white_box = min(shares[name] for name in shares if name.startswith("PGD"))
    if white_box > shares["FGSM"] + 0.01:
        doubts.append("PGD is weaker than FGSM")
    if shares.get("transfer (black box)", 1) < white_box - 0.01:
        doubts.append("the black-box attack is stronger than PGD")
    if drop > 0.01:
        doubts.append(f"more steps and restarts leave {drop:.1%} less")
    if at_largest > 0.05:
        doubts.append(f"{at_largest:.1%} withstand even half of the range")
    return [f"{doubt}; the true robustness may be far lower" for doubt in doubts]


def _attacks(model, substitute, judged, steps, clip, rng):
    from pyimagesearch.fgsm import generate_image_adversary, in_chunks
    from pyimagesearch.pgd import projected_gradient_descent, shrinking_steps

    settings = {"clip": clip, "rng": rng}
    pgd = partial(projected_gradient_descent, model, **settings)

    def uniform_noise(images, labels, eps):
        noise = rng.uniform(-eps, eps, images.shape).astype(np.float32)
        return np.clip(images + noise, *clip)

    def random_signs(images, labels, eps):
        noise = np.float32(eps) * rng.choice(np.float32([-1, 1]), images.shape)
        return np.clip(images + noise, *clip)

    fgsm = partial(generate_image_adversary, model, loss="cross_entropy", clip=clip)

    def bim(images, labels, eps):
        return pgd(
            images, labels, eps, steps=10, step_size=eps / 10, random_start=False
        )

    def strong(images, labels, eps, attack=pgd, steps=steps, **more):
        step_size = shrinking_steps(eps, steps)
        return attack(images, labels, eps, steps=steps, step_size=step_size, **more)

    def targeted(images, labels, eps):
        logits = in_chunks(judged, images, labels)[2]
        likeliest = np.argsort(-logits, axis=1)[:, 1:]  # but for the true class
        adversaries, standing = images.copy(), np.arange(len(images))
        for target in likeliest.T[:_TARGETS]:
            adversaries[standing] = strong(
                images[standing], target[standing], eps, loss="margin", targeted=True
            )
            correct = in_chunks(judged, adversaries[standing], labels[standing])[1]
            standing = standing[correct]
            if standing.size == 0:
                break
        return adversaries

    attacks = {
        "uniform noise": uniform_noise,
        "random signs": random_signs,
        "FGSM": fgsm,
        "BIM": bim,
        "PGD, cross-entropy": partial(strong, restarts=_RESTARTS),
        "PGD, margin": partial(strong, restarts=_RESTARTS, loss="margin"),
        "PGD, targeted": targeted,
    }
    if substitute is not None:
        transfer = partial(projected_gradient_descent, substitute, **settings)
        attacks["transfer (black box)"] = partial(strong, attack=transfer)
    return attacks


def print_honest_check(
    model: "keras.Model", test: Split, eps: float, old: float, run: runs.Run
) -> None:
    """Print what is left of a fine-tuned network when it is attacked as it is now.

    Args:
        model: A compiled classifier of images in [0, 1].
        test: Test images and one-hot labels.
        eps: Largest change of a pixel.
        old: Accuracy on adversaries made before fine-tuning.
        run: The run that gets the figures.
    """
    from pyimagesearch.fgsm import generate_image_adversary
    from pyimagesearch.pgd import projected_gradient_descent, shrinking_steps

    few = tuple(array[:_CHECK_IMAGES] for array in test)
    fgsm = partial(generate_image_adversary, eps=eps)
    settings = {"steps": 40, "step_size": shrinking_steps(eps, 40), "rng": 0}
    pgd = partial(projected_gradient_descent, eps=eps, **settings)
    results = []
    for name, attack, (images, labels) in [
        ("FGSM", fgsm, test),
        ("FGSM, clipped to valid images", partial(fgsm, clip=(0, 1)), test),
        (f"PGD, clipped, first {len(few[0]):,}", partial(pgd, clip=(0, 1)), few),
    ]:
        attacked = attack(model, images, labels), labels
        name = f"fresh adversarial images, {name}"
        results.append(experiment.report(name, model, attacked, run))
    print(
        f"[INFO] in short: correct are {old:.1%} of the adversarial images made before "
        f"fine-tuning,\n[INFO] {results[0]:.1%} of fresh ones of the same kind, and "
        f"{results[2]:.1%} of a stronger attacker's"
    )


def main(options: Namespace) -> None:
    """Evaluate saved models side by side."""
    experiment.import_tensorflow()
    import keras

    from pyimagesearch.plotting import save_pictures

    print("[INFO] loading data...")
    (own_images, _), (images, labels) = experiment.load_data(options)
    images, labels = images[: options.images], labels[: options.images]
    low, high = clip = options.range
    images, own_images = (
        np.clip(low + np.float32(high - low) * part, low, high)
        for part in (images, own_images[:_ATTACKER_IMAGES])
    )
    models = {
        name: experiment.load_model(path, (images, labels), to_train=False)
        for name, path in options.models.items()
    }

    report = partial(
        evaluate_robustness,
        images=images,
        labels=labels.argmax(axis=1),
        eps=options.eps,
        clip=clip,
        attacker_images=own_images if options.transfer else None,
        rng=options.seed,
    )
    reports = {}
    for name, model in models.items():
        print(f"[INFO] attacking {name} on {len(images):,} test images...")
        keras.utils.set_random_seed(options.seed)
        try:
            reports[name] = report(model)
        except ValueError as error:
            experiment.fail(f"{name}: {checks.one_line(error)}")
    print(f"{_format_table(reports)}\n\n{_LEGEND}")
    if options.output:
        options.images = len(images)
        _write(reports, options)
        data, eps = (images, labels), max(options.eps)
        save_pictures(options.output, models, data, eps, clip)


def parse_options() -> Namespace:
    """Parse the command line, before TensorFlow is loaded."""
    parser = experiment.make_parser(__doc__.splitlines()[0])
    parser.usage = "python -m pyimagesearch.robustness MODEL.keras [...] [option ...]"
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL.keras", help="saved models, first of all")
    what = "strengths, in units of the range (default: a tenth of it)"
    add("--eps", nargs="+", type=float, metavar="E", help=what)
    what = "how many test images, from the first on (default: %(default)s)"
    add("--images", type=int, default=1000, metavar="N", help=what)
    what = "pixel range that the models expect (default: 0 1)"
    bounds = ("LOW", "HIGH")
    add("--range", nargs=2, type=float, default=[0, 1], metavar=bounds, help=what)
    what = "add an attacker who sees only the models' answers"
    add("--transfer", action="store_true", help=what)
    options = experiment.parse(parser)
    low, high = options.range
    if not -checks.FLOAT32_MAX <= low < high <= checks.FLOAT32_MAX:
        experiment.fail(
            f"--range must be LOW HIGH, the first smaller, got {low} {high}"
        )
    options.eps = options.eps or [0.1 * (high - low)]
    if max(options.eps) > high - low:
        got = f"got {max(options.eps):g}"
        experiment.fail(f"--eps must be from 0 to the range's {high - low:g}, {got}")
    paths, options.models = options.models, {}
    for path in paths:
        experiment.check_model_file("MODEL.keras", path)
        stem = name = Path(path).stem
        number = 1
        while name in options.models:
            number += 1
            name = f"{stem}_{number}"
        options.models[name] = path
    if options.output:
        experiment.make_folder(options.output)
        experiment.check_output(options, "robustness.json", "accuracy.png")
    return options


def _format_table(reports):
    """Return all figures of one model, or the accuracies of several side by side."""
    (rows, *others) = reports.values()
    lead = [
        _column("eps", "<.4g", [row.eps for row in rows]),
        _column("attack", "<", [row.attack for row in rows]),
    ]
    if others:
        figures = [
            _column(name, ">.4f", [row.accuracy for row in reports[name]])
            for name in reports
        ]
    else:
        heads = ("accuracy", "loss", "seconds", "mean move", "largest")
        styles = (">.4f", ">.4g", ">.1f", ">.3g", ">.3g")
        values = list(zip(*rows, strict=True))[2:]
        figures = list(map(_column, heads, styles, values))
    lines = []
    while figures:
        block = [*lead, figures.pop(0)]
        while figures and sum(len(column[0]) for column in [*block, figures[0]]) <= 80:
            block.append(figures.pop(0))
        for i, cells in enumerate(zip(*block, strict=True)):
            if i == 0 or (i > 1 and rows[i - 1].eps != rows[i - 2].eps):
                lines.append("")
            lines.append("".join(cells).rstrip())
    return "\n".join(lines)


def _column(head, style, values):
    """Return a table's column as strings of one width."""
    cells = [head, *(f"{value:{style[1:]}}" for value in values)]
    width = max(map(len, cells)) + 2
    return [f"{cell:{style[0]}{width}}" for cell in cells]


def _write(reports, options):
    """Write `robustness.json` and `robustness.csv` into the output folder."""
    names = ("models", "data", "images", "range", "transfer", "seed")
    results = {name: getattr(options, name) for name in names}
    rows = {name: [row._asdict() for row in reports[name]] for name in reports}
    with runs.replacing(options.output / "robustness.json") as path:
        text = json.dumps({**results, "results": rows}, indent=2, allow_nan=False)
        path.write_text(f"{text}\n")
    with runs.replacing(options.output / "robustness.csv") as path:
        lines = [{"model": name, **row} for name in rows for row in rows[name]]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)


if __name__ == "__main__":
    experiment.run_script(main, parse_options())
