"""Pictures of adversaries, of an attack's steps and of accuracy against eps.

They are Matplotlib figures; it is an optional extra, imported when they are drawn. Of
images that have other than three channels, the first one is shown.
"""

from functools import partial
from typing import TYPE_CHECKING

import keras
import numpy as np

from pyimagesearch.attacks import projected_gradient_descent, shrinking_steps
from pyimagesearch.core.compiled import predict_logits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Frames of right and wrong answers: colours that colour-blind readers can tell apart,
# and for print two widths.
_RIGHT, _WRONG = ("#0072B2", 1), ("#D55E00", 4)
_SHARES, _EXAMPLES, _IMAGES = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2), 8, 500


def draw_pictures(
    models: dict[str, keras.Model],
    data: tuple[np.ndarray, np.ndarray],
    eps: float,
    clip: tuple[float, float] = (0.0, 1.0),
) -> dict[str, "Figure"]:
    """Draw adversaries, an attack's steps, and accuracy against eps.

    Args:
        models: Classifiers by name.
        data: Images `(n, height, width, channels)` and one-hot labels; up to 500 count.
        eps: Largest change of a pixel; accuracy is shown up to twice that.
        clip: The valid range of a pixel, `(low, high)`.

    Returns:
        The figures by name.
    """
    images, labels = data[0][:_IMAGES], data[1][:_IMAGES].argmax(axis=1)
    figures, curves, few = {}, {}, slice(_EXAMPLES)
    for name, model in models.items():
        pgd = partial(projected_gradient_descent, model, clip=clip, rng=0)
        attacked, correct = {}, {}
        for share in _SHARES:
            sizes = shrinking_steps(share * eps, 40)
            attacked[share] = pgd(images, labels, share * eps, step_size=sizes)
            answers = predict_logits(model, attacked[share]).argmax(axis=1)
            correct[share] = answers == labels
        curves[name] = eps * np.array(_SHARES), [c.mean() for c in correct.values()]
        rows = images[few], attacked[1][few] - images[few], attacked[1][few]
        figure, axes = _panels(3, len(rows[0]), "Images before and after the attack")
        _show_answers(axes[0], model, rows[0], labels, clip)
        for axis, change in zip(axes[1], rows[1], strict=True):
            _show(axis, change, (-eps, eps), "PuOr")
        _show_answers(axes[2], model, rows[2], labels, clip)
        for axis, what in zip(
            axes[:, 0], ("image", "change", "adversary"), strict=True
        ):
            axis.set_ylabel(what)
        figures[f"adversaries_{name}"] = figure
        first = (correct[0] & ~correct[1]).argmax()  # that falls
        row = slice(first, first + 1)
        plain = partial(pgd, step_size=eps / 4, random_start=False)
        steps = [images[row]]
        for count in range(1, _EXAMPLES):
            steps.append(plain(images[row], labels[row], eps, steps=count))
        figure, axes = _panels(1, _EXAMPLES, f"An attack step by step, eps {eps:g}")
        label = np.repeat(labels[row], _EXAMPLES)
        _show_answers(axes[0], model, np.concatenate(steps), label, clip)
        figures[f"steps_{name}"] = figure
    figures["accuracy"] = plot_accuracy(curves, f"PGD, 40 steps, {len(images)} images")
    return figures


def plot_accuracy(curves: dict[str, tuple], attack: str) -> "Figure":
    """Draw accuracy against eps, one line a model.

    Args:
        curves: For each model's name, the values of eps and the accuracies.
        attack: What the accuracy was measured under.
    """
    figure = _figure(7, 4.5)
    axis = figure.subplots()
    for marker, curve in zip("osD^vP" * len(curves), curves.values(), strict=False):
        axis.plot(*curve, marker=marker)
    axis.set(title=f"Accuracy under attack: {attack}", ylim=(-0.02, 1.02))
    axis.set(xlabel="eps, the largest change of a pixel", ylabel="accuracy")
    axis.grid(alpha=0.3)
    axis.legend(axis.lines, [name.replace("$", r"\$") for name in curves])
    return figure


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panels(rows, columns, title):
    figure = _figure(1.5 * max(columns, 4) + 0.4, 1.85 * rows + 0.7)
    legend = "thin blue frame: right answer, thick orange frame: wrong (✗)"
    figure.suptitle(f"{title}\n{legend}")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure, axes


def _show_answers(axes, model, images, labels, clip):
    chances = keras.ops.softmax(predict_logits(model, images)).numpy()
    for axis, image, label, row in zip(axes, images, labels, chances, strict=False):
        _show(axis, image, clip, "gray")
        answer, confidence = row.argmax(), row.max()
        colour, width = _RIGHT if answer == label else _WRONG
        mark = "" if answer == label else f"✗ not {label}: "
        axis.set_title(f"{mark}{answer}, {confidence:.0%}", fontsize=10, color=colour)
        for spine in axis.spines.values():
            spine.set(color=colour, linewidth=width)


def _show(axis, image, value_range, colours):
    low, high = value_range
    if image.shape[-1] == 3:
        axis.imshow(np.clip((image - low) / (high - low or 1), 0, 1))
    else:
        axis.imshow(image[..., 0], cmap=colours, vmin=low, vmax=high)
