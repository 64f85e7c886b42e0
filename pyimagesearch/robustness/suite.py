"""The attacks of the report, each a function of images, class ids and eps."""

from collections.abc import Callable
from functools import partial

import keras
import numpy as np

from pyimagesearch.attacks import (
    projected_gradient_descent,
    shrinking_steps,
    square_attack,
)
from pyimagesearch.core.losses import OnLogits
from pyimagesearch.core.warning import each_warning_once
from pyimagesearch.fgsm import generate_image_adversary

TRANSFER, SQUARE = "transfer (black box)", "Square, on what is left"
_RESTARTS, _TARGETS = 2, 5


def make_suite(
    model: keras.Model,
    substitute: keras.Model | None,
    predict: Callable[[np.ndarray], np.ndarray],
    clip: tuple[float, float],
    steps: int,
    queries: int,
    from_logits: bool | None,
    rng: np.random.Generator,
) -> dict[str, Callable]:
    """Return the attacks by name, in the order of the report.

    Arguments as for `evaluate_robustness`; `substitute` is what the black-box attacker
    has instead of the model, `predict` returns the model's logits.
    """
    entropy = {"loss": OnLogits("cross_entropy", from_logits)}
    margin = {"loss": OnLogits("margin", from_logits)}
    settings = {"clip": clip, "rng": rng}
    pgd = partial(projected_gradient_descent, model, **settings)

    def uniform_noise(images, labels, eps):
        noise = rng.uniform(-eps, eps, images.shape).astype(np.float32)
        return np.clip(images + noise, *clip)

    def random_signs(images, labels, eps):
        noise = rng.choice(np.float32([-eps, eps]), images.shape)
        return np.clip(images + noise, *clip)

    def bim(images, labels, eps):
        size = {"step_size": eps / 10, "random_start": False}
        return pgd(images, labels, eps, steps=10, **size, **entropy)

    def strong(images, labels, eps, attack=pgd, steps=steps, **more):
        sizes = shrinking_steps(eps, steps)
        return attack(images, labels, eps, steps=steps, step_size=sizes, **more)

    def targeted(images, labels, eps):
        """Go for the likeliest wrong classes, one after the other."""
        logits = predict(images)
        logits[np.arange(len(labels)), labels] = -np.inf
        likeliest = np.argsort(-logits, axis=1)[:, :-1]  # but for the true class
        adversaries, left = images.copy(), np.arange(len(images))
        for goal in likeliest.T[:_TARGETS]:
            if left.size > 0:
                given = images[left], goal[left]
                adversaries[left] = strong(*given, eps, targeted=True, **margin)
                answers = predict(adversaries[left]).argmax(axis=1)
                left = left[answers == labels[left]]
        return adversaries

    attacks = {
        "uniform noise": uniform_noise,
        "random signs": random_signs,
        "FGSM": partial(generate_image_adversary, model, clip=clip, **entropy),
        "BIM": bim,
        "PGD, cross-entropy": partial(strong, restarts=_RESTARTS, **entropy),
        "PGD, margin": partial(strong, restarts=_RESTARTS, **margin),
        "PGD, targeted": targeted,
    }
    if substitute is not None:
        transfer = partial(projected_gradient_descent, substitute, **settings)
        attacks[TRANSFER] = partial(strong, attack=transfer)
    square = {"queries": queries, "from_logits": from_logits, **settings}
    attacks[SQUARE] = partial(square_attack, model, **square)
    once = each_warning_once(set())
    return {name: once(attack) for name, attack in attacks.items()}
