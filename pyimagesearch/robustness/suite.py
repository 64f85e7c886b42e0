"""The attacks of the report, each a function of images, class ids and eps."""

from functools import partial

import numpy as np

from pyimagesearch import attacks
from pyimagesearch.core.losses import OnLogits
from pyimagesearch.fgsm import generate_image_adversary

SQUARE = "Square, on what is left"
_TARGETS = 5


def make_attacks(model, predict, *, clip, steps, queries, from_logits, rng):
    """Return the attacks by name, in the report's order, and a longer PGD.

    `predict` returns the model's logits for images; the rest is as for
    `evaluate_robustness`, but `rng` is a generator, from which all attacks draw.
    """
    cross_entropy = OnLogits("cross_entropy", from_logits)
    margin = OnLogits("margin", from_logits)
    climb = partial(
        attacks.projected_gradient_descent,
        model,
        loss=cross_entropy,
        clip=clip,
        rng=rng,
    )
    square = partial(attacks.square_attack, model, clip=clip, rng=rng)

    def uniform_noise(images, ids, eps):
        noise = rng.uniform(-eps, eps, images.shape).astype(np.float32)
        return np.clip(images + noise, *clip)

    def random_signs(images, ids, eps):
        noise = rng.choice(np.float32([-eps, eps]), images.shape)
        return np.clip(images + noise, *clip)

    def bim(images, ids, eps):
        size = eps / 10
        return climb(images, ids, eps, steps=10, step_size=size, random_start=False)

    def pgd(images, ids, eps, steps=steps, **settings):
        sizes = attacks.shrinking_steps(eps, steps)
        return climb(images, ids, eps, steps=steps, step_size=sizes, **settings)

    def targeted_pgd(images, ids, eps):
        """Go for the likeliest wrong classes, one after the other."""
        logits = predict(images)
        logits[np.arange(len(ids)), ids] = -np.inf
        likeliest = np.argsort(-logits, axis=1)[:, :-1]  # the last is the true class
        adversaries = images.copy()
        left = np.arange(len(images))
        for goals in likeliest.T[:_TARGETS]:
            if left.size == 0:
                break
            found = pgd(images[left], goals[left], eps, loss=margin, targeted=True)
            adversaries[left] = found
            left = left[predict(found).argmax(axis=1) == ids[left]]
        return adversaries

    by_name = {
        "uniform noise": uniform_noise,
        "random signs": random_signs,
        "FGSM": partial(generate_image_adversary, model, loss=cross_entropy, clip=clip),
        "BIM": bim,
        "PGD, cross-entropy": partial(pgd, restarts=2),
        "PGD, margin": partial(pgd, loss=margin, restarts=2),
        "PGD, targeted": targeted_pgd,
        "PGD, chords of ReLUs": partial(pgd, chords=True),
        SQUARE: partial(square, queries=queries, from_logits=from_logits),
    }
    return by_name, partial(pgd, steps=3 * steps, restarts=2)
