import sys

import numpy as np
import pytest
from conftest import build_classifier

from pyimagesearch.experiment.pictures import draw_pictures, save_pictures

pytest.importorskip("matplotlib")


def answered(channels):
    """Return a model, grey or colour images, and the model's answers."""
    model = build_classifier((6, 6, channels))
    images = np.random.default_rng(0).random((4, 6, 6, channels), dtype=np.float32)
    return model, images, model(images).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_show_answers_and_mark_wrong_ones(channels):
    model, images, outputs = answered(channels)
    labels = outputs.argmax(axis=1)
    labels[1] = (labels[1] + 1) % 3
    data = (images, np.eye(3)[labels])
    figure = draw_pictures({"m": model}, data, 0.5)["adversaries_m"]
    right = [f"{output.argmax()}, {output.max():.0%}" for output in outputs]
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:4] == [right[0], f"✗ not {labels[1]}: {right[1]}", *right[2:]]
    assert sum("✗" in title for title in titles[8:]) >= 3
    widths = [axis.spines["top"].get_linewidth() for axis in figure.axes[:4]]
    assert widths[1] > widths[0] == widths[2] == widths[3]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("channels", "eps"), [(1, 0.0), (3, 0.1)])
def test_pictures_of_odd_names_and_a_single_image(channels, eps, tmp_path):
    model, images, outputs = answered(channels)
    data = images[:1], np.eye(3)[outputs[:1].argmax(axis=1)]
    figures = draw_pictures({"_best": model, r"a$\q$": model}, data, eps)
    assert set(figures) == {"accuracy", "adversaries__best", r"adversaries_a$\q$"}
    for figure in figures.values():
        figure.savefig(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_accuracy_falls_with_eps_in_the_images_own_range():
    model = build_classifier()
    model.layers[0].kernel.assign(model.layers[0].kernel / 255)
    images = np.random.default_rng(0).integers(256, size=(40, 6, 6, 1))
    images = np.float32(images)
    labels = np.eye(3)[model(images).numpy().argmax(axis=1)]
    figures = draw_pictures({"m": model}, (images, labels), 30.0, (0.0, 255.0))
    (line,) = figures["accuracy"].axes[0].lines
    accuracies = line.get_ydata()
    assert accuracies[0] == 1 and accuracies[-1] < 0.7
    np.testing.assert_allclose(line.get_xdata()[[0, -1]], [0, 60])


def test_a_picture_that_fails_is_one_warning_line_and_stops_nothing(
    tmp_path, monkeypatch
):
    from matplotlib.figure import Figure

    def fail(figure, path, **settings):
        raise RuntimeError("no font\nanywhere")

    monkeypatch.setattr(Figure, "savefig", fail)
    model, images, outputs = answered(1)
    with pytest.warns(UserWarning, match="^no pictures: no font anywhere$"):
        save_pictures(tmp_path, {"m": model}, (images, np.round(outputs)), 0.1)
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_left_out_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    save_pictures(tmp_path, {}, (), 0.1)
    assert "no pictures without Matplotlib: pip install" in capsys.readouterr().out
