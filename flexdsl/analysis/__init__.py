"""Analysis: a typed mask and two lengths become a block plan, by proof.

    values, ranges          the numbers and captured arrays of a program; extremes of index ranges
    domain, interval        intervals and truths, one lane a box; what every op does to them
    affine, congruence      linear forms, in which like terms cancel; residues
      -> steps              the range of a node from those of its operands
      -> truth              NEVER, MAYBE or ALWAYS of a condition on many boxes in one pass
    counterexamples         points at which a condition is false, before a proof is tried
    prove, periods          proofs for all rows at once; remainders of few periods written out
    residues                conditions on one remainder of many periods, as stretches
      -> solve              a condition solved for kv (or q): a union of a few pieces
      -> tile_bounds        the bounds of whole tiles, proven exact; else by rows, or declined
      -> strided            stretches of kv that come periodically, apart from each other or not
      -> overlay            two intervals made one, where bounds of tiles stay exact
      -> closed_form        what comes out: intervals with their bounds
      -> anchors            do rows lie side by side, whatever they load?
      -> telling_rows       rows that tell what all rows of a tile have
      -> closed_runs        runs and counts by evaluating the ends (sieved_runs: of stretches)
      -> closed_exact       are bounds by rows, and full tiles of unions, exact?
    grid, groups, scene     the tile grid; batches and heads that are alike; the mask on rectangles
      -> subdivide, join    recursive subdivision down to single pairs; pairs of equal values
      -> equal_runs         joined runs of equal values, of a part of the rows and the keys near it
                            (near_keys)
      -> row_table          the rows that tell, where no closed form of them is exact
      -> repeated           one step of rows for all, where a mask repeats along the diagonal
      -> table, facts       runs in CSR; exact pairs and empty rows
      -> transpose          runs along the other axis
      -> toeplitz           counting masks of q - kv by their differences
    plan                    tries the closed form, then the table; `BlockPlan` answers for both
                            (or leaves the table to a kernel: `codegen/planner.py`)
    shape, symmetry         facts of a mask by its form: one range, ends that ascend, q for kv
    terms -> products       products f(q) * g(kv), squares multiplied out, as columns of matrices
    prices, differences     what an operation costs; terms of q - kv alone, as tables
    separable               terms of a score that are sums of f(q) * g(kv)
    arguments               are the arguments of a plan numbers that make sense?
    signs, implied          indices that are natural; what follows from the conjuncts of a mask
      -> given              a score, simpler by what its mask proves
    finite                  is a derivative finite at pairs that a mask excludes, too?
    chosen_blocks           of which sizes are the blocks that captured numbers choose?
    bounded                 is a score so small that a softmax needs no maximum?
    bounds                  can an index leave its captured tensor?
    explain, draw, dense    a plan in words, in pictures, in arrays
    advice                  changes of a mask that were tried, for the words

EMPTY and FULL are proofs and PARTIAL is exact: a plan equals brute force over the mask. This room
never imports torch, never allocates an array of all pairs or of all tiles (`BlockPlan.to_dense` is
for tests), and never trusts a promise of the user about sortedness, contiguity or empty rows.
"""

import numpy.ma  # noqa: F401  # what np.unique imports would count as time of the first plan

from flexdsl.analysis.bounds import check_loads
from flexdsl.analysis.describe import explain_program
from flexdsl.analysis.plan import BlockPlan, Run, make_plan

__all__ = ["BlockPlan", "Run", "check_loads", "explain_program", "make_plan"]
