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
    """The attacks on a model.

    Attributes:
        model: The attacked classifier.
        predict: Returns its logits for images.
        clip: The valid range of a value.
        from_logits: Whether the model returns logits, or None.
        steps: Steps of PGD.
        queries: Queries of the Square attack.
        rng: Generator of all that is random.
    """

    model: keras.Model
    predict: Callable[[np.ndarray], np.ndarray]
    clip: tuple[float, float]
    from_logits: bool | None
    steps: int
    queries: int
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
        loss = OnLogits("cross_entropy", self.from_logits)
        return generate_image_adversary(
            self.model, images, ids, eps, loss=loss, clip=self.clip
        )

    def bim(self, images, ids, eps):
        """Take ten equal steps from the image itself."""
        return attacks.projected_gradient_descent(
            self.model,
            images,
            ids,
            eps,
            steps=10,
            step_size=eps / 10,
            random_start=False,
            loss=OnLogits("cross_entropy", self.from_logits),
            clip=self.clip,
        )

    def pgd(self, images, ids, eps):
        """Climb cross-entropy from random starts."""
        return self._many_steps(images, ids, eps, "cross_entropy", _RESTARTS)

    def pgd_margin(self, images, ids, eps):
        """Climb the margin."""
        return self._many_steps(images, ids, eps, "margin", _RESTARTS)

    def pgd_longer(self, images, ids, eps):
        """Climb cross-entropy by three times the steps."""
        return self._many_steps(
            images, ids, eps, "cross_entropy", _RESTARTS, steps=3 * self.steps
        )

    def pgd_targeted(self, images, ids, eps):
        """Go for the likeliest wrong classes, one after the other."""
        logits = self.predict(images)
        logits[np.arange(len(ids)), ids] = -np.inf
        likeliest = np.argsort(-logits, axis=1)[:, :-1]  # the last is the true class
        adversaries = images.copy()
        left = np.arange(len(images))
        for goals in likeliest.T[:_TARGETS]:
            if left.size > 0:
                adversaries[left] = self._many_steps(
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

    def _many_steps(
        self, images, ids, eps, loss, restarts=1, *, steps=None, targeted=False
    ):
        steps = steps or self.steps
        return attacks.projected_gradient_descent(
            self.model,
            images,
            ids,
            eps,
            steps=steps,
            step_size=attacks.shrinking_steps(eps, steps),
            restarts=restarts,
            loss=OnLogits(loss, self.from_logits),
            clip=self.clip,
            targeted=targeted,
            rng=self.rng,
        )
