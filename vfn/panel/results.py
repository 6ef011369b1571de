"""The files of a panel: `panel.csv`, `panel.json`, `panel.png` and `panel.html`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from vfn.cli.entry import plain
from vfn.evaluation.results import finite
from vfn.panel.findings import FIGURES, Estimate, Finding, Stained, smallest_panels
from vfn.panel.heat_map import heat_map
from vfn.panel.page import render
from vfn.panel.plan import Question, Row
from vfn.panel.refocus import Across
from vfn.panel.words import sentences
from vfn.report.figures import write_png
from vfn.system.csv_files import write_csv
from vfn.system.files import write_text


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
    quality = {(f.inputs, f.target): f.figures["pearson"].mean for f in findings}
    panels: list[Stained] = []
    if not question.rows:
        panels = smallest_panels(quality, question.channels, question.free, question.wanted)
    said = [*sentences(question, findings, panels), *(one.sentence for one in refocused)]
    budget = _budget(config, results)
    header = ("inputs", "target", "repeat", "system", *FIGURES, "split", "fields", "seconds")
    write_csv(output / "panel.csv", header, _lines(results))
    paper = {(row.inputs, row.target): row for row in question.rows}
    found = {
        "sentences": said,
        "pairs": [_pair(f, paper.get((f.inputs, f.target))) for f in findings],
        "panels": [_panel(panel) for panel in panels],
        "grades": asdict(question.grades),
        "wanted": question.wanted,
        "budget": budget,
        "refocus": [asdict(one) for one in refocused],
    }
    text = json.dumps(found, indent=1, allow_nan=False)
    write_text(output / "panel.json", text + "\n")
    write_png(output / "panel.png", heat_map(question, findings))
    page = output / "panel.html"
    write_text(page, render(question, findings, panels, said, budget))
    for sentence in said:
        print(sentence)
    print(f"report: {page}")


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


def _pair(f: Finding, row: Row | None) -> dict[str, Any]:
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


def _panel(panel: Stained) -> dict[str, Any]:
    predicted = {
        target: {"from": list(inputs), "pearson": finite(r)}
        for target, (inputs, r) in panel.sources.items()
    }
    return {"stains": list(panel.stains), "enough": panel.enough, "predicted": predicted}


def _estimate(e: Estimate) -> dict[str, Any]:
    return {key: finite(value) for key, value in e._asdict().items()}


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
