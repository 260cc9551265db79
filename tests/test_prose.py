"""The prose check: what it finds, and that the documentation has nothing to find."""

import importlib.util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("check_prose", REPOSITORY / "docs/check_prose.py")
check_prose = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_prose)

LONG = " ".join(["word"] * 31)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{LONG}.\n", [31]),
        (f"Short one. {LONG}. Short one.\n", [31]),
        (f"- {LONG}\n- {LONG}\n", [31, 31]),  # each item by itself
        (" ".join(["word"] * 20) + "\n" + " ".join(["word"] * 20) + ".\n", [40]),  # over two lines
        (" ".join(["word"] * 20) + ": " + " ".join(["word"] * 20) + ".\n", []),
        (" ".join(["word"] * 25) + " `a b c d e f g h`.\n", []),  # code counts as one word
        (f"| {LONG} |\n", []),
        (f"```\n{LONG}\n```\n", []),
        (f"    {LONG}\n", []),
        (f"# {LONG}\n", []),
    ],
)
def test_long_sentences_are_found(text, words):
    assert [count for _, count, _ in check_prose.long_sentences(text)] == words


def test_long_lines_are_found_outside_code_tables_and_links():
    long = "x" * 101
    text = f"fine\n{long}\n| {long} |\n```\n{long}\n```\n    {long}\n[a](https://{long})\n"
    assert list(check_prose.long_lines(text)) == [(2, 101)]


def test_a_fault_is_told_with_its_place(tmp_path, capsys):
    file = tmp_path / "page.md"
    file.write_text(f"# Page\n\n{LONG}.\n")
    assert check_prose.main([str(tmp_path)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert f"{file}:3: a sentence of 31 words, at most 30: {' '.join(['word'] * 8)} ..." in told
    file.write_text("Short.\n")
    assert check_prose.main([str(tmp_path)]) == 0


def test_long_lines_are_wrapped_and_nothing_else_moves(tmp_path):
    file = tmp_path / "page.md"
    code = "`" + " ".join("c" * 20) + "`"
    kept = f"# {'t' * 120}\n\nshort\nlines\n\n    {'x' * 120}\n\n| {'y' * 120} |\n"
    item = "- " + " ".join(["word"] * 20) + f" {code} end"
    file.write_text(kept + "\n" + item + "\n")
    assert check_prose.main(["--fix", str(tmp_path)]) == 0
    begin, *rest = file.read_text().removeprefix(kept + "\n").splitlines()
    assert begin.startswith("- word")
    assert all(line.startswith("  ") and len(line) <= 100 for line in rest)
    assert " ".join([begin, *(line.strip() for line in rest)]) == item
    assert any(code in line for line in rest)
    file.write_text(kept)
    check_prose.main(["--fix", str(tmp_path)])
    assert file.read_text() == kept


def test_the_documentation_is_in_order(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    code = check_prose.main(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs"])
    assert code == 0, capsys.readouterr().out
