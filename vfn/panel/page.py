"""The results of a panel: `panel.csv`, `panel.json`, `panel.png` and `panel.html`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from omegaconf import DictConfig

from vfn.cli.entry import plain
from vfn.panel.findings import (
    FIGURES,
    GRADES,
    Estimate,
    Finding,
    Grades,
    Stained,
    smallest_panels,
)
from vfn.panel.plan import Question
from vfn.panel.refocus import Across
from vfn.report.blocks import Chart, chart
from vfn.report.figures import LIGHT, Theme, new_figure, png_bytes
from vfn.report.html import environment, today, versions
from vfn.report.results import finite, label
from vfn.system.csv_files import write_csv
from vfn.system.files import replacing, write_text

WORDS = {"H": "high", "A": "average", "L": "low"}
SHOWN_PANELS = 5
NO_BETTER = 0.5  # dB over the better baseline below which a network is no better than it


def write(
    output: Path,
    question: Question,
    findings: Sequence[Finding],
    results: Sequence[Mapping[str, Any]],
    config: DictConfig,
    refocused: Sequence[Across] = (),
) -> None:
    """Write all files of a panel and print what it says.

    Args:
        output: folder.
        findings: one for each input set and target.
        results: one for each training.
        refocused: channels that a refocusing model was tried on.
    """
    panels = [] if question.rows else smallest(question, findings)
    said = [*sentences(question, findings, panels), *(one.sentence for one in refocused)]
    budget = _budget(config, results)
    header = ("inputs", "target", "repeat", "system", *FIGURES, "split", "fields", "seconds")
    write_csv(output / "panel.csv", header, _lines(results))
    found = _as_dict(question, findings, panels, said, budget)
    found["refocus"] = [asdict(one) for one in refocused]
    text = json.dumps(found, indent=1, allow_nan=False)
    write_text(output / "panel.json", text + "\n")
    with replacing(output / "panel.png") as temporary:
        temporary.write_bytes(png_bytes(heat_map(question, findings)))
    page = output / "panel.html"
    write_text(page, _render(question, findings, panels, said, budget))
    for sentence in said:
        print(sentence)
    print(f"report: {page}")


def smallest(question: Question, findings: Sequence[Finding]) -> list[Stained]:
    """The best choice of stains for each number of them; see `smallest_panels`."""
    quality = {(f.inputs, f.target): f.figures["pearson"].mean for f in findings}
    return smallest_panels(quality, question.channels, question.free, question.wanted)


def sentences(
    question: Question, findings: Sequence[Finding], panels: Sequence[Stained]
) -> list[str]:
    """What the panel says, the most useful first."""
    said = []
    if panels:
        last = panels[-1]
        enough = [panel for panel in panels if panel.enough]
        if enough:
            said.append(_advice(enough[0], question))
            if len(enough) > 1:
                others = "; ".join(" + ".join(p.stains) or "none" for p in enough[1:SHOWN_PANELS])
                said.append(f"As few stains are enough in {len(enough)} ways: also {others}.")
        else:
            short = [t for t, (_, r) in last.sources.items() if not r >= question.wanted]
            said.append(
                f"No choice reaches r = {question.wanted:g} for all other stains. Nearest with "
                f"{len(last.stains)}: stain {' and '.join(last.stains) or 'nothing'}; short are "
                + ", ".join(f"{t} (r = {last.sources[t][1]:.2f})" for t in short)
                + "."
            )
    for target in dict.fromkeys(f.target for f in findings):
        own = [f for f in findings if f.target == target]
        best = max(own, key=lambda f: _or(f.figures["pearson"].mean, -2))
        text = (
            f"{target} is predicted best from {' + '.join(best.inputs)}: r = "
            f"{_number(best.figures['pearson'])}, grade {best.grade}"
        )
        if best.gain.mean < NO_BETTER:
            text += (
                f"; the {label(best.baseline)} alone is as good ({best.gain.mean:+.1f} dB): "
                "light that leaks between the channels, or too short a training"
            )
        said.append(text + ".")
    return said


def _advice(panel: Stained, question: Question) -> str:
    free = [c for c in question.channels if c in question.free]
    beside = f" (and {' and '.join(free)}, which costs no stain)" if free else ""
    made = " and ".join(panel.stains) or "nothing"
    predicted = ", ".join(
        f"{target} from {' + '.join(inputs)} (r = {r:.2f})"
        for target, (inputs, r) in panel.sources.items()
    )
    return f"Stain {made}{beside}; predict {predicted}. All reach r = {question.wanted:g}."


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


def _number(estimate: Estimate, digits: int = 2) -> str:
    if math.isnan(estimate.mean):
        return "-"
    text = f"{estimate.mean:.{digits}f}"
    if math.isnan(estimate.low):
        return text
    return f"{text} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _lines(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            " + ".join(result["inputs"]), target, str(result["repeat"]), system,
            *("" if scores[c] is None else f"{scores[c]:.9g}" for c in FIGURES),
            result["split"], str(result["fields"]), f"{result['seconds']:g}",
        ]
        for result in results
        for target, systems in result["targets"].items()
        for system, scores in systems.items()
    ]  # fmt: skip


def _as_dict(
    question: Question,
    findings: Sequence[Finding],
    panels: Sequence[Stained],
    said: Sequence[str],
    budget: Mapping[str, str],
) -> dict[str, Any]:
    paper = {(row.inputs, row.target): row for row in question.rows}

    def pair(f: Finding) -> dict[str, Any]:
        row = paper.get((f.inputs, f.target))
        return {
            "inputs": list(f.inputs),
            "target": f.target,
            **{column: _estimate(f.figures[column]) for column in FIGURES},
            "psnr_gain": _estimate(f.gain),
            "baseline": f.baseline,
            "baseline_pearson": _estimate(f.baseline_figures["pearson"]),
            "grade": f.grade,
            **({"paper": {"name": row.name, "grade": row.grade}} if row else {}),
        }

    return {
        "sentences": list(said),
        "pairs": [pair(f) for f in findings],
        "panels": [
            {
                "stains": list(p.stains),
                "enough": p.enough,
                "predicted": {
                    target: {"from": list(inputs), "pearson": finite(r)}
                    for target, (inputs, r) in p.sources.items()
                },
            }
            for p in panels
        ],
        "grades": {"high": question.grades.high, "average": question.grades.average},
        "wanted": question.wanted,
        "budget": dict(budget),
    }


def _estimate(e: Estimate) -> dict[str, Any]:
    return {"mean": finite(e.mean), "low": finite(e.low), "high": finite(e.high), "n": e.n}


def _budget(config: DictConfig, results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    generator = plain(config.model)["generator"]
    seconds = [result["seconds"] for result in results]
    return {
        "each training": f"{config.steps} batches of {config.data.batch_size} patches of "
        f"{config.data.patch_size} px",
        "network": f"{generator['name']}, width {generator['width']}, depth {generator['depth']}, "
        f"loss {config.loss.name}",
        "trainings": f"{len(results)}, {float(np.median(seconds)):.0f} s each (median), "
        f"{sum(seconds) / 60:.0f} minutes in all",
        "repeats": f"{config.repeats}, each on another split ({results[0]['split']}) and seed",
        "test fields": f"{results[0]['fields']} in each repeat",
        "data": str(config.data.name) + (f", {config.data.root}" if config.data.root else ""),
    }


def heat_map(question: Question, findings: Sequence[Finding], theme: Theme = LIGHT) -> Figure:
    """Rows: input sets; columns: targets; r and grade in each cell, real channels hatched."""
    inputs = list(dict.fromkeys(f.inputs for f in findings))
    targets = list(dict.fromkeys(f.target for f in findings))
    targets.sort(key=question.channels.index)
    at = {(f.inputs, f.target): f for f in findings}
    names = [" + ".join(one) for one in inputs]
    left = 0.085 * max(map(len, names)) + 0.3
    figure = new_figure(theme, (left + 1.0 * len(targets) + 1.3, 1.1 + 0.36 * len(inputs)))
    axis = figure.add_subplot()
    colours = _colours(theme)
    grades = question.grades
    for y, one in enumerate(inputs):
        for x, target in enumerate(targets):
            box = (x - 0.48, y - 0.46)
            found = at.get((one, target))
            if found is None or math.isnan(found.figures["pearson"].mean):
                hatch = "////" if target in one else None
                axis.add_patch(
                    Rectangle(
                        box, 0.96, 0.92, fill=False, hatch=hatch, linewidth=0, edgecolor=theme.faint
                    )
                )
                continue
            r = found.figures["pearson"].mean
            colour = colours(_place(r, grades))
            axis.add_patch(Rectangle(box, 0.96, 0.92, facecolor=colour, linewidth=0))
            bright = float(np.dot(to_rgb(colour), (0.3, 0.59, 0.11))) > 0.55
            axis.text(
                x, y, f"{r:.2f}  {found.grade}", ha="center", va="center", fontsize=8,
                color="#111111" if bright else "#ffffff",
            )  # fmt: skip
    axis.set_xlim(-0.5, len(targets) - 0.5)
    axis.set_ylim(len(inputs) - 0.5, -0.5)
    axis.set_xticks(range(len(targets)), targets, fontsize=9, color=theme.ink)
    axis.set_yticks(range(len(inputs)), names, fontsize=9, color=theme.ink)
    axis.xaxis.set_ticks_position("top")
    axis.tick_params(length=0)
    axis.set_facecolor(theme.ground)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_ylabel("from", fontsize=9, color=theme.ink)
    axis.set_xlabel(
        f"Pearson's r on test fields; H from {grades.high:g}, A from {grades.average:g}, L below"
        + ("; hatched: real" if any(set(f.inputs) & set(targets) for f in findings) else ""),
        fontsize=8, color=theme.ink,
    )  # fmt: skip
    figure.suptitle("which stain predicts which", fontsize=10, color=theme.ink)
    return figure


def _colours(theme: Theme) -> LinearSegmentedColormap:
    dark = (
        ("#d8dde6", "#7fb4d9", "#0b4f86") if theme is LIGHT else ("#2c3441", "#2f6f9f", "#9ad4ff")
    )
    return LinearSegmentedColormap.from_list("panel", dark)


def _place(r: float, grades: Grades) -> float:
    """0 to 1: low, average and high get a third of the colours each."""
    at = (min(0.0, r), 0.0, grades.average, grades.high, 1.0)
    return float(np.interp(r, at[1:], (0.0, 0.3, 0.7, 1.0)))


def _render(
    question: Question,
    findings: Sequence[Finding],
    panels: Sequence[Stained],
    said: Sequence[str],
    budget: Mapping[str, str],
) -> str:
    paper = {(row.inputs, row.target): row for row in question.rows}
    rows = []
    for f in findings:
        row = paper.get((f.inputs, f.target))
        rows.append(
            {
                "inputs": " + ".join(f.inputs),
                "target": f.target,
                "r": _number(f.figures["pearson"], 3),
                "ssim": _number(f.figures["ssim_signal"]),
                "psnr": _number(f.figures["psnr_signal"], 1),
                "gain": f"{f.gain.mean:+.1f}",
                "no_better": f.gain.mean < NO_BETTER,
                "baseline": label(f.baseline),
                "grade": f.grade,
                "name": row.name if row else "",
                "paper": row.grade if row else "",
            }
        )
    drawn: Chart = chart(
        lambda theme: heat_map(question, findings, theme),
        "heat map: r of every input set and target",
    )
    shown = [
        {
            "stains": " + ".join(panel.stains) or "none",
            "count": len(panel.stains),
            "enough": panel.enough,
            "predicted": [
                f"{target} from {' + '.join(inputs)} (r = {r:.2f})"
                if inputs
                else f"{target}: not trained"
                for target, (inputs, r) in panel.sources.items()
            ],
        }
        for panel in panels
    ]
    return environment().get_template("panel/panel.html.j2").render(
        sentences=said, chart=drawn, rows=rows, panels=shown, budget=budget, date=today(),
        versions=versions(), grades=question.grades, wanted=question.wanted,
        free=[c for c in question.channels if c in question.free],
        grade_words=[(letter, WORDS[letter]) for letter in reversed(GRADES)],
        repeats=max((f.figures["pearson"].n for f in findings), default=0),
    )  # fmt: skip
