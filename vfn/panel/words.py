"""The results of a panel in sentences."""

import math
from collections.abc import Sequence

import numpy as np

from vfn.evaluation.results import label
from vfn.panel.findings import Estimate, Finding, Stained
from vfn.panel.plan import Question

SHOWN_PANELS = 5
NO_BETTER = 0.5  # dB over the best baseline below which a network is no better than it


def sentences(
    question: Question, findings: Sequence[Finding], panels: Sequence[Stained]
) -> list[str]:
    """Return the results in sentences, the most useful first."""
    said = _stains(question, panels)
    for target in dict.fromkeys(f.target for f in findings):
        own = [f for f in findings if f.target == target]
        best = max(own, key=lambda f: np.nan_to_num(f.figures["pearson"].mean, nan=-2))
        text = (
            f"{target} is predicted best from {' + '.join(best.inputs)}: r = "
            f"{estimate_text(best.figures['pearson'])}, grade {best.grade}"
        )
        if best.gain.mean < NO_BETTER:
            text += (
                f"; the {label(best.baseline)} alone is as good ({best.gain.mean:+.1f} dB): "
                "light that leaks between the channels, or too short a training"
            )
        said.append(text + ".")
    return said


def _stains(question: Question, panels: Sequence[Stained]) -> list[str]:
    """Return which stains are enough, or how near the best choice comes."""
    enough = [panel for panel in panels if panel.enough]
    if not panels:
        return []
    if not enough:
        last = panels[-1]
        short = [
            f"{t} (r = {r:.2f})" for t, (_, r) in last.sources.items() if not r >= question.wanted
        ]
        return [
            f"No choice reaches r = {question.wanted:g} for all other stains. Nearest with "
            f"{len(last.stains)}: stain {' and '.join(last.stains) or 'nothing'}; short are "
            f"{', '.join(short)}."
        ]
    said = [_advice(enough[0], question)]
    if len(enough) > 1:
        others = "; ".join(" + ".join(p.stains) or "none" for p in enough[1:SHOWN_PANELS])
        said.append(f"As few stains are enough in {len(enough)} ways: also {others}.")
    return said


def _advice(panel: Stained, question: Question) -> str:
    free = [c for c in question.channels if c in question.free]
    beside = f" (and {' and '.join(free)}, which costs no stain)" if free else ""
    made = " and ".join(panel.stains) or "nothing"
    return f"Stain {made}{beside}; predict {', '.join(panel.predicted)}. All reach r = {question.wanted:g}."


def estimate_text(estimate: Estimate, digits: int = 2) -> str:
    """Return an estimate with its interval."""
    if math.isnan(estimate.mean):
        return "-"
    text = f"{estimate.mean:.{digits}f}"
    if math.isnan(estimate.low):
        return text
    return f"{text} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
