"""The attacks of the report, each a function of images, class ids and eps."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from pyimagesearch import attacks
from pyimagesearch.core.losses import OnLogits
from pyimagesearch.fgsm import generate_image_adversary

_RESTARTS = 2
_TARGETS = 5


@dataclass
class Suite:
    """The attacks on a classifier."""

    model: keras.Model
    predict: Callable[[np.ndarray], np.ndarray]  # returns its logits for images
    clip: tuple[float, float]  # the valid range of a value
    from_logits: bool | None  # whether the model returns logits
    steps: int  # of PGD
    queries: int  # of Square
    rng: np.random.Generator

    def attacks(self) -> dict[str, Callable]:
        """Return the attacks on all images by name, in the order of the report."""
        return {
            "uniform noise": self.uniform_noise,
            "random signs": self.random_signs,
            "FGSM": self.fgsm,
            "BIM": self.bim,
            "PGD, cross-entropy": self.pgd,
            "PGD, margin": self.pgd_margin,
            "PGD, targeted": self.pgd_targeted,
            "PGD, chords of ReLUs": self.pgd_chords,
        }

    def uniform_noise(self, images, ids, eps):
        """Add noise from -eps to eps."""
        noise = self.rng.uniform(-eps, eps, images.shape).astype(np.float32)
        return np.clip(images + noise, *self.clip)

    def random_signs(self, images, ids, eps):
        """Add eps or -eps to each value."""
        noise = self.rng.choice(np.float32([-eps, eps]), images.shape)
        return np.clip(images + noise, *self.clip)

    def fgsm(self, images, ids, eps):
        """Take one step."""
        loss = self._loss("cross_entropy")
        return generate_image_adversary(
            self.model, images, ids, eps, loss=loss, clip=self.clip
        )

    def bim(self, images, ids, eps):
        """Take ten equal steps from the image itself."""
        sizes = np.full(10, eps / 10)
        return self._climb(images, ids, eps, sizes, random_start=False)

    def pgd(self, images, ids, eps):
        """Climb cross-entropy from random starts."""
        return self._pgd(images, ids, eps, restarts=_RESTARTS)

    def pgd_margin(self, images, ids, eps):
        """Climb the margin from random starts."""
        return self._pgd(images, ids, eps, "margin", restarts=_RESTARTS)

    def pgd_chords(self, images, ids, eps):
        """Climb cross-entropy, seeing through the first ReLUs in every other step."""
        return self._pgd(images, ids, eps, chords=True)

    def pgd_longer(self, images, ids, eps):
        """Climb cross-entropy by three times the steps."""
        sizes = attacks.shrinking_steps(eps, 3 * self.steps)
        return self._climb(images, ids, eps, sizes, restarts=_RESTARTS)

    def pgd_targeted(self, images, ids, eps):
        """Go for the likeliest wrong classes, one after the other."""
        logits = self.predict(images)
        logits[np.arange(len(ids)), ids] = -np.inf
        likeliest = np.argsort(-logits, axis=1)[:, :-1]  # the last is the true class
        adversaries = images.copy()
        left = np.arange(len(images))
        for goals in likeliest.T[:_TARGETS]:
            if left.size > 0:
                adversaries[left] = self._pgd(
                    images[left], goals[left], eps, "margin", targeted=True
                )
                answers = self.predict(adversaries[left]).argmax(axis=1)
                left = left[answers == ids[left]]
        return adversaries

    def square(self, images, ids, eps):
        """Search at random, without a gradient."""
        return attacks.square_attack(
            self.model,
            images,
            ids,
            eps,
            queries=self.queries,
            clip=self.clip,
            from_logits=self.from_logits,
            rng=self.rng,
        )

    def _loss(self, name):
        return OnLogits(name, self.from_logits)

    def _pgd(self, images, ids, eps, loss="cross_entropy", **settings):
        sizes = attacks.shrinking_steps(eps, self.steps)
        return self._climb(images, ids, eps, sizes, loss, **settings)

    def _climb(self, images, ids, eps, sizes, loss="cross_entropy", **settings):
        return attacks.projected_gradient_descent(
            self.model,
            images,
            ids,
            eps,
            steps=len(sizes),
            step_size=sizes,
            loss=self._loss(loss),
            clip=self.clip,
            rng=self.rng,
            **settings,
        )
