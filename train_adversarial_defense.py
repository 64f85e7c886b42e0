"""Train a CNN, attack it with FGSM, and fine-tune it on those adversarial images.

The run of "Defending against adversarial image attacks with Keras and TensorFlow".
"""

from pyimagesearch.experiment.console import run_script
from pyimagesearch.experiment.options import parse_options


def main(options):
    """Tell the tutorial's story from start to finish."""
    # Imported here, so that --help and wrong options are answered at once.
    import keras
    from keras.optimizers import Adam

    from pyimagesearch.datagen import generate_adversarial_batch
    from pyimagesearch.experiment import loading
    from pyimagesearch.experiment.ending import check_defence, finish, report
    from pyimagesearch.experiment.run import Run
    from pyimagesearch.simplecnn import SimpleCNN
    from pyimagesearch.training.epochs import shuffled, steps_of

    keras.utils.set_random_seed(options.seed)
    batch_size, eps, seed = options.batch_size, options.eps, options.seed  # 64, 0.1, 0

    print("[INFO] loading MNIST dataset...")
    train, test = loading.load_data(options)  # pixels from 0 to 1, one-hot labels
    run = Run(options, train, test)
    dims = height, width, depth = test[0].shape[1:]
    total, classes = test[1].shape

    print("[INFO] compiling model...")
    model = SimpleCNN.build(width, height, depth, classes)
    if options.model:
        model = loading.load_model(options.model, test)
    model.compile(Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])

    if not options.model:
        print("[INFO] training network...")
        rng, resumed = run.resume("training", model)
        model.fit(
            shuffled(train, batch_size, rng),
            validation_data=test,
            steps_per_epoch=steps_of(train, batch_size),
            epochs=options.epochs,  # 20
            **resumed,  # initial_epoch, callbacks, shuffle=False, verbose
        )
    report("normal testing images", model, test, run)

    print("[INFO] generating adversarial examples with FGSM...\n")
    batches = generate_adversarial_batch(model, total, *test, dims, eps=eps, rng=seed)
    tuning = adversaries = next(batches)  # every test image once
    report("adversarial testing images", model, adversaries, run)
    if options.honest:  # the test images stay unseen
        total = min(total, len(train[0]))
        batches = generate_adversarial_batch(model, total, *train, dims, eps, rng=seed)
        tuning = next(batches)

    trained = loading.copy_of(model)  # for --output
    print("[INFO] re-compiling model...")
    model.compile(Adam(1e-4), "categorical_crossentropy", metrics=["accuracy"])

    print("[INFO] fine-tuning network on adversarial examples...")
    rng, resumed = run.resume("fine-tuning", model)
    steps, epochs = steps_of(tuning, batch_size), options.fine_tune_epochs  # 10
    data = shuffled(tuning, batch_size, rng)
    model.fit(data, steps_per_epoch=steps, epochs=epochs, **resumed)

    print()
    report("normal testing images *after* fine-tuning", model, test, run)
    report("adversarial images *after* fine-tuning", model, adversaries, run)

    # Beyond the tutorial: what the defence is worth, and the run's folder.
    check_defence(model, test, run)
    finish(run, {"trained": trained, "defended": model}, test)


if __name__ == "__main__":
    run_script(main, parse_options, __doc__)
