"""What is left of a defended network when it is attacked as it is now."""

from functools import partial

import keras

from pyimagesearch import attacks
from pyimagesearch.experiment.data import Split
from pyimagesearch.fgsm import generate_image_adversary


def check_defence(model: keras.Model, test: Split, run) -> None:
    """Attack a fine-tuned network anew, and print the share that it withstands.

    The `Run` has its options, and its accuracy on adversaries from before.
    """
    eps = run.options.eps
    fgsm = generate_image_adversary
    sizes = attacks.shrinking_steps(eps, 40)
    pgd = partial(attacks.projected_gradient_descent, step_size=sizes, rng=0)
    square = partial(attacks.square_attack, queries=1_000, rng=0)
    images, labels = test
    count = len(images)
    few = min(2_000, count)
    fewer = min(200, count)
    accuracies = []
    for name, attack, clip, limit in [
        ("FGSM", fgsm, None, count),
        ("FGSM, clipped to valid images", fgsm, (0.0, 1.0), count),
        (f"PGD, clipped, first {few:,}", pgd, (0.0, 1.0), few),
        (f"Square attack, clipped, first {fewer:,}", square, (0.0, 1.0), fewer),
    ]:
        adversaries = attack(model, images[:limit], labels[:limit], eps, clip=clip)
        loss, accuracy = model.evaluate(adversaries, labels[:limit], verbose=0)
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
