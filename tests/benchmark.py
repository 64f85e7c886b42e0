"""Time this package against the tutorials' way, other libraries and bare TensorFlow.

    python tests/benchmark.py [mnist|FILE.npz]
    python tests/benchmark.py --large

Every ratio is a median over rounds in which the rivals take turns, so that a change in
the machine's speed meets all of them. CleverHans and the Adversarial Robustness Toolbox
(ART) take part where they are installed. At the end it says how long the
second script takes. With `--large` it takes networks of ImageNet's size instead.
"""

import argparse
import contextlib
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.core.chords import chord_gradient, chord_slopes
from pyimagesearch.core.compiled import Network, chunks
from pyimagesearch.datagen import generate_mixed_adverserial_batch, in_step
from pyimagesearch.experiment.data import load
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.robustness import evaluate_robustness
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


def compare(title, unit, reference, rivals, rounds=ROUNDS):
    """Run the rivals in turns; print medians and ratios to the reference.

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
    for name, values in times.items():
        ratios = [v / r for v, r in zip(values, times[reference], strict=True)]
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
    """Wrap a model for the Adversarial Robustness Toolbox, if it is installed."""
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

    rivals = {
        "this package": (run_package, 1),
        "bare compiled gradient": (run_bare, 1),
        "per-image loop (from 100 images)": (run_per_image, len(images) / 100),
    }
    with contextlib.suppress(ImportError):
        from art.attacks.evasion import FastGradientMethod

        loss = keras.losses.MeanSquaredError()
        attack = FastGradientMethod(art_classifier(model, loss), eps=EPS)
        run_art = functools.partial(attack.generate, images, labels)
        rivals["ART, its default batches"] = (run_art, 1)
    with contextlib.suppress(ImportError):
        from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

        infer = functools.partial(model, training=False)

        def mean_squared_error(labels, logits):
            return keras.losses.mean_squared_error(labels, logits)

        def run_cleverhans():
            for x, y in parts:
                fast_gradient_method(
                    infer, x, EPS, np.inf, loss_fn=mean_squared_error, y=y
                ).numpy()

        rivals["CleverHans"] = (run_cleverhans, 1)
    return rivals


def pgd_rivals(model, images, labels):
    """Return ways to take 40 steps of PGD, and print what each leaves correct."""
    parts = in_chunks(images, labels)
    gradient_sign = bare_gradient_sign(model, keras.losses.categorical_crossentropy)

    def run_bare():
        for part in parts:
            for _ in range(40):
                gradient_sign(*part)

    def run_package():
        return projected_gradient_descent(
            model, images, labels, EPS, steps=40, step_size=0.01, clip=(0, 1)
        )

    attacks = {"this package": run_package}
    with contextlib.suppress(ImportError):
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
        attacks["ART"] = functools.partial(attack.generate, images, labels)
    with contextlib.suppress(ImportError):
        from cleverhans.tf2.attacks.projected_gradient_descent import (
            projected_gradient_descent as cleverhans_pgd,
        )

        logits = keras.Sequential(model.layers[:-1])
        attack_chunk = functools.partial(
            cleverhans_pgd,
            tf.function(functools.partial(logits, training=False)),
            eps=EPS,
            eps_iter=0.01,
            nb_iter=40,
            norm=np.inf,
            clip_min=0.0,
            clip_max=1.0,
            sanity_checks=False,
        )

        def run_cleverhans():
            return np.concatenate(
                [attack_chunk(x, y=tf.argmax(y, 1)) for x, y in parts]
            )

        attacks["CleverHans"] = run_cleverhans

    print("\nCorrect after 40 steps of PGD, the same settings")
    for name, run in attacks.items():
        correct = model.predict(run(), verbose=0).argmax(1) == labels.argmax(1)
        print(f"  {name:42}{correct.mean():9.4f}", flush=True)
    attacks["bare compiled gradient, 40 times"] = run_bare
    return {name: (run, 1) for name, run in attacks.items()}


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
        "a query": (run_square, 1000 / (queries + 2)),
        "bare compiled pass": (run_bare, 1000 / queries),
    }


def plain_step(model):
    """Return a function that makes a training step, to be compiled with others."""
    loss_function = keras.losses.CategoricalCrossentropy()
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)

    def train(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_function(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    return train


def mixed_step(model, train):
    """Return a function that attacks half of the images, and trains on all."""
    half = BATCH // 2
    gradient_sign = bare_gradient_sign(model, keras.losses.mean_squared_error)

    def train_mixed(images, labels):
        normal = images[:half]
        adversaries = normal + EPS * gradient_sign(normal, labels[:half])
        train(tf.concat([adversaries, images[half:]], axis=0), labels)

    return train_mixed


def robust_step(model, train):
    """Return a function that trains as the robust recipe does."""
    reach = 1.3 * EPS
    network = Network(
        output=functools.partial(model, training=False),
        losses=keras.losses.categorical_crossentropy,
        logits=None,
    )

    def train_robust(images, labels):
        shifted = tf.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], "SYMMETRIC")
        for axis in (1, 2):
            first = tf.random.uniform((BATCH, 1), 0, 3, tf.int32)
            pixels = first + tf.range(images.shape[axis])
            shifted = tf.gather(shifted, pixels, axis=axis, batch_dims=1)
        low = tf.maximum(shifted - reach, 0.0)
        high = tf.minimum(shifted + reach, 1.0)
        start = tf.random.uniform(images.shape, -reach, reach)
        adversaries = tf.clip_by_value(shifted + start, low, high)
        slopes = chord_slopes(network, low, high)
        for _ in range(2):
            gradient, _ = chord_gradient(network, adversaries, labels, slopes)
            step = 0.75 * reach * tf.sign(gradient)
            adversaries = tf.clip_by_value(adversaries + step, low, high)
        train(adversaries, labels)

    return train_robust


def compare_training(model, images, labels):
    """Compare ways to make a plain training step, a mixed and a robust one."""
    batch = (tf.constant(images[:BATCH]), tf.constant(labels[:BATCH]))
    data = (images[: STEPS * BATCH], labels[: STEPS * BATCH])
    plain_batches = tf.data.Dataset.from_tensor_slices(data)
    plain_batches = plain_batches.shuffle(STEPS * BATCH, 0).batch(BATCH)
    make_batches = functools.partial(
        generate_mixed_adverserial_batch, model, BATCH, images, labels, DIMS, EPS, rng=0
    )
    robust_batches = make_batches(split=0.0, attack=robust_attack(1, rng=0))

    def fit(batches):
        def run():
            model.fit(batches, steps_per_epoch=STEPS, shuffle=False, verbose=0)

        return run, 1000 / STEPS

    def repeat(step):
        compiled = tf.function(step)

        def run():
            for _ in range(STEPS):
                compiled(*batch)

        return run, 1000 / STEPS

    train = plain_step(model)
    in_order = "model.fit, in step, as it is run"
    kinds = {
        "plain": {
            "model.fit, as the scripts run it": fit(plain_batches.repeat()),
            "bare compiled step": repeat(train),
        },
        "mixed": {
            in_order: fit(in_step(make_batches())),
            "fused compiled step": repeat(mixed_step(model, train)),
        },
        "robust": {
            in_order: fit(in_step(robust_batches)),
            "fused compiled step": repeat(robust_step(model, train)),
        },
    }
    for kind, rivals in kinds.items():
        _, reference, *_ = rivals
        compare(f"A {kind} training step", "ms", reference, rivals, TRAINING_ROUNDS)


def run_python(*arguments):
    """Run Python in the project's folder, and return what it prints."""
    command = [sys.executable, *map(str, arguments)]
    finished = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT
    )
    return finished.stdout


def time_of_the_second_script(data, epochs=2, fine_tune_epochs=1):
    """Print the time and the memory of a short run of it."""
    code = """if True:
        import resource, subprocess, sys
        subprocess.check_call(sys.argv[1:], stdout=subprocess.DEVNULL)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 // 10**6)
    """
    command = [sys.executable, ROOT / "train_mixed_adversarial_defense.py", "--quiet"]
    command += ["--data", data, "--epochs", epochs]
    command += ["--fine-tune-epochs", fine_tune_epochs]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        printed = run_python("-c", code, *command, "--output", folder)
        seconds = json.loads(Path(folder, "results.json").read_text())["seconds"]
    whole = time.perf_counter() - started
    training = seconds["training"]
    fine_tuning = seconds["fine-tuning"]
    # What a run of the tutorials' length has besides its epochs is as long as here.
    rest = whole - training - fine_tuning
    tutorial = rest + 20 * training / epochs + 10 * fine_tuning / fine_tune_epochs
    print(f"\nThe second script, {epochs} epochs and {fine_tune_epochs} of fine-tuning")
    print(f"  {'an epoch of training':42}{training / epochs:9.1f} s")
    print(f"  {'an epoch of fine-tuning':42}{fine_tuning / fine_tune_epochs:9.1f} s")
    print(f"  {'whole':42}{whole:9.1f} s")
    print(f"  {'besides the epochs, of 20 and 10':42}{rest / tutorial:24.0%}")
    print(f"  {'peak memory':42}{printed.split()[-1]:>9} MB", flush=True)


def measure_large(name, part):
    """Print one figure of a large network, in this process."""
    model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    images = np.random.default_rng(0).random((32, 224, 224, 3), dtype=np.float32)
    labels = np.eye(1000, dtype=np.float32)[np.arange(32)]
    if part == "Square":
        bias = model.trainable_weights[-1]  # else each change would get a new answer
        bias.assign(np.random.default_rng(0).normal(size=bias.shape))
        rivals = square_rivals(model, images, queries=3)
        title = f"Square, {name}, 32 images"
        compare(title, "ms", "bare compiled pass", rivals, rounds=3)
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
    (train_images, train_labels), (images, labels) = load(str(data))[1:3]
    keras.utils.set_random_seed(0)
    model = SimpleCNN.build(28, 28, 1, 10)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-4),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(train_images, train_labels, batch_size=BATCH, epochs=1, verbose=0)

    rivals = fgsm_rivals(model, images, labels)
    title = f"FGSM over {len(images):,} images"
    compare(title, "s ", "bare compiled gradient", rivals)
    images = images[:1000]
    labels = labels[:1000]
    title = f"PGD, {len(images):,} images"
    rivals = pgd_rivals(model, images, labels)
    compare(title, "s ", "bare compiled gradient, 40 times", rivals)
    title = f"Square, {len(images):,} images"
    compare(title, "ms", "bare compiled pass", square_rivals(model, images, 100))
    started = time.perf_counter()
    evaluate_robustness(model, images, labels, EPS, verbose=False)
    print(f"\nThe report, {len(images):,} images, once")
    print(f"  {'default report':42}{time.perf_counter() - started:9.1f} s", flush=True)
    compare_training(model, train_images, train_labels)
    time_of_the_second_script(data)


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", nargs="?", default="mnist", help="mnist or an .npz file"
    )
    parser.add_argument(
        "--large", action="store_true", help="take networks of ImageNet's size instead"
    )
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    data = options.data
    if options.part:
        measure_large(*options.part)
    elif options.large:
        compare_large()
    else:
        compare_on(Path(data).resolve() if Path(data).is_file() else data)


if __name__ == "__main__":
    main()
