"""The robust recipe: a fine-tuning whose defence holds."""

from functools import partial

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pyimagesearch.attacks import projected_gradient_descent
from pyimagesearch.core import checks
from pyimagesearch.core.compiled import check_model
from pyimagesearch.core.sampling import Attack
from pyimagesearch.fgsm import generate_image_adversary

_REACH = 1.3


def make_attack(name: str, eps: float, rng: np.random.Generator) -> Attack:
    """Return an attack by its name, for images in [0, 1].

    Args:
        name: `fgsm`, as in the tutorials; `rfgsm`, one step from a random start;
            `pgd`, two smaller steps from there; or `robust`, the recipe's. The last
            three make valid images.
        eps: The strength that it is to be called with.
        rng: Generator of the random starts.
    """
    if name == "robust":
        return robust_attack(rng=rng)
    if name == "fgsm":
        return generate_image_adversary
    steps, size = {"rfgsm": (1, 1.25), "pgd": (2, 0.75)}[name]
    how = {"steps": steps, "step_size": size * eps, "clip": (0, 1), "rng": rng}
    return partial(projected_gradient_descent, **how)


def robust_attack(
    clip: tuple[float, float] = (0.0, 1.0), rng: checks.Seed | None = None
) -> Attack:
    """Return the recipe's attack, on images that are first shifted by up to a pixel.

    Each image moves by itself, up or down and sideways; its edge is repeated.

    Args:
        clip: The valid range of a value.
        rng: Seed or NumPy generator of the random starts and shifts.
    """
    rng = checks.generator(rng)

    def attack(model, images, labels, eps):
        count, height, width, _ = images.shape
        padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
        windows = sliding_window_view(padded, (height, width), axis=(1, 2))
        down, right = rng.integers(3, size=(2, count))
        shifted = np.moveaxis(windows[np.arange(count), down, right], 1, -1)
        reach = _REACH * eps
        settings = {"steps": 2, "step_size": 0.75 * reach, "clip": clip, "rng": rng}
        return projected_gradient_descent(model, shifted, labels, reach, **settings)

    return attack


def robust_optimizer(model: keras.Model, steps: int) -> keras.optimizers.Optimizer:
    """Switch dropout off, and return Adam with a rate that rises and falls once.

    The rate peaks at fifty times the tutorial's.

    Args:
        model: A network that is compiled afterwards.
        steps: Batches in all epochs together.
    """
    check_model(model)
    warmup = int(0.3 * checks.positive_integer("steps", steps))
    layers = list(model.layers)
    for layer in layers:
        layers += getattr(layer, "layers", [])  # of a network in the network
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-4, steps - warmup, alpha=1e-3, warmup_target=5e-3, warmup_steps=warmup
    )
    return keras.optimizers.Adam(schedule)
