"""Train a CNN, attack it with FGSM, and fine-tune it on normal and fresh adversaries.

The run of "Mixing normal images and adversarial images when training CNNs".
"""

from pyimagesearch.experiment.console import run_script
from pyimagesearch.experiment.options import parse_mixed_options


def main(options):
    """Tell the tutorial's story from start to finish."""
    # Imported here, so that --help and wrong options are answered at once.
    import keras
    from keras.optimizers import Adam

    from pyimagesearch.datagen import (
        generate_adversarial_batch,
        generate_mixed_adverserial_batch,
        in_step,
    )
    from pyimagesearch.experiment import loading
    from pyimagesearch.experiment.ending import check_defence, finish, report
    from pyimagesearch.experiment.run import Run
    from pyimagesearch.simplecnn import SimpleCNN
    from pyimagesearch.training import robust
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
    adversaries = next(batches)  # every test image once
    report("adversarial testing images", model, adversaries, run)

    trained = loading.copy_of(model)  # for --output
    print("[INFO] re-compiling model...")
    steps, epochs = len(train[0]) // batch_size, options.fine_tune_epochs  # 10
    optimizer, watch = Adam(1e-4), None
    if options.recipe == "robust":
        train, held_out = robust.hold_out(train, seed)
        optimizer = robust.robust_optimizer(model, epochs * steps)  # and no dropout
        watch = robust.WatchRobustness(held_out, eps)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])

    print("[INFO] creating mixed data generator...")
    rng, resumed = run.resume("fine-tuning", model, watch)
    attack = robust.make_attack(options.attack, eps, epochs * steps, rng)
    batches = generate_mixed_adverserial_batch(
        model, batch_size, *train, dims, eps, options.split, attack=attack, rng=rng
    )

    print("[INFO] fine-tuning network on dynamic mixed data...")
    model.fit(in_step(batches), steps_per_epoch=steps, epochs=epochs, **resumed)

    print()
    report("normal testing images *after* fine-tuning", model, test, run)
    report("adversarial images *after* fine-tuning", model, adversaries, run)

    # Beyond the tutorial: what the defence is worth, and the run's folder.
    check_defence(model, test, run)
    finish(run, {"trained": trained, "defended": model}, test)


if __name__ == "__main__":
    run_script(main, parse_mixed_options, __doc__)
