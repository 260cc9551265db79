"""Charts and contact sheets of a run."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from dmdd.experiment import charts
from dmdd.experiment.charts import operating_point, write_curves, write_training
from dmdd.experiment.pictures import verdict
from dmdd.metrics import Curve

CURVE = Curve(np.array([0, 0, 0.5, 1]), np.array([0, 0.5, 1, 1]), np.array([np.inf, 0.9, 0.6, 0.1]))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written."""
    figures: list[Figure] = []
    monkeypatch.setattr(charts, "_write", lambda file, figure: figures.append(figure))
    return figures


@pytest.mark.parametrize(
    ("threshold", "point"), [(0.9, (0, 0.5)), (0.7, (0, 0.5)), (0.6, (0.5, 1)), (2, (0, 0)), (None, None)]
)
def test_the_operating_point_is_the_last_one_that_reaches_the_threshold(threshold, point):
    assert operating_point(CURVE, threshold) == point


def test_curves_say_their_figure_and_mark_the_threshold(tmp_path, drawn):
    thresholds = {"image_threshold": 0.6}
    write_curves(tmp_path, {"image_roc": CURVE, "pro": CURVE}, metrics={"image_auroc": 0.875}, thresholds=thresholds)
    image, pro = drawn[0].axes
    assert image.get_title() == "Image ROC: AUROC 0.8750"
    assert [line.get_xydata().tolist() for line in image.lines][1] == [[0.5, 1.0]]
    assert image.get_legend().get_texts()[0].get_text() == "at the threshold: 0.500, 1.000"
    assert pro.get_title() == "Per-region overlap"  # no figure and no threshold known
    assert len(pro.lines) == 1


def test_the_chart_of_training_has_the_losses_of_both_stages(tmp_path, drawn):
    write_training(tmp_path)  # without a log there is nothing to draw
    assert drawn == []
    rows = ["distillation/loss,segmentation/loss,step", "2.0,,0", "nan,,1", "1.5,,2", ",0.5,3"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    write_training(tmp_path)
    first, second = drawn[0].axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[0, 2.0], [2, 1.5]]]
    assert [line.get_xydata().tolist() for line in second.lines] == [[[3, 0.5]]]


@pytest.mark.parametrize(
    ("label", "score", "threshold", "said"),
    [(0, 0.4, 0.5, "right"), (0, 0.5, 0.5, "false alarm"), (1, 0.4, 0.5, "missed"), (1, 0.5, None, "")],
)
def test_a_verdict_in_words(label, score, threshold, said):
    assert verdict(label, score, threshold) == said
