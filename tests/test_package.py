"""The package's shape, and what a program sees before TensorFlow is loaded."""

import ast
import os
import resource
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIRST, SECOND = "train_adversarial_defense", "train_mixed_adversarial_defense"
COMMAND = "pyimagesearch.robustness"


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
    "pyimagesearch.robustness.__main__",
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


@pytest.mark.parametrize("start", [[f"{FIRST}.py"], [f"{SECOND}.py"], ["-m", COMMAND]])
def test_help_is_answered_within_half_a_second(start):
    bare = {name: "" for name in os.environ if name.startswith("COV")}
    used = [0.0]
    for _ in range(3):
        finished = run_python(*start, "--help", **bare)
        assert finished.returncode == 0 and finished.stderr == ""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(usage.ru_utime + usage.ru_stime)
    assert "--output DIR" in finished.stdout
    assert min(later - earlier for earlier, later in pairwise(used[1:])) < 0.5


# What is given, and what the error says.
WRONG_OPTIONS = [
    (["--data", "no such file"], "digits or an .npz file, got 'no such file'"),
    (["--data", "tests"], "an .npz file, got 'tests'"),
    (["--seed", "-1"], "--seed: must be from 0 to 4,294,967,295, got '-1'"),
    (["--output", ""], "--output: must be a folder, got ''"),
    (["--output", "README.md"], "README.md must be a folder to write to"),
    (["--sede", "1"], "--sede 1"),
]
WRONG_SCRIPT_OPTIONS = [
    *WRONG_OPTIONS,
    (["--epochs", "0"], "--epochs: must be at least 1, got '0'"),
    (["--epochs", "many"], "--epochs: invalid int value: 'many'"),
    (["--epochs"], "one argument"),
    (["--eps", "-0.1"], "--eps: must be from 0 to 1, got '-0.1'"),
    (["--eps", "nan"], "--eps: must be from 0 to 1, got 'nan'"),
    (["--model", "no.keras"], "as Keras saves it, got 'no.keras'"),
    (["--model", "README.md"], "as Keras saves it, got 'README.md'"),
    (["--model", "old.h5"], "keras.saving.load_model('m.h5')"),
    (["--model", "SAVED_MODEL"], "Keras 3 loads no SavedModel"),
    (["more"], "more"),
]
WRONG_FIRST_OPTIONS = [*WRONG_SCRIPT_OPTIONS, (["--split", "0.5"], "--split")]
WRONG_SECOND_OPTIONS = [
    *WRONG_SCRIPT_OPTIONS,
    (["--attack", "cw"], "rfgsm"),
    (["--recipe", "best"], "robust"),
    (["--attack", "pgd", "--recipe", "robust"], "tutorial, got pgd"),
    (["--honest"], "--honest"),
]
WRONG_COMMANDS = [
    ([], "required: MODEL.keras"),
    (["README.md"], "MODEL.keras: must be an existing .keras file, as Keras saves it"),
    (["NO_ZIP"], "as Keras saves it, got"),
    (["--eps", "0.1", "MODEL"], "must be a number: models come first, got"),
    *(
        (["MODEL", *options], says)
        for options, says in [
            *WRONG_OPTIONS,
            (["--eps", "0.1", "-1.0"], "'-1.0'"),
            (["--images", "0"], "--images: must be at least 1, got '0'"),
            (["--eps", "0.5", "1.5"], "from 0 to the range's 1, got 1.5"),
            (["--range", "1", "1"], "LOW HIGH, the first smaller, got 1 1"),
            (["--range", "0", "inf"], "'inf'"),
        ]
    ),
]


def test_wrong_options_are_one_line_before_tensorflow_is_loaded(tmp_path):
    model, saved_model = tmp_path / "model.keras", tmp_path / "saved"
    zipfile.ZipFile(model, "w").close()
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
            (COMMAND, WRONG_COMMANDS),
        ]
        for options, says in wrong
    ]
    code = f"""
import runpy, sys
for script, options, _ in {cases!r}:
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
    answers = finished.stderr.split("$ ")[1:]
    for (script, options, says), answer in zip(cases, answers, strict=True):
        _, error, status = answer.splitlines()  # no usage, no traceback
        assert error.startswith(f"{script}.py: error: "), answer
        assert says in error, (options, error)
        assert status == "exit status 2"
    assert finished.stdout == ""


def test_failed_import_of_tensorflow_shows_what_it_printed(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os; os.write(2, b'reason in C++'); raise ImportError('no')"
    )
    bare = {"PYTHONPATH": str(tmp_path)}
    for settings in ({}, {"TF_CPP_MIN_LOG_LEVEL": "0"}):
        code = "import os; os.environ.pop('TF_CPP_MIN_LOG_LEVEL', None);"
        code += f"os.environ |= {settings!r}; import runpy, sys; sys.argv[1:] = [];"
        code += f"runpy.run_path('{FIRST}.py', run_name='__main__')"
        finished = run_python("-c", code, **bare)
        assert finished.returncode == 1
        assert "reason in C++" in finished.stderr
        assert finished.stderr.endswith("ImportError: no\n")
