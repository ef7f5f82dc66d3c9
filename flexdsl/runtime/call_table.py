"""The table that a kernel of a call reads: by whom it is made, and that it is made once."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from flexdsl.analysis import BlockPlan
from flexdsl.codegen import Argument, Role
from flexdsl.codegen.hopper.module import GROUP_ROWS
from flexdsl.runtime import device_plan, mask_bits
from flexdsl.runtime.call import Call
from flexdsl.runtime.own_tiles import own_tiles
from flexdsl.runtime.run_table import DeviceTable, table_of_kernel, to_device

# By device, and with kinds of runs or without.
_TABLES: WeakKeyDictionary[BlockPlan, dict[tuple[torch.device, bool], DeviceTable]]
_TABLES = WeakKeyDictionary()


def table_of(
    arguments: Sequence[Argument], plan: BlockPlan | None, call: Call, launch: device_plan.Launch
) -> DeviceTable | None:
    """What a kernel reads of its plan on the device; None where it reads no table.

    Args:
        plan: of a kernel that looks at pairs.
        launch: how kernels that make plans are run.
    """
    roles = {a.role for a in arguments}
    if plan is None or Role.TABLE not in roles:
        return None
    skips = any(a.role is Role.TABLE and a.of == "kinds" for a in arguments)
    if skips and Role.MASK_BITS not in roles:
        parts = plan.tile_shape[plan.outer == "kv"] // GROUP_ROWS
        return device_plan.find_table(plan, call.bound, call.device, launch, parts)
    table = _device_table(plan, skips, call, launch)
    if Role.MASK_BITS not in roles:
        return table
    return mask_bits.with_bits(table, plan, call.bound, call.device, launch)


def _device_table(
    plan: BlockPlan, skips: bool, call: Call, launch: device_plan.Launch
) -> DeviceTable:
    """The plan's table: made on the device for its kind, else uploaded once for a plan.

    Args:
        skips: it is for consumers that skip tiles.
    """
    device = call.device
    if plan.device is not None:
        return device_plan.find_table(plan, call.bound, device, launch)
    tables = _TABLES.setdefault(plan, {})
    if (device, skips) not in tables:
        own = own_tiles(plan) if skips else None
        made = (table_of_kernel(plan), None) if own is None else (own.table, own.kinds)
        tables[device, skips] = to_device(made[0], plan.outer_tiles, device, made[1])
    return tables[device, skips]
