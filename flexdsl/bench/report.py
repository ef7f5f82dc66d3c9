"""Rows as a table for the terminal, as JSON, and as a picture. Nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from rich.table import Table

from flexdsl.bench.measure import Row, Settings
from flexdsl.errors import ArgumentError

SCHEMA = 1  # of the JSON; a change that a reader must know counts it up
_PHASES = ("forward", "backward")
PICTURES = (".png", ".svg", ".pdf")


def title(machine: dict[str, Any]) -> str:
    """One line: what was measured on, with what, and when."""
    versions = ", ".join(f"{n} {machine[n]}" for n in ("flexdsl", "torch", "triton") if machine[n])
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    return f"{machine['name']}{threads}, {machine['dtype']}; {versions}; {machine['date']}"


def table(rows: Sequence[Row], machine: dict[str, Any]) -> Table:
    """All rows, a section for each workload; columns that nothing was measured for are left out."""
    shown = Table(title=title(machine), caption=_CAPTION, caption_justify="left")
    columns = [c for c in _columns(machine) if any(_filled(c, rows))]
    shown.add_column("workload")
    for name, _ in columns:
        left = name in ("peer", "error")
        shown.add_column(name, justify="left" if left else "right", overflow="fold")
    for _, group in groupby(rows, key=lambda r: r.workload):
        section = list(group)
        shape = "" if len(section) > 1 else f"\n{section[0].shape}"
        labels = [section[0].workload + shape, section[0].shape]
        for row, label in zip_longest(section, labels[: len(section)], fillvalue=""):
            shown.add_row(label, *(cell(row, section[0]) for _, cell in columns))
        shown.add_section()
    return shown


_CAPTION = (
    "FLOP/s: allowed pairs only, backward 2.5 x forward work.  x: times as fast as that peer"
    " flexdsl is.\ncold: getting ready and the first calls.  plan: block plan or block"
    " mask again; for 131072 tokens.\npeak: memory above what was there before the call."
    "  diff: largest difference to flexdsl's output."
)


def _columns(machine: dict[str, Any]) -> list[tuple[str, Any]]:
    """Header and cell, a function of a row and of flexdsl's row of the same workload."""
    unit, factor = _unit(machine)
    columns: list[tuple[str, Any]] = [("peer", lambda r, ours: r.peer)]
    for phase in _PHASES:
        short = "fwd" if phase == "forward" else "bwd"
        columns += [
            (f"{short}\nms", _figure(f"{phase}_ms")),
            (f"{short}\n{unit}", _figure(f"{phase}_tflops", factor)),
            (f"{short}\nx", _ratio(f"{phase}_ms")),
            (f"{short}\ncall us", _figure(f"{phase}_call_us")),
            (f"{short}\nkernel us", _figure(f"{phase}_kernel_us")),
        ]
    return [
        *columns,
        ("cold\ns", _figure("cold_s")),
        ("short\ns", _figure("short_s")),
        ("plan\nms", _figure("plan_ms")),
        ("131072\nms", _figure("plan_long_ms")),
        ("peak fwd\nMiB", _figure("forward_mib")),
        ("bwd\nMiB", _figure("backward_mib")),
        ("diff", lambda r, ours: "" if r.difference is None else f"{r.difference:.0e}"),
        ("error", lambda r, ours: r.error or ""),
    ]


def _unit(machine: dict[str, Any]) -> tuple[str, float]:
    """In what the work per second is shown, and how many of it are 1e12."""
    return ("GFLOP/s", 1e3) if machine["device"] == "cpu" else ("TFLOP/s", 1.0)


def _figure(name: str, factor: float = 1.0) -> Any:
    def cell(row: Row, ours: Row) -> str:
        value = getattr(row, name)
        return "" if value is None else number(value * factor)

    return cell


def _ratio(name: str) -> Any:
    def cell(row: Row, ours: Row) -> str:
        theirs, mine = getattr(row, name), getattr(ours, name)
        return "" if row is ours or not theirs or not mine else f"{theirs / mine:.2f}"

    return cell


def _filled(column: tuple[str, Any], rows: Sequence[Row]) -> list[bool]:
    ours = {r.workload: r for r in reversed(rows)}
    return [bool(column[1](r, ours[r.workload])) for r in rows]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.4f}"


def write_json(
    path: Path, rows: Sequence[Row], machine: dict[str, Any], settings: Settings
) -> None:
    """Everything that was measured: {"schema", "machine", "settings", "rows"}."""
    document = {
        "schema": SCHEMA,
        "machine": machine,
        "settings": asdict(settings),
        "rows": [asdict(r) for r in rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def check_picture(path: Path) -> None:
    """Raise `ArgumentError` unless a picture can be written to `path`."""
    if path.suffix not in PICTURES:
        raise ArgumentError(
            f"cannot plot to {path.name}", fix=f"a path that ends in {' or '.join(PICTURES)}"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            "plotting needs matplotlib, which is not installed",
            fix="pip install 'flexdsl[plot]'",
        ) from error


def plot(path: Path, rows: Sequence[Row], machine: dict[str, Any]) -> None:
    """Bars of useful TFLOP/s, a group for each workload, forward beside backward.

    Raises:
        ArgumentError: matplotlib is not installed, or the ending is none of `PICTURES`.
    """
    check_picture(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    workloads = list(dict.fromkeys(r.workload for r in rows))
    peers = list(dict.fromkeys(r.peer for r in rows))
    unit, factor = _unit(machine)
    figure = Figure(figsize=(12, 1.5 + 0.55 * len(workloads)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title(machine), fontsize=9)
    height = 0.8 / max(len(peers), 1)
    for axes, phase in zip(figure.subplots(1, 2, sharey=True), _PHASES, strict=True):
        for number_of_peer, peer in enumerate(peers):
            found = {r.workload: getattr(r, f"{phase}_tflops") for r in rows if r.peer == peer}
            places = [i + (number_of_peer + 0.5) * height - 0.4 for i in range(len(workloads))]
            widths = [factor * (found.get(w) or 0.0) for w in workloads]
            axes.barh(places, widths, height, label=peer)
        axes.set_yticks(range(len(workloads)), workloads)
        axes.set_xlabel(f"{phase}, useful {unit}")
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
