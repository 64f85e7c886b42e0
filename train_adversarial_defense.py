"""Train a CNN, attack it with FGSM, and fine-tune it on those adversarial images.

The run of "Defending against adversarial image attacks with Keras and TensorFlow".
"""

from pyimagesearch import experiment


def main(options):
    """Tell the tutorial's story from start to finish."""
    experiment.import_tensorflow()
    import keras
    from keras.optimizers import Adam

    from pyimagesearch.fgsm import generate_image_adversary
    from pyimagesearch.plotting import save_pictures
    from pyimagesearch.robustness import print_honest_check
    from pyimagesearch.simplecnn import SimpleCNN
    from pyimagesearch.training import fit

    keras.utils.set_random_seed(options.seed)

    print("[INFO] loading MNIST dataset...")
    train, test = experiment.load_data(options)
    run = experiment.open_run(options, train, test)
    test_images, test_labels = test
    height, width, depth = test_images.shape[1:]
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
    model.compile(Adam(1e-4), "categorical_crossentropy", metrics=["accuracy"])

    print("[INFO] fine-tuning network on adversarial examples...")
    fine_tuning_data = attacked
    if options.honest:
        few = [array[: len(test_images)] for array in train]
        adversaries = generate_image_adversary(model, *few, eps=options.eps)
        fine_tuning_data = adversaries, few[1]
    fit(model, fine_tuning_data, run, phase=1, epochs=options.fine_tune_epochs)

    print()
    experiment.report("normal testing images *after* fine-tuning", model, test, run)
    what = "adversarial images *after* fine-tuning"
    old_accuracy = experiment.report(what, model, attacked, run)

    # Beyond the tutorial: what is left of the network as it is now?
    print_honest_check(model, test, options.eps, old_accuracy, run)
    if not options.honest:
        print(
            "[INFO] fine-tuning has seen these test images; --honest keeps them unseen"
        )
    if options.output:
        models = {"trained": trained, "defended": model}
        experiment.save_models(options.output, models)
        save_pictures(options.output, models, test, options.eps)
        run.finish()


if __name__ == "__main__":
    experiment.run_script(main, experiment.parse_options(__doc__))
