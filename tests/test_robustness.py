import csv
import functools
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import build_classifier, under_policy

from pyimagesearch import datasets, plotting, robustness, transfer
from pyimagesearch.datagen import generate_mixed_adversarial_batch, in_step
from pyimagesearch.fgsm import generate_image_adversary, judge, prepare_attack
from pyimagesearch.pgd import projected_gradient_descent
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.transfer import train_substitute

ROOT = Path(__file__).parent.parent
MNIST_NPZ = os.environ.get("MNIST_NPZ")
ATTACKS = [
    "uniform noise",
    "random signs",
    "FGSM",
    "BIM",
    "PGD, cross-entropy",
    "PGD, margin",
    "PGD, targeted",
]

quick = functools.partial(evaluate_robustness, steps=5, verbose=False)


def answers(model, images):
    return model(images).numpy().argmax(axis=-1)


def by_attack(rows, eps):
    return {row.attack: row for row in rows if row.eps == eps}


@pytest.fixture
def hard_labels(model, images):
    """Class ids of which the model gets three in four right."""
    return (answers(model, images) + (np.arange(20) % 4 == 0)) % 3


def test_rows_and_what_they_mean(model, images, hard_labels):
    rows = quick(model, images, hard_labels, [0.02, 0.1], rng=0)
    one_eps = [*ATTACKS, "worst case"]
    assert [row.attack for row in rows] == ["clean", *one_eps, *one_eps]
    assert [row.eps for row in rows] == [0, *[0.02] * 8, *[0.1] * 8]
    assert rows[0].accuracy == 0.75
    one_hot = np.eye(3)[hard_labels]
    loss = keras.losses.categorical_crossentropy(one_hot, model(images)).numpy().mean()
    assert rows[0].loss == pytest.approx(loss, rel=1e-5)
    assert rows[0].mean_perturbation == rows[0].largest_perturbation == 0
    for row in rows[1:]:
        assert 0 <= row.mean_perturbation <= row.largest_perturbation
        assert 0.99 * row.eps < row.largest_perturbation < 1.00001 * row.eps
        assert row.seconds > 0
        assert row.accuracy <= 0.75
    for eps in (0.02, 0.1):
        row = by_attack(rows, eps)
        *attacks, worst = row.values()
        assert worst.accuracy <= min(other.accuracy for other in attacks)
        assert row["BIM"].accuracy <= row["FGSM"].accuracy
    assert by_attack(rows, 0.1)["worst case"].accuracy < 0.75


def test_an_attacks_own_row_counts_all_that_is_right_unaided(
    model, images, hard_labels
):
    rows = by_attack(quick(model, images, hard_labels, 0.05), 0.05)
    adversaries = generate_image_adversary(
        model, images, hard_labels, 0.05, loss="cross_entropy", clip=(0, 1)
    )
    stands = answers(model, images) == hard_labels
    stands &= answers(model, adversaries) == hard_labels
    assert 0 < stands.mean() < 0.75
    assert rows["FGSM"].accuracy == pytest.approx(stands.mean())


def test_worst_case_joins_the_attacks(model, images, monkeypatch):
    """Two attacks that fool the model on images of their own, and never elsewhere."""
    labels = answers(model, images)
    weakened = generate_image_adversary(model, images, labels, 2, loss="margin")
    movable = np.flatnonzero(answers(model, weakened) != labels)
    assert len(movable) >= 6
    attacked = []

    def attack_on(rows):
        def attack(given, targets, eps):
            attacked.append(given)
            return np.where(np.isin(np.arange(20), rows)[:, None, None, None],
                            weakened, given)  # fmt: skip

        return attack

    first, second = movable[:2], movable[1:5]
    attacks = {"first": attack_on(first), "second": attack_on(second)}
    monkeypatch.setattr(robustness, "_attacks", lambda *_: attacks)
    monkeypatch.setattr(robustness, "_DOUBTED_IMAGES", 0)
    rows = by_attack(evaluate_robustness(model, images, labels, 1), 1)
    assert rows["first"].accuracy == pytest.approx(18 / 20)
    assert rows["second"].accuracy == pytest.approx(16 / 20)
    assert rows["worst case"].accuracy == pytest.approx(15 / 20)
    for given in attacked:
        np.testing.assert_array_equal(given, images)


def test_what_is_wrong_unaided_is_not_attacked(model, images, monkeypatch):
    labels = (answers(model, images) + 1) % 3
    labels[3] = answers(model, images)[3]
    attacked = []

    def attack(given, targets, eps):
        attacked.append(given)
        return given

    monkeypatch.setattr(robustness, "_attacks", lambda *_: {"none": attack})
    monkeypatch.setattr(robustness, "_DOUBTED_IMAGES", 0)
    rows = evaluate_robustness(model, images, labels)
    assert [row.accuracy for row in rows] == pytest.approx([1 / 20] * 3)
    np.testing.assert_array_equal(attacked, [images[3:4]])
    labels[3] = (labels[3] + 1) % 3
    assert [row.accuracy for row in evaluate_robustness(model, images, labels)] == [
        0
    ] * 3


def test_every_attack_makes_valid_images_in_its_own_way(model):
    images = np.random.default_rng(0).random((20, 6, 6, 1), dtype=np.float32)
    targets = np.eye(3, dtype=np.float32)[answers(model, images)]
    judged, _ = prepare_attack(judge, model, images, targets, "cross_entropy")
    rng = np.random.default_rng(0)
    attacks = robustness._attacks(model, model, judged, 10, (0, 1), rng)
    assert list(attacks) == [*ATTACKS, "transfer (black box)"]
    made = {name: attack(images, targets, 0.3) for name, attack in attacks.items()}
    for adversaries in made.values():
        assert adversaries.dtype == np.float32
        assert adversaries.min() == 0 and adversaries.max() == 1
        assert np.abs(adversaries - images).max() <= 0.3 + 1e-6
    inside = (images > 0.31) & (images < 0.69)
    uniform = (made["uniform noise"] - images)[inside]
    assert np.histogram(uniform, 3, (-0.3, 0.3))[0].min() > 0.25 * inside.sum()
    signs = (made["random signs"] - images)[inside]
    np.testing.assert_allclose(np.abs(signs), 0.3, atol=1e-6)
    assert 0.4 < (signs > 0).mean() < 0.6
    losses = {name: margins(model, given, targets) for name, given in made.items()}
    assert losses["FGSM"].mean() > losses["random signs"].mean()
    assert losses["BIM"].mean() > losses["FGSM"].mean()
    for name in ("PGD, cross-entropy", "PGD, margin", "PGD, targeted"):
        assert (losses[name] > 0).sum() >= (losses["BIM"] > 0).sum()


def masked():
    """A classifier of brightness whose gradient is zero nearly everywhere."""
    inputs = keras.Input((6, 6, 1))
    steep = keras.ops.tanh(1e4 * (keras.ops.mean(inputs, axis=(1, 2)) - 0.5))
    return keras.Model(inputs, keras.layers.Concatenate()([steep, -steep]))


def test_useless_gradients_are_warned_of(images):
    images = np.concatenate([images * 0.5, images * 0.5 + 0.5])
    labels = np.repeat([1, 0], 20)
    with pytest.warns(UserWarning, match="withstand even half of the range"):
        rows = quick(masked(), images, labels, 0.05)
    assert rows[0].accuracy == 1


@pytest.mark.filterwarnings("error")
def test_honest_gradients_are_not_warned_of(images, model):
    quick(model, images, answers(model, images), 0.01, steps=30)


def test_doubts():
    shares = {"FGSM": 0.5, "PGD, margin": 0.4, "PGD, targeted": 0.45}
    assert robustness._doubts(shares, 0.005, 0.0) == []
    for changed, drop, at_largest, doubt in [
        ({"FGSM": 0.3}, 0, 0, "PGD is weaker than FGSM"),
        ({"transfer (black box)": 0.3}, 0, 0, "black-box attack is stronger"),
        ({}, 0.02, 0, "leave 2.0% less"),
        ({}, 0, 0.1, "10.0% withstand"),
    ]:
        (found,) = robustness._doubts(shares | changed, drop, at_largest)
        assert doubt in found


def margins(model, images, one_hot):
    outputs = model(images).numpy()
    return np.where(one_hot > 0, 0, outputs).max(axis=1) - outputs[one_hot > 0]


def test_same_seed_same_rows(model, images, hard_labels):
    def figures(rng):
        rows = quick(model, images, hard_labels, 0.05, rng=rng)
        return [row._replace(seconds=0) for row in rows]

    assert figures(1) == figures(1) != figures(2)


def test_label_formats_give_the_same_rows(model, images, hard_labels):
    def figures(labels):
        rows = quick(model, images, labels, 0.05, rng=0)
        return [row._replace(seconds=0) for row in rows]

    expected = figures(hard_labels)
    assert figures(hard_labels[:, np.newaxis]) == expected
    assert figures(np.eye(3)[hard_labels]) == expected


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(5)

    def call(self, images):
        return self.dense(keras.ops.reshape(images, (-1, 32 * 32 * 3)))


def functional():
    image = keras.Input((32, 32, 3))
    hidden = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    hidden = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(image, keras.layers.Dense(5, activation="softmax")(hidden))


@pytest.mark.parametrize("build", [functional, Subclassed])
def test_colour_images_from_0_to_255_and_integer_labels(build):
    model = build()
    images = np.random.default_rng(0).integers(
        256, size=(12, 32, 32, 3), dtype=np.uint8
    )
    labels = answers(model, np.float32(images))
    rows = by_attack(quick(model, images, labels, 16, (0, 255), rng=0), 16)
    assert rows["uniform noise"].largest_perturbation <= 16
    assert rows["FGSM"].largest_perturbation == pytest.approx(16)
    assert rows["worst case"].accuracy <= 0.5


def test_sigmoid(images):
    model = build_classifier(classes=1, activation="sigmoid")
    labels = (model(images).numpy()[:, 0] > 0.5).astype(int)
    labels[0] = 1 - labels[0]
    rows = quick(model, images, labels, 0.5)
    assert rows[0].accuracy == pytest.approx(0.95)
    assert rows[-1].accuracy < 0.5


@pytest.mark.slow
def test_model_of_imagenets_size():
    model = keras.applications.ResNet50(weights=None)
    images = np.random.default_rng(0).integers(256, size=(2, 224, 224, 3))
    labels = answers(model, np.float32(images))
    rows = evaluate_robustness(
        model, images, labels, 8, (0, 255), steps=3, verbose=False
    )
    assert rows[0].accuracy == 1
    assert rows[-1].accuracy <= rows[1].accuracy


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": np.full((20, 6, 6, 1), 1.1)}, ValueError, "images .*1.1"),
        ({"clip": None}, ValueError, "clip .*None"),
        ({"clip": (1, 0)}, ValueError, "clip"),
        ({"eps": [0.1, -0.1]}, ValueError, "eps .*-0.1"),
        ({"steps": 0}, ValueError, "steps .*0"),
        ({"labels": np.full(20, 3)}, ValueError, "labels .*3"),
        ({"model": "m"}, TypeError, "model .*str"),
        ({"rng": "a"}, TypeError, "rng"),
        ({"attacker_images": np.zeros((3, 5, 5, 1))}, ValueError, r"\(5, 5, 1\)"),
        ({"eps": 1.5}, ValueError, "eps .*0 to 1.*1.5"),
        ({"clip": (0, 0)}, ValueError, "clip"),
    ],
)
def test_wrong_arguments_are_named(model, images, labels, changed, error, message):
    arguments = {"model": model, "images": images, "labels": labels}
    with pytest.raises(error, match=message):
        evaluate_robustness(**(arguments | changed))


@pytest.mark.slow
def test_transfer_fools_a_network_that_it_never_saw(digits):
    model, (own_images, _), (images, labels) = digits
    few = slice(100)
    rows = by_attack(
        quick(model, images[few], labels[few], 0.2, attacker_images=own_images), 0.2
    )
    black_box = rows["transfer (black box)"]
    assert black_box.accuracy <= rows["random signs"].accuracy - 0.2
    assert black_box.accuracy >= rows["PGD, margin"].accuracy + 0.1
    assert rows["worst case"].accuracy <= black_box.accuracy


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_attacks_in_mixed_precision_are_as_strong(policy, digits):
    """One network's answers to adversaries made in either precision."""
    model, *data = digits
    images, labels = map(np.concatenate, zip(*data, strict=True))
    mixed = under_policy(policy, SimpleCNN.build, 28, 28, 1, 10)
    mixed.set_weights(model.get_weights())
    fgsm = functools.partial(generate_image_adversary, loss="cross_entropy")
    pgd = functools.partial(projected_gradient_descent, steps=10, rng=0)
    eps = 0.03
    for attack in (fgsm, pgd):
        accuracy, mixed_accuracy = [], []
        for attacked, results in ((model, accuracy), (mixed, mixed_accuracy)):
            adversaries = attack(attacked, images, labels, eps)
            batches = generate_mixed_adversarial_batch(
                attacked,
                1000,
                images,
                labels,
                (28, 28, 1),
                eps,
                0.5,
                attack=attack,
                rng=0,
            )
            for given, truth in ((adversaries, labels), next(batches)):
                results.append((answers(model, given) == truth.argmax(axis=1)).mean())
        assert 0.1 < accuracy[0] < accuracy[1] < 0.9
        assert mixed_accuracy == pytest.approx(accuracy, abs=0.01)


@pytest.mark.slow
def test_substitute_learns_the_answers():
    images = np.random.default_rng(0).random((300, 6, 6, 1)) * 0.5
    images = images + np.random.default_rng(1).random((300, 1, 1, 1)) * 9.5
    bright = (images.mean(axis=(1, 2, 3)) > 5).astype(int)
    substitute = train_substitute(images[:200], bright[:200], (0, 10))
    assert (answers(substitute, images[200:]) == bright[200:]).mean() > 0.8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.zeros((4, 36))}, r"images .*\(4, 36\)"),
        ({"answers": [0, 1, 1]}, r"answers .*4 class ids.*\(3,\)"),
        ({"answers": [-1, 1, 1, 1]}, "answers .*from 0"),
        ({"answers": [0.5, 1, 1, 1]}, "answers .*class ids"),
        ({"clip": None}, "range"),
        ({"clip": (0, 0)}, "range"),
    ],
)
def test_wrong_lessons_for_a_substitute_are_named(changed, message):
    arguments = {"images": np.zeros((4, 6, 6, 1)), "answers": [0, 1, 1, 0]}
    with pytest.raises(ValueError, match=message):
        train_substitute(**(arguments | changed))


@pytest.mark.slow
@pytest.mark.skipif(not MNIST_NPZ, reason="MNIST_NPZ names no file")
def test_worst_case_is_no_weaker_than_arts_auto_pgd():
    pytest.importorskip("art")
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    train, (images, labels) = datasets.load(MNIST_NPZ)
    train, images, labels = [a[:20_000] for a in train], images[:40], labels[:40]
    logits = keras.Sequential(SimpleCNN.build(28, 28, 1, 10).layers[:-1])
    model = keras.Sequential([logits, keras.layers.Softmax()])
    model.compile("adam", "categorical_crossentropy")
    model.fit(*train, batch_size=64, epochs=1, verbose=0)
    batches = generate_mixed_adversarial_batch(model, 64, *train, (28, 28, 1), 0.1)
    model.fit(in_step(batches), steps_per_epoch=300, shuffle=False, verbose=0)

    stands = answers(model, images) == labels.argmax(axis=1)
    for attacked, name in [
        (model, "cross_entropy"),
        (logits, "difference_logits_ratio"),
    ]:
        loss = keras.losses.CategoricalCrossentropy(from_logits=attacked is logits)
        classifier = TensorFlowV2Classifier(
            attacked, 10, (28, 28, 1), loss_object=loss, clip_values=(0.0, 1.0)
        )
        attack = AutoProjectedGradientDescent(
            classifier, eps=0.1, nb_random_init=1, loss_type=name, verbose=False
        )
        adversaries = attack.generate(images, labels)
        stands &= answers(model, adversaries) == labels.argmax(axis=1)
    *_, worst = evaluate_robustness(model, images, labels, 0.1, rng=0, verbose=False)
    assert 0.1 < stands.mean() < 0.95  # otherwise it says little
    assert worst.accuracy <= stands.mean()


def run_command(capsys, monkeypatch, *options):
    """Run the command inside this process; return exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["robustness", *map(str, options)])
    status = 0
    try:
        robustness.main(robustness.parse_options())
    except SystemExit as exit:
        status = exit.code
    return status, *capsys.readouterr()


@pytest.mark.slow
def test_command_compares_models_and_writes_results(digits_file, tmp_path):
    paths = [str(digits_file), str(tmp_path / "worse.keras")]
    SimpleCNN.build(28, 28, 1, 10).save(paths[1])
    output = tmp_path / "results"
    command = [sys.executable, "-m", "pyimagesearch.robustness", *paths, "--data"]
    command += ["digits", "--images", "30", "--eps", "0.05", "0.1"]
    finished = subprocess.run(
        [*command, "--output", str(output)], capture_output=True, text=True, cwd=ROOT
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert "\b" not in finished.stdout and "\r" not in finished.stdout
    report, pictures = finished.stdout.split("\n\n", 1)[1].split("[INFO]")
    assert max(map(len, report.splitlines())) <= 80
    assert pictures == f" saved 5 pictures in {output}\n"
    table = re.findall(r"^(0\S*) +(.+?)  +(\S+)  +(\S+)$", finished.stdout, flags=re.M)
    assert len(table) == 1 + 2 * 8
    results = json.loads((output / "robustness.json").read_text())
    assert results["models"] == {"trained": paths[0], "worse": paths[1]}
    assert results["data"] == "digits" and results["images"] == 30
    for name, column in [("trained", 2), ("worse", 3)]:
        for row, cells in zip(results["results"][name], table, strict=True):
            assert (f"{row['eps']:g}", row["attack"]) == cells[:2]
            assert f"{row['accuracy']:.4f}" == cells[column]
    with (output / "robustness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["attack"] for row in rows] == [cells[1] for cells in table] * 2
    for row, expected in zip(rows[:17], results["results"]["trained"], strict=True):
        assert float(row["loss"]) == expected["loss"]
    names = ["robustness.json", "robustness.csv", "accuracy.png"]
    for name in ("trained", "worse"):
        names += [f"adversaries_{name}.png", f"steps_{name}.png"]
    assert {path.name for path in output.iterdir()} == set(names)


def rows_of(count, eps, accuracy=0.5, loss=123456.789):
    row = robustness.Row("PGD, cross-entropy", eps, accuracy, loss, 1234.5, 8.25, 16)
    return [row] * count


def test_table_of_one_model_shows_all_figures():
    table = robustness._format_table({"m": rows_of(1, 2 / 255) + rows_of(1, 8 / 255)})
    lines = table.split("\n")
    assert max(map(len, lines)) <= 80
    cells = ["cross-entropy", "0.5000", "1.235e+05", "1234.5", "8.25", "16"]
    assert [line.split()[:1] + line.split()[2:] for line in lines if line] == [
        ["eps", "accuracy", "loss", "seconds", "mean", "move", "largest"],
        ["0.007843", *cells],
        ["0.03137", *cells],
    ]


def test_table_of_many_models_goes_on_below():
    names = [f"mixed_adversarial_defense_{i}" for i in range(5)] + ["seconds"]
    table = robustness._format_table({name: rows_of(2, 0.1) for name in names})
    lines = table.split("\n")
    assert max(map(len, lines)) <= 80
    assert [word for line in lines for word in line.split() if word in names] == names
    assert table.count("0.5000") == 12


@pytest.mark.slow
def test_command_takes_range_images_and_names_of_other_folders(
    digits, tmp_path, capsys, monkeypatch
):
    model, _, (images, labels) = digits
    scaled = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Rescaling(1 / 255), model]
    )
    paths = [tmp_path / name / "m.keras" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        scaled.save(path)
    monkeypatch.setattr(robustness, "evaluate_robustness", quick)
    monkeypatch.setattr(plotting, "save_pictures", lambda *_: None)
    monkeypatch.setattr(transfer, "_STEPS", 50)
    options = [*paths, "--range", 0, 255, "--data", "digits"]
    output = ["--images", 5000, "--output", tmp_path]
    assert run_command(capsys, monkeypatch, *options, *output)[0] == 0
    wide = json.loads((tmp_path / "robustness.json").read_text())
    assert list(wide["results"]) == ["m", "m_2"]
    assert wide["images"] == 360
    right = answers(model, images) == labels.argmax(axis=1)
    clean, *_, worst = wide["results"]["m"]
    assert clean["accuracy"] == pytest.approx(right.mean(), abs=0.004)
    assert worst["eps"] == 25.5 and 20 < worst["largest_perturbation"] <= 25.51
    assert worst["accuracy"] < 0.5
    status, _, error = run_command(capsys, monkeypatch, *options, *output)
    assert status == 2
    assert "robustness.json" in error and "--force" in error
    options = [paths[0], "--range", 0, 255, "--data", "digits", "--transfer"]
    status, printed, _ = run_command(capsys, monkeypatch, *options, "--images", 40)
    assert status == 0
    assert "on 40 test images" in printed and "transfer (black box)" in printed


def test_models_of_one_name_are_numbered(tmp_path, monkeypatch):
    paths = [tmp_path / name / "m.keras" for name in "abc"]
    for path in paths:
        path.parent.mkdir()
        zipfile.ZipFile(path, "w").close()
    monkeypatch.setattr(sys, "argv", ["robustness", *map(str, paths)])
    models = robustness.parse_options().models
    assert models == dict(zip(["m", "m_2", "m_3"], map(str, paths), strict=True))


def test_model_that_returns_nan_is_one_line(tmp_path, capsys, monkeypatch):
    model = build_classifier((28, 28, 1), 10)
    model.set_weights([weights * np.nan for weights in model.get_weights()])
    model.save(tmp_path / "m.keras")
    status, _, stderr = run_command(
        capsys, monkeypatch, tmp_path / "m.keras", "--data", "digits"
    )
    assert status == 2
    (line,) = stderr.splitlines()
    assert "NaN" in line


@keras.saving.register_keras_serializable("tests")
class Custom(keras.layers.Layer):
    pass


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_classifier((6, 6, 1), 10), r"\(28, 28, 1\)"),
        (lambda: build_classifier((28, 28, 1), 3), r"10 classes.*\(3,\)"),
        (
            lambda: keras.Sequential(
                [keras.Input((28, 28, 1)), keras.layers.Lambda(lambda x: x)]
            ),
            "Lambda",
        ),
        (b"PK no zip file", "must be a .keras file"),
        # The end of an archive of several disks, which zipfile refuses on its own.
        (
            b"PK\6\7\1" + bytes(15) + b"PK\5\6" + bytes(18),
            "must be a .keras file",
        ),
    ],
)
def test_models_that_do_not_fit_are_one_line(
    build, message, tmp_path, capsys, monkeypatch
):
    path = tmp_path / "model.keras"
    if isinstance(build, bytes):
        path.write_bytes(build)
    else:
        build().save(path)
    status, _, stderr = run_command(capsys, monkeypatch, path, "--data", "digits")
    assert status == 2
    (line,) = stderr.splitlines()
    assert str(path) in line and re.search(message, line)


def test_custom_code_is_not_run_and_one_line(tmp_path, capsys, monkeypatch):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((28, 28, 1)), Custom()]).save(path)
    keras.saving.get_custom_objects().pop("tests>Custom")
    status, _, stderr = run_command(capsys, monkeypatch, path, "--data", "digits")
    assert status == 2
    (line,) = stderr.splitlines()
    assert str(path) in line and "Custom" in line
