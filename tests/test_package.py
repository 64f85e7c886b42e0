"""The package's shape, and what a program sees before TensorFlow is loaded."""

import ast
import zipfile

import pytest
from conftest import ROOT, run_python

FIRST = "train_adversarial_defense"
SECOND = "train_mixed_adversarial_defense"
REPORT = "pyimagesearch.robustness"
RECIPE = "pyimagesearch.training"


# What may import what: each row only what stands in the rows above it, and itself.
FLOORS = [
    "pyimagesearch.core",
    "pyimagesearch.simplecnn",
    "pyimagesearch.fgsm",
    "pyimagesearch.datagen",
    "pyimagesearch.attacks",
    "pyimagesearch.training",
    "pyimagesearch.robustness",
    "pyimagesearch.experiment",
    f"{REPORT}.__main__",
    f"{RECIPE}.__main__",
    FIRST,
    SECOND,
]


def floor(module):
    floors = [i for i, name in enumerate(FLOORS) if f"{module}.".startswith(f"{name}.")]
    return max(floors)


def imports():
    """Yield each module's name and that of one of ours that it imports, anywhere."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("pyimagesearch/**/*.py")]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith("pyimagesearch."):
                    yield module.removesuffix(".__init__"), name


def test_imports_go_only_downwards():
    found = list(imports())
    assert len(found) > 50
    wrong = [(one, other) for one, other in found if floor(one) < floor(other)]
    assert wrong == []
    # The commands in these rooms import it, so it would be a circle.
    for one, other in found:
        if one.startswith("pyimagesearch.experiment"):
            assert not other.startswith((REPORT, RECIPE)), one


def test_the_tutorials_files_are_seen_first():
    top = {path.name for path in (ROOT / "pyimagesearch").glob("*.py")}
    assert top == {"__init__.py", "simplecnn.py", "fgsm.py", "datagen.py"}
    for path in (ROOT / "pyimagesearch").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 260, path


KERAS_ON_TORCH = """if True:
    import sys, types
    keras = types.ModuleType("keras")
    keras.backend = types.SimpleNamespace(backend=lambda: "torch")
    sys.modules["keras"] = keras
"""


@pytest.mark.parametrize(
    ("backend", "setting", "before"),
    [("jax", "jax", ""), ("torch", "", KERAS_ON_TORCH)],
)
def test_another_backend_is_one_clear_error(backend, setting, before):
    code = f"{before}\nimport pyimagesearch"
    finished = run_python("-c", code, KERAS_BACKEND=setting)
    assert finished.returncode == 1
    assert f"'{backend}': set KERAS_BACKEND=tensorflow" in finished.stderr


# What is given, and what the error says.
WRONG_OPTIONS = [
    (FIRST, ["--data", "no such file"], "digits or an .npz file, got 'no such file'"),
    (FIRST, ["--seed", "-1"], "--seed: must be from 0 to 4,294,967,295, got '-1'"),
    (FIRST, ["--output", ""], "--output: must be a folder, got ''"),
    (FIRST, ["--output", "README.md"], "must be a folder to write to, got 'README"),
    (FIRST, ["--epochs", "0"], "--epochs: must be at least 1, got '0'"),
    (FIRST, ["--epochs", "many"], "--epochs: invalid int value: 'many'"),
    (FIRST, ["--eps", "nan"], "--eps: must be from 0 to 1, got 'nan'"),
    (FIRST, ["--model", "README.md"], "as Keras saves it, got 'README.md'"),
    (FIRST, ["--model", "old.h5"], "keras.saving.load_model('m.h5')"),
    (FIRST, ["--model", "SAVED_MODEL"], "Keras 3 loads no SavedModel"),
    (FIRST, ["--model", "MODEL", "--output", "FOLDER"], "--model must not be replaced"),
    (FIRST, ["--split", "0.5"], "--split"),
    (SECOND, ["--split", "1.1"], "--split: must be from 0 to 1, got '1.1'"),
    (SECOND, ["--honest"], "--honest"),
    (RECIPE, [], "required: MODEL.keras"),
    (RECIPE, ["MODEL", "--batch-size", "64"], "--batch-size"),
    (REPORT, ["NO_ZIP"], "as Keras saves it, got"),
    (REPORT, ["MODEL", "--eps", "0.5", "1.5"], "from 0 to the range's 1, got 1.5"),
    (REPORT, ["MODEL", "--images", "0"], "a number from 1 on, or START:STOP, got '0'"),
    (REPORT, ["MODEL", "--images", "5:5"], "a number from 1 on, or START:STOP"),
    (REPORT, ["MODEL", "--fail-under", "90"], "must be from 0 to 1, got '90'"),
    (REPORT, ["MODEL", "--range", "1", "1"], "LOW HIGH, the first smaller, got 1 1"),
]


def test_wrong_options_are_one_line_and_help_comes_before_tensorflow_is_loaded(
    tmp_path,
):
    paths = {"MODEL": tmp_path / "trained.keras", "FOLDER": tmp_path}
    zipfile.ZipFile(paths["MODEL"], "w").close()
    paths["NO_ZIP"] = tmp_path / "text.keras"
    paths["NO_ZIP"].write_text("no zip")
    paths["SAVED_MODEL"] = tmp_path / "saved"
    paths["SAVED_MODEL"].mkdir()
    (paths["SAVED_MODEL"] / "saved_model.pb").touch()
    commands = [
        [script, *(str(paths.get(option, option)) for option in options)]
        for script, options, _ in WRONG_OPTIONS
    ]
    commands += [[script, "--help"] for script in (FIRST, SECOND, REPORT, RECIPE)]
    code = f"""
import runpy, sys
for script, *options in {commands!r}:
    sys.argv = [script + ".py", *options]
    print("$", *sys.argv, file=sys.stderr)
    try:
        runpy.run_module(script, run_name="__main__")
    except SystemExit as exit:
        print("exit status", exit.code, file=sys.stderr)
assert not {{"tensorflow", "keras", "sklearn", "matplotlib"}} & set(sys.modules)
"""
    finished = run_python("-c", code)
    assert finished.returncode == 0, finished.stderr
    answers = finished.stderr.split("$ ")[1:-4]
    for (script, options, says), answer in zip(WRONG_OPTIONS, answers, strict=True):
        _, error, status = answer.splitlines()  # no usage, no traceback
        assert error.startswith(f"{script}.py: error: "), answer
        assert says in error, (options, error)
        assert status == "exit status 2"
    assert finished.stdout.count("usage: ") == 4
