"""The page's own HTML: what the model is, the table of images, the file of scores."""

import base64
import csv
import io
from collections.abc import Sequence
from html import escape

from dmdd.deploy.serve.board import Finding, outline
from dmdd.deploy.serve.model import ServedModel

EMPTY = (
    '<div class="dmdd-empty">No images yet. Each one that you drop above gets a row here: the verdict, the score, '
    "and where the image looks anomalous.</div>"
)


def header(model: ServedModel) -> str:
    """Say what the model is and where its thresholds come from.

    Args:
        model: What inspects.

    Returns:
        HTML.
    """
    facts = [
        ("Model", escape(model.title), f"weights {model.weights_sha256[:8]}" if model.weights_sha256 else ""),
        ("Input size", f"{model.input_width} x {model.input_height} px", "images are resized to it"),
        ("Image threshold", _number(model.image_threshold), "a score at or above it: anomalous"),
        ("Pixel threshold", _number(model.pixel_threshold), "the map at or above it: contour, mask"),
        ("False alarms", *_false_alarms(model)),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in facts)
    return f'<div class="dmdd-head"><h1>Inspection</h1><dl>{cells}</dl><p>{_origin(model)}</p></div>'


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _false_alarms(model: ServedModel) -> tuple[str, str]:
    if model.false_alarm_rate is None:
        return "unknown", "the model states no rate"
    if model.false_alarm_interval is None:
        return f"{100 * model.false_alarm_rate:.1f} %", "of good images, expected"
    low, high = (f"{100 * end:.1f}" for end in model.false_alarm_interval)
    return f"{100 * model.false_alarm_rate:.1f} %", f"of good images, expected; 90 % interval {low} to {high} %"


def _origin(model: ServedModel) -> str:
    if model.image_threshold is None:
        return (
            "<strong>This model has no calibrated thresholds.</strong> The sliders begin at 0.5, which means nothing "
            "for it; verdicts follow them."
        )
    source = escape(model.thresholds_from or "an unknown source")
    count = "" if model.normal_images is None else f" ({model.normal_images} normal images)"
    promised = "" if model.promise is None else f" {escape(model.promise[:1].upper() + model.promise[1:])}."
    return (
        f"Thresholds: {source}{count}.{promised} The false-alarm rate holds for good images like those, taken the same "
        "way. A score is not a probability."
    )


def table(findings: Sequence[Finding | None], keys: Sequence[str], model: ServedModel, cut: tuple[float, float]) -> str:
    """Lay out the images in the order they came.

    Args:
        findings: None for one that is no longer in memory.
        keys: Of the findings.
        model: What inspected them.
        cut: Image threshold and pixel threshold to judge by.

    Returns:
        HTML: a summary, the legend, a row an image.
    """
    if not findings:
        return EMPTY
    shown = [finding for finding in findings if finding is not None]
    anomalous = sum(finding.score >= cut[0] for finding in shown)
    rows = "".join(_row(finding, key, cut) for finding, key in zip(findings, keys, strict=True))
    heads = ("Image", "Verdict", "Score", "Photo", "Overlay", "Heat map", "Mask")
    return (
        f'<div class="dmdd-summary"><span><b>{len(shown)}</b> {"image" if len(shown) == 1 else "images"}</span>'
        f'<span class="bad"><b>{anomalous}</b> anomalous</span>'
        f'<span class="good"><b>{len(shown) - anomalous}</b> normal</span>'
        f"{_moved(model, cut)}"
        f'<a class="dmdd-csv" download="scores.csv" href="{_data_url(scores_csv(shown, model, cut))}">'
        "Download scores (CSV)</a></div>"
        f'<table class="dmdd-table"><thead><tr>{"".join(f"<th>{head}</th>" for head in heads)}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{_legend(model, cut)}"
    )


def _moved(model: ServedModel, cut: tuple[float, float]) -> str:
    known = (model.image_threshold, model.pixel_threshold)
    moved = any(own is not None and own != value for own, value in zip(known, cut, strict=True))
    return '<span class="moved">by the sliders, not by the model\'s thresholds</span>' if moved else ""


def _middle_name(model: ServedModel) -> str:
    return "half of the map's range" if model.pixel_threshold is None else "the model's pixel threshold"


def _legend(model: ServedModel, cut: tuple[float, float]) -> str:
    middle = scale_middle(model)
    return (
        '<div class="dmdd-legend"><span>Heat map</span><span>0</span><i></i>'
        f"<span>{2 * middle:.2f}; the middle is {middle:.4f}, {_middle_name(model)}</span>"
        f"<span>White line and mask: the map reaches {cut[1]:.4f}</span>"
        "<span>Click a picture to enlarge it</span></div>"
    )


def _row(finding: Finding | None, key: str, cut: tuple[float, float]) -> str:
    if finding is None:
        return '<tr class="gone"><td colspan="7">no longer in memory; drop the image again</td></tr>'
    path, regions, share = outline(finding, cut[1])
    bad = finding.score >= cut[0]
    height, width = finding.size
    name = escape(finding.name)
    photo, heat = (f'<img src="/findings/{key}/{kind}.jpg" alt="">' for kind in ("photo", "heat"))
    high, wide = finding.map.shape
    svg = f'<svg viewBox="0 0 {wide} {high}" preserveAspectRatio="none"><path class="{{}}" d="{path}"/></svg>'
    line = svg.format("under") + svg.format("line")
    pictures = {
        "Photo": photo,
        "Overlay": f'{photo}<span class="veil">{heat}</span>{line}',
        "Heat map": f"{heat}{line}",
        "Mask": svg.format("fill"),
    }
    figures = "".join(
        f'<td class="picture" data-label="{label}"><figure tabindex="0" role="img" aria-label="{label} of {name}" '
        f'style="--ratio:{wide / high:.4f}">{inside}</figure></td>'
        for label, inside in pictures.items()
    )
    found = f"{regions} {'region' if regions == 1 else 'regions'}, {100 * share:.1f} % of the area" if regions else ""
    return (
        f'<tr class="{"bad" if bad else "good"}"><td class="name"><b>{name}</b><small>{width} x {height} px</small>'
        f'<small>{finding.time_ms:.0f} ms</small></td><td class="verdict"><span>{"anomalous" if bad else "normal"}'
        f'</span></td><td class="score"><b>{finding.score:.4f}</b><div class="bar"><i style="width:'
        f'{100 * finding.score:.2f}%"></i><u style="left:{100 * cut[0]:.2f}%"></u></div>{_probability(finding)}'
        f"<small>{found}</small></td>"
        f"{figures}</tr>"
    )


def _probability(finding: Finding) -> str:
    if (share := finding.false_alarm_probability) is None:
        return ""
    shown = "less than 0.01 %" if share < 1e-4 else f"{100 * share:.2g} %"
    return f"<small>{shown} of good images score so high</small>"


def scale_middle(model: ServedModel) -> float:
    """Give the map value at the middle of the heat map's colours: the model's pixel threshold, else 0.5."""
    return model.pixel_threshold or 0.5


def scores_csv(findings: Sequence[Finding], model: ServedModel, cut: tuple[float, float]) -> str:
    """Write the table as a file: one line an image.

    Args:
        findings: In the order of the page.
        model: What inspected them.
        cut: Image threshold and pixel threshold judged by.

    Returns:
        CSV with a header.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (
        "file,score,verdict,image_threshold,pixel_threshold,area_percent,regions,width,height,model,weights_sha256,"
        "raw_score,false_alarm_probability"
    )
    writer.writerow(names.split(","))
    for finding in findings:
        _, regions, share = outline(finding, cut[1])
        verdict = "anomalous" if finding.score >= cut[0] else "normal"
        cells = [finding.name, f"{finding.score:.9g}", verdict, f"{cut[0]:.9g}", f"{cut[1]:.9g}", f"{100 * share:.3f}"]
        more = ("" if v is None else f"{v:.9g}" for v in (finding.raw_score, finding.false_alarm_probability))
        writer.writerow([*cells, regions, finding.size[1], finding.size[0], model.title, model.weights_sha256, *more])
    return text.getvalue()


def _data_url(text: str) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode('ascii')}"
