"""The end of a run: the published figures beside its own, and its files."""

import importlib.util
from pathlib import Path

import keras

from pyimagesearch.experiment.check import (
    ADVERSARIAL,
    ADVERSARIAL_AFTER,
    NORMAL,
    NORMAL_AFTER,
)
from pyimagesearch.experiment.data import Split
from pyimagesearch.experiment.folder import replacing
from pyimagesearch.experiment.run import Run, data_checksum

_MNIST = "not known yet"
_SETTINGS = {"epochs": 20, "fine_tune_epochs": 10, "batch_size": 64, "eps": 0.1}
_SETTINGS |= {"honest": False, "recipe": "tutorial", "attack": "fgsm", "split": 0.5}
# The tutorials' losses and accuracies, of the script without and with mixed batches.
_PUBLISHED = {
    False: {
        NORMAL: (0.0443, 0.9892),
        ADVERSARIAL: (17.2824, 0.0170),
        NORMAL_AFTER: (0.0594, 0.9844),
        ADVERSARIAL_AFTER: (0.0366, 0.9906),
    },
    True: {
        NORMAL: (0.0477, 0.9891),
        ADVERSARIAL: (14.0658, 0.0188),
        NORMAL_AFTER: (0.0315, 0.9906),
        ADVERSARIAL_AFTER: (0.1190, 0.9641),
    },
}


def finish(run: Run, models: dict[str, keras.Model], train: Split, test: Split) -> None:
    """Compare a run with the tutorial; save its networks, pictures and results."""
    compare_with_published(run, train, test)
    if not run.options.output:
        return
    for name, model in models.items():
        with replacing(run.options.output / f"{name}.keras") as path:
            model.save(path)
    save_pictures(run.options.output, models, test, run.options.eps)
    run.finish()


def compare_with_published(run: Run, *splits: Split) -> None:
    """Print the tutorial's figures beside the run's, where it has its settings."""
    given = vars(run.options)
    differs = any(given.get(name, value) != value for name, value in _SETTINGS.items())
    if differs or data_checksum(*splits) != _MNIST:
        return
    run.published = _PUBLISHED["split" in given]
    print(f"\n[INFO] {'loss and accuracy':<42}{'published':>16}{'this run':>16}")
    for what, (loss, accuracy) in run.published.items():
        own = run.figures[what]
        theirs, ours = f"{loss:.4f} {accuracy:.4f}", "{loss:.4f} {accuracy:.4f}"
        print(f"[INFO] {what:<42}{theirs:>16}{ours.format(**own):>16}")


def save_pictures(
    folder: Path,
    models: dict[str, keras.Model],
    data: Split,
    eps: float,
    clip: tuple[float, float] = (0.0, 1.0),
    prefix: str = "",
) -> None:
    """Save the pictures as PNG, or print how to install what draws them.

    Args:
        folder: Where to; it exists.
        models: Classifiers by name.
        data: Images in the range `clip`, and one-hot labels.
        eps: Largest change of a pixel.
        clip: The valid range of a pixel, `(low, high)`.
        prefix: What the files' names begin with.
    """
    if importlib.util.find_spec("matplotlib") is None:
        print("[INFO] no pictures without Matplotlib: pip install matplotlib")
        return
    from pyimagesearch.robustness.pictures import draw_pictures

    figures = draw_pictures(models, data, eps, clip)
    for name, figure in figures.items():
        with replacing(folder / f"{prefix}{name.replace('/', '_')}.png") as path:
            figure.savefig(path, dpi=120)
    print(f"[INFO] saved {len(figures)} pictures in {folder}")
