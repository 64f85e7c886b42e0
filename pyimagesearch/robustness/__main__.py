"""Attack saved classifiers in many ways, and print what is left of each.

python -m pyimagesearch.robustness MODEL.keras [MODEL.keras ...]
"""

import os
import sys
from argparse import Namespace
from pathlib import Path

from pyimagesearch.core.checks import one_line
from pyimagesearch.experiment import files
from pyimagesearch.experiment import options as shared
from pyimagesearch.experiment.console import fail, run_script

_RESULTS = "robustness.json"


def parse_options(description: str) -> Namespace:
    """Parse the command line, before TensorFlow is loaded."""
    parser = shared.make_parser(description.splitlines()[0])
    parser.usage = "python -m pyimagesearch.robustness MODEL.keras [...] [option ...]"
    parser.add_argument(
        "models",
        nargs="+",
        type=shared.model_file,
        metavar="MODEL.keras",
        help="saved models, before all options",
    )
    parser.add_argument(
        "--eps",
        nargs="+",
        type=shared.number(float, 0),
        help="strengths, in units of the range (default: a tenth of it)",
    )
    parser.add_argument(
        "--images",
        type=image_range,
        default=slice(0, 1000),
        help="how many test images, or START:STOP (default: 1000)",
    )
    count = shared.number(int, 1)
    parser.add_argument(
        "--steps", type=count, default=100, help="of PGD (default: %(default)s)"
    )
    parser.add_argument(
        "--queries", type=count, default=2000, help="of Square (default: %(default)s)"
    )
    parser.add_argument(
        "--range",
        nargs=2,
        type=shared.number(float, -1e9, 1e9),
        default=[0.0, 1.0],
        metavar=("LOW", "HIGH"),
        help="pixel range that the models expect (default: 0 1)",
    )
    parser.add_argument("--from-logits", action="store_true", help="models give logits")
    parser.add_argument(
        "--fail-under",
        type=shared.number(float, 0, 1),
        default=0.0,
        help="end with status 1 if a worst case is below this accuracy",
    )
    options = parser.parse_args()
    low, high = options.range
    if not low < high:
        fail(f"--range must be LOW HIGH, the first smaller, got {low:g} {high:g}")
    options.eps = options.eps or [0.1 * (high - low)]
    largest = max(options.eps)
    if largest > high - low:
        fail(f"--eps must be from 0 to the range's {high - low:g}, got {largest:g}")
    options.models = name_models(options.models)
    folder = options.output
    if folder and (folder / _RESULTS).exists() and not options.force:
        fail(f"--output: {folder} holds an earlier {_RESULTS}; --force replaces it")
    return options


def image_range(text: str) -> slice:
    """Return a value of --images: a number of images, or START:STOP."""
    start, _, stop = text.rpartition(":")
    rows = slice(int(start or 0), int(stop))
    is_right = 0 <= rows.start < rows.stop
    shared.require(is_right, "a number from 1 on, or START:STOP", text)
    return rows


def name_models(paths: list[str]) -> dict[str, str]:
    """Return paths by their names without what all have in common."""
    folder = os.path.commonpath([Path(path).absolute().parent for path in paths])
    return {
        os.path.relpath(path, folder).removesuffix(".keras"): path for path in paths
    }


def main(options: Namespace) -> None:
    """Evaluate saved models side by side."""
    import numpy as np

    from pyimagesearch.experiment.data import load_test
    from pyimagesearch.experiment.models import check_model_fits, read_model
    from pyimagesearch.experiment.pictures import save_pictures
    from pyimagesearch.robustness.evaluate import evaluate_robustness

    models = {name: read_model(path) for name, path in options.models.items()}
    print("[INFO] loading data...")
    first, *_ = models.values()
    options.data, (images, labels) = load_test(options.data, first, options.images)
    low, high = options.range
    images = np.clip(low + np.float32(high - low) * images, low, high)
    data = (images, labels)
    for name, model in models.items():
        check_model_fits(model, options.models[name], data)
    reports = {}
    for name, model in models.items():
        print(f"[INFO] attacking {name} on {len(images):,} test images...")
        try:
            reports[name] = evaluate_robustness(
                model,
                images,
                labels.argmax(axis=1),
                options.eps,
                options.range,
                steps=options.steps,
                queries=options.queries,
                from_logits=options.from_logits or None,  # None finds it out
                rng=options.seed,
            )
        except ValueError as error:
            fail(f"{name}: {one_line(error)}")
    print(format_table(reports))
    best = max(report[-1].accuracy for report in reports.values())
    print(describe(best, len(images)))
    if options.output:
        write(reports, options, len(images))
        eps = max(options.eps)
        prefix = "robustness_"  # beside a run's own pictures
        save_pictures(options.output, models, data, eps, options.range, prefix)
    lowest = min(row.accuracy for report in reports.values() for row in report)
    if lowest < options.fail_under:
        limit = f"--fail-under {options.fail_under:g}"
        sys.exit(f"a worst case of {lowest:.4f} is below {limit}")


def format_table(reports: dict[str, list]) -> str:
    """Return the accuracies of all models side by side."""
    heads = [name.rjust(max(8, len(name) + 2)) for name in reports]
    lines = [f"\n{'eps':<9}{'attack':<25}{''.join(heads)}\n"]
    for rows in zip(*reports.values(), strict=True):
        first, *_ = rows
        cells = [
            f"{row.accuracy:{len(head)}.4f}"
            for row, head in zip(rows, heads, strict=True)
        ]
        lines.append(f"{first.eps:<9.4g}{first.attack:<25}{''.join(cells)}")
        if first.attack in ("clean", "worst case"):
            lines.append("")
    return "\n".join(lines)


def describe(accuracy: float, count: int) -> str:
    """Return what the table means, and an accuracy on so many images stands for."""
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * count), count).proportion_ci(method="wilson")
    shares = f"{accuracy:.3f} stands for {interval.low:.3f} to {interval.high:.3f}"
    return f"""\
Worst case: an image counts as correct only if every attack failed on it.
An image that is wrong when clean is not attacked, and counts as wrong always.
With {count:,} images a worst case of {shares} (95%)."""


def write(reports: dict[str, list], options: Namespace, count: int) -> None:
    """Write `robustness.json` and `robustness.csv` into the output folder."""
    rows = {name: [row._asdict() for row in report] for name, report in reports.items()}
    kept = ("models", "data", "steps", "queries", "range", "seed")
    results = {name: getattr(options, name) for name in kept}
    results |= {"images": count, "first image": options.images.start, "results": rows}
    files.write_json(options.output / _RESULTS, results)
    table = [{"model": name} | row for name in rows for row in rows[name]]
    files.write_table(options.output / "robustness.csv", table)


if __name__ == "__main__":
    run_script(main, parse_options, __doc__)
