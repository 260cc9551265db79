"""Write the pages of the site that come from elsewhere: settings from the schema, notebooks from their files.

python docs/generate.py docs
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dmdd.config import schema
from dmdd.config.help import EXIT_CODES, PURPOSE, help_text

COMMANDS = {
    settings.COMMAND: settings
    for settings in vars(schema).values()
    if isinstance(settings, type) and issubclass(settings, schema.Settings) and settings is not schema.Settings
}
SETTING = re.compile(r"^  (?P<name>[\w.]+)=(?P<value>.*?)(?:\s+# (?P<help>.*))?$")
INTRODUCTION = """# Settings

Every setting of every command, from the same schema that checks them; `--help` prints the same. On the
command line a setting is `NAME=VALUE`. `null` stands for no value.
"""


def write_settings() -> str:
    """Write the page of all settings."""
    parts = [INTRODUCTION]
    for command in PURPOSE:
        parts.append(f"## dmdd {command}\n\n{PURPOSE[command]}\n\nExit codes: {EXIT_CODES[command]}.\n")
        # The first section is the usage, the last one the exit codes.
        for section in help_text(COMMANDS[command]).split("\n\n")[2:-1]:
            parts += _section(section)
    return "\n".join(parts)


def _section(section: str) -> Iterator[str]:
    title, *lines = section.rstrip("\n").split("\n")
    if title in ("examples", "exit codes"):
        return
    rows = [found for line in lines if (found := SETTING.match(line))]
    if not title.startswith("settings"):
        yield f"**{_escape(title.strip())}**\n"
    if rows:
        yield "| setting | value | meaning |\n|---|---|---|"
        for row in rows:
            value = f"`{_escape(row['value'])}`" if row["value"] else ""
            yield f"| `{row['name']}` | {value} | {_escape(row['help'] or '')} |"
        yield ""
    elif lines:
        yield "\n".join(_escape(line.strip()) for line in lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def write_notebook(file: Path) -> str:
    """Write a notebook as a page, without outputs."""
    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        if len(parts) == 1:
            parts.append(f"[Download the notebook]({file.name}){{: download}}")
    return "\n\n".join(parts) + "\n"


def main(docs: Path) -> None:
    """Write all pages.

    Args:
        docs: Folder of the site's sources.
    """
    (docs / "reference/settings.md").write_text(write_settings(), encoding="utf-8")
    for file in sorted(docs.glob("notebooks/*.ipynb")):
        file.with_suffix(".md").write_text(write_notebook(file), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
