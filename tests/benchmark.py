"""Time this package against the tutorials' way, other libraries and bare TensorFlow.

    python tests/benchmark.py [mnist|FILE.npz]

Every ratio is a median over rounds in which the rivals take turns, so that a change in
the machine's speed meets all of them. CleverHans and the Adversarial Robustness Toolbox
(ART) take part where they are installed. At the end it says where the time of the
second script goes.
"""

import argparse
import contextlib
import functools
import json
import os
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

from pyimagesearch.attacks import projected_gradient_descent
from pyimagesearch.datagen import generate_mixed_adverserial_batch, in_step
from pyimagesearch.experiment.data import load
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.training.epochs import RepeatableEpochs, shuffled
from pyimagesearch.training.robust import robust_attack

ROOT = Path(__file__).parent.parent
EPS, DIMS, BATCH, CHUNK = 0.1, (28, 28, 1), 64, 512
ROUNDS, TRAINING_ROUNDS, STEPS = 5, 11, 150


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


def in_chunks(images, labels):
    """Return the images and labels as tensors, in batches."""
    return [
        (tf.constant(images[i : i + CHUNK]), tf.constant(labels[i : i + CHUNK]))
        for i in range(0, len(images), CHUNK)
    ]


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


def fgsm_rivals(model, images, labels):
    """Return ways to attack all the images with FGSM, MSE and no clipping."""
    chunks = in_chunks(images, labels)
    gradient_sign = bare_gradient_sign(model, keras.losses.mean_squared_error)

    def run_bare():
        for chunk in chunks:
            gradient_sign(*chunk).numpy()

    def run_per_image():
        for image, label in zip(images[:100], labels[:100], strict=True):
            per_image_adversary(model, image[np.newaxis], label[np.newaxis])

    def run_package():
        generate_image_adversary(model, images, labels, EPS)

    rivals = {
        "this package": (run_package, 1),
        "bare compiled gradient, batches of 512": (run_bare, 1),
        "per-image loop (from 100 images)": (run_per_image, len(images) / 100),
    }
    with contextlib.suppress(ImportError):
        from art.attacks.evasion import FastGradientMethod
        from art.estimators.classification import TensorFlowV2Classifier

        classifier = TensorFlowV2Classifier(
            model, 10, DIMS, loss_object=keras.losses.MeanSquaredError()
        )
        attack = FastGradientMethod(classifier, eps=EPS)
        rivals["ART, its default batches"] = (
            lambda: attack.generate(images, labels),
            1,
        )
    with contextlib.suppress(ImportError):
        from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

        def mean_squared_error(labels, logits):
            return keras.losses.mean_squared_error(labels, logits)

        infer = functools.partial(model, training=False)

        def run_cleverhans():
            for x, y in chunks:
                fast_gradient_method(
                    infer, x, EPS, np.inf, loss_fn=mean_squared_error, y=y
                ).numpy()

        rivals["CleverHans, batches of 512"] = (run_cleverhans, 1)
    return rivals


def pgd_rivals(model, images, labels):
    """Return ways to take 40 steps of PGD, and print what each leaves correct."""
    chunks = in_chunks(images, labels)
    gradient_sign = bare_gradient_sign(model, keras.losses.categorical_crossentropy)

    def run_bare():
        for chunk in chunks:
            for _ in range(40):
                gradient_sign(*chunk)

    def run_package():
        return projected_gradient_descent(
            model, images, labels, EPS, steps=40, step_size=0.01, clip=(0, 1)
        )

    rivals = {"this package": run_package}
    with contextlib.suppress(ImportError):
        from art.attacks.evasion import ProjectedGradientDescent
        from art.estimators.classification import TensorFlowV2Classifier

        loss = keras.losses.CategoricalCrossentropy()
        classifier = TensorFlowV2Classifier(
            model, 10, DIMS, loss_object=loss, clip_values=(0.0, 1.0)
        )
        settings = {"eps": EPS, "eps_step": 0.01, "max_iter": 40, "num_random_init": 1}
        attack = ProjectedGradientDescent(
            classifier, batch_size=CHUNK, verbose=False, **settings
        )
        rivals["ART, batches of 512"] = lambda: attack.generate(images, labels)
    with contextlib.suppress(ImportError):
        from cleverhans.tf2.attacks.projected_gradient_descent import (
            projected_gradient_descent as cleverhans_pgd,
        )

        logits = keras.Sequential(model.layers[:-1])
        infer = tf.function(functools.partial(logits, training=False))
        settings = {"clip_min": 0.0, "clip_max": 1.0, "sanity_checks": False}

        def run_cleverhans():
            results = []
            for x, y in chunks:
                y = tf.argmax(y, axis=1)
                attack = (infer, x, EPS, 0.01, 40, np.inf)
                results.append(cleverhans_pgd(*attack, y=y, **settings))
            return np.concatenate(results)

        rivals["CleverHans, batches of 512"] = run_cleverhans

    print("\nCorrect after 40 steps of PGD, the same settings")
    for name, run in rivals.items():
        correct = model.predict(run(), verbose=0).argmax(1) == labels.argmax(1)
        print(f"  {name:42}{correct.mean():9.4f}", flush=True)
    rivals["bare compiled gradient, 40 times"] = run_bare
    return {name: (run, 1) for name, run in rivals.items()}


def training_rivals(model, images, labels):
    """Return ways to make a plain training step, a mixed and a robust one."""
    loss_function = keras.losses.CategoricalCrossentropy()
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)
    half, batch = BATCH // 2, (tf.constant(images[:BATCH]), tf.constant(labels[:BATCH]))

    def train(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_function(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    def train_mixed(images, labels):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            normal = images[:half]
            tape.watch(normal)
            outputs = model(normal, training=False)
            loss = tf.reduce_sum(
                keras.losses.mean_squared_error(labels[:half], outputs)
            )
        adversaries = normal + EPS * tf.sign(tape.gradient(loss, normal))
        train(tf.concat([adversaries, images[half:]], axis=0), labels)

    def train_robust(images, labels):
        padded = tf.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], "SYMMETRIC")
        for axis in (1, 2):
            first = tf.random.uniform((BATCH, 1), 0, 3, tf.int32)
            pixels = first + tf.range(images.shape[axis])
            padded = tf.gather(padded, pixels, axis=axis, batch_dims=1)
        low, high = padded - 1.3 * EPS, padded + 1.3 * EPS
        low, high = tf.maximum(low, 0.0), tf.minimum(high, 1.0)
        start = tf.random.uniform(images.shape, -1.3 * EPS, 1.3 * EPS)
        adversaries = tf.clip_by_value(padded + start, low, high)
        for _ in range(2):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(adversaries)
                outputs = model(adversaries, training=False)
                loss = tf.reduce_sum(
                    keras.losses.categorical_crossentropy(labels, outputs)
                )
            step = 0.75 * 1.3 * EPS * tf.sign(tape.gradient(loss, adversaries))
            adversaries = tf.clip_by_value(adversaries + step, low, high)
        train(adversaries, labels)

    bare, fused = tf.function(train), tf.function(train_mixed)
    fused_robust = tf.function(train_robust)

    def repeat(step):
        for _ in range(STEPS):
            step(*batch)

    def per_image_batches():
        rng = np.random.default_rng(0)
        while True:
            rows = rng.choice(len(images), BATCH, replace=False)
            adversaries = [
                per_image_adversary(model, image[np.newaxis], label[np.newaxis])
                for image, label in zip(
                    images[rows[:half]], labels[rows[:half]], strict=True
                )
            ]
            mixed = np.concatenate([*adversaries, images[rows[half:]]])
            order = rng.permutation(BATCH)
            yield mixed[order], labels[rows][order]

    mixed_batches = functools.partial(
        generate_mixed_adverserial_batch, model, BATCH, images, labels, DIMS, eps=EPS
    )
    data = images[: STEPS * BATCH], labels[: STEPS * BATCH]

    settings = {"steps_per_epoch": STEPS, "shuffle": False, "verbose": 0}

    def fitting(make_batches):  # made once: the start of a `fit` is no step
        epochs = RepeatableEpochs(1)
        batches = make_batches(epochs.rng)
        return lambda: model.fit(batches, callbacks=[epochs], **settings)

    def robust_batches(rng):
        attack = robust_attack(1, rng=rng)
        return in_step(mixed_batches(split=0.0, attack=attack, rng=rng))

    run_plain_fit = fitting(lambda rng: shuffled(data, BATCH, rng))
    run_mixed_fit = fitting(lambda rng: in_step(mixed_batches(rng=rng)))
    run_robust_fit = fitting(robust_batches)

    def run_per_image_fit():
        model.fit(per_image_batches(), steps_per_epoch=4, shuffle=False, verbose=0)

    milliseconds = 1000 / STEPS
    plain = {
        "model.fit, as the scripts run it": (run_plain_fit, milliseconds),
        "bare compiled step": (lambda: repeat(bare), milliseconds),
    }
    mixed = {
        "model.fit, in step, as the script runs it": (run_mixed_fit, milliseconds),
        "fused compiled step": (lambda: repeat(fused), milliseconds),
        "model.fit, per-image generator (4 steps)": (run_per_image_fit, 1000 / 4),
    }
    robust = {
        "model.fit, in step, as --recipe robust": (run_robust_fit, milliseconds),
        "fused compiled step": (lambda: repeat(fused_robust), milliseconds),
    }
    return plain, mixed, robust


def run_python(*arguments):
    """Run Python in the project's folder; return its seconds and what it prints."""
    started = time.perf_counter()
    command = [sys.executable, *map(str, arguments)]
    finished = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT
    )
    return time.perf_counter() - started, finished.stdout


def import_times():
    """Print what importing the generators adds to TensorFlow and Keras."""
    code = """if True:
        import time
        started = time.perf_counter()
        import tensorflow, keras
        imported = time.perf_counter()
        import pyimagesearch.datagen
        print(imported - started, time.perf_counter() - imported)
    """
    times = [run_python("-c", code)[1].split() for _ in range(ROUNDS)]
    theirs, ours = (
        statistics.median(map(float, part)) for part in zip(*times, strict=True)
    )
    print("\nImporting")
    print(f"  {'TensorFlow and Keras':42}{theirs:9.2f} s")
    print(f"  {'pyimagesearch.datagen, then':42}{1000 * ours:9.2f} ms", flush=True)


def time_of_the_second_script(data, epochs=2, fine_tune_epochs=1):
    """Print where the time and the memory of a short run of it go, phase by phase."""
    code = """if True:
        import resource, subprocess, sys
        subprocess.check_call(sys.argv[1:], stdout=subprocess.DEVNULL)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 // 10**6)
    """
    script = ROOT / "train_mixed_adversarial_defense.py"
    options = ["--data", data, "--epochs", epochs, "--quiet"]
    options += ["--fine-tune-epochs", fine_tune_epochs]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, script, *options, "--output", folder]
        whole, printed = run_python("-c", code, *command)
        results = json.loads(Path(folder, "results.json").read_text())
        in_run, in_epochs = results["seconds"].pop("run"), results["seconds"]
    print(f"\nThe second script, {epochs} epochs and {fine_tune_epochs} of fine-tuning")
    lines = in_epochs | {
        "rest: evaluations, attacks, files": in_run - sum(in_epochs.values()),
        "start: Python, TensorFlow, data": whole - in_run,
        "whole": whole,
    }
    for name, seconds in lines.items():
        print(f"  {name:42}{seconds:9.1f} s {seconds / whole:11.0%}")
    # What a run of the tutorials' length has besides its epochs is as long as here.
    tutorial = in_epochs["training"] * 20 / epochs
    tutorial += in_epochs["fine-tuning"] * 10 / fine_tune_epochs
    rest = whole - sum(in_epochs.values())
    print(f"  {'besides the epochs, of 20 and 10':42}{rest / (rest + tutorial):24.0%}")
    print(f"  {'peak memory':42}{printed.split()[-1]:>9} MB", flush=True)


def main():
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", nargs="?", default="mnist", help="mnist or an .npz file"
    )
    data = parser.parse_args().data
    if Path(data).is_file():
        data = Path(data).resolve()
    train, (test_images, test_labels) = load(data)
    keras.utils.set_random_seed(0)
    model = SimpleCNN.build(28, 28, 1, 10)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-4),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(train[0][:], train[1], batch_size=BATCH, epochs=1, verbose=0)

    title = f"FGSM over {len(test_images):,} images"
    rivals = fgsm_rivals(model, test_images, test_labels)
    compare(title, "s ", "bare compiled gradient, batches of 512", rivals)
    few = test_images[:1000], test_labels[:1000]
    rivals = pgd_rivals(model, *few)
    compare(
        f"PGD, {len(few[0]):,} images", "s ", "bare compiled gradient, 40 times", rivals
    )
    started = time.perf_counter()
    evaluate_robustness(model, *few, EPS, verbose=False)
    print(f"\nThe report, {len(few[0]):,} images, once")
    print(f"  {'default report':42}{time.perf_counter() - started:9.1f} s", flush=True)
    plain, mixed, robust = training_rivals(model, *train)
    for kind, rivals in [("plain", plain), ("mixed", mixed), ("robust", robust)]:
        _, reference, *_ = rivals
        compare(f"A {kind} training step", "ms", reference, rivals, TRAINING_ROUNDS)

    import_times()
    time_of_the_second_script(data)


if __name__ == "__main__":
    main()
