"""Attack saved classifiers in many ways, and print what is left of each.

python -m pyimagesearch.robustness MODEL.keras [MODEL.keras ...]
"""

from argparse import Namespace
from pathlib import Path

from pyimagesearch.core.checks import one_line
from pyimagesearch.experiment import folder
from pyimagesearch.experiment import options as shared
from pyimagesearch.experiment.console import fail, run_script

_ATTACKER_IMAGES = 10_000
_LEGEND = """
Worst case: an image counts as correct only if every attack failed on it.
An image that is wrong when clean is not attacked, and counts as wrong always."""


def parse_options(description: str) -> Namespace:
    """Parse the command line, before TensorFlow is loaded."""
    parser = shared.make_parser(description.splitlines()[0])
    parser.usage = "python -m pyimagesearch.robustness MODEL.keras [...] [option ...]"
    add, count = parser.add_argument, shared.number(int, 1)
    what = "saved models, before all options"
    add("models", nargs="+", type=shared.model_file, metavar="MODEL.keras", help=what)
    what = "strengths, in units of the range (default: a tenth of it)"
    add("--eps", nargs="+", type=strength, help=what)
    what = "how many test images, from the first on (default: %(default)s)"
    add("--images", type=count, default=1000, help=what)
    what = "queries of the Square attack (default: %(default)s)"
    add("--queries", type=count, default=2000, help=what)
    what = "pixel range that the models expect, LOW HIGH (default: 0 1)"
    bound = shared.number(float, -1e9, 1e9)
    add("--range", nargs=2, type=bound, default=[0.0, 1.0], help=what)
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
        shared.hold_output(options, folder.ROBUSTNESS)
    return options


def strength(text: str) -> float:
    """Return a value of --eps, which takes whatever comes after it, models too."""
    shared.require(not text.endswith(".keras"), "a number: models come first", text)
    return shared.number(float, 0)(text)


strength.__name__ = "float"  # which argparse shows for what is no number


def name_models(paths: list[str]) -> dict[str, str]:
    """Return paths by their files' names, after those of folders where names repeat."""
    parts = [Path(path).absolute().with_suffix("").parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    names = ("/".join(part[-depth:]) for part in parts)
    return dict(zip(names, paths, strict=True))


def main(options: Namespace) -> None:
    """Evaluate saved models side by side."""
    import keras
    import numpy as np
    from scipy.stats import binomtest

    from pyimagesearch.experiment.ending import save_pictures
    from pyimagesearch.experiment.loading import load_data, load_model
    from pyimagesearch.robustness.evaluate import evaluate_robustness

    print("[INFO] loading data...")
    (own_images, _), (images, labels) = load_data(options)
    low, high = options.range

    def scaled(images):
        return np.clip(low + np.float32(high - low) * images, low, high)

    images, labels = scaled(images[: options.images]), labels[: options.images]
    options.images = len(images)
    settings = {"queries": options.queries, "rng": options.seed}
    if options.transfer:
        settings["attacker_images"] = scaled(own_images[:_ATTACKER_IMAGES])
    models, reports = {}, {}
    for name, path in options.models.items():
        models[name] = load_model(path, (images, labels), to_train=False)
    for name, model in models.items():
        print(f"[INFO] attacking {name} on {len(images):,} test images...")
        keras.utils.set_random_seed(options.seed)
        given = images, labels, options.eps, options.range
        try:
            reports[name] = evaluate_robustness(model, *given, **settings)
        except ValueError as error:
            fail(f"{name}: {one_line(error)}")
    print(f"{format_table(reports)}\n{_LEGEND}")
    best = max(report[-1].accuracy for report in reports.values())
    counts = binomtest(round(best * len(images)), len(images))
    low, high = counts.proportion_ci(method="wilson")
    shares = f"a worst case of {best:.3f} stands for {low:.3f} to {high:.3f}"
    print(f"With {len(images):,} images {shares} (95%).")
    if options.output:
        write(reports, options)
        data = images, labels
        clip, prefix = options.range, "robustness_"  # beside a run's own pictures
        save_pictures(options.output, models, data, max(options.eps), clip, prefix)


def format_table(reports: dict[str, list]) -> str:
    """Return the accuracies of all models side by side."""
    (rows, *_) = reports.values()
    widths = {name: max(8, len(name) + 2) for name in reports}
    heads = "".join(f"{name:>{width}}" for name, width in widths.items())
    lines, last = [f"\n{'eps':<9}{'attack':<25}{heads}"], None
    for i, row in enumerate(rows):
        if row.eps != last:
            lines.append("")
        last = row.eps
        cells = [f"{reports[name][i].accuracy:{widths[name]}.4f}" for name in reports]
        lines.append(f"{row.eps:<9.4g}{row.attack:<25}{''.join(cells)}")
    return "\n".join(lines)


def write(reports: dict[str, list], options: Namespace) -> None:
    """Write `robustness.json` and `robustness.csv` into the output folder."""
    names = ("models", "data", "images", "queries", "range", "transfer", "seed")
    results = {name: getattr(options, name) for name in names}
    rows = {name: [row._asdict() for row in reports[name]] for name in reports}
    folder.write_json(options.output / folder.ROBUSTNESS, results | {"results": rows})
    lines = [{"model": name} | row for name in rows for row in rows[name]]
    folder.write_table(options.output / "robustness.csv", lines)


if __name__ == "__main__":
    run_script(main, parse_options, __doc__)
