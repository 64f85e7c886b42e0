"""What a defence is worth: fresh attacks on the fine-tuned network."""

from functools import partial

import keras

from pyimagesearch.attacks import (
    projected_gradient_descent,
    shrinking_steps,
    square_attack,
)
from pyimagesearch.experiment.console import report
from pyimagesearch.experiment.data import Split
from pyimagesearch.experiment.run import Run
from pyimagesearch.fgsm import generate_image_adversary

NORMAL, ADVERSARIAL = "normal testing images", "adversarial testing images"
NORMAL_AFTER = "normal testing images *after* fine-tuning"
ADVERSARIAL_AFTER = "adversarial images *after* fine-tuning"

_PGD_IMAGES, _SQUARE_IMAGES, _QUERIES = 2_000, 200, 1_000


def check_defence(model: keras.Model, test: Split, run: Run) -> None:
    """Print what is left of a fine-tuned network when it is attacked as it is now.

    Args:
        model: A compiled classifier of images in [0, 1].
        test: Test images and one-hot labels.
        run: The run that gets the figures.
    """
    eps = run.options.eps
    fgsm = partial(generate_image_adversary, eps=eps)
    sizes = shrinking_steps(eps, 40)
    valid = {"eps": eps, "clip": (0, 1), "rng": 0}
    pgd = partial(projected_gradient_descent, steps=40, step_size=sizes, **valid)
    square = partial(square_attack, queries=_QUERIES, **valid)
    accuracies = []
    for name, attack, count in [
        ("FGSM", fgsm, None),
        ("FGSM, clipped to valid images", partial(fgsm, clip=(0, 1)), None),
        ("PGD, clipped", pgd, _PGD_IMAGES),
        ("Square, clipped", square, _SQUARE_IMAGES),
    ]:
        images, labels = (array[:count] for array in test)
        if count is not None:
            name += f", first {len(images):,}"
        attacked = attack(model, images, labels), labels
        what = f"fresh adversarial images, {name}"
        accuracies.append(report(what, model, attacked, run))
    fresh, _, *stronger = accuracies
    old = run.figures[ADVERSARIAL_AFTER]["accuracy"]
    print(
        f"[INFO] in short: correct are {old:.1%} of the adversarial images made before "
        f"fine-tuning,\n[INFO] {fresh:.1%} of fresh ones of the same kind, and "
        f"{min(stronger):.1%} of a stronger attacker's"
    )
    if not getattr(run.options, "honest", True):
        print(
            "[INFO] fine-tuning has seen these test images; --honest keeps them unseen"
        )
