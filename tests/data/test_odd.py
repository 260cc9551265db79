"""dmdd data check model=...: what the run beside a model found odd."""

import json

import pytest

from dmdd.data.__main__ import main


@pytest.mark.parametrize(
    ("suspicious", "lines"),
    [
        ([], ["demo/plate: no image given as good is unlike the others"]),
        (
            [{"file": "train/good/7.png", "strangeness": 9.04}, {"file": "train/good/2.png", "strangeness": 4.0}],
            [
                "demo/plate: 2 images given as good to look at, the strangest first",
                "     9.0  train/good/7.png",
                "     4.0  train/good/2.png",
            ],
        ),
    ],
)
def test_odd_images_are_named(tmp_path, capsys, suspicious, lines):
    (tmp_path / "model").mkdir()
    result = {"dataset": "demo", "category": "plate", "suspicious": suspicious}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert main(["check", f"model={tmp_path / 'model'}"]) == 0
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("text", [None, "{", '{"dataset": "demo", "category": "plate"}'])
def test_a_model_without_such_a_result_is_refused(tmp_path, capsys, text):
    (tmp_path / "model").mkdir()
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    assert main(["check", f"model={tmp_path / 'model'}"]) == 2
    assert "no result.json beside it that names odd training images; train again to get one" in capsys.readouterr().err
