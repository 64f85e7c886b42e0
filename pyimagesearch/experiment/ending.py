"""What a run prints and writes: accuracies, what the defence is worth, pictures."""

import importlib.util
import math
from functools import partial

import keras

from pyimagesearch.attacks import projected_gradient_descent, shrinking_steps
from pyimagesearch.attacks.square import square_attack
from pyimagesearch.experiment.data import Split
from pyimagesearch.experiment.folder import replacing
from pyimagesearch.experiment.run import Run
from pyimagesearch.fgsm import generate_image_adversary

# The checksum of MNIST as `load` returns it.
_MNIST = "67de19f2c27025f5e28122f1351ccaf5d07e6ed7cb5bff1a6b78a473d42516da"
_SETTINGS = {"epochs": 20, "fine_tune_epochs": 10, "batch_size": 64, "eps": 0.1}
_SETTINGS |= {"honest": False, "recipe": "tutorial", "attack": "fgsm", "split": 0.5}
# The tutorials' losses and accuracies, in the order of their console lines.
_FIRST = ((0.0443, 0.9892), (17.2824, 0.0170), (0.0594, 0.9844), (0.0366, 0.9906))
_SECOND = ((0.0477, 0.9891), (14.0658, 0.0188), (0.0315, 0.9906), (0.1190, 0.9641))


def report(what: str, model: keras.Model, data: Split, run: Run) -> float:
    """Print a model's loss and accuracy, which is returned, in the tutorials' words."""
    loss, accuracy = model.evaluate(*data, batch_size=512, verbose=0)
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss on {what} is {loss}: training has diverged")
    run.figures[what] = {"loss": loss, "accuracy": accuracy}
    print(f"[INFO] {what}:\n[INFO] loss: {loss:.4f}, acc: {accuracy:.4f}\n")
    return accuracy


def check_defence(model: keras.Model, test: Split, run: Run) -> None:
    """Print what is left of a fine-tuned network when it is attacked as it is now."""
    *_, old = (figure["accuracy"] for figure in run.figures.values())
    eps, clip, accuracies = run.options.eps, (0, 1), []
    fgsm, sizes = generate_image_adversary, shrinking_steps(eps, 40)
    pgd = partial(projected_gradient_descent, steps=40, step_size=sizes)
    square = partial(square_attack, queries=1_000)
    for name, attack, count in [
        ("FGSM", fgsm, None),
        ("FGSM, clipped to valid images", partial(fgsm, clip=clip), None),
        ("PGD, clipped", partial(pgd, clip=clip, rng=0), 2_000),
        ("Square attack, clipped", partial(square, clip=clip, rng=0), 200),
    ]:
        images, labels = (array[:count] for array in test)
        name += f", first {len(images):,}" if count else ""
        what = f"fresh adversarial images, {name}"
        attacked = attack(model, images, labels, eps)
        accuracies.append(report(what, model, (attacked, labels), run))
        del attacked  # or there would be two of them in memory
    fresh, _, *stronger = accuracies
    print(
        f"[INFO] in short: the network is right on {old:.1%} of the adversarial images "
        f"made before\n[INFO] fine-tuning, on {fresh:.1%} of fresh ones of the same "
        f"kind, on {min(stronger):.1%} of stronger ones"
    )
    if not getattr(run.options, "honest", True):
        print(
            "[INFO] fine-tuning has seen these test images; --honest keeps them unseen"
        )


def finish(run: Run, models: dict[str, keras.Model], test: Split) -> None:
    """Compare a run with the tutorial; save its networks, pictures and results."""
    published, given = {}, vars(run.options)
    is_tutorial = _SETTINGS.items() <= (_SETTINGS | given).items()
    if is_tutorial and run.checksum == _MNIST:
        line = "{loss:.4f} {accuracy:.4f}"
        print(f"\n[INFO] {'loss and accuracy':<42}{'published':>16}{'this run':>16}")
        figures = _SECOND if "split" in given else _FIRST
        for (what, ours), theirs in zip(run.figures.items(), figures, strict=False):
            published[what] = dict(zip(("loss", "accuracy"), theirs, strict=True))
            theirs, ours = line.format(**published[what]), line.format(**ours)
            print(f"[INFO] {what:<42}{theirs:>16}{ours:>16}")
    if run.options.output:
        for name, model in models.items():
            with replacing(run.options.output / f"{name}.keras") as path:
                model.save(path)
        save_pictures(run.options.output, models, test, run.options.eps)
        run.finish(published=published)


def save_pictures(folder, models, data, eps, clip=(0.0, 1.0), prefix="") -> None:
    """Save the pictures of `draw_pictures` as PNG, or print how to get Matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        print("[INFO] no pictures without Matplotlib: pip install matplotlib")
        return
    from pyimagesearch.robustness.pictures import draw_pictures

    figures = draw_pictures(models, data, eps, clip)
    for name, figure in figures.items():
        with replacing(folder / f"{prefix}{name.replace('/', '_')}.png") as path:
            figure.savefig(path, dpi=120)
    print(f"[INFO] saved {len(figures)} pictures in {folder}")
