"""The front end: a Python function or a text becomes a `Program`.

    function --captures--> rebuilt function --paths--> one call a path --symbolic--> Expr
    text     --grammar.lark--> tree --text--> Expr

Symbolic execution: the user's function is called with symbolic arguments and Python runs it. No
source is parsed, so lambdas, helpers, partials, closures and callable objects all work. This room
proves nothing and knows no tiles. It imports `ir` and never torch: it recognises torch's tensors
where the user has imported torch.
"""

from flexdsl.frontend.inline import inline
from flexdsl.frontend.text import parse_program
from flexdsl.frontend.trace import Traced, trace

__all__ = ["Traced", "inline", "parse_program", "trace"]
