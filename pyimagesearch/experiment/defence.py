"""What is left of a defended network when it is attacked as it is now."""

from functools import partial

import keras

from pyimagesearch.attacks import (
    projected_gradient_descent,
    shrinking_steps,
    square_attack,
)
from pyimagesearch.experiment.data import Split
from pyimagesearch.fgsm import generate_image_adversary

_PGD_IMAGES = 2_000
_SQUARE_IMAGES = 200


def check_defence(model: keras.Model, test: Split, run) -> None:
    """Attack a fine-tuned network anew, and print the share that it withstands.

    The `Run` has its options, and its accuracy on adversaries from before.
    """
    eps = run.options.eps
    valid = (0.0, 1.0)
    fgsm = generate_image_adversary
    clipped_fgsm = partial(fgsm, clip=valid)
    pgd = partial(
        projected_gradient_descent,
        steps=40,
        step_size=shrinking_steps(eps, 40),
        clip=valid,
        rng=0,
    )
    square = partial(square_attack, queries=1_000, clip=valid, rng=0)
    count = len(test[0])
    of_pgd = f", first {min(_PGD_IMAGES, count):,}"
    of_square = f", first {min(_SQUARE_IMAGES, count):,}"

    accuracies = []
    for name, attack, limit in [
        ("FGSM", fgsm, count),
        ("FGSM, clipped to valid images", clipped_fgsm, count),
        (f"PGD, clipped{of_pgd}", pgd, _PGD_IMAGES),
        (f"Square attack, clipped{of_square}", square, _SQUARE_IMAGES),
    ]:
        images = test[0][:limit]
        labels = test[1][:limit]
        adversaries = attack(model, images, labels, eps)
        loss, accuracy = model.evaluate(adversaries, labels, verbose=0)
        run.show(f"fresh adversarial images, {name}", loss, accuracy)
        accuracies.append(accuracy)

    old = run.figures["adversarial images *after* fine-tuning"]["accuracy"]
    fresh, _, by_pgd, by_square = accuracies
    print(
        f"[INFO] in short: the network is right on {old:.1%} of the adversarial images "
        f"made before\n[INFO] fine-tuning, on {fresh:.1%} of fresh ones of the same "
        f"kind, on {min(by_pgd, by_square):.1%} of stronger ones"
    )
    if not getattr(run.options, "honest", True):
        print(
            "[INFO] fine-tuning has seen these test images; --honest keeps them unseen"
        )
