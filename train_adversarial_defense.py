"""Train a CNN, attack it with FGSM, and fine-tune it on those adversarial images.

The run of "Defending against adversarial image attacks with Keras and TensorFlow".
"""

from pyimagesearch.experiment.console import report, run_script
from pyimagesearch.experiment.options import parse_options


def main(options):
    """Tell the tutorial's story from start to finish."""
    # Imported here, so that --help and wrong options are answered at once.
    import keras
    from keras.optimizers import Adam

    from pyimagesearch.datagen import generate_adversarial_batch
    from pyimagesearch.experiment import check, loading, results
    from pyimagesearch.simplecnn import SimpleCNN
    from pyimagesearch.training.epochs import shuffled, steps_of

    keras.utils.set_random_seed(options.seed)
    batch_size, eps, seed = options.batch_size, options.eps, options.seed

    print("[INFO] loading MNIST dataset...")
    train, test = loading.load_data(options)
    run = loading.open_run(options, train, test)
    (test_images, test_labels), classes = test, test[1].shape[1]
    dims = height, width, depth = test_images.shape[1:]

    print("[INFO] compiling model...")
    model = SimpleCNN.build(width, height, depth, classes)
    if options.model:
        model = loading.load_model(options.model, test)
    model.compile(Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])

    if not options.model:
        print("[INFO] training network...")
        phase = run.resume("training", model)
        model.fit(
            shuffled(train, batch_size, phase.rng),
            validation_data=test,
            steps_per_epoch=steps_of(train, batch_size),
            epochs=options.epochs,
            **phase.settings,  # initial_epoch, callbacks, verbose
        )
    report(check.NORMAL, model, test, run)

    print("[INFO] generating adversarial examples with FGSM...\n")
    total = len(test_images)
    batches = generate_adversarial_batch(model, total, *test, dims, eps=eps, rng=seed)
    adversaries = next(batches)  # every test image once
    report(check.ADVERSARIAL, model, adversaries, run)
    tuning = adversaries
    if options.honest:  # the test images stay unseen
        total = min(total, len(train[0]))
        batches = generate_adversarial_batch(model, total, *train, dims, eps, rng=seed)
        tuning = next(batches)

    trained = loading.copy_of(model)
    print("[INFO] re-compiling model...")
    model.compile(Adam(1e-4), "categorical_crossentropy", metrics=["accuracy"])

    print("[INFO] fine-tuning network on adversarial examples...")
    phase = run.resume("fine-tuning", model)
    model.fit(
        shuffled(tuning, batch_size, phase.rng),
        steps_per_epoch=steps_of(tuning, batch_size),
        epochs=options.fine_tune_epochs,
        **phase.settings,
    )

    print()
    report(check.NORMAL_AFTER, model, test, run)
    report(check.ADVERSARIAL_AFTER, model, adversaries, run)

    # Beyond the tutorial: what the defence is worth, and the run's folder.
    check.check_defence(model, test, run)
    results.finish(run, {"trained": trained, "defended": model}, train, test)


if __name__ == "__main__":
    run_script(main, parse_options, __doc__)
