"""The runtime: attention on tensors. Only it, and the rooms that stand on it, import torch.

    attention  ->  validate, bind  ->  cpu | reference | triton_forward
                                       cpu -> cpu_backward

`attention` checks its arguments, binds captures and finds the plan, and hands over to one executor.
Executors take what was bound and never look at a user's function; only the reference does, so that
it stays an independent oracle. `evaluate` gives each op of an expression its meaning on tensors.
Nothing is imported here, so that `flexdsl` itself loads without torch.
"""
