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
_LEGEND = """
Worst case: an image counts as correct only if every attack failed on it.
An image that is wrong when clean is not attacked, and counts as wrong always."""


def parse_options(description: str) -> Namespace:
    """Parse the command line, before TensorFlow is loaded."""
    parser = shared.make_parser(description.splitlines()[0])
    parser.usage = "python -m pyimagesearch.robustness MODEL.keras [...] [option ...]"
    add, count = parser.add_argument, {"type": shared.number(int, 1), "metavar": "N"}
    paths = {"nargs": "+", "type": shared.model_file, "metavar": "MODEL.keras"}
    add("models", **paths, help="saved models, first of all")
    what = "strengths, in units of the range (default: a tenth of it)"
    add("--eps", nargs="+", type=shared.number(float, 0), metavar="E", help=what)
    what = "how many test images, from the first on (default: %(default)s)"
    add("--images", **count, default=1000, help=what)
    what = "queries of the Square attack (default: %(default)s)"
    add("--queries", **count, default=2000, help=what)
    what = "pixel range that the models expect (default: 0 1)"
    bounds = {
        "nargs": 2,
        "type": shared.number(float, -1e9, 1e9),
        "metavar": ("LOW", "HIGH"),
    }
    add("--range", **bounds, default=[0.0, 1.0], help=what)
    what = "add an attacker who sees only the models' answers"
    add("--transfer", action="store_true", help=what)
    options = parser.parse_args()
    low, high = options.range
    if not low < high:
        fail(f"--range must be LOW HIGH, the first smaller, got {low:g} {high:g}")
    options.eps = options.eps or [0.1 * (high - low)]
    if (largest := max(options.eps)) > high - low:
        fail(f"--eps must be from 0 to the range's {high - low:g}, got {largest:g}")
    options.models = name_models(options.models)
    if options.output:
        shared.hold_output(options, ROBUSTNESS)
    return options


def name_models(paths: list[str]) -> dict[str, str]:
    """Return paths by their files' names, after those of folders where names repeat."""
    parts = [Path(path).absolute().with_suffix("").parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return {
        "/".join(part[-depth:]): path for part, path in zip(parts, paths, strict=True)
    }


def main(options: Namespace) -> None:
    """Evaluate saved models side by side."""
    import keras
    import numpy as np

    from pyimagesearch.experiment.ending import save_pictures
    from pyimagesearch.experiment.loading import load_data, load_model
    from pyimagesearch.robustness.evaluate import evaluate_robustness

    print("[INFO] loading data...")
    (own_images, _), (images, labels) = load_data(options)
    low, high = options.range
    images, own_images = (
        np.clip(low + np.float32(high - low) * part, low, high)
        for part in (images[: options.images], own_images[:_ATTACKER_IMAGES])
    )
    options.images, labels = len(images), labels[: options.images]
    settings = {"queries": options.queries, "rng": options.seed}
    if options.transfer:
        settings["attacker_images"] = own_images
    models = {
        name: load_model(path, (images, labels), to_train=False)
        for name, path in options.models.items()
    }
    reports = {}
    for name, model in models.items():
        print(f"[INFO] attacking {name} on {len(images):,} test images...")
        keras.utils.set_random_seed(options.seed)
        given = images, labels, options.eps, options.range
        try:
            reports[name] = evaluate_robustness(model, *given, **settings)
        except ValueError as error:
            fail(f"{name}: {one_line(error)}")
    print(format_table(reports) + _LEGEND)
    worst = min(row.accuracy for report in reports.values() for row in report)
    low, high = confidence(worst, len(images))
    shares = f"a share of {worst:.3f} stands for {low:.3f} to {high:.3f}"
    print(f"With {len(images):,} images {shares} (95%).")
    if options.output:
        write(reports, options)
        data = images, labels
        clip, prefix = options.range, "robustness_"  # beside a run's own pictures
        save_pictures(options.output, models, data, max(options.eps), clip, prefix)


def confidence(share: float, count: int) -> tuple[float, float]:
    """Return the range from which a share of so many images likely comes, with 95%.

    Source: Wilson, "Probable inference, the law of succession, and statistical
    inference", 1927.
    """
    z = 1.96
    middle = share + z * z / 2 / count
    spread = z * math.sqrt(share * (1 - share) / count + (z / 2 / count) ** 2)
    low, high = (
        max(0, end) / (1 + z * z / count) for end in (middle - spread, middle + spread)
    )
    return low, min(1.0, high)


def format_table(reports: dict[str, list]) -> str:
    """Return the accuracies of all models side by side."""
    (rows, *_) = reports.values()
    lines, last = [["eps", "attack", *reports], []], 0.0
    for i, row in enumerate(rows):
        if row.eps != last:
            lines.append([])
        last = row.eps
        accuracies = [f"{report[i].accuracy:.4f}" for report in reports.values()]
        lines.append([f"{row.eps:<.4g}", row.attack, *accuracies])
    widths = [
        max(map(len, column)) for column in zip(*filter(None, lines), strict=True)
    ]
    text = "\n"
    for line in lines:
        for place, (cell, width) in enumerate(zip(line, widths, strict=False)):
            text += f"{cell:<{width}}  " if place < 2 else f"{cell:>{width}}  "
        text = text.rstrip(" ") + "\n"
    return text


def write(reports: dict[str, list], options: Namespace) -> None:
    """Write `robustness.json` and `robustness.csv` into the output folder."""
    names = ("models", "data", "images", "queries", "range", "transfer", "seed")
    results = {name: getattr(options, name) for name in names}
    results["results"] = {
        name: [row._asdict() for row in report] for name, report in reports.items()
    }
    with replacing(options.output / ROBUSTNESS) as path:
        path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    lines = [
        {"model": name, **row}
        for name, rows in results["results"].items()
        for row in rows
    ]
    csv_path = options.output / "robustness.csv"
    with replacing(csv_path) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    run_script(main, parse_options, __doc__)
