"""Attack saved classifiers in many ways, and print what is left of each.

python -m pyimagesearch.robustness MODEL.keras [MODEL.keras ...]
"""

import csv
import json
import math
from argparse import Namespace
from pathlib import Path

from pyimagesearch.core.checks import one_line
from pyimagesearch.experiment import options as shared
from pyimagesearch.experiment.console import fail, run_script
from pyimagesearch.experiment.folder import ROBUSTNESS, replacing

_ATTACKER_IMAGES = 10_000
_LEGEND = """\
Worst case: an image counts as correct only if every attack failed on it.
An image that is wrong when clean is not attacked, and counts as wrong always."""


def parse_options(description: str) -> Namespace:
    """Parse the command line, before TensorFlow is loaded."""
    parser = shared.make_parser(description.splitlines()[0])
    parser.usage = "python -m pyimagesearch.robustness MODEL.keras [...] [option ...]"
    add = parser.add_argument
    paths = {"nargs": "+", "type": shared.model_file, "metavar": "MODEL.keras"}
    add("models", **paths, help="saved models, first of all")
    what = "strengths, in units of the range (default: a tenth of it)"
    add("--eps", nargs="+", type=shared.number(), metavar="E", help=what)
    what = "how many test images, from the first on (default: %(default)s)"
    count = {"type": shared.positive_integer, "metavar": "N"}
    add("--images", **count, default=1000, help=what)
    what = "queries of the Square attack (default: %(default)s)"
    add("--queries", **count, default=2000, help=what)
    what = "pixel range that the models expect (default: 0 1)"
    bound = shared.number(-1e9, 1e9)
    bounds = {"nargs": 2, "type": bound, "metavar": ("LOW", "HIGH")}
    add("--range", **bounds, default=[0.0, 1.0], help=what)
    what = "add an attacker who sees only the models' answers"
    add("--transfer", action="store_true", help=what)
    options = parser.parse_args()
    low, high = options.range
    if not low < high:
        fail(f"--range must be LOW HIGH, the first smaller, got {low:g} {high:g}")
    options.eps = options.eps or [0.1 * (high - low)]
    if max(options.eps) > high - low:
        got = f"got {max(options.eps):g}"
        fail(f"--eps must be from 0 to the range's {high - low:g}, {got}")
    options.models = name_models(options.models)
    if options.output:
        shared.hold_output(options)
        shared.check_output(options, ROBUSTNESS)
    return options


def name_models(paths: list[str]) -> dict[str, str]:
    """Return paths by their files' names, after those of folders where names repeat."""
    parts = [Path(path).absolute().with_suffix("").parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    names = ["/".join(part[-depth:]) for part in parts]
    return dict(zip(names, paths, strict=True))


def main(options: Namespace) -> None:
    """Evaluate saved models side by side."""
    import keras
    import numpy as np

    from pyimagesearch.experiment.loading import load_data, load_model
    from pyimagesearch.experiment.results import save_pictures
    from pyimagesearch.robustness.evaluate import evaluate_robustness

    print("[INFO] loading data...")
    (own_images, _), (images, labels) = load_data(options)
    images, labels = images[: options.images], labels[: options.images]
    low, high = options.range
    images, own_images = (
        np.clip(low + np.float32(high - low) * part, low, high)
        for part in (images, own_images[:_ATTACKER_IMAGES])
    )
    models = {
        name: load_model(path, (images, labels), to_train=False)
        for name, path in options.models.items()
    }
    reports = {}
    for name, model in models.items():
        print(f"[INFO] attacking {name} on {len(images):,} test images...")
        keras.utils.set_random_seed(options.seed)
        try:
            reports[name] = evaluate_robustness(
                model,
                images,
                labels,
                options.eps,
                (low, high),
                queries=options.queries,
                attacker_images=own_images if options.transfer else None,
                rng=options.seed,
            )
        except ValueError as error:
            fail(f"{name}: {one_line(error)}")
    rows = [row for report in reports.values() for row in report]
    print(f"{format_table(reports)}\n\n{_LEGEND}\n{confidence(rows, len(images))}")
    if options.output:
        options.images = len(images)
        write(reports, options)
        data, eps = (images, labels), max(options.eps)
        prefix = "robustness_"  # beside a run's own pictures
        save_pictures(options.output, models, data, eps, (low, high), prefix)


def confidence(rows: list, count: int) -> str:
    """Return how sure a share of so many images is, for the worst of the rows."""
    share = min(row.accuracy for row in rows)
    # Wilson, "Probable inference, the law of succession, and statistical inference",
    # 1927: the range of shares that such a sample is likely from.
    z = 1.96
    middle = (share + z * z / 2 / count) / (1 + z * z / count)
    spread = z / (1 + z * z / count)
    spread *= math.sqrt(share * (1 - share) / count + (z / 2 / count) ** 2)
    low, high = max(0, middle - spread), min(1, middle + spread)
    return (
        f"With {count:,} images, a share of {share:.3f} stands for {low:.3f} to "
        f"{high:.3f} (95%)."
    )


def format_table(reports: dict[str, list]) -> str:
    """Return all figures of one model, or the accuracies of several side by side."""
    (rows, *others) = reports.values()
    columns = [
        _column("eps", "<.4g", [row.eps for row in rows]),
        _column("attack", "<", [row.attack for row in rows]),
    ]
    if others:
        columns += [
            _column(name, ">.4f", [row.accuracy for row in report])
            for name, report in reports.items()
        ]
    else:
        heads = ("accuracy", "loss", "seconds", "mean move", "largest")
        styles = (">.4f", ">.4g", ">.1f", ">.3g", ">.3g")
        columns += map(_column, heads, styles, list(zip(*rows, strict=True))[2:])
    lines = ["".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    for i in range(len(rows) - 1, 0, -1):  # a blank line between the values of eps
        if rows[i].eps != rows[i - 1].eps:
            lines.insert(i + 1, "")
    return "\n".join(["", *lines])


def _column(head, style, values):
    """Return a table's column as strings of one width."""
    cells = [head, *(f"{value:{style[1:]}}" for value in values)]
    width = max(map(len, cells)) + 2
    return [f"{cell:{style[0]}{width}}" for cell in cells]


def write(reports: dict[str, list], options: Namespace) -> None:
    """Write `robustness.json` and `robustness.csv` into the output folder."""
    names = ("models", "data", "images", "queries", "range", "transfer", "seed")
    results = {name: getattr(options, name) for name in names}
    rows = {name: [row._asdict() for row in reports[name]] for name in reports}
    with replacing(options.output / ROBUSTNESS) as path:
        text = json.dumps({**results, "results": rows}, indent=2, allow_nan=False)
        path.write_text(f"{text}\n")
    with replacing(options.output / "robustness.csv") as path:
        lines = [{"model": name, **row} for name in rows for row in rows[name]]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)


if __name__ == "__main__":
    run_script(main, parse_options, __doc__)
