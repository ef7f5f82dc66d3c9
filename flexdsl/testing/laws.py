"""Laws of attention: relations between calls that hold for every mask and score.

Each compares a further call with one that was checked already, on the same backend. The laws of
plans alone are in `plans.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.ir import Capture, Expr, Op, Program, var, walk
from flexdsl.mod import Mod, parse
from flexdsl.runtime.bind import forget
from flexdsl.testing.execution import Pair, Run, compare_outputs
from flexdsl.testing.function import traced_pairs
from flexdsl.testing.plans import plan_of
from flexdsl.testing.subject import Subject

POSITIONS = (var("q"), var("kv"))


def check_laws(run: Run, found: Pair, score_size: float) -> None:
    """Hold a run to the laws, given what it gave.

    Raises:
        Disagreement: one does not hold.
    """
    _check_padding(run, found, score_size)
    _check_rows(run, found, score_size)
    _check_prefix(run, found, score_size)
    _check_batches(run, found, score_size)
    _check_permutation(run, found, score_size)
    _check_changes(run, found, score_size)


def _check_padding(run: Run, found: Pair, score_size: float) -> None:
    """More keys, which the mask excludes, change nothing."""
    case = run.case
    q, k, v = run.inputs
    longer = [torch.nn.functional.pad(x, (0, 0, 0, case.padding), value=3.0) for x in (k, v)]
    mask = parse(f"mask within(length: int = {case.kv_len}) = kv < length")
    if run.placed.mask is not None:
        mask = mask & run.placed.mask
    padded = run.call(run.placed, mask, q, *longer)
    compare_outputs(run, "with padding keys: ", padded, found, score_size)


def _check_rows(run: Run, found: Pair, score_size: float) -> None:
    """The later rows alone, at their positions, are the later rows of the whole."""
    first = run.case.q_len // 2
    if first == 0:
        return
    q, k, v = run.inputs
    offset = run.case.q_offset + first
    part = run.call(run.placed, run.placed.mask, q[:, :, first:], k, v, q_offset=offset)
    whole = found[0][:, :, first:], found[1][:, :, first:]
    compare_outputs(run, f"rows from {first} on alone: ", part, whole, score_size)


def _check_prefix(run: Run, found: Pair, score_size: float) -> None:
    """The earlier rows do not notice that the keys after the last one that they see are gone.

    Of a causal mask: what is computed for a prefix is what the whole sequence gives for it.
    """
    rows = -(-run.case.q_len // 2)
    seen = run.allowed[:, :, :rows].any(2).any(1).any(0).nonzero()
    keys = int(seen.max()) + 1 if seen.numel() else 1
    if (rows, keys) == (run.case.q_len, run.case.kv_len):
        return
    q, k, v = run.inputs
    short = run.call(run.placed, run.placed.mask, q[:, :, :rows], k[:, :, :keys], v[:, :, :keys])
    whole = found[0][:, :, :rows], found[1][:, :, :rows]
    compare_outputs(run, f"the first {rows} rows and {keys} keys: ", short, whole, score_size)


def _check_batches(run: Run, found: Pair, score_size: float) -> None:
    """Where nothing depends on b, batches in another order give outputs in that order."""
    if run.case.batch == 1 or "b" in run.subject.variables:
        return
    turned = run.call(run.placed, run.mask_of(run.placed), *(x.flip(0) for x in run.inputs))
    whole = found[0].flip(0), found[1].flip(0)
    compare_outputs(run, "batches reversed: ", turned, whole, score_size)


def _check_permutation(run: Run, found: Pair, score_size: float) -> None:
    """Tokens in another order, with what is captured about them, give outputs in that order.

    It holds where the permuted mask allows the permuted pairs, as one of documents does.
    """
    case = run.case
    low, high = case.q_offset, min(case.q_offset + case.q_len, case.kv_len)
    dimensions = _dimensions_of_positions(run.subject)
    if high - low < 2 or dimensions is None:
        return
    for order in _orders(run.subject, dimensions, low, high):
        permuted = _permuted(run.subject, dimensions, order)
        rows = order - low
        if permuted is None or not _allows_permuted(permuted, run, rows, order):
            continue
        q, k, v = (x.clone() for x in run.inputs)
        q[:, :, : high - low] = run.inputs[0][:, :, rows]
        k[:, :, low:high], v[:, :, low:high] = (x[:, :, order] for x in run.inputs[1:])
        placed = permuted.on(run.device)
        moved = run.call(placed, placed.mask, q, k, v)
        whole = found[0].clone(), found[1].clone()
        for x, y in zip(whole, found, strict=True):
            x[:, :, : high - low] = y[:, :, rows]
        compare_outputs(run, "tokens in another order: ", moved, whole, score_size)
        return


def _dimensions_of_positions(subject: Subject) -> dict[str, set[int]] | None:
    """The dimensions of captured tensors that q or kv itself indexes.

    None where there is none, or where the score uses positions in another way, too.
    """
    found: dict[str, set[int]] = {}
    for program in subject.programs:
        for node in walk(program.expr):
            if node.op is Op.LOAD and isinstance(node.attribute, Capture):
                direct = {n for n, a in enumerate(node.args) if a in POSITIONS}
                found.setdefault(node.attribute.name, set()).update(direct)
    if not any(found.values()):
        return None
    score = subject.score_program
    return found if score is None or not _uses_positions(score.expr) else None


def _uses_positions(expr: Expr) -> bool:
    """Does anything but the index of a load look at q or kv?"""
    nodes = list(walk(expr))
    users = (n for n in nodes if n.op is not Op.LOAD)
    of_others = any(a in POSITIONS for n in users for a in n.args)
    indices = (a for n in nodes if n.op is Op.LOAD for a in n.args if a not in POSITIONS)
    return of_others or expr in POSITIONS or any(i.variables & {"q", "kv"} for i in indices)


def _orders(
    subject: Subject, dimensions: dict[str, set[int]], low: int, high: int
) -> Iterator[Tensor]:
    """Positions low to high backwards; then by descending document, each one's tokens in order."""
    yield torch.arange(high - 1, low - 1, -1)
    for name, value in subject.captures.items():
        tensor = torch.as_tensor(value).detach().cpu()
        of_tokens = dimensions.get(name) == {0} and tensor.dim() == 1
        if of_tokens and not tensor.is_floating_point() and len(tensor) >= high:
            yield low + tensor[low:high].int().argsort(descending=True, stable=True)


def _permuted(subject: Subject, dimensions: dict[str, set[int]], order: Tensor) -> Subject | None:
    """The subject with what it captures about positions permuted; None where a tensor is short."""
    low, high = int(order.min()), int(order.max()) + 1
    new = {}
    for name, value in subject.captures.items():
        tensor = torch.as_tensor(value).detach()
        for dimension in dimensions.get(name, ()):
            if tensor.shape[dimension] < high:
                return None
            indices = torch.arange(tensor.shape[dimension])
            indices[low:high] = order
            tensor = tensor.index_select(dimension, indices.to(tensor.device))
        new[name] = tensor
    return subject.with_values(new, varied=True)


def _allows_permuted(permuted: Subject, run: Run, rows: Tensor, keys: Tensor) -> bool:
    """Does the permuted mask say of each pair what the mask says of the pair that moved there?"""
    program: Program | None = permuted.mask_program
    if program is None:
        return True
    before = run.allowed.cpu().numpy()
    row_of, key_of = np.arange(before.shape[2]), np.arange(before.shape[3])
    row_of[: len(rows)], key_of[int(keys.min()) : int(keys.max()) + 1] = rows, keys
    after = traced_pairs(program, run.case)
    return bool((after == before[:, :, row_of][..., key_of]).all())


def _check_changes(run: Run, found: Pair, score_size: float) -> None:
    """A call after another one, with other values of what is captured, sees those alone."""
    if not run.subject.varied:
        return
    own, device = run.own, run.device
    live = {n: torch.as_tensor(x).detach().to(device, copy=True) for n, x in own.captures.items()}
    before = own.with_values(live)
    forget()  # what `found` came from, or a stale memory would hold what is right
    run.call(before, _plan_argument(run, before), *run.inputs)
    for name, value in run.subject.captures.items():
        live[name].copy_(torch.as_tensor(value))
    after = own.with_values({**live, **dict(run.case.parameters)})
    changed = run.call(after, _plan_argument(run, after), *run.inputs)
    compare_outputs(run, "after a call with other values: ", changed, found, score_size)


def _plan_argument(run: Run, subject: Subject) -> Mod | BlockPlan | None:
    """The mask argument: with the case's tile, small enough to matter, where one may be chosen."""
    if subject.mask is None or run.backend != "cpu":
        return subject.mask
    return plan_of(subject.mask, run.case)
