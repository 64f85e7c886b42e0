"""Pictures of adversaries, and of accuracy against eps."""

import importlib.util
import warnings
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


def draw_pictures(models, data, eps, clip=(0.0, 1.0)) -> dict:
    """Draw each model's adversaries, and accuracy under PGD against eps, to twice that.

    Up to 500 images count. Returned are Matplotlib's figures by name.
    """
    from matplotlib.figure import Figure

    images = data[0][:_IMAGES]
    labels = data[1][:_IMAGES].argmax(axis=1)
    figures = {}
    accuracy = Figure(figsize=(8, 4.5), layout="constrained")
    axis = accuracy.subplots()
    for number, (name, model) in enumerate(models.items()):
        predict, _ = compile_logits(model, images)
        accuracies = []
        for share in _SHARES:
            sizes = shrinking_steps(share * eps, 40)
            attacked = projected_gradient_descent(
                model, images, labels, share * eps, step_size=sizes, clip=clip, rng=0
            )
            accuracies.append((predict(attacked).argmax(axis=1) == labels).mean())
            if share == 1:
                adversaries = attacked[:_EXAMPLES]
        marker = _MARKERS[number % len(_MARKERS)]
        axis.plot(eps * np.array(_SHARES), accuracies, marker=marker)
        figure = _draw_adversaries(images, adversaries, labels, predict, eps, clip)
        figures[f"adversaries_{name}"] = figure
    axis.set_title(f"Accuracy under attack: PGD, 40 steps, {len(images)} images")
    axis.set(xlabel="eps, the largest change of a pixel", ylabel="accuracy")
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
    names = [name.replace("$", r"\$") for name in models]
    accuracy.legend(axis.lines, names, loc="outside right upper")
    figures["accuracy"] = accuracy
    return figures


def _draw_adversaries(images, adversaries, labels, predict, eps, clip):
    """Draw a row of images, of changes and of adversaries, framed by the answers."""
    from matplotlib.figure import Figure

    count = len(adversaries)
    size = (1.5 * max(count, 4) + 0.4, 6.25)
    figure = Figure(figsize=size, layout="constrained")
    legend = "thin blue frame: right answer, thick orange frame: wrong (✗)"
    figure.suptitle(f"Images before and after the attack\n{legend}")
    before, between, after = figure.subplots(3, count, squeeze=False)
    for axes, what, values, (low, high), colours in [
        (before, "image", images[:count], clip, "gray"),
        (between, "change", adversaries - images[:count], (-eps, eps), "PuOr"),
        (after, "adversary", adversaries, clip, "gray"),
    ]:
        pixels = np.clip((values - low) / (high - low or 1), 0, 1)
        if pixels.shape[-1] != 3:
            pixels = pixels[..., 0]
        axes[0].set_ylabel(what)
        for axis, picture in zip(axes, pixels, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.imshow(picture, cmap=colours, vmin=0, vmax=1)
        if axes is not between:
            _frame(axes, labels[:count], keras.ops.softmax(predict(values)).numpy())
    return figure


def _frame(axes, labels, probabilities):
    for axis, label, row in zip(axes, labels, probabilities, strict=True):
        answer = row.argmax()
        is_right = answer == label
        colour, width = _RIGHT if is_right else _WRONG
        mark = "" if is_right else f"✗ not {label}: "
        axis.set_title(f"{mark}{answer}, {row.max():.0%}", fontsize=10, color=colour)
        axis.spines[:].set(color=colour, linewidth=width)
