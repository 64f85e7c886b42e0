"""Train a CNN, attack it with FGSM, and fine-tune it on normal and fresh adversaries.

The run of "Mixing normal images and adversarial images when training CNNs".
"""

from pyimagesearch.experiment.console import run_script
from pyimagesearch.experiment.options import parse_mixed_options


def main(options):
    """Tell the tutorial's story; imports are in here, so that --help is quick."""
    import keras
    from keras.optimizers import Adam
    from tensorflow.data import Dataset

    from pyimagesearch import datagen
    from pyimagesearch.experiment.data import load_data
    from pyimagesearch.experiment.models import load_model
    from pyimagesearch.experiment.run import Run
    from pyimagesearch.simplecnn import SimpleCNN

    eps = options.eps  # 0.1
    seed = options.seed
    keras.utils.set_random_seed(seed)
    print("[INFO] loading MNIST dataset...")
    data = load_data(options.data)  # pixels from 0 to 1, a channel, one-hot labels
    height, width, depth = dims = data.test[0].shape[1:]
    total, classes = data.test[1].shape
    run = Run(options, data)

    print("[INFO] compiling model...")
    model = SimpleCNN.build(width, height, depth, classes)
    if run.trained_network:  # --model, or what a killed run has left in --output
        model = load_model(run.trained_network, data.test)
    model.compile(Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])

    if not run.trained_network:
        print("[INFO] training network...")
        batches = Dataset.from_tensor_slices(data.train)
        model.fit(
            batches.shuffle(len(data.train[0]), seed).batch(options.batch_size),
            validation_data=data.test,
            epochs=options.epochs or data.epochs,  # 20
            callbacks=[run.phase("training")],
            shuffle=False,  # the batches are shuffled
            verbose=options.verbose,
        )
    run.save_trained(model)
    run.show("normal testing images", *model.evaluate(*data.test, verbose=0))

    print("[INFO] generating adversarial examples with FGSM...\n")
    batches = datagen.generate_adversarial_batch(
        model, total, *data.test, dims, eps, rng=seed
    )
    adversaries = next(batches)  # every test image once
    run.show("adversarial testing images", *model.evaluate(*adversaries, verbose=0))

    print("[INFO] re-compiling model...")
    model.compile(Adam(1e-4), "categorical_crossentropy", metrics=["accuracy"])

    print("[INFO] creating mixed data generator...")
    batches = datagen.generate_mixed_adverserial_batch(
        model, options.batch_size, *data.train, dims, eps, options.split, rng=seed
    )

    print("[INFO] fine-tuning network on dynamic mixed data...")
    model.fit(
        datagen.in_step(batches),
        steps_per_epoch=len(data.train[0]) // options.batch_size,
        epochs=options.fine_tune_epochs or data.fine_tune_epochs,  # 10
        callbacks=[run.phase("fine-tuning")],
        shuffle=False,
        verbose=options.verbose,
    )

    print()
    loss, accuracy = model.evaluate(*data.test, verbose=0)
    run.show("normal testing images *after* fine-tuning", loss, accuracy)
    loss, accuracy = model.evaluate(*adversaries, verbose=0)
    run.show("adversarial images *after* fine-tuning", loss, accuracy)
    run.finish(model, data.test)  # beyond the tutorial: what the defence is worth


if __name__ == "__main__":
    run_script(main, parse_mixed_options, __doc__)
