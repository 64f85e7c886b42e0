"""Pictures of adversaries, of an attack's steps and of accuracy against eps."""

from functools import partial

import keras
import numpy as np
from matplotlib.figure import Figure

from pyimagesearch.attacks import projected_gradient_descent, shrinking_steps
from pyimagesearch.core.compiled import predict_logits

# Frames that colour-blind readers can tell apart, and in print by their widths.
_RIGHT, _WRONG = ("#0072B2", 1), ("#D55E00", 4)
_SHARES, _EXAMPLES, _IMAGES = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2), 8, 500


def draw_pictures(
    models: dict[str, keras.Model],
    data: tuple[np.ndarray, np.ndarray],
    eps: float,
    clip: tuple[float, float] = (0.0, 1.0),
) -> dict[str, Figure]:
    """Draw adversaries, an attack's steps, and accuracy against eps.

    Args:
        models: Classifiers by name.
        data: Images `(n, height, width, channels)` and one-hot labels; up to 500 count.
            Of images without three channels the first channel is shown.
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
        first = (correct[0] & ~correct[1]).argmax()  # that falls
        image, label = images[first : first + 1], labels[first : first + 1]
        plain = partial(pgd, image, label, eps, step_size=eps / 4, random_start=False)
        steps = [image, *(plain(steps=count) for count in range(1, _EXAMPLES))]
        steps = np.concatenate(steps)
        draw = partial(_draw, model, eps, clip)
        changes = attacked[1][few] - images[few]
        rows = {"image": images[few], "change": changes, "adversary": attacked[1][few]}
        title = "Images before and after the attack"
        figures[f"adversaries_{name}"] = draw(title, rows, labels[few])
        title = f"An attack step by step, eps {eps:g}"
        figures[f"steps_{name}"] = draw(title, {"": steps}, np.repeat(label, _EXAMPLES))
    figures["accuracy"] = plot_accuracy(curves, f"PGD, 40 steps, {len(images)} images")
    return figures


def plot_accuracy(curves: dict[str, tuple], attack: str) -> Figure:
    """Draw accuracies against values of eps, one line a model, under an attack."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for marker, curve in zip("osD^vP" * len(curves), curves.values(), strict=False):
        axis.plot(*curve, marker=marker)
    axis.set(title=f"Accuracy under attack: {attack}", ylim=(-0.02, 1.02))
    axis.set(xlabel="eps, the largest change of a pixel", ylabel="accuracy")
    axis.grid(alpha=0.3)
    axis.legend(axis.lines, [name.replace("$", r"\$") for name in curves])
    return figure


def _draw(model, eps, clip, title, rows, labels):
    """Draw rows of images with the model's answers, and one of changes."""
    size = 1.5 * max(len(labels), 4) + 0.4, 1.85 * len(rows) + 0.7
    figure = Figure(figsize=size, layout="constrained")
    legend = "thin blue frame: right answer, thick orange frame: wrong (✗)"
    figure.suptitle(f"{title}\n{legend}")
    grid = figure.subplots(len(rows), len(labels), squeeze=False)
    for (what, images), axes in zip(rows.items(), grid, strict=True):
        axes[0].set_ylabel(what)
        is_change = what == "change"
        low, high = (-eps, eps) if is_change else clip
        shown = np.clip((images - low) / (high - low or 1), 0, 1)
        shown = shown if images.shape[-1] == 3 else shown[..., 0]
        for axis, image in zip(axes, shown, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.imshow(image, cmap="PuOr" if is_change else "gray", vmin=0, vmax=1)
        if not is_change:
            chances = keras.ops.softmax(predict_logits(model, images)).numpy()
            for axis, label, row in zip(axes, labels, chances, strict=True):
                is_right = row.argmax() == label
                colour, width = _RIGHT if is_right else _WRONG
                mark = "" if is_right else f"✗ not {label}: "
                title = f"{mark}{row.argmax()}, {row.max():.0%}"
                axis.set_title(title, fontsize=10, color=colour)
                axis.spines[:].set(color=colour, linewidth=width)
    return figure
