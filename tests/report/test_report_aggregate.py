"""Means over seeds and categories, against sums done by hand; names of configurations; what is warned of."""

from pathlib import Path

import pytest
import report_trees as trees

from dmdd.config.schema import FORMER_NAMES
from dmdd.core.errors import UserError
from dmdd.report.aggregate import build_table, choose_metrics
from dmdd.report.benchmarks import BENCHMARKS
from dmdd.report.checks import warnings_of
from dmdd.report.collect import Run
from dmdd.report.configurations import configuration_names
from dmdd.report.layout import lines


def run(*, value: float = 0.9, settings: dict | None = None, folder: str = "r", **entries) -> Run:
    made = trees.result(**({"metrics": {"pixel_auroc": value}} | entries))
    return Run(Path(folder), made, trees.config() if settings is None else settings)


def test_mean_and_deviation_over_seeds():
    (row,) = build_table([run(value=v, seed=s) for s, v in enumerate((0.90, 0.94, 0.98))]).rows
    cell = row.cells["pixel_auroc"]
    assert cell.mean == pytest.approx(0.94)
    assert cell.deviation == pytest.approx(0.04)  # sqrt((0.04^2 + 0 + 0.04^2) / 2)
    assert (cell.seeds, row.seeds) == (3, [0, 1, 2])
    assert "aupro_30" not in row.cells


def test_one_seed_has_no_deviation():
    (row,) = build_table([run()]).rows
    assert (row.cells["pixel_auroc"].deviation, row.cells["pixel_auroc"].seeds) == (None, 1)


def test_a_repeated_seed_counts_once():
    runs = [run(value=0.8, seed=0), run(value=1.0, seed=0), run(value=0.7, seed=1)]
    table = build_table(runs)
    cell = table.rows[0].cells["pixel_auroc"]
    assert cell.mean == pytest.approx(0.8)  # (0.9 + 0.7) / 2, not 2.5 / 3
    assert cell.deviation == pytest.approx(0.02**0.5)
    assert cell.seeds == 2
    assert any("demo/plate: 1 run more than seeds" in text for text in warnings_of(runs, table))


def test_bounds_and_intervals_are_averaged_over_seeds():
    def one(seed, bounds, interval):
        test = {"metrics": {"pixel_auroc": 0.9}, "bounds": bounds, "intervals_95": {"pixel_auroc": interval}}
        return run(seed=seed, test=test)

    runs = [one(0, {"pixel_auroc": [0.88, 0.92]}, [0.7, 0.95]), one(1, {}, [0.8, 0.97])]
    cell = build_table(runs).rows[0].cells["pixel_auroc"]
    assert cell.bounds == pytest.approx((0.89, 0.91))  # the second is exact: its bounds are its value
    assert cell.interval == pytest.approx((0.75, 0.96))
    runs[1].result["test"]["intervals_95"] = {}
    cell = build_table(runs).rows[0].cells["pixel_auroc"]
    assert cell.interval is None


def test_exact_metrics_make_no_other_configuration():
    settings = [None, trees.config(evaluation={"exact": None}), trees.config(evaluation={"exact": True})]
    assert configuration_names([run(settings=one, seed=seed) for seed, one in enumerate(settings)]) == ["", "", ""]


@pytest.mark.parametrize(("former", "name"), list(FORMER_NAMES.items()))
def test_a_setting_by_its_former_name_makes_no_other_configuration(former, name):
    settings = [trees.config(**{one.partition(".")[0]: {one.partition(".")[2]: 0.5}}) for one in (former, name)]
    assert configuration_names([run(settings=one, seed=seed) for seed, one in enumerate(settings)]) == ["", ""]


def test_a_mean_over_categories_has_the_joined_interval():
    def one(category, value, *interval):
        test = {"metrics": {"pixel_auroc": value}}
        return run(category=category, test=test | ({"intervals_95": {"pixel_auroc": interval}} if interval else {}))

    runs = [one("a", 0.9, 0.87, 0.94), one("b", 0.8, 0.76, 0.83)]
    cell = build_table(runs).means[0].cells["pixel_auroc"]
    # half of the root of 3² + 4² below, of 4² + 3² above
    assert cell.interval == pytest.approx((0.85 - 0.025, 0.85 + 0.025))
    assert build_table([*runs, one("c", 0.7)]).means[0].cells["pixel_auroc"].interval is None


def test_a_partial_mean_says_so_and_takes_each_category_once():
    runs = [run(value=v, seed=s, dataset="mvtec_ad", category="screw") for s, v in ((0, 0.90), (1, 0.92))]
    runs += [run(value=v, seed=s, dataset="mvtec_ad", category="wood") for s, v in ((0, 0.98), (1, 0.94))]
    (mean,) = build_table(runs).means
    assert mean.note == "PARTIAL mean of 2 of 15 categories"
    cell = mean.cells["pixel_auroc"]
    assert cell.mean == pytest.approx(0.935)  # ((0.90 + 0.92) / 2 + (0.98 + 0.94) / 2) / 2
    assert cell.deviation == pytest.approx(0.01 / 2**0.5)  # of the seeds' means 0.94 and 0.93
    assert cell.seeds == 2


def test_a_mean_over_uneven_seeds_has_the_deviation_of_those_that_all_have():
    runs = [run(value=v, seed=s, category="a") for s, v in ((0, 0.90), (1, 0.92), (2, 0.97))]
    runs += [run(value=v, seed=s, category="b") for s, v in ((0, 0.98), (1, 0.94))]
    cell = build_table(runs).means[0].cells["pixel_auroc"]
    assert cell.mean == pytest.approx((0.93 + 0.96) / 2)  # of the rows above it
    assert cell.deviation == pytest.approx(0.01 / 2**0.5)  # of 0.94 and 0.93
    assert cell.seeds == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"resume": True},
        {"launcher": "joblib"},
        {"save_state_every_n_steps": 50},
        {"compile": True},
        {"upload_model": True},
    ],
)
def test_settings_that_change_no_figure_make_no_other_configuration(settings):
    overrides = tuple(f"{name.replace('__', '.')}={value}" for name, value in settings.items())
    runs = [run(seed=0), run(seed=1, settings=trees.config(**settings), overrides=overrides)]
    (row,) = build_table(runs).rows
    assert row.seeds == [0, 1]


def other(**entries) -> Run:
    return run(overrides=("distillation.steps=7",), settings=trees.config(distillation__steps=7), **entries)


def test_differences_are_taken_seed_by_seed():
    runs = [run(value=v, seed=s, category="a") for s, v in ((0, 0.90), (1, 0.92), (2, 0.50))]
    runs += [other(value=v, seed=s, category="a") for s, v in ((0, 0.93), (1, 0.97), (3, 0.10))]
    runs += [run(value=0.8, seed=s, category="b") for s in (0, 1)]
    runs += [other(value=0.7, seed=s, category="b") for s in (0, 1)]
    runs += [run(seed=0, category="c")]
    table = build_table(runs, against="default")
    a, b, mean = table.differences
    assert [(row.category, row.configuration) for row in (a, b)] == [(c, "distillation.steps=7") for c in "ab"]
    cell = a.cells["pixel_auroc"]
    assert cell.mean == pytest.approx(0.04)  # of 0.03 and 0.05; seeds 2 and 3 have no partner
    assert cell.deviation == pytest.approx(0.02 / 2**0.5)
    assert cell.seeds == 2
    assert b.cells["pixel_auroc"].mean == pytest.approx(-0.1)
    assert mean.note == "mean of 2 categories minus default"
    assert mean.cells["pixel_auroc"].mean == pytest.approx(-0.03)
    assert mean.cells["pixel_auroc"].deviation == pytest.approx(0.01 / 2**0.5)  # of -0.035 and -0.025
    shown = [line.cells[0].value for line in lines(table) if line.row.kind == "difference"]
    assert shown == ["+4.00", "-10.00", "-3.00"]
    assert build_table(runs).differences == ()


def test_differences_to_what_is_not_there():
    with pytest.raises(UserError, match="--against: no configurations to tell from 'x'; there are default, distill"):
        build_table([run(), other()], against="x")
    with pytest.raises(UserError, match="--against: no configurations to tell from 'default'"):
        build_table([run()], against="default")


def test_a_mean_over_one_common_seed_has_no_deviation_and_over_a_missing_metric_no_value():
    runs = [run(seed=0, category="a"), run(seed=1, category="a"), run(seed=0, category="b")]
    cell = build_table(runs).means[0].cells["pixel_auroc"]
    assert (cell.deviation, cell.seeds) == (None, 1)
    runs[2].result["test"]["metrics"] = {"image_auroc": 0.5}
    (mean,) = build_table(runs).means
    assert mean.cells == {}


def test_a_whole_benchmark_is_called_whole_and_strangers_are_left_out():
    names = sorted(BENCHMARKS["mpdd"].categories)
    runs = [run(value=0.9, dataset="mpdd", category=name) for name in names]
    strangers = [run(value=0.1, dataset="mpdd", category=name) for name in ("mine", "all")]
    table = build_table(runs + strangers)
    (mean,) = table.means
    assert mean.note == "mean of all 6 categories"
    assert mean.cells["pixel_auroc"].mean == pytest.approx(0.9)
    assert any("mpdd/all, mine: not in the benchmark" in text for text in warnings_of(runs + strangers, table))
    pooled = [*runs, strangers[1]]
    assert "mpdd/all: pooled categories are in no mean." in warnings_of(pooled, build_table(pooled))


def one_model(*, seed: int, lid: float, rod: float) -> Run:
    parts = {name: {"metrics": {"pixel_auroc": value}} for name, value in (("lid", lid), ("rod", rod))}
    return run(seed=seed, category="lid,rod", test={"metrics": {"pixel_auroc": 0.5}, "categories": parts})


def test_one_model_for_several_has_a_row_for_each_and_their_mean():
    table = build_table([one_model(seed=0, lid=0.9, rod=0.7), one_model(seed=1, lid=0.8, rod=0.6)])
    assert {row.category: row.cells["pixel_auroc"].mean for row in table.rows} == pytest.approx(
        {"lid": 0.85, "lid,rod": 0.5, "rod": 0.65}
    )
    (mean,) = table.means
    assert (mean.note, mean.cells["pixel_auroc"].mean) == ("mean of 2 categories", pytest.approx(0.75))


def test_one_model_for_several_is_not_mixed_with_one_for_each():
    runs = [one_model(seed=0, lid=0.9, rod=0.7), *(run(value=0.99, category=name) for name in ("lid", "rod"))]
    table = build_table(runs)
    found = {row.configuration: row.cells["pixel_auroc"].mean for row in table.means}
    assert found == pytest.approx({"default (one_model_for=lid,rod)": 0.8, "default (one_model_for=absent)": 0.99})
    assert all(len(row.runs) == 1 for row in table.rows)


def test_claims_are_the_papers_and_no_result():
    runs = [run(dataset="mpdd", category="tubes"), run(dataset="mvtec_ad", category="wood"), run()]
    claims = {row.dataset: row for row in build_table(runs).claims}
    assert {name: round(100 * cell.mean, 2) for name, cell in claims["mpdd"].cells.items()} == {
        "pixel_auroc": 98.96,
        "aupro_30": 97.66,
        "image_auroc": 98.10,
    }
    assert {name: round(100 * cell.mean, 2) for name, cell in claims["mvtec_ad"].cells.items()} == {
        "pixel_auroc": 98.85,
        "aupro_30": 96.13,
    }
    assert all("CLAIM" in row.note and "not reproduced here" in row.note for row in claims.values())
    assert set(claims) == {"mpdd", "mvtec_ad"}


def test_counts_of_the_benchmarks_categories():
    counts = {name: len(benchmark.categories) for name, benchmark in BENCHMARKS.items()}
    assert counts == {"mvtec_ad": 15, "mpdd": 6, "visa": 12, "btad": 3, "mvtec_loco": 5}


def test_maps_get_rows_and_evaluations_are_apart():
    test = {"metrics": {"pixel_auroc": 0.9}, "maps": {"normality": {"pixel_auroc": 0.6}}}
    evaluation = run(model="/runs/a/model", value=0.2)
    del evaluation.result["seed"]
    table = build_table([run(seed=0, test=test), run(seed=1, test=test), evaluation], maps=True)
    assert [(row.map_name, row.cells["pixel_auroc"].mean) for row in table.rows] == [(None, 0.9), ("normality", 0.6)]
    assert [(row.note, row.cells["pixel_auroc"].mean) for row in table.evaluations] == [("evaluation of a/model", 0.2)]


def test_metrics_are_chosen_from_what_is_there():
    runs = [run(metrics={"pixel_ap": 0.5, "image_auroc": 0.5, "aupro_5": 0.1})]
    assert choose_metrics(runs) == ("pixel_auroc", "aupro_30", "image_auroc")
    assert choose_metrics(runs, ["aupro_5", "pixel_ap", "aupro_5"]) == ("aupro_5", "pixel_ap")
    assert choose_metrics(runs, ["all"]) == ("image_auroc", "aupro_5", "pixel_ap")
    with pytest.raises(UserError, match="no run has 'dice'; there are aupro_5, image_auroc, pixel_ap"):
        choose_metrics(runs, ["dice"])


# What differs without being another configuration: seed, place, machine, and teacher files of the same content.
SAME = [
    {"seed": 7, "name": "later", "run_dir": "/else", "data_dir": "other", "dataset__layout__root": "other/demo"},
    {"trainer__devices": 4, "logger": {"wandb": {}}, "category": "cap", "dataset__layout__category": "cap"},
    {"teacher__weights": "file.pth"},
]


@pytest.mark.parametrize("changes", SAME)
def test_runs_that_are_one_configuration(changes):
    assert configuration_names([run(), run(settings=trees.config(**changes), seed=1)]) == ["", ""]


def test_configurations_are_named_by_what_their_commands_differ_in():
    common = ("recipe=cpu", "hydra.run.dir=x", "data_dir=y")
    runs = [
        run(overrides=("seed=3", *common), seed=3),
        run(overrides=(*common, "pairs=self"), settings=trees.config(distillation__steps=7)),
        run(overrides=("recipe=paper",), settings=trees.config(distillation__steps=8)),
    ]
    assert configuration_names(runs) == ["recipe=cpu", "recipe=cpu pairs=self", "recipe=paper"]
    assert configuration_names(runs[:2]) == ["default", "pairs=self"]


def test_one_command_with_other_defaults_is_told_apart():
    changes = [{"distillation__steps": 6}, {"distillation__steps": 9}]
    names = configuration_names([run(settings=trees.config(**change)) for change in changes])
    assert names == ["default (distillation.steps=6)", "default (distillation.steps=9)"]
    many = trees.config() | {"new": {str(number): number for number in range(9)}}
    names = configuration_names([run(), run(settings=many)])
    assert names == ["default (#1, see config.yaml)", "default (#2, see config.yaml)"]


def test_teachers_of_other_content_are_other_configurations_but_random_ones_follow_the_seed():
    other = {"backbone": "resnet18", "weights": "resnet18.bin", "sha256": "cd" * 32}
    first, second = configuration_names([run(), run(teacher=other)])
    assert first != second
    settings = trees.config(teacher__random_weights=True)
    assert configuration_names([run(settings=settings), run(settings=settings, teacher=other)]) == ["", ""]


def test_options_of_a_layout_count_within_a_data_set_only():
    plain, other = trees.config(), trees.config()
    other["dataset"] = {"name": "visa", "layout": {"root": "data/visa", "split_file": "1cls.csv"}}
    assert configuration_names([run(settings=plain), run(dataset="visa", settings=other)]) == ["", ""]
    fewer = trees.config()
    fewer["dataset"]["layout"]["test_fraction"] = 0.1
    assert configuration_names([run(settings=plain), run(settings=fewer)]) == [
        "default (dataset.layout.test_fraction=absent)",
        "default (dataset.layout.test_fraction=0.1)",
    ]


def warned(*runs: Run) -> str:
    return "\n".join(warnings_of(runs, build_table(runs)))


def test_nothing_to_warn_of():
    assert warned(run(seed=0), run(seed=1)) == ""


OTHER_MASKS = trees.PROTOCOL | {"masks_and_maps": "compared at the masks' own size"}
MIXED = [
    (
        {"protocol": OTHER_MASKS},
        {},
        "Rows mix 2 protocols: masks_and_maps: compared at the input size (1 run), masks_and",
    ),
    ({"precision": {"evaluation": "bf16-mixed"}}, {}, "Rows mix 2 evaluation precisions: 32-true (1 run), bf16"),
    ({"precision": {"training": "bf16-mixed"}}, {}, "Rows mix 2 training precisions: 32-true (1 run), bf16-mixed"),
    ({"commit": None}, {}, "Rows mix 2 commits: cccccccccccc (1 run), not recorded (1 run)."),
    ({"commit": "c" * 40 + "-dirty"}, {}, "1 of 2 results come from a checkout with changes (-dirty)"),
    ({"teacher": {"backbone": "vit", "weights": "w"}}, {}, "Rows mix 2 teachers: resnet18 (resnet18.bin, sha256 abab"),
    ({}, {"image_size": [256, 320]}, "Rows mix 2 image sizes: 128x128 (1 run), 256x320 (1 run)."),
]


@pytest.mark.parametrize(("entries", "settings", "warning"), MIXED)
def test_rows_that_mix_are_warned_of(entries, settings, warning):
    assert warning in warned(run(seed=0), run(seed=1, settings=trees.config(**settings), **entries))


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"listing": "a"}, {"listing": "a"}, False),
        ({"listing": "a"}, {"listing": "b"}, True),
        ({"trained_on": 9, "held_out": 1, "tested": 4}, {"trained_on": 8, "held_out": 2, "tested": 4}, False),
        ({"trained_on": 9, "held_out": 1, "tested": 4}, {"trained_on": 9, "held_out": 1, "tested": 5}, True),
        ({"trained_on": 9, "held_out": 1, "tested": 4}, {"listing": "a"}, False),
    ],
)
def test_seeds_on_other_images_are_warned_of(first, second, told):
    warning = "demo/plate: the runs are of different images, so their mean means little."
    assert (warning in warned(run(seed=0, images=first), run(seed=1, images=second))) == told


def test_a_callback_that_may_change_the_weights_makes_a_configuration():
    average = {"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging"}
    progress = {"_target_": "dmdd.training.callbacks.progress.StageProgress", "every_n_steps": 5}
    own = {"settings": trees.config() | {"callbacks": {"progress": progress}}}
    other = {"settings": trees.config() | {"callbacks": {"progress": progress, "average": average}}}
    other["overrides"] = ("+callbacks.average._target_=" + average["_target_"],)
    assert len(build_table([run(seed=0), run(seed=1, **own)]).rows) == 1
    assert len(build_table([run(seed=0), run(seed=1, **other)]).rows) == 2


def test_uneven_seeds_and_categories_are_warned_of():
    self_pairs = {"overrides": ("pairs=self",), "settings": trees.config(distillation__steps=7)}
    runs = [run(category=name) for name in ("a", "b", "c")] + [run(category=name, **self_pairs) for name in ("a", "b")]
    assert "demo: the means of its configurations are over different categories." in warned(*runs)
    assert "Rows have different numbers of seeds: 1 to 2." in warned(*runs, run(category="a", seed=1))
