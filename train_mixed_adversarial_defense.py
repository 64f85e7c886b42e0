"""Train a CNN, attack it with FGSM, and fine-tune it on normal and fresh adversaries.

The run of "Mixing normal images and adversarial images when training CNNs".
"""

from pyimagesearch import experiment


def main(options):
    """Tell the tutorial's story from start to finish."""
    experiment.import_tensorflow()
    import keras
    import numpy as np
    from keras.optimizers import Adam

    from pyimagesearch.datagen import generate_mixed_adverserial_batch
    from pyimagesearch.fgsm import generate_image_adversary
    from pyimagesearch.plotting import save_pictures
    from pyimagesearch.robustness import print_honest_check
    from pyimagesearch.simplecnn import SimpleCNN
    from pyimagesearch.training import (
        attack_shifted,
        fit,
        fit_batches,
        make_attack,
        prepare_robust,
    )

    keras.utils.set_random_seed(options.seed)

    print("[INFO] loading MNIST dataset...")
    train, test = experiment.load_data(options)
    run = experiment.open_run(options, train, test)
    test_images, test_labels = test
    dims = height, width, depth = test_images.shape[1:]
    classes = test_labels.shape[1]

    print("[INFO] compiling model...")
    if options.model:
        model = experiment.load_model(options.model, test)
    else:
        model = SimpleCNN.build(width, height, depth, classes)
    model.compile(Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])

    if not options.model:
        print("[INFO] training network...")
        fit(model, train, run, phase=0, epochs=options.epochs, validation_data=test)
    experiment.report("normal testing images", model, test, run)

    print("[INFO] generating adversarial examples with FGSM...\n")
    adversaries = generate_image_adversary(model, *test, eps=options.eps)
    attacked = (adversaries, test_labels)
    experiment.report("adversarial testing images", model, attacked, run)

    trained = keras.models.clone_model(model)
    trained.set_weights(model.get_weights())
    print("[INFO] re-compiling model...")
    epochs, steps = options.fine_tune_epochs, len(train[0]) // options.batch_size
    learning_rate, eps = 1e-4, options.eps
    if options.recipe == "robust":
        learning_rate, eps = prepare_robust(model, epochs * steps), 1.3 * options.eps
    optimizer = Adam(learning_rate)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])

    print("[INFO] creating mixed data generator...")

    def mixed_batches(rng):
        rng = np.random.default_rng(rng)
        attack = make_attack(options.attack, eps, rng)
        if options.recipe == "robust":
            attack = attack_shifted(attack, rng)
        batch = options.batch_size, *train, dims, eps, options.split
        return generate_mixed_adverserial_batch(model, *batch, attack=attack, rng=rng)

    print("[INFO] fine-tuning network on dynamic mixed data...")
    fit_batches(model, mixed_batches, steps, run, phase=1, epochs=epochs)

    print()
    experiment.report("normal testing images *after* fine-tuning", model, test, run)
    what = "adversarial images *after* fine-tuning"
    old_accuracy = experiment.report(what, model, attacked, run)

    # Beyond the tutorial: what is left of the network as it is now?
    print_honest_check(model, test, options.eps, old_accuracy, run)
    if options.output:
        models = {"trained": trained, "defended": model}
        experiment.save_models(options.output, models)
        save_pictures(options.output, models, test, options.eps)
        run.finish()


if __name__ == "__main__":
    experiment.run_script(main, experiment.parse_options(__doc__, mixed=True))
