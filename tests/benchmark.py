"""Time this package against the tutorials' way, ART and bare TensorFlow.

    python tests/benchmark.py [mnist|FILE.npz]
    python tests/benchmark.py --large

Every ratio is a median over rounds in which the rivals take turns, so that a change in
the machine's speed meets all of them. ART is the Adversarial Robustness Toolbox. At the
end stands what memory the second script takes. With `--large` it takes networks of
ImageNet's size instead.
"""

import argparse
import functools
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.core.compiled import chunks
from pyimagesearch.datagen import generate_mixed_adverserial_batch, in_step
from pyimagesearch.experiment.data import load
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.training import robust_attack

ROOT = Path(__file__).parent.parent
EPS = 0.1
DIMS = (28, 28, 1)
BATCH = 64
ROUNDS = 5
TRAINING_ROUNDS = 11
STEPS = 150
LARGE = ("ResNet50", "MobileNetV3Small")


def compare(title, unit, rivals, rounds=ROUNDS):
    """Run the rivals in turns; print medians and ratios to the first.

    A rival is a function, and what its seconds are to be multiplied with.
    """
    times = {name: [] for name in rivals}
    for run, _ in rivals.values():
        run()
    for _ in range(rounds):
        for name, (run, factor) in rivals.items():
            started = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - started) * factor)
    print(f"\n{title}", flush=True)
    reference, *_ = times.values()
    for name, values in times.items():
        ratios = [v / r for v, r in zip(values, reference, strict=True)]
        print(
            f"  {name:42}{statistics.median(values):9.2f} {unit}"
            f"{statistics.median(ratios):9.2f} x   "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def per_image_adversary(model, image, label):
    """FGSM as the tutorials write it."""
    image = tf.cast(image, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(image)
        loss = keras.losses.mean_squared_error(label, model(image))
    return (image + tf.sign(tape.gradient(loss, image)) * EPS).numpy()


def in_chunks(images, *others):
    """Return arrays as tensors, in the package's own batches."""
    arrays = (images, *others)
    return [[tf.constant(array[rows]) for array in arrays] for rows in chunks(images)]


def bare_gradient_sign(model, loss_function):
    """Return what every attack has to compute, compiled, and nothing around it."""

    @tf.function
    def gradient_sign(images, labels):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            outputs = model(images, training=False)
            loss = tf.reduce_sum(loss_function(labels, outputs))
        return tf.sign(tape.gradient(loss, images))

    return gradient_sign


def art_classifier(model, loss, clip=None):
    """Wrap a model for ART, which is imported where no memory is measured."""
    from art.estimators.classification import TensorFlowV2Classifier

    return TensorFlowV2Classifier(model, 10, DIMS, loss_object=loss, clip_values=clip)


def fgsm_rivals(model, images, labels):
    """Return ways to attack all the images with FGSM, MSE and no clipping."""
    parts = in_chunks(images, labels)
    gradient_sign = bare_gradient_sign(model, keras.losses.mean_squared_error)

    def run_bare():
        for part in parts:
            gradient_sign(*part).numpy()

    def run_per_image():
        for image, label in zip(images[:100], labels[:100], strict=True):
            per_image_adversary(model, image[np.newaxis], label[np.newaxis])

    def run_package():
        generate_image_adversary(model, images, labels, EPS)

    from art.attacks.evasion import FastGradientMethod

    loss = keras.losses.MeanSquaredError()
    attack = FastGradientMethod(art_classifier(model, loss), eps=EPS)
    return {
        "bare compiled gradient": (run_bare, 1),
        "this package": (run_package, 1),
        "per-image loop (from 100 images)": (run_per_image, len(images) / 100),
        "ART": (functools.partial(attack.generate, images, labels), 1),
    }


def pgd_rivals(model, images, labels):
    """Return ways to take 40 steps of PGD."""
    parts = in_chunks(images, labels)
    gradient_sign = bare_gradient_sign(model, keras.losses.categorical_crossentropy)

    def run_bare():
        for part in parts:
            for _ in range(40):
                gradient_sign(*part)

    def run_package():
        projected_gradient_descent(
            model, images, labels, EPS, steps=40, step_size=0.01, clip=(0, 1)
        )

    from art.attacks.evasion import ProjectedGradientDescent

    loss = keras.losses.CategoricalCrossentropy()
    attack = ProjectedGradientDescent(
        art_classifier(model, loss, clip=(0.0, 1.0)),
        eps=EPS,
        eps_step=0.01,
        max_iter=40,
        num_random_init=1,
        batch_size=512,
        verbose=False,
    )
    return {
        "bare compiled gradient, 40 times": (run_bare, 1),
        "this package": (run_package, 1),
        "ART": (functools.partial(attack.generate, images, labels), 1),
    }


def square_rivals(model, images, queries):
    """Return Square, on images that all stay as they are answered, and bare passes."""
    answers = model.predict(images, verbose=0).argmax(axis=1)
    parts = in_chunks(images)
    forward = tf.function(functools.partial(model, training=False))

    def run_square():
        square_attack(model, images, answers, 1e-6, queries=queries, rng=0)

    def run_bare():
        for _ in range(queries):
            for (part,) in parts:
                forward(part).numpy()

    # Two more passes come before the first query.
    return {
        "bare compiled pass": (run_bare, 1000 / queries),
        "a query": (run_square, 1000 / (queries + 2)),
    }


def bare_steps(model):
    """Return functions that make a training step: plain, and on mixed images."""
    half = BATCH // 2
    gradient_sign = bare_gradient_sign(model, keras.losses.mean_squared_error)
    loss_function = keras.losses.CategoricalCrossentropy()
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)

    def train(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_function(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    def train_mixed(images, labels):
        normal = images[:half]
        adversaries = normal + EPS * gradient_sign(normal, labels[:half])
        train(tf.concat([adversaries, images[half:]], axis=0), labels)

    return tf.function(train), tf.function(train_mixed)


def compare_training(model, images, labels):
    """Compare ways to make a training step, a mixed one, and one of the recipe."""
    batch = (tf.constant(images[:BATCH]), tf.constant(labels[:BATCH]))
    data = (images[: STEPS * BATCH], labels[: STEPS * BATCH])
    plain_batches = tf.data.Dataset.from_tensor_slices(data)
    plain_batches = plain_batches.shuffle(STEPS * BATCH, 0).batch(BATCH)
    make_batches = functools.partial(
        generate_mixed_adverserial_batch, model, BATCH, images, labels, DIMS, rng=0
    )

    def fit(batches):
        def run():
            model.fit(batches, steps_per_epoch=STEPS, shuffle=False, verbose=0)

        return run, 1000 / STEPS

    def fit_robust(eps):
        attack = robust_attack(1, rng=0)
        return fit(in_step(make_batches(eps=eps, split=0.0, attack=attack)))

    def repeat(step):
        def run():
            for _ in range(STEPS):
                step(*batch)

        return run, 1000 / STEPS

    train, train_mixed = bare_steps(model)
    fit_mixed = fit(in_step(make_batches(eps=EPS)))
    plain = {
        "bare compiled step": repeat(train),
        "model.fit": fit(plain_batches.repeat()),
    }
    mixed = {
        "fused compiled step": repeat(train_mixed),
        "model.fit, in step": fit_mixed,
    }
    robust = {
        "the tutorial's mixed step": fit_mixed,
        "the recipe's at eps 0.1": fit_robust(0.1),
        "the recipe's at eps 0.3": fit_robust(0.3),
    }
    compare("A plain training step", "ms", plain, TRAINING_ROUNDS)
    compare("A mixed training step", "ms", mixed, TRAINING_ROUNDS)
    compare("A training step of the recipe", "ms", robust, TRAINING_ROUNDS)


def run_python(*arguments):
    """Run Python in the project's folder, and return what it prints."""
    command = [sys.executable, *map(str, arguments)]
    finished = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT
    )
    return finished.stdout


def measure_second_script(data):
    """Print the memory of a short run of it."""
    code = """if True:
        import resource, subprocess, sys
        subprocess.check_call(sys.argv[1:], stdout=subprocess.DEVNULL)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 // 10**6)
    """
    command = [sys.executable, ROOT / "train_mixed_adversarial_defense.py", "--quiet"]
    command += ["--data", data, "--epochs", 2, "--fine-tune-epochs", 1]
    print("\nThe second script")
    print(f"  {'peak memory':42}{int(run_python('-c', code, *command)):9,} MB")


def measure_large(name, part):
    """Print one figure of a large network, in this process."""
    model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    images = np.random.default_rng(0).random((32, 224, 224, 3), dtype=np.float32)
    labels = np.eye(1000, dtype=np.float32)[np.arange(32)]
    if part == "Square":
        bias = model.trainable_weights[-1]  # else each change would get a new answer
        bias.assign(np.random.default_rng(0).normal(size=bias.shape))
        rivals = square_rivals(model, images, queries=3)
        compare(f"Square, {name}, 32 images", "ms", rivals, rounds=3)
        return
    if part == "FGSM":
        generate_image_adversary(model, images, labels, EPS)
    if part == "bare gradient":
        gradient_sign = bare_gradient_sign(model, keras.losses.mean_squared_error)
        for chunk in in_chunks(images, labels):
            gradient_sign(*chunk).numpy()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6)


def compare_large():
    """Print figures of large networks, each from a process of its own."""
    for name in LARGE:
        print(f"\nPeak memory, {name}, 32 images of 224x224")
        peaks = {}
        for part in ("bare gradient", "FGSM"):
            printed = run_python(__file__, "--part", name, part)
            peaks[part] = int(printed.split()[-1])
            ratio = peaks[part] / peaks["bare gradient"]
            print(f"  {part:42}{peaks[part]:9,} MB{ratio:9.2f} x", flush=True)
        printed = run_python(__file__, "--part", name, "Square")
        print(printed, end="", flush=True)


def compare_on(data):
    """Run the comparisons on MNIST, or on data like it."""
    if Path(data).is_file():
        data = Path(data).resolve()
    loaded = load(str(data))
    images, labels = loaded.test
    keras.utils.set_random_seed(0)
    model = SimpleCNN.build(28, 28, 1, 10)
    adam = keras.optimizers.Adam(1e-4)
    model.compile(adam, "categorical_crossentropy", metrics=["accuracy"])
    model.fit(*loaded.train, batch_size=BATCH, epochs=1, verbose=0)

    rivals = fgsm_rivals(model, images, labels)
    compare(f"FGSM over {len(images):,} images", "s ", rivals)
    images = images[:1000]
    labels = labels[:1000]
    compare("PGD, 1,000 images", "s ", pgd_rivals(model, images, labels))
    compare("Square, 1,000 images", "ms", square_rivals(model, images, 100))
    compare_training(model, *loaded.train)
    measure_second_script(data)


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", nargs="?", default="mnist", help="mnist, or an .npz file"
    )
    parser.add_argument(
        "--large", action="store_true", help="take networks of ImageNet's size instead"
    )
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        measure_large(*options.part)
    elif options.large:
        compare_large()
    else:
        compare_on(options.data)


if __name__ == "__main__":
    main()
