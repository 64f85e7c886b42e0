"""The attacks of the report, each a function of images, class ids and eps."""

from functools import partial

import numpy as np

from pyimagesearch import attacks
from pyimagesearch.core.losses import OnLogits
from pyimagesearch.core.warning import each_warning_once
from pyimagesearch.fgsm import generate_image_adversary

TRANSFER, SQUARE = "transfer (black box)", "Square, on what is left"
_RESTARTS, _TARGETS = 2, 5


def make_suite(model, substitute, predict, clip, steps, queries, from_logits, rng):
    """Return the attacks by name, in the order of the report.

    The black-box attacker has the substitute, or None; `predict` returns logits.
    """
    entropy = OnLogits("cross_entropy", from_logits)
    margin = OnLogits("margin", from_logits)
    valid = {"clip": clip, "rng": rng}
    pgd = partial(attacks.projected_gradient_descent, model, **valid)
    plain = partial(pgd, steps=10, random_start=False, loss=entropy)

    def uniform_noise(images, ids, eps):
        noise = rng.uniform(-eps, eps, images.shape).astype(np.float32)
        return np.clip(images + noise, *clip)

    def random_signs(images, ids, eps):
        noise = rng.choice(np.float32([-eps, eps]), images.shape)
        return np.clip(images + noise, *clip)

    def bim(images, ids, eps):
        return plain(images, ids, eps, step_size=eps / 10)

    def strong(images, ids, eps, attack=pgd, steps=steps, **more):
        sizes = attacks.shrinking_steps(eps, steps)
        return attack(images, ids, eps, steps=steps, step_size=sizes, **more)

    def targeted(images, ids, eps):
        """Go for the likeliest wrong classes, one after the other."""
        logits = predict(images)
        logits[np.arange(len(ids)), ids] = -np.inf
        likeliest = np.argsort(-logits, axis=1)[:, :-1]  # but for the true class
        adversaries, left = images.copy(), np.arange(len(images))
        for goal in likeliest.T[:_TARGETS]:
            if left.size > 0:
                adversaries[left] = strong(
                    images[left], goal[left], eps, targeted=True, loss=margin
                )
                answers = predict(adversaries[left]).argmax(axis=1)
                left = left[answers == ids[left]]
        return adversaries

    suite = {
        "uniform noise": uniform_noise,
        "random signs": random_signs,
        "FGSM": partial(generate_image_adversary, model, clip=clip, loss=entropy),
        "BIM": bim,
        "PGD, cross-entropy": partial(strong, restarts=_RESTARTS, loss=entropy),
        "PGD, margin": partial(strong, restarts=_RESTARTS, loss=margin),
        "PGD, targeted": targeted,
    }
    if substitute is not None:
        transfer = partial(attacks.projected_gradient_descent, substitute, **valid)
        suite[TRANSFER] = partial(strong, attack=transfer)
    suite[SQUARE] = partial(
        attacks.square_attack, model, queries=queries, from_logits=from_logits, **valid
    )
    once = each_warning_once(set())
    return {name: once(attack) for name, attack in suite.items()}
