"""Check the prose of Markdown files: lines of at most 100 characters, sentences of at most 30 words.

python docs/check_prose.py [--fix] README.md docs

Code, tables, links and headings may be longer. A colon or semicolon ends a sentence here, and a code span is one word.
It prints each fault with its place and exits with 1 if there is one. --fix wraps paragraphs with a long line anew.
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

LONGEST_LINE = 100
MOST_WORDS = 30
GENERATED = ("docs/reference/settings.md", "docs/notebooks/")

CODE_SPAN = re.compile(r"`[^`]*`")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)|<https?://[^>]*>")
ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
END = re.compile(r"(?<=[.!?:;])[\"')*_]*\s+|(?<=[.!?])[\"')*_]+$")
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|Fig|al)\.")


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Give the paragraphs and list items of a file, each with the number of its first line."""
    collected: list[str] = []
    first, fenced = 0, False
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        stripped = line.strip()
        fence = stripped.startswith("```")
        is_prose = not (fenced or fence or not stripped or stripped.startswith(("|", "#", ":::", "![", "<")))
        is_prose = is_prose and (bool(collected) or not line.startswith("    "))
        if collected and (not is_prose or ITEM.match(line)):
            yield first, " ".join(collected)
            collected = []
        if is_prose:
            first = first if collected else number
            collected.append(ITEM.sub("", stripped))
        fenced ^= fence


def long_lines(text: str) -> Iterator[tuple[int, int]]:
    """Give number and length of each line that is too long, code, tables and links left out."""
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        fenced ^= line.strip().startswith("```")
        if fenced or line.lstrip().startswith(("|", "#", "![")) or line.startswith("    ") or "](http" in line:
            continue
        if len(line) > LONGEST_LINE:
            yield number, len(line)


def wrapped(text: str) -> str:
    """Wrap the paragraphs and list items that hold a line that is too long; links and code spans stay in one line."""
    out: list[str] = []
    collected: list[str] = []
    fenced = False
    for line in [*text.splitlines(), ""]:
        stripped = line.strip()
        fence = stripped.startswith("```")
        is_prose = not (fenced or fence or not stripped or stripped.startswith(("|", "#", ":::", "![", "<")))
        is_prose = is_prose and (bool(collected) or not line.startswith("    "))
        if not is_prose or ITEM.match(line):
            out += _wrap(collected)
            collected = []
        (collected if is_prose else out).append(line)
        fenced ^= fence
    return "\n".join(out[:-1]) + "\n"


def _wrap(lines: list[str]) -> list[str]:
    if all(len(line) <= LONGEST_LINE for line in lines):
        return lines
    item = ITEM.match(lines[0])
    first = item[0] if item else lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    joined = " ".join([lines[0][len(first) :].strip(), *(line.strip() for line in lines[1:])])
    for kept in (CODE_SPAN, LINK):
        joined = kept.sub(lambda match: match[0].replace(" ", "\0"), joined)
    broken = textwrap.wrap(
        joined,
        LONGEST_LINE,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in broken]


def long_sentences(text: str) -> Iterator[tuple[int, int, str]]:
    """Give place, number of words and begin of each sentence that is too long; a code span counts as one word."""
    for number, paragraph in paragraphs(text):
        plain = ABBREVIATION.sub("abbreviation", CODE_SPAN.sub("Code", LINK.sub(r"\1", paragraph)))
        for sentence in END.split(plain):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if len(words) > MOST_WORDS:
                yield number, len(words), " ".join(words[:8])


def faults(file: Path) -> Iterator[str]:
    """Give the faults of a file, one line each."""
    text = file.read_text(encoding="utf-8")
    for number, length in long_lines(text):
        yield f"{file}:{number}: a line of {length} characters, at most {LONGEST_LINE}"
    for number, words, begin in long_sentences(text):
        yield f"{file}:{number}: a sentence of {words} words, at most {MOST_WORDS}: {begin} ..."


def main(places: list[str]) -> int:
    """Check files and folders.

    Args:
        places: Markdown files, or folders that hold some at any depth; ``--fix`` before them wraps long lines first.

    Returns:
        Exit code.
    """
    named = [Path(place) for place in places if place != "--fix"]
    files = [file for place in named for file in (sorted(place.rglob("*.md")) if place.is_dir() else [place])]
    files = [file for file in files if not file.as_posix().startswith(GENERATED)]
    for file in files if "--fix" in places else ():
        text = file.read_text(encoding="utf-8")
        if any(long_lines(text)):
            file.write_text(wrapped(text), encoding="utf-8")
    found = [fault for file in files for fault in faults(file)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
