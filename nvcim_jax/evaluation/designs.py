"""What the studies of answers vary and compare, and what the paper prints of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from nvcim_jax.data import synthetic
from nvcim_jax.evaluation import methods, rungs
from nvcim_jax.evaluation.methods import Cell
from nvcim_jax.evaluation.rungs import BEST, PAPER
from nvcim_jax.hardware import catalogue

PAPERS = {  # rungs by what the paper calls them
    "paper: by cell, SWV": "SWV", "paper: by cell, CxDNN": "CxDNN", "paper: by cell, CorrectNet": "CorrectNet",
    "paper: no training noise, flat MIPS": "No-Miti", "paper: flat MIPS": "NVP*", PAPER: "NVCiM-PT",
}  # fmt: skip
CHOSEN = Cell("NVM-3", 0.1)  # the device of Tables III and IV at its default
RUNGS = (methods.BASE, rungs.TEXT, methods.OWN)  # stand in every table
AXES = ("task", "device", "sigma", "buffer", "method")
UNTRAINED = "no training noise, no clipping"
Pair = tuple[str, str]


@dataclass(frozen=True)
class Design:
    """A study of answers before it has a model and users: its rungs, what is varied, how its table is laid out.

    `groups` of rows, `row` and `column` are each one of `AXES`. OVTs are trained for `trained_for`, or where that is
    None for the device and sigma at which they are read. `pairs` are rungs of which the first is claimed to be better,
    `followed` those whose score is compared along what is varied.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    row: str
    column: str
    tasks: tuple[str, ...]
    devices: tuple[str, ...] = (CHOSEN.device,)
    sigmas: tuple[float, ...] = (CHOSEN.sigma,)
    buffers: tuple[int, ...] = (25,)
    trained_for: Cell | None = None
    pairs: tuple[Pair, ...] = ()
    followed: tuple[str, ...] = ()


def _against(best: str, others: Sequence[str]) -> tuple[Pair, ...]:
    return tuple((best, other) for other in others if other != best)


OF_THE_PAPER = (
    *_against(PAPER, [*PAPERS]), ("paper: flat MIPS", "paper: no training noise, flat MIPS"),
    (BEST, PAPER), (BEST, methods.OWN), (BEST, rungs.TEXT), (methods.OWN, methods.BASE),
)  # fmt: skip
ONE_FOR_ALL = tuple(f"one for all: {name}" for name in rungs.RIVALS)
ABLATED = tuple(
    f"recommended: {name}"
    for name in (
        "latest samples", "no training noise", "no clipping", UNTRAINED, "flat MIPS",
        "mean-pooled MIPS", "the paper's autoencoder", f"code of {rungs.NARROW} dimensions", "random start",
        "start from any words", "the OVT as its own key", "tuned in embedding space",
    )
)  # fmt: skip
IN_CELLS = tuple(
    f"recommended: by cell{more}"
    for more in (
        "", ", no mitigation", ", CxDNN", ", CorrectNet", ", SWV", *(f", SWV, {b} pulses" for b in rungs.BUDGETS),
        f", training noise and SWV, {rungs.BUDGETS[0]} pulses",
    )
)  # fmt: skip
NO_CODEC = f"{methods.KNOWN}, no codec"

DESIGNS = {
    design.name: design
    for design in (
        Design(
            "table1", "Table I: methods by devices and tasks", (*RUNGS, methods.KNOWN, *PAPERS, BEST),
            ("device",), "method", "task", tuple(synthetic.TASKS), tuple(catalogue.RATIOS),
            pairs=(*OF_THE_PAPER, (methods.KNOWN, methods.BASE)),
        ),
        Design(
            "table3", "Table III: methods by the size of the buffer", (*RUNGS, *PAPERS, BEST),
            ("task",), "buffer", "method", ("LaMP-5",), buffers=(10, 20, 30, 40, 50, 60),
            pairs=OF_THE_PAPER, followed=(PAPER, BEST),
        ),
        Design(
            "table4", "Table IV: methods by device variation", (*RUNGS, *PAPERS, BEST),
            ("task",), "sigma", "method", ("LaMP-5",), sigmas=(0.025, 0.05, 0.075, 0.1, 0.125, 0.15), buffers=(20,),
            trained_for=CHOSEN, pairs=OF_THE_PAPER, followed=(PAPER, BEST),
        ),
        Design(
            "fig1", "Fig. 1: one adapter for everything against one for each sample",
            (*RUNGS, *ONE_FOR_ALL, "OVT: prompt tuning, random start", "OVT: prompt tuning", "OVT: prefix tuning",
             methods.KNOWN),
            (), "method", "task", ("LaMP-2", "LaMP-3", "LaMP-5"),
            pairs=(*_against("OVT: prefix tuning", ONE_FOR_ALL), *_against("OVT: prompt tuning", ONE_FOR_ALL),
                   ("OVT: prompt tuning", methods.BASE), (methods.KNOWN, "OVT: prompt tuning")),
        ),
        Design(
            "ablation", "Ablation: what each part is worth",
            (*RUNGS, methods.KNOWN, NO_CODEC, "paper-literal: scaled search", PAPER, *ABLATED, *IN_CELLS, BEST),
            ("sigma",), "method", "task", ("LaMP-2", "LaMP-5"), sigmas=(0.1, 0.3),
            pairs=(*_against(BEST, (*ABLATED, PAPER, "paper-literal: scaled search", methods.OWN)),
                   *_against("recommended: by cell", IN_CELLS), (methods.KNOWN, NO_CODEC)),
        ),
        Design(
            "variation", "Variation: OVTs trained once, on other devices and at other sigmas",
            (*RUNGS, "paper: by cell", PAPER, *(f"recommended: {each}" for each in (UNTRAINED, "by cell")), BEST),
            ("task", "device"), "sigma", "method", ("LaMP-2",), tuple(catalogue.RATIOS), (0.05, 0.1, 0.2, 0.3),
            trained_for=CHOSEN, followed=(PAPER, BEST),
            pairs=_against(BEST, (PAPER, f"recommended: {UNTRAINED}", methods.OWN)),
        ),
    )
}  # fmt: skip


def beside(design: Design, *, real: bool, domains: bool) -> Design:
    """The design for a `real` model, beside which others' prompt stands, or for people whose domains are unknown."""
    known = rungs.catalogue(real=real, width=1)
    labels = tuple(label for label in design.labels if domains or not known[label].needs_domains)
    if real:
        labels = (*RUNGS, methods.OTHERS, *(label for label in labels if label not in RUNGS))
        design = replace(design, pairs=(*design.pairs, (BEST, methods.OTHERS), (BEST, methods.BASE)))
    return replace(design, labels=labels, pairs=tuple(pair for pair in design.pairs if {*pair} <= {*labels}))


def published(model: str, at: dict[str, Any]) -> float | None:
    """What the paper prints for a rung on a device, at a sigma, with a buffer, on a task; None where it prints nothing.

    Tables III and IV are of Phi-2; Table I is of three models, of which the one that `model` names counts, or Phi-2.
    """
    return _printed().get((llm_of(model), *(at.get(axis) for axis in AXES[:-1]), PAPERS.get(at.get("method", ""))))


def llm_of(model: str) -> str:
    """The paper's model that `model` names, or else Phi-2."""
    plain = model.lower()
    return next((name for name in _paper()["models"] if name.lower().split("-")[0] in plain), "Phi-2")


@cache
def _paper() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))


@cache
def _printed() -> dict[tuple, float]:
    """Every figure of Tables I, III and IV by model, task, device, sigma, buffer and method."""
    paper, found = _paper(), {}
    columns = [(model, task) for model in paper["models"] for task in paper["tasks"]]
    for device, rows in paper["table1"].items():
        for method, values in rows.items():
            for (model, task), value in zip(columns, values, strict=True):
                found[model, task, device, 0.1, 25, method] = value
    for table, sized in (("table3", lambda size: (0.1, int(size))), ("table4", lambda size: (float(size), 20))):
        for size, values in paper[table].items():
            for method, value in zip(paper["methods"], values, strict=True):
                found["Phi-2", "LaMP-5", "NVM-3", *sized(size), method] = value
    return found
