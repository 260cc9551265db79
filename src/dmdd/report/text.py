"""The table as Markdown and as LaTeX."""

import re

from dmdd.report.collect import Found
from dmdd.report.layout import CLAIM_NOTE, LEGEND, CellText, label_titles, lines, metric_title
from dmdd.report.rows import ResultTable

LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
}


def markdown(table: ResultTable, found: Found, warnings: list[str]) -> str:
    """Write the table, the warnings and what could not be used.

    Args:
        table: The table.
        found: What was searched.
        warnings: Sentences, see :func:`dmdd.report.checks.warnings_of`.

    Returns:
        GitHub's Markdown.
    """
    labels = label_titles(table)
    titles = [*labels, *(metric_title(metric) for metric in table.metrics), "seeds"]
    parts = ["# Results", ""]
    if warnings:
        parts += ["**Read this before comparing rows:**", "", *(f"- {markdown_escape(w)}" for w in warnings), ""]
    parts.append(_markdown_row([markdown_escape(title) for title in titles]))
    parts.append(_markdown_row(["---"] * len(labels) + ["---:"] * (len(titles) - len(labels))))
    for line in lines(table):
        texts = [markdown_escape(label) for label in line.labels]
        if line.row.kind in ("mean", "claim"):
            texts[1] = f"*{texts[1]}*"
        parts.append(_markdown_row([*texts, *(_markdown_cell(cell) for cell in line.cells), line.seeds]))
    parts += ["", LEGEND, ""]
    if table.claims:
        parts += [CLAIM_NOTE, ""]
    if found.unfinished:
        parts += ["## Unfinished runs", ""]
        parts += [f"- {markdown_escape(str(run.folder))}: {markdown_escape(run.progress)}" for run in found.unfinished]
        parts.append("")
    if found.unreadable:
        parts += ["## Files that could not be used", ""]
        parts += [f"- {markdown_escape(str(bad.file))}: {markdown_escape(bad.reason)}" for bad in found.unreadable]
        parts.append("")
    return "\n".join(parts)


def markdown_escape(text: str) -> str:
    """Let a text from a file stand in a Markdown table as it is.

    Args:
        text: Any text.

    Returns:
        One line, without markup of its own.
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    # An underscore inside a word is no markup; escaped, metal_plate would be hard to read.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _markdown_row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown_cell(cell: CellText) -> str:
    parts = [f"{cell.value} ± {cell.deviation}" if cell.deviation else cell.value]
    parts += [f"({cell.bounds})"] if cell.bounds else []
    parts += [f"\\[{cell.interval}\\]"] if cell.interval else []
    return " ".join(parts)


def latex(table: ResultTable) -> str:
    """Write the table for a paper; needs the package ``booktabs``.

    Args:
        table: The table.

    Returns:
        A ``table`` environment.
    """
    labels = label_titles(table)
    titles = [*labels, *(metric_title(metric) for metric in table.metrics), "seeds"]
    parts = [
        r"% needs \usepackage{booktabs} and, for letters beyond ASCII, UTF-8",
        r"\begin{table}",
        r"  \centering",
        rf"  \begin{{tabular}}{{{'l' * len(labels)}{'r' * (len(titles) - len(labels))}}}",
        r"    \toprule",
        f"    {_latex_row([latex_escape(title) for title in titles])}",
        r"    \midrule",
    ]
    previous = None
    for line in lines(table):
        kind = line.row.kind
        if previous not in (None, kind):
            parts.append(r"    \midrule")
        previous = kind
        texts = [latex_escape(label) for label in line.labels]
        if kind in ("mean", "claim"):
            texts[1] = rf"\emph{{{texts[1]}}}"
        parts.append(f"    {_latex_row([*texts, *(_latex_cell(cell) for cell in line.cells), line.seeds])}")
    note = latex_escape(LEGEND + (f" {CLAIM_NOTE}" if table.claims else ""))
    parts += [r"    \bottomrule", r"  \end{tabular}", rf"  \caption{{{note}}}", r"\end{table}", ""]
    return "\n".join(parts)


def latex_escape(text: str) -> str:
    """Let a text from a file stand in LaTeX as it is.

    Args:
        text: Any text.

    Returns:
        One line, without commands of its own.
    """
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in " ".join(text.split()))


def _latex_row(texts: list[str]) -> str:
    return " & ".join(texts) + r" \\"


def _latex_cell(cell: CellText) -> str:
    parts = [rf"${cell.value} \pm {cell.deviation}$" if cell.deviation else cell.value]
    parts += [f"({cell.bounds})"] if cell.bounds else []
    parts += [rf"{{\scriptsize [{cell.interval}]}}"] if cell.interval else []
    return " ".join(parts)
