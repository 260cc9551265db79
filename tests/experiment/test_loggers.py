"""What the dashboards get, without a training."""

import numpy as np
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from dmdd.experiment import loggers


def test_what_is_found_on_good_images_is_a_false_alarm():
    types = {
        "dent": {"images": 4, "images_found": 0.75, "image_auroc": 0.9, "aupro_30": 0.5},
        "good": {"images": 40, "images_found": 0.05},
    }
    assert loggers._type_rows({"test": {"types": types}}) == [
        ["dent", 4, 0.75, None, 0.9, None, 0.5],
        ["good", 40, None, 0.05, None, None, None],
    ]
    assert loggers.TYPE_COLUMNS[:3] == ("images", "found", "false alarms")


def test_a_dashboard_that_takes_no_picture_stops_no_training(tmp_path, monkeypatch, capsys):
    def refuse(self, *args, **kwargs):
        raise ConnectionError("the line\nis gone")

    monkeypatch.setattr(WandbLogger, "log_image", refuse)
    dashboard = WandbLogger.__new__(WandbLogger)
    loggers.show_picture([CSVLogger(tmp_path), dashboard], "distillation/pairs", np.zeros((2, 2, 3), np.uint8), step=3)
    told = "warning: WandbLogger did not take distillation/pairs: ConnectionError the line is gone\n"
    assert capsys.readouterr().err == told
    assert loggers.take_pictures([dashboard])
    assert not loggers.take_pictures([CSVLogger(tmp_path)])


def test_a_logger_that_extends_that_of_wandb_is_known_by_its_class(tmp_path, monkeypatch):
    (tmp_path / "boards.py").write_text(
        "from lightning.pytorch.loggers import WandbLogger\n\n\nclass Board(WandbLogger):\n    pass\n\n\n"
        "def of_two(name):\n    return WandbLogger(name=name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DMDD_TARGET_PACKAGES", "boards")
    targets = ["boards.Board", "lightning.pytorch.loggers.WandbLogger", "boards.of_two"]
    assert [loggers.is_wandb({"_target_": name}) for name in targets] == [True, True, False]
    assert not loggers.is_wandb({"_target_": "lightning.pytorch.loggers.CSVLogger"})
