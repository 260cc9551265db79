"""The sweep file for ``wandb sweep``: its agent's command is one that ``dmdd.train`` takes."""

from pathlib import Path

import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from dmdd.config.schema import TrainSettings

FILE = Path(__file__).resolve().parents[2] / "examples" / "wandb_sweep.yaml"
CHOSEN = {"distillation.learning_rate": 0.001, "distillation.aim_weight": 0.25, "seed": 2}


def agent_command(sweep: dict, chosen: dict) -> list[str]:
    """Build the command of a run as the client builds it."""
    arguments = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    command = []
    for part in create_sweep_command(sweep["command"]):
        if part == "${args_no_hyphens}":
            command += arguments["args_no_hyphens"]
        elif part == "${program}":
            command.append(sweep["program"])
        else:
            command.append(part)
    return command


def test_the_agents_command_composes():
    sweep = yaml.safe_load(FILE.read_text())
    assert set(sweep["parameters"]) == set(CHOSEN)
    command = agent_command(sweep, CHOSEN)
    assert command[:4] == ["${env}", "${interpreter}", "-m", "dmdd.train"]
    settings = TrainSettings.compose(*command[4:])
    assert (settings.distillation.learning_rate, settings.distillation.aim_weight, settings.seed) == (0.001, 0.25, 2)
    assert "wandb" in settings.logger


def test_nothing_is_chosen_on_test_data():
    sweep = yaml.safe_load(FILE.read_text())
    assert sweep["metric"] == {"name": "validation/aupro_30", "goal": "maximize"}


def test_a_configuration_has_one_name_for_all_seeds():
    from dmdd.config.check import plain_of
    from dmdd.experiment.resume import configuration_digest

    def digest(*overrides: str) -> str:
        return configuration_digest(plain_of(TrainSettings.compose("category=screw", *overrides)))

    plain = digest()
    assert len(plain) == 8
    assert digest("seed=1") == digest("data_dir=/elsewhere") == digest("logger=wandb") == plain
    assert digest("recipe=cpu") != plain
    assert digest("distillation.learning_rate=0.01") != plain
