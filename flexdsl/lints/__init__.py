"""What is suspicious about a mod that is not an error: `flexdsl check` tells it.

    finding     one finding: its name, its place, why, and what to write instead
    sizes       lengths at which a mask can be looked at
    answers     rows that can be empty; a mask that is always true or always false
    softmax     terms of a score that cancel in the softmax
    windows     a window that keeps one key more than its name says
    syntax      comparisons that Python reads otherwise than they look
    captures    arrays that are read at every call

Each file has one lint or two, which takes a program and gives findings. They decide nothing that
the compiler does: a mod with findings compiles and runs.
"""

from flexdsl.ir import Kind, Program
from flexdsl.lints.answers import find_constant, find_empty_rows
from flexdsl.lints.captures import find_arrays
from flexdsl.lints.finding import Finding
from flexdsl.lints.softmax import find_cancelled
from flexdsl.lints.syntax import find_misread
from flexdsl.lints.windows import find_wide_windows

__all__ = ["Finding", "lint"]

_OF_KIND = {
    Kind.MASK: (find_constant, find_empty_rows, find_wide_windows),
    Kind.SCORE: (find_cancelled,),
}


def lint(program: Program) -> list[Finding]:
    """All findings about a program, in the order of the files above."""
    return [
        finding
        for find in (*_OF_KIND[program.kind], find_misread, find_arrays)
        for finding in find(program)
    ]
