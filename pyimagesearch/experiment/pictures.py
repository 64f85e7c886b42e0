"""Pictures of adversaries, and of accuracy against eps."""

import importlib.util
import warnings
from functools import partial
from pathlib import Path

import keras
import numpy as np

from pyimagesearch.attacks import projected_gradient_descent, shrinking_steps
from pyimagesearch.core.checks import one_line
from pyimagesearch.core.compiled import compile_logits
from pyimagesearch.experiment.files import replacing

# Colours and widths of frames, for colour-blind readers and for print.
_RIGHT = ("#0072B2", 1)
_WRONG = ("#D55E00", 4)
_MARKERS = "osD^vP"
_SHARES = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2)  # of eps
_EXAMPLES = 8
_IMAGES = 500


def save_pictures(
    folder: Path,
    models: dict[str, keras.Model],
    data: tuple[np.ndarray, np.ndarray],
    eps: float,
    clip: tuple[float, float] = (0.0, 1.0),
    prefix: str = "",
) -> None:
    """Save the pictures of `draw_pictures` as PNG, or say in a line why there are none.

    They are an extra: whatever goes wrong here stops nobody's run.
    """
    if importlib.util.find_spec("matplotlib") is None:
        print("[INFO] no pictures without Matplotlib: pip install matplotlib")
        return
    try:
        figures = draw_pictures(models, data, eps, clip)
        for name, figure in figures.items():
            file = f"{prefix}{name.replace('/', '_')}.png"
            with replacing(folder / file) as path:
                figure.savefig(path, dpi=120)
    except Exception as error:  # Matplotlib's own installation may be broken
        warnings.warn(f"no pictures: {one_line(error)}", stacklevel=2)
    else:
        print(f"[INFO] saved {len(figures)} pictures in {folder}")


def draw_pictures(
    models: dict[str, keras.Model],
    data: tuple[np.ndarray, np.ndarray],
    eps: float,
    clip: tuple[float, float] = (0.0, 1.0),
) -> dict:
    """Draw adversaries, and accuracy against eps.

    Args:
        models: Classifiers by name.
        data: Images `(n, height, width, channels)` and one-hot labels; up to 500 count.
            Of images without three channels the first channel is shown.
        eps: Largest change of a pixel; accuracy is shown up to twice that.
        clip: The valid range of a pixel, `(low, high)`.

    Returns:
        Matplotlib's figures by name.
    """
    images = data[0][:_IMAGES]
    labels = data[1][:_IMAGES].argmax(axis=1)
    few = slice(_EXAMPLES)
    figures = {}
    curves = {}
    for name, model in models.items():
        predict, _ = compile_logits(model, images)
        attack = partial(
            projected_gradient_descent, model, images, labels, clip=clip, rng=0
        )
        accuracies = []
        for share in _SHARES:
            attacked = attack(share * eps, step_size=shrinking_steps(share * eps, 40))
            answers = predict(attacked).argmax(axis=1)
            accuracies.append((answers == labels).mean())
            if share == 1:
                adversaries = attacked[few]
        curves[name] = (eps * np.array(_SHARES), accuracies)

        changes = adversaries - images[few]
        columns = len(changes)
        figure = _start_figure("Images before and after the attack", 3, columns)
        before, between, after = figure.subplots(3, columns, squeeze=False)
        _show_answers(before, images[few], labels[few], predict, clip, "image")
        _show(between, changes, (-eps, eps), "PuOr", "change")
        _show_answers(after, adversaries, labels[few], predict, clip, "adversary")
        figures[f"adversaries_{name}"] = figure
    figures["accuracy"] = plot_accuracy(curves, f"PGD, 40 steps, {len(images)} images")
    return figures


def plot_accuracy(curves: dict[str, tuple], attack: str):
    """Draw accuracies against values of eps, one line a model, under an attack."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for number, (all_eps, accuracies) in enumerate(curves.values()):
        axis.plot(all_eps, accuracies, marker=_MARKERS[number % len(_MARKERS)])
    axis.set_title(f"Accuracy under attack: {attack}")
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("eps, the largest change of a pixel")
    axis.set_ylabel("accuracy")
    axis.grid(alpha=0.3)
    names = [name.replace("$", r"\$") for name in curves]
    figure.legend(axis.lines, names, loc="outside right upper")
    return figure


def _start_figure(title, rows, columns):
    from matplotlib.figure import Figure

    size = (1.5 * max(columns, 4) + 0.4, 1.85 * rows + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    legend = "thin blue frame: right answer, thick orange frame: wrong (✗)"
    figure.suptitle(f"{title}\n{legend}")
    return figure


def _show(axes, images, bounds, colours, what):
    low, high = bounds
    shown = np.clip((images - low) / (high - low or 1), 0, 1)
    if images.shape[-1] != 3:
        shown = shown[..., 0]
    axes[0].set_ylabel(what)
    for axis, image in zip(axes, shown, strict=True):
        axis.set(xticks=[], yticks=[])
        axis.imshow(image, cmap=colours, vmin=0, vmax=1)


def _show_answers(axes, images, labels, predict, clip, what):
    """Show images, each in a frame that tells whether the answer is right."""
    _show(axes, images, clip, "gray", what)
    probabilities = np.asarray(keras.ops.softmax(predict(images)))
    for axis, label, row in zip(axes, labels, probabilities, strict=True):
        answer = row.argmax()
        is_right = answer == label
        colour, width = _RIGHT if is_right else _WRONG
        mark = "" if is_right else f"✗ not {label}: "
        axis.set_title(f"{mark}{answer}, {row.max():.0%}", fontsize=10, color=colour)
        axis.spines[:].set(color=colour, linewidth=width)
