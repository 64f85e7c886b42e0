"""What a program sees before TensorFlow is loaded."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = ["train_adversarial_defense", "train_mixed_adversarial_defense"]


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


def test_error_of_our_own_keeps_its_traceback():
    code = (
        "from argparse import Namespace; from pyimagesearch import experiment;"
        "experiment.run_script(lambda _: 1 / 0, Namespace(output=None))"
    )
    assert "Traceback" in run_python(code).stderr


def test_reader_of_the_output_that_leaves_is_no_error():
    code = (
        "from argparse import Namespace; from pyimagesearch import experiment;"
        "options = Namespace(output=None);"
        "experiment.run_script(lambda _: [print(i) for i in range(10**6)], options)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as running:
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 1


def test_another_backend_is_one_clear_error():
    finished = run_python("import pyimagesearch", KERAS_BACKEND="jax")
    assert finished.returncode == 1
    assert "ImportError" in finished.stderr
    assert "'jax': set KERAS_BACKEND=tensorflow" in finished.stderr


def test_another_backend_already_loaded_is_one_clear_error():
    finished = run_python(
        "import sys, types; keras = types.ModuleType('keras');"
        "keras.backend = types.SimpleNamespace(backend=lambda: 'torch');"
        "sys.modules['keras'] = keras; import pyimagesearch",
        KERAS_BACKEND="",
    )
    assert finished.returncode == 1
    assert "'torch'" in finished.stderr


WRONG_OPTIONS = [
    (["--epoch", "0"], "--epochs", "0"),
    (["--epochs", "many"], "--epochs", "'many'"),
    (["--fine-tune-epochs", "-1"], "--fine-tune-epochs", "-1"),
    (["--batch-size", "0"], "--batch-size", "0"),
    (["--eps", "-0.1"], "--eps", "-0.1"),
    (["--eps", "nan"], "--eps", "nan"),
    (["--seed", "-1"], "--seed", "-1"),
    (["--data", "no such file"], "--data", "'no such file'"),
    (["--data", 300 * "a"], "--data", "'aaa"),
    (["--model", 300 * "a"], "--model", "'aaa"),
    (["--sede", "1"], "--sede", "1"),
    (["--model", "no.keras"], "--model", "no.keras"),
    (["--model", "README.md"], "--model", "README.md"),
    (["--output", "README.md"], "--output", "README.md"),
    (["--output", 300 * "a"], "--output", "aaa"),
]
WRONG_MIXED_OPTIONS = [
    (["--split", "1.5"], "--split", "1.5"),
    (["--attack", "cw"], "--attack", "cw", "rfgsm"),
    (["--recipe", "best"], "--recipe", "best", "robust"),
]


COMMAND, MODEL = "pyimagesearch.robustness", str(ROOT / "tests" / "no.keras")
WRONG_COMMANDS = [
    ([], "MODEL.keras", "no.keras"),
    (["--eps", "0.1", "-1.0"], "--eps", "-1.0"),
    (["--images", "0"], "--images", "0"),
    (["--eps", "0.5", "1.5"], "--eps", "from 0 to the range's 1", "1.5"),
    (["--range", "1", "1"], "--range", "1.0 1.0"),
    (["--range", "0", "inf"], "--range", "inf"),
    (["--data", "no such file"], "--data", "'no such file'"),
]


def test_options_are_answered_before_tensorflow_is_loaded(tmp_path):
    model = tmp_path / "model.keras"
    zipfile.ZipFile(model, "w").close()
    cases = [(script, options) for script in SCRIPTS for options, *_ in WRONG_OPTIONS]
    cases += [(COMMAND, [MODEL, *options]) for options, *_ in WRONG_COMMANDS]
    cases += [(COMMAND, ["README.md"])]
    outputs = [[str(model), "--output", wrong] for wrong in ("README.md", 300 * "a")]
    cases += [(COMMAND, options) for options in outputs]
    cases += [(SCRIPTS[1], options) for options, *_ in WRONG_MIXED_OPTIONS]
    cases += [(SCRIPTS[0], ["--split", "0.5"]), (SCRIPTS[1], ["--honest"])]
    cases += [(script, ["--help"]) for script in (*SCRIPTS, COMMAND)]
    code = f"""
import runpy, sys
for script, options in {cases!r}:
    sys.argv = [script + ".py", *options]
    print("$", *sys.argv, file=sys.stderr)
    try:
        runpy.run_module(script, run_name="__main__")
    except SystemExit as exit:
        print("exit status", exit.code, file=sys.stderr)
assert not {{"tensorflow", "keras", "sklearn"}} & set(sys.modules)
"""
    finished = run_python(code)
    assert finished.returncode == 0, finished.stderr
    answers = finished.stderr.split("$ ")[1:]
    assert len(answers) == len(cases)
    for (script, options), answer in zip(cases, answers, strict=True):
        lines = answer.splitlines()[1:]
        if options == ["--help"]:
            assert lines == ["exit status 0"]
            continue
        error, status = lines  # one line, no usage, no traceback
        assert error.startswith(f"{script}.py: error: ")
        assert status == "exit status 2"
        assert options not in outputs or "--output must be a folder" in error
        for wanted, *named in WRONG_OPTIONS + WRONG_MIXED_OPTIONS + WRONG_COMMANDS:
            if options in (wanted, [MODEL, *wanted]):
                assert all(name in error for name in named)
    assert finished.stdout.count("--fine-tune-epochs") >= 2
    assert finished.stdout.count("--split") == 2  # usage and help of one script


def test_failed_import_of_tensorflow_shows_what_it_printed(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os; os.write(2, b'reason in C++'); raise ImportError('no')"
    )
    code = "from pyimagesearch import experiment; experiment.import_tensorflow()"
    finished = run_python(code, PYTHONPATH=str(tmp_path))
    assert finished.returncode == 1
    assert "reason in C++" in finished.stderr
    assert "ImportError: no" in finished.stderr
