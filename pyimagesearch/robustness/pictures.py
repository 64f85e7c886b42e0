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
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
_MARKERS, _STYLES = list("osD^vP"), ["-", "--", "-.", ":", "-", "--"]
_STEPS, _IMAGES, _EXAMPLES = 7, 500, 8


def draw_pictures(
    models: dict[str, keras.Model],
    data: tuple[np.ndarray, np.ndarray],
    eps: float,
    clip: tuple[float, float] = (0.0, 1.0),
) -> dict[str, "Figure"]:
    """Draw adversaries, an attack's steps, and accuracy against eps.

    Args:
        models: Classifiers by name.
        data: Images in the range `clip`, and one-hot labels.
        eps: Largest change of a pixel; accuracy is shown up to twice that.
        clip: The valid range of a pixel, `(low, high)`.

    Returns:
        The figures by name.
    """
    images, labels = (array[:_IMAGES] for array in data)
    labels = labels.argmax(axis=1)
    shares, few = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2), slice(_EXAMPLES)
    figures, curves = {}, {}
    for name, model in models.items():
        attack = partial(projected_gradient_descent, model, clip=clip, rng=0, steps=40)
        adversaries, correct = {}, {}
        for share in shares:
            sizes = shrinking_steps(share * eps, 40)
            attacked = attack(images, labels, share * eps, step_size=sizes)
            adversaries[share] = attacked[few]
            correct[share] = predict_logits(model, attacked).argmax(axis=1) == labels
        accuracy = [answers.mean() for answers in correct.values()]
        curves[name] = eps * np.array(shares), accuracy
        figures[f"adversaries_{name}"] = plot_adversaries(
            model, images[few], labels[few], adversaries[1], eps, clip
        )
        first = (correct[0] & ~correct[1]).argmax()  # that falls
        figures[f"steps_{name}"] = plot_steps(
            model, images[first], labels[first], eps, clip
        )
    figures["accuracy"] = plot_accuracy(curves, f"PGD, 40 steps, {len(images)} images")
    return figures


def plot_adversaries(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    adversaries: np.ndarray,
    eps: float,
    clip: tuple[float, float] = (0.0, 1.0),
) -> "Figure":
    """Draw images, what an attack changed, and the adversaries, with the answers.

    Args:
        model: The classifier.
        images: A few images `(n, height, width, channels)`.
        labels: Their class ids `(n,)`.
        adversaries: Their adversaries.
        eps: Largest change of a value.
        clip: The valid range of a value, `(low, high)`.
    """
    figure, axes = _panels(3, len(images), "Images before and after the attack")
    _show_answers(axes[0], model, images, labels, clip)
    for axis, change in zip(axes[1], adversaries - images, strict=True):
        _show(axis, change, (-eps, eps), "PuOr")
    _show_answers(axes[2], model, adversaries, labels, clip)
    names = ("original", f"change, -{eps:g} to {eps:g}", "adversary")
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name)
    return figure


def plot_steps(
    model: keras.Model,
    image: np.ndarray,
    label: int,
    eps: float,
    clip: tuple[float, float] = (0.0, 1.0),
) -> "Figure":
    """Draw an image after each step of an iterated attack, with the model's answer.

    Args:
        model: The classifier.
        image: An image `(height, width, channels)`.
        label: Its class id.
        eps: Largest change of a value; a step is a quarter of it.
        clip: The valid range of a value, `(low, high)`.
    """
    settings = {"step_size": eps / 4, "random_start": False, "clip": clip}
    attack = partial(projected_gradient_descent, model, **settings)
    images = [image[np.newaxis]]
    for steps in range(1, _STEPS + 1):
        images.append(attack(images[0], [label], eps, steps=steps))
    title = f"One image after each step of the iterated attack, eps {eps:g}"
    figure, axes = _panels(1, _STEPS + 1, title)
    labels = np.full(_STEPS + 1, label)
    _show_answers(axes[0], model, np.concatenate(images), labels, clip)
    return figure


def plot_accuracy(curves: dict[str, tuple], attack: str) -> "Figure":
    """Draw accuracy against eps, one line a model.

    Args:
        curves: For each model's name, the values of eps and the accuracies.
        attack: What the accuracy was measured under.
    """
    figure = _figure(7, 4.5)
    axis = figure.subplots()
    axis.set_prop_cycle(color=_COLOURS, marker=_MARKERS, linestyle=_STYLES)
    for curve in curves.values():
        axis.plot(*curve)
    axis.set(
        title=f"Accuracy under attack: {attack}",
        xlabel="eps, the largest change of a pixel",
        ylabel="accuracy",
        ylim=(-0.02, 1.02),
    )
    axis.grid(alpha=0.3)
    names = [name.replace("$", r"\$") for name in curves]
    axis.legend(axis.lines, names)
    return figure


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panels(rows, columns, title):
    figure = _figure(1.5 * max(columns, 4) + 0.4, 1.85 * rows + 0.7)
    figure.suptitle(
        f"{title}\nthin blue frame: right answer, thick orange frame: wrong (✗)"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure, axes


def _show_answers(axes, model, images, labels, clip):
    chances = keras.ops.softmax(predict_logits(model, images)).numpy()
    for axis, image, label, row in zip(axes, images, labels, chances, strict=True):
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
        image = np.clip((image - low) / (high - low or 1), 0, 1)
        axis.imshow(image)
    else:
        axis.imshow(image[..., 0], cmap=colours, vmin=low, vmax=high)
