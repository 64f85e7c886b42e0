import importlib.util

import numpy as np
import pytest
from conftest import build_classifier

from pyimagesearch import plotting

pytest.importorskip("matplotlib")


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


@pytest.fixture(params=[1, 3])
def case(request):
    model = build_classifier((6, 6, request.param))
    images = np.random.default_rng(0).random((4, 6, 6, request.param), dtype=np.float32)
    return model, images, model(images).numpy()


def test_adversaries_show_answers_and_mark_wrong_ones(case):
    model, images, outputs = case
    labels = outputs.argmax(axis=1)
    labels[1] = (labels[1] + 1) % 3
    figure = plotting.plot_adversaries(model, images, labels, images[::-1], 0.1)
    expected = [f"{o.argmax()}, {o.max():.0%}" for o in outputs]
    expected[1] = f"✗ not {labels[1]}: {expected[1]}"
    assert titles(figure)[:4] == expected
    reversed_right = outputs[::-1].argmax(axis=1) == labels
    marked = ["✗" not in title for title in titles(figure)[8:]]
    assert marked == list(reversed_right)
    widths = [axis.spines["top"].get_linewidth() for axis in figure.axes[:4]]
    assert widths[1] > widths[0] == widths[2] == widths[3]
    assert [axis.get_ylabel() for axis in figure.axes[::4]] == [
        "original",
        "change, -0.1 to 0.1",
        "adversary",
    ]
    assert figure.get_suptitle()


def test_steps_go_from_the_original_to_the_adversary(case):
    model, images, outputs = case
    label = int(outputs[0].argmax())
    figure = plotting.plot_steps(model, images[0], label, 0.5)
    shown = titles(figure)
    assert shown[0] == f"{label}, {outputs[0].max():.0%}"
    assert "✗" in shown[-1]
    names = [axis.get_xlabel() for axis in figure.axes]
    assert names == ["original", *(f"after step {i}" for i in range(1, 10))]


def test_accuracy_has_a_line_a_model_axes_and_a_title():
    curves = {"a": ([0, 0.1], [1.0, 0.5]), "b": ([0, 0.1], [0.9, 0.8])}
    (axis,) = plotting.plot_accuracy(curves, "PGD").axes
    assert "PGD" in axis.get_title()
    assert "eps" in axis.get_xlabel() and axis.get_ylabel() == "accuracy"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    first, second = axis.lines
    np.testing.assert_array_equal(second.get_ydata(), [0.9, 0.8])
    for look in ("get_color", "get_marker", "get_linestyle"):
        assert getattr(first, look)() != getattr(second, look)()


def test_saved_pictures_replace_old_ones(case, tmp_path):
    model, images, outputs = case
    (tmp_path / "accuracy.png").write_text("old")
    plotting.save_pictures(tmp_path, {"m": model}, (images, outputs), 0.1)
    names = ["accuracy.png", "adversaries_m.png", "steps_m.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_pictures_of_odd_names_and_a_single_image(case, tmp_path, eps):
    model, images, outputs = case
    models = {"_best": model, r"a$\q$": model}
    plotting.save_pictures(tmp_path, models, (images[:1], outputs[:1]), eps)
    assert len(list(tmp_path.iterdir())) == 5


def test_without_matplotlib_one_line_says_how_to_install_it(
    case, tmp_path, capsys, monkeypatch
):
    model, images, outputs = case
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plotting.save_pictures(tmp_path, {"m": model}, (images, outputs), 0.1)
    (line,) = capsys.readouterr().out.splitlines()
    assert "pip install matplotlib" in line
    assert not list(tmp_path.iterdir())
