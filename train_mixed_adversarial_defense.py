"""Train a CNN, attack it with FGSM, and fine-tune it on normal and fresh adversaries.

The run of "Mixing normal images and adversarial images when training CNNs".
"""

from functools import partial

from pyimagesearch import experiment


def main():
    """Tell the tutorial's story from start to finish."""
    options = experiment.parse_options(__doc__, mixed=True)
    experiment.import_tensorflow()
    import keras

    from pyimagesearch.datagen import generate_mixed_adverserial_batch, in_step
    from pyimagesearch.fgsm import generate_image_adversary
    from pyimagesearch.simplecnn import SimpleCNN
    from pyimagesearch.training import EpochSeed, by_epoch, shuffled

    keras.utils.set_random_seed(options.seed)

    print("[INFO] loading MNIST dataset...")
    data = experiment.load_data(options)
    train_labels = keras.utils.to_categorical(data.train_labels, data.classes)
    test_labels = keras.utils.to_categorical(data.test_labels, data.classes)
    height, width, depth = data.test_images.shape[1:]

    print("[INFO] compiling model...")
    model = SimpleCNN.build(width, height, depth, data.classes)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=experiment.STEPS_PER_EXECUTION,
    )

    print("[INFO] training network...")
    batches, order = shuffled(data.train_images, train_labels, options.batch_size)
    model.fit(
        batches,
        validation_data=(data.test_images, test_labels),
        validation_batch_size=experiment.EVALUATION_BATCH_SIZE,
        epochs=options.epochs,
        callbacks=[EpochSeed((options.seed, 0), order)],
        shuffle=False,
        verbose=options.verbose,
    )
    print("[INFO] normal testing images:")
    experiment.report(model, data.test_images, test_labels)

    print("[INFO] generating adversarial examples with FGSM...\n")
    adversaries = generate_image_adversary(
        model, data.test_images, test_labels, eps=options.eps
    )
    print("[INFO] adversarial testing images:")
    experiment.report(model, adversaries, test_labels)

    print("[INFO] re-compiling model...")
    model.compile(
        optimizer=keras.optimizers.Adam(1e-4),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )

    print("[INFO] creating mixed data generator...")
    steps = len(data.train_images) // options.batch_size
    mixed_batches = partial(
        generate_mixed_adverserial_batch,
        model,
        options.batch_size,
        data.train_images,
        train_labels,
        (height, width, depth),
        eps=options.eps,
        split=options.split,
    )

    print("[INFO] fine-tuning network on dynamic mixed data...")
    model.fit(
        in_step(by_epoch(mixed_batches, steps, (options.seed, 1))),
        steps_per_epoch=steps,
        epochs=options.fine_tune_epochs,
        callbacks=[EpochSeed((options.seed, 1))],
        shuffle=False,
        verbose=options.verbose,
    )

    print("\n[INFO] normal testing images *after* fine-tuning:")
    experiment.report(model, data.test_images, test_labels)

    print("[INFO] adversarial images *after* fine-tuning:")
    experiment.report(model, adversaries, test_labels)


if __name__ == "__main__":
    experiment.run(main)
