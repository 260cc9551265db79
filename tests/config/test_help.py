"""What --help says: every setting of every command, from the schema, fast."""

import subprocess
import sys

import pytest

from dmdd.__main__ import COMMANDS, main
from dmdd.config import schema
from dmdd.config.check import dotted_names
from dmdd.config.compose import config_dir
from dmdd.config.help import EXAMPLES, EXIT_CODES, PURPOSE, help_text

CLASSES = {name: getattr(schema, f"{name.title()}Settings") for name in EXAMPLES}
GROUPS = ("dataset", "teacher", "student", "segmentation", "pairs", "augmentation", "trainer", "logger", "callbacks")


@pytest.mark.parametrize("command", CLASSES)
def test_every_setting_has_a_line_with_its_value_and_a_comment(command):
    text = help_text(CLASSES[command])
    lines = [line for line in text.splitlines() if line.startswith("  ") and "=" in line.split(" # ")[0]]
    said = {line.split("=")[0].strip(): line for line in lines if not line.lstrip().startswith("dmdd ")}
    for name in dotted_names(CLASSES[command]):
        if name.split(".")[0] not in GROUPS:
            assert " # " in said[name], name
    for name, line in said.items():
        if name.startswith(tuple(f"{group}." for group in GROUPS)):
            assert " # " in line, f"conf/ does not say what {name} is"
    assert PURPOSE[command] in text
    assert EXIT_CODES[command] in text


def test_help_of_a_training_names_options_recipes_and_experiments():
    text = help_text(CLASSES["train"])
    for file in [*config_dir().glob("recipe/*.yaml"), *config_dir().glob("pairs/*.yaml")]:
        assert file.stem in text
    assert "recipe=cpu" in text
    assert "ablation=aim_only" in text
    assert "distillation.steps=4000" in text
    assert "a positive whole number" in text


def test_examples_of_the_help_are_settings_that_there_are():
    for command, examples in EXAMPLES.items():
        for arguments, _ in examples:
            if "-m" not in arguments.split() and "'" not in arguments:
                CLASSES[command].compose(*arguments.split())


def test_help_comes_without_torch(capsys):
    code = "import sys; from dmdd.__main__ import main; main(['train', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: dmdd train NAME=VALUE")


def test_a_misspelt_command_is_told(capsys):
    assert main(["tran"]) == 2
    assert capsys.readouterr().err == "error: no command tran; did you mean train?\n"
    assert main(["quux"]) == 2
    assert capsys.readouterr().err == f"error: no command quux; there are {', '.join(COMMANDS)}\n"
