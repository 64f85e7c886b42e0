"""Pictures of adversaries, of an attack's steps and of accuracy against eps."""

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
_STEPS = 40


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
    """Draw adversaries, an attack's steps, and accuracy against eps.

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
    figures = {}
    curves = {}
    for name, model in models.items():
        predict, _ = compile_logits(model, images)
        attacked = {}
        correct = {}
        for share in _SHARES:
            attacked[share] = projected_gradient_descent(
                model,
                images,
                labels,
                share * eps,
                steps=_STEPS,
                step_size=shrinking_steps(share * eps, _STEPS),
                clip=clip,
                rng=0,
            )
            correct[share] = predict(attacked[share]).argmax(axis=1) == labels
        accuracies = [correct[share].mean() for share in _SHARES]
        curves[name] = (eps * np.array(_SHARES), accuracies)

        few = slice(_EXAMPLES)
        figures[f"adversaries_{name}"] = _draw(
            "Images before and after the attack",
            {
                "image": images[few],
                "change": attacked[1][few] - images[few],
                "adversary": attacked[1][few],
            },
            labels[few],
            predict=predict,
            eps=eps,
            clip=clip,
        )
        falls = int((correct[0] & ~correct[1]).argmax())
        one = slice(falls, falls + 1)
        steps = _step_by_step(model, images[one], labels[one], eps, clip)
        figures[f"steps_{name}"] = _draw(
            f"An attack step by step, eps {eps:g}",
            {"": steps},
            np.repeat(labels[one], _EXAMPLES),
            predict=predict,
            eps=eps,
            clip=clip,
        )
    attack = f"PGD, {_STEPS} steps, {len(images)} images"
    figures["accuracy"] = plot_accuracy(curves, attack)
    return figures


def _step_by_step(model, image, label, eps, clip):
    """Return an image after each of a few steps, from none on."""
    images = [image]
    for steps in range(1, _EXAMPLES):
        adversary = projected_gradient_descent(
            model,
            image,
            label,
            eps,
            steps=steps,
            step_size=eps / 4,
            random_start=False,
            clip=clip,
        )
        images.append(adversary)
    return np.concatenate(images)


def plot_accuracy(curves: dict[str, tuple], attack: str):
    """Draw accuracies against values of eps, one line a model, under an attack."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for number, (all_eps, accuracies) in enumerate(curves.values()):
        axis.plot(all_eps, accuracies, marker=_MARKERS[number % len(_MARKERS)])
    axis.set_title(f"Accuracy under attack: {attack}")
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("eps, the largest change of a pixel")
    axis.set_ylabel("accuracy")
    axis.grid(alpha=0.3)
    axis.legend(axis.lines, [name.replace("$", r"\$") for name in curves])
    return figure


def _draw(title, rows, labels, *, predict, eps, clip):
    """Draw rows of images with the model's answers, and one of changes."""
    from matplotlib.figure import Figure

    width = 1.5 * max(len(labels), 4) + 0.4
    height = 1.85 * len(rows) + 0.7
    figure = Figure(figsize=(width, height), layout="constrained")
    legend = "thin blue frame: right answer, thick orange frame: wrong (✗)"
    figure.suptitle(f"{title}\n{legend}")
    grid = figure.subplots(len(rows), len(labels), squeeze=False)
    for (what, images), axes in zip(rows.items(), grid, strict=True):
        axes[0].set_ylabel(what)
        if what == "change":
            _show(axes, images, (-eps, eps), "PuOr")
        else:
            _show(axes, images, clip, "gray")
            _frame_answers(axes, labels, predict(images))
    return figure


def _show(axes, images, bounds, colours):
    low, high = bounds
    shown = np.clip((images - low) / (high - low or 1), 0, 1)
    if images.shape[-1] != 3:
        shown = shown[..., 0]
    for axis, image in zip(axes, shown, strict=True):
        axis.set(xticks=[], yticks=[])
        axis.imshow(image, cmap=colours, vmin=0, vmax=1)


def _frame_answers(axes, labels, logits):
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    for axis, label, row in zip(axes, labels, probabilities, strict=True):
        answer = row.argmax()
        is_right = answer == label
        colour, width = _RIGHT if is_right else _WRONG
        mark = "" if is_right else f"✗ not {label}: "
        title = f"{mark}{answer}, {row.max():.0%}"
        axis.set_title(title, fontsize=10, color=colour)
        axis.spines[:].set(color=colour, linewidth=width)
