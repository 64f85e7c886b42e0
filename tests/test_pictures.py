import numpy as np
import pytest
from conftest import build_classifier

from pyimagesearch.experiment.pictures import (
    draw_pictures,
    plot_accuracy,
    save_pictures,
)

pytest.importorskip("matplotlib")


@pytest.fixture(params=[1, 3])
def case(request):
    """A model, grey or colour images, and the model's answers."""
    model = build_classifier((6, 6, request.param))
    images = np.random.default_rng(0).random((4, 6, 6, request.param), dtype=np.float32)
    return model, images, model(images).numpy()


def test_adversaries_show_answers_and_mark_wrong_ones(case):
    model, images, outputs = case
    labels = outputs.argmax(axis=1)
    labels[1] = (labels[1] + 1) % 3
    figures = draw_pictures({"m": model}, (images, np.eye(3)[labels]), 0.5)
    figure = figures["adversaries_m"]
    titles = [axis.get_title() for axis in figure.axes]
    expected = [f"{o.argmax()}, {o.max():.0%}" for o in outputs]
    expected[1] = f"✗ not {labels[1]}: {expected[1]}"
    assert titles[:4] == expected
    assert sum("✗" in title for title in titles[8:]) >= 3
    widths = [axis.spines["top"].get_linewidth() for axis in figure.axes[:4]]
    assert widths[1] > widths[0] == widths[2] == widths[3]
    assert all(axis.get_ylabel() for axis in figure.axes[::4])
    assert figure.get_suptitle()


def test_steps_go_from_the_original_to_the_adversary(case):
    model, images, outputs = case
    data = images, np.eye(3)[outputs.argmax(axis=1)]
    figure = draw_pictures({"m": model}, data, 0.5)["steps_m"]
    titles = [axis.get_title() for axis in figure.axes]
    assert len(titles) == 8
    assert titles[0] in [f"{o.argmax()}, {o.max():.0%}" for o in outputs]
    assert "✗" in titles[-1]
    drawn = [np.asarray(axis.images[0].get_array(), float) for axis in figure.axes]
    moves = [np.abs(given - drawn[0]).max() for given in drawn]
    assert np.all(np.diff(moves[:4]) > 0)
    assert max(moves) <= 0.5 + 1e-6


def test_accuracy_has_a_line_a_model_axes_and_a_title():
    curves = {"a": ([0, 0.1], [1.0, 0.5]), "b": ([0, 0.1], [0.9, 0.8])}
    (axis,) = plot_accuracy(curves, "PGD").axes
    assert "PGD" in axis.get_title()
    assert "eps" in axis.get_xlabel() and axis.get_ylabel() == "accuracy"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    first, second = axis.lines
    np.testing.assert_array_equal(second.get_ydata(), [0.9, 0.8])
    for look in ("get_color", "get_marker"):
        assert getattr(first, look)() != getattr(second, look)()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("case", "eps"), [(1, 0.0), (3, 0.1)], indirect=["case"])
def test_pictures_of_odd_names_and_a_single_image(case, eps, tmp_path):
    model, images, outputs = case
    data = images[:1], np.eye(3)[outputs[:1].argmax(axis=1)]
    figures = draw_pictures({"_best": model, r"a$\q$": model}, data, eps)
    names = ["adversaries__best", r"adversaries_a$\q$", "steps__best", r"steps_a$\q$"]
    assert set(figures) == {"accuracy", *names}
    line, _ = figures["accuracy"].axes[0].lines
    assert line.get_ydata()[0] == 1
    np.testing.assert_allclose(line.get_xdata()[[0, -1]], [0, 2 * eps])
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


@pytest.mark.parametrize("case", [1], indirect=True)
def test_a_picture_that_fails_is_one_warning_line_and_stops_nothing(
    case, tmp_path, monkeypatch
):
    from matplotlib.figure import Figure

    def fail(figure, path, **settings):
        raise RuntimeError("no font\nanywhere")

    monkeypatch.setattr(Figure, "savefig", fail)
    model, images, outputs = case
    with pytest.warns(UserWarning, match="^no pictures: no font anywhere$"):
        save_pictures(tmp_path, {"m": model}, (images, np.round(outputs)), 0.1)
    assert list(tmp_path.iterdir()) == []
