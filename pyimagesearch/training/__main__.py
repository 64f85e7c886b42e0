"""Make a saved classifier robust, and say what its defence is worth.

python -m pyimagesearch.training MODEL.keras
"""

from argparse import Namespace

from pyimagesearch.experiment import options as shared
from pyimagesearch.experiment.console import fail, run_script

_BATCH_SIZE = 64


def parse_options(description: str) -> Namespace:
    """Parse the command line, before TensorFlow is loaded."""
    parser = shared.make_parser(description.splitlines()[0])
    parser.usage = "python -m pyimagesearch.training MODEL.keras [option ...]"
    parser.add_argument(
        "model",
        type=shared.model_file,
        metavar="MODEL.keras",
        help="a saved network, trained on such images",
    )
    parser.add_argument(
        "--epochs",
        type=shared.number(int, 1),
        help="epochs of fine-tuning (default: 10 to 15, by eps; digits: 30)",
    )
    return shared.parse_training(parser)


def main(options: Namespace) -> None:
    """Fine-tune a network by the robust recipe, and check its defence."""
    import keras

    from pyimagesearch.datagen import generate_adversarial_batch, in_step
    from pyimagesearch.experiment.data import load_data
    from pyimagesearch.experiment.models import load_model
    from pyimagesearch.experiment.run import Run
    from pyimagesearch.training import robust

    keras.utils.set_random_seed(options.seed)
    print("[INFO] loading data...")
    data = load_data(options.data)
    total, *dims = data.test[0].shape
    run = Run(options, data)
    model = load_model(run.trained_network, data.test)
    train, held_out = robust.hold_out(data.train, options.seed)
    steps_per_epoch = len(train[0]) // _BATCH_SIZE
    if steps_per_epoch == 0:
        fail(f"--data must hold {_BATCH_SIZE} training images or more")
    # MNIST: 10, and 15 at eps 0.3.
    usual_epochs = max(data.fine_tune_epochs, min(15, round(7.5 + 25 * options.eps)))
    epochs = options.epochs or usual_epochs
    steps = epochs * steps_per_epoch

    run.save_trained(model)
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    run.show("normal testing images", *model.evaluate(*data.test, verbose=0))
    batches = generate_adversarial_batch(
        model, total, *data.test, dims, options.eps, rng=options.seed
    )
    adversaries = next(batches)  # every test image once
    run.show("adversarial testing images", *model.evaluate(*adversaries, verbose=0))

    print("[INFO] fine-tuning network by the robust recipe...")
    optimizer = robust.robust_optimizer(model, steps)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    attack = robust.robust_attack(steps, rng=options.seed)
    batches = generate_adversarial_batch(
        model, _BATCH_SIZE, *train, dims, options.eps, attack=attack, rng=options.seed
    )
    watch = robust.WatchRobustness(held_out, options.eps)
    model.fit(
        in_step(batches),
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        callbacks=[watch, run.phase("fine-tuning")],
        shuffle=False,
        verbose=options.verbose,
    )

    print()
    loss, accuracy = model.evaluate(*data.test, verbose=0)
    run.show("normal testing images *after* fine-tuning", loss, accuracy)
    loss, accuracy = model.evaluate(*adversaries, verbose=0)
    run.show("adversarial images *after* fine-tuning", loss, accuracy)
    run.finish(model, data.test)


if __name__ == "__main__":
    run_script(main, parse_options, __doc__)
