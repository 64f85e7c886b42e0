"""The attacks of the report, each a function of images, labels and eps."""

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
from pyimagesearch.fgsm import generate_image_adversary

_RESTARTS, _TARGETS = 2, 5
TRANSFER, SQUARE = "transfer (black box)", "Square, on what is left"


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

    Args:
        model: The attacked classifier.
        substitute: What the black-box attacker has instead, if there is one.
        predict: A function from images to the classifier's logits.
        clip: The valid range of a value.
        steps: Steps of PGD.
        queries: Queries of the Square attack.
        from_logits: Whether the classifier returns logits; None finds it out.
        rng: Where all that is random comes from.
    """
    cross_entropy = OnLogits("cross_entropy", from_logits)
    margin = OnLogits("margin", from_logits)
    settings = {"clip": clip, "rng": rng}
    pgd = partial(projected_gradient_descent, model, loss=cross_entropy, **settings)

    def uniform_noise(images, labels, eps):
        noise = rng.uniform(-eps, eps, images.shape).astype(np.float32)
        return np.clip(images + noise, *clip)

    def random_signs(images, labels, eps):
        noise = np.float32(eps) * rng.choice(np.float32([-1, 1]), images.shape)
        return np.clip(images + noise, *clip)

    def bim(images, labels, eps):
        size = {"step_size": eps / 10, "random_start": False}
        return pgd(images, labels, eps, steps=10, **size)

    def strong(images, labels, eps, attack=pgd, steps=steps, **more):
        sizes = shrinking_steps(eps, steps)
        return attack(images, labels, eps, steps=steps, step_size=sizes, **more)

    def targeted(images, labels, eps):
        """Go for the likeliest wrong classes, one after the other."""
        logits = predict(images)
        logits[np.arange(len(labels)), labels] = -np.inf
        likeliest = np.argsort(-logits, axis=1)[:, :-1]  # but for the true class
        adversaries, standing = images.copy(), np.arange(len(images))
        for target in likeliest.T[:_TARGETS]:
            adversaries[standing] = strong(
                images[standing], target[standing], eps, loss=margin, targeted=True
            )
            answers = predict(adversaries[standing]).argmax(axis=1)
            standing = standing[answers == labels[standing]]
            if standing.size == 0:
                break
        return adversaries

    attacks = {
        "uniform noise": uniform_noise,
        "random signs": random_signs,
        "FGSM": partial(generate_image_adversary, model, loss=cross_entropy, clip=clip),
        "BIM": bim,
        "PGD, cross-entropy": partial(strong, restarts=_RESTARTS),
        "PGD, margin": partial(strong, restarts=_RESTARTS, loss=margin),
        "PGD, targeted": targeted,
    }
    if substitute is not None:
        transfer = partial(projected_gradient_descent, substitute, **settings)
        attacks[TRANSFER] = partial(strong, attack=transfer)
    square = {"queries": queries, "from_logits": from_logits}
    attacks[SQUARE] = partial(square_attack, model, **square, **settings)
    return attacks
