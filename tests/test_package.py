"""The package's shape, and what a program sees before TensorFlow is loaded."""

import ast
import os
import subprocess
import sys
import zipfile
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path
from signal import SIGABRT

import pytest

ROOT = Path(__file__).parent.parent
FIRST = "train_adversarial_defense"
SECOND = "train_mixed_adversarial_defense"
REPORT = "pyimagesearch.robustness"
RECIPE = "pyimagesearch.training"


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


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
    return max(
        (len(name), i)
        for i, name in enumerate(FLOORS)
        if f"{module}.".startswith(f"{name}.")
    )[1]


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


def room(module):
    """Return a module's folder in the package, or itself if it is in none."""
    return ".".join(module.split(".")[:2])


def test_rooms_import_each_other_in_no_circle():
    """Commands count to their rooms."""
    below = defaultdict(set)
    for one, other in imports():
        if room(one) != room(other):
            below[room(one)].add(room(other))
    assert {"pyimagesearch.core", "pyimagesearch.experiment"} <= below[REPORT]
    TopologicalSorter(below).prepare()  # which raises an error if there is one


def test_the_tutorials_files_are_seen_first():
    top = {path.name for path in (ROOT / "pyimagesearch").glob("*.py")}
    assert top == {"__init__.py", "simplecnn.py", "fgsm.py", "datagen.py"}
    for path in (ROOT / "pyimagesearch").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 260, path


def test_another_backend_is_one_clear_error():
    finished = run_python("-c", "import pyimagesearch", KERAS_BACKEND="jax")
    assert finished.returncode == 1
    assert "ImportError" in finished.stderr
    assert "'jax': set KERAS_BACKEND=tensorflow" in finished.stderr


def test_another_backend_already_loaded_is_one_clear_error():
    code = (
        "import sys, types; keras = types.ModuleType('keras');"
        "keras.backend = types.SimpleNamespace(backend=lambda: 'torch');"
        "sys.modules['keras'] = keras; import pyimagesearch"
    )
    finished = run_python("-c", code, KERAS_BACKEND="")
    assert finished.returncode == 1
    assert "'torch'" in finished.stderr


# What is given, and what the error says.
WRONG_OPTIONS = [
    (["--data", "no such file"], "digits or an .npz file, got 'no such file'"),
    (["--seed", "-1"], "--seed: must be from 0 to 4,294,967,295, got '-1'"),
    (["--output", ""], "--output: must be a folder, got ''"),
    (["--output", "README.md"], "--output: must be a folder to write to, got 'README"),
    (["--sede", "1"], "--sede 1"),
]
WRONG_TRAINING_OPTIONS = [
    *WRONG_OPTIONS,
    (["--data", "tests"], "an .npz file, got 'tests'"),
    (["--epochs", "0"], "--epochs: must be at least 1, got '0'"),
    (["--epochs", "many"], "--epochs: invalid int value: 'many'"),
    (["--epochs"], "one argument"),
    (["--eps", "-0.1"], "--eps: must be from 0 to 1, got '-0.1'"),
    (["--eps", "nan"], "--eps: must be from 0 to 1, got 'nan'"),
]
WRONG_SCRIPT_OPTIONS = [
    *WRONG_TRAINING_OPTIONS,
    (["--batch-size", "0"], "--batch-size: must be at least 1, got '0'"),
    (["--model", "no.keras"], "as Keras saves it, got 'no.keras'"),
    (["--model", "README.md"], "as Keras saves it, got 'README.md'"),
    (["--model", "old.h5"], "keras.saving.load_model('m.h5')"),
    (["--model", "SAVED_MODEL"], "Keras 3 loads no SavedModel"),
    (["more"], "more"),
]
WRONG_FIRST_OPTIONS = [*WRONG_SCRIPT_OPTIONS, (["--split", "0.5"], "--split")]
WRONG_SECOND_OPTIONS = [
    *WRONG_SCRIPT_OPTIONS,
    (["--split", "1.1"], "--split: must be from 0 to 1, got '1.1'"),
    (["--attack", "pgd"], "--attack pgd"),
    (["--recipe", "robust"], "--recipe robust"),
    (["--honest"], "--honest"),
]
WRONG_MODELS = [
    ([], "required: MODEL.keras"),
    (["README.md"], "MODEL.keras: must be an existing .keras file, as Keras saves it"),
    (["NO_ZIP"], "as Keras saves it, got"),
]
WRONG_RECIPES = [
    *WRONG_MODELS,
    *((["MODEL", *options], says) for options, says in WRONG_TRAINING_OPTIONS),
    (["MODEL", "--batch-size", "64"], "--batch-size"),
]
WRONG_REPORTS = [
    *WRONG_MODELS,
    (["--eps", "0.1", "MODEL"], "must be a number: models come first, got"),
    (["MODEL", "--transfer"], "--transfer"),
    *(
        (["MODEL", *options], says)
        for options, says in [
            *WRONG_OPTIONS,
            (["--eps", "0.1", "-1.0"], "'-1.0'"),
            (["--images", "0"], "a number from 1 on, or START:STOP, got '0'"),
            (["--images", "5:5"], "a number from 1 on, or START:STOP, got '5:5'"),
            (["--steps", "0"], "--steps: must be at least 1, got '0'"),
            (["--fail-under", "90"], "--fail-under: must be from 0 to 1, got '90'"),
            (["--eps", "0.5", "1.5"], "from 0 to the range's 1, got 1.5"),
            (["--range", "1", "1"], "LOW HIGH, the first smaller, got 1 1"),
            (["--range", "0", "inf"], "'inf'"),
        ]
    ),
]


def test_wrong_options_are_one_line_and_help_comes_before_tensorflow_is_loaded(
    tmp_path,
):
    model = tmp_path / "model.keras"
    zipfile.ZipFile(model, "w").close()
    saved_model = tmp_path / "saved"
    saved_model.mkdir()
    (saved_model / "saved_model.pb").touch()
    no_zip = tmp_path / "text.keras"
    no_zip.write_text("no zip")
    paths = {"MODEL": model, "SAVED_MODEL": saved_model, "NO_ZIP": no_zip}
    cases = [
        (script, [str(paths.get(option, option)) for option in options], says)
        for script, wrong in [
            (FIRST, WRONG_FIRST_OPTIONS),
            (SECOND, WRONG_SECOND_OPTIONS),
            (REPORT, WRONG_REPORTS),
            (RECIPE, WRONG_RECIPES),
        ]
        for options, says in wrong
    ]
    helps = [FIRST, SECOND, REPORT, RECIPE]
    code = f"""
import runpy, sys
helps = [(script, ["--help"], "") for script in {helps!r}]
for script, options, _ in {cases!r} + helps:
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
    for (script, options, says), answer in zip(cases, answers, strict=True):
        _, error, status = answer.splitlines()  # no usage, no traceback
        assert error.startswith(f"{script}.py: error: "), answer
        assert says in error, (options, error)
        assert status == "exit status 2"
    assert finished.stdout.count("usage: ") == 4
    assert finished.stdout.count("--output DIR") >= 4


@pytest.mark.parametrize("level", [None, "0"])
@pytest.mark.parametrize(
    ("failure", "status"), [("raise ImportError('no')", 1), ("os.abort()", -SIGABRT)]
)
def test_failed_import_of_tensorflow_shows_what_it_printed(
    failure, status, level, tmp_path
):
    (tmp_path / "tensorflow.py").write_text(
        f"import os; os.write(2, b'reason in C++'); {failure}"
    )
    code = f"import os, runpy, sys; sys.argv = ['{FIRST}.py'];"
    code += "os.environ.pop('TF_CPP_MIN_LOG_LEVEL', None);"
    if level:
        code += f"os.environ['TF_CPP_MIN_LOG_LEVEL'] = '{level}';"
    code += f"runpy.run_path('{FIRST}.py', run_name='__main__')"
    finished = run_python("-c", code, PYTHONPATH=str(tmp_path))
    assert finished.returncode == status
    assert "reason in C++" in finished.stderr
    if status == 1:
        assert finished.stderr.endswith("ImportError: no\n")
