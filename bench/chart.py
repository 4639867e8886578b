"""The chart: CPU for each message, by server, in three panels. It follows the reader's colour scheme, light or dark."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bench.criteria import LARGE, ONE, SIXTEEN
from bench.summary import Rows

PANELS = ((ONE, "64 B, 1 in flight"), (SIXTEEN, "64 B, 16 in flight"), (LARGE, "16 KiB, 1 in flight"))
# Of each pair the light scheme's colour stands in the drawing; the style sheet exchanges it for the dark scheme's.
PAPER, INK, FAINT, OURS, PEER = "#ffffff", "#1f2328", "#59636e", "#0969da", "#afb8c1"
DARK = {PAPER: "#0d1117", INK: "#e6edf3", FAINT: "#9198a1", OURS: "#58a6ff", PEER: "#484f58"}
CUT = 2.0  # a bar that is longer than the third-longest by more than this factor is cut; its figure stands beside it


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the chart of a result's echo."""
    mpl: Any = importlib.import_module("matplotlib")  # here, since only the environment of the peers has it
    mpl.use("svg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    rows = Rows(result["rows"])
    medians = {
        case: {each: spread.median for each in rows.servers("echo", case) if (spread := rows.spread("echo", case, each))}
        for case, _ in PANELS
    }
    shown = [(case, title) for case, title in PANELS if medians[case]]
    if not shown:
        return
    names = sorted(medians[shown[0][0]], key=lambda each: medians[shown[0][0]][each], reverse=True)
    settings = {"svg.fonttype": "none", "svg.hashsalt": "twistedws", "font.family": "sans-serif", "font.size": 10, "text.color": INK}
    with mpl.rc_context(settings):
        figure, panels = pyplot.subplots(1, len(shown), figsize=(11, 0.8 + 0.34 * len(names)), sharey=True, facecolor=PAPER, squeeze=False)
        for axes, (case, title) in zip(panels[0], shown, strict=True):
            _panel(axes, names, medians[case], title)
        titles = [result["servers"][each]["title"] for each in names]
        panels[0][0].set_yticks(range(len(names)), titles)
        for label, name in zip(panels[0][0].get_yticklabels(), names, strict=True):
            label.set_color(OURS if name.startswith("ours") else INK)
            label.set_fontweight("bold" if name.startswith("ours") else "normal")
        figure.suptitle(
            "Server CPU for each echoed message, microseconds (shorter is better; → is a bar that is cut)",
            fontsize=12,
            fontweight="bold",
            color=INK,
        )
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None, "Title": "Server CPU for each echoed message, by server"})
        pyplot.close(figure)
    path.write_text(_with_both_schemes(path.read_text(encoding="utf-8")), encoding="utf-8")


def _panel(axes: Any, names: list[str], medians: dict[str, float], title: str) -> None:
    """Draw one panel: a bar for each server, its figure beside it."""
    lengths = sorted(medians.values(), reverse=True)
    third = lengths[min(2, len(lengths) - 1)]
    longest = lengths[0] if lengths[0] <= CUT * third else 1.25 * third
    axes.set_facecolor(PAPER)
    axes.set_title(title, fontsize=10, color=FAINT, loc="left")
    for place, name in enumerate(names):
        ours = name.startswith("ours")
        value = medians.get(name)
        if value is None:
            axes.text(0.015 * longest, place, "not measured", va="center", color=FAINT, fontsize=9)
            continue
        axes.barh(place, min(value, longest), height=0.68, color=OURS if ours else PEER)
        text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        axes.text(min(value, longest) + 0.015 * longest, place, f"→ {text}" if value > longest else text, va="center",
                  color=OURS if ours else INK, fontsize=9, fontweight="bold" if ours else "normal")  # fmt: skip
    axes.set_xlim(0, longest * 1.22)
    axes.set_xticks([])
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    axes.spines["left"].set_visible(True)
    axes.spines["left"].set_color(PEER)


def _with_both_schemes(svg: str) -> str:
    """Make each colour a variable that the reader's scheme sets."""
    variables = {colour: f"--c{number}" for number, colour in enumerate(DARK)}
    light = "".join(f"{variable}:{colour};" for colour, variable in variables.items())
    dark = "".join(f"{variables[colour]}:{other};" for colour, other in DARK.items())
    for colour, variable in variables.items():
        svg = svg.replace(colour, f"var({variable})")
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    head, tag, rest = svg.partition("<defs>")
    return head + style + tag + rest
