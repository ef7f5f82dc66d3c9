"""Analysis: a typed mask and two lengths become a block plan, by proof."""

from flexdsl.analysis.plan import BlockPlan, Run, make_plan

__all__ = ["BlockPlan", "Run", "make_plan"]
