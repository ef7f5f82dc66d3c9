"""The runtime: attention on tensors. Only it, and the rooms that stand on it, import torch.

    attention -> validate -> bind (memory)                  checks, captures, plans
              -> cpu_backward -> cpu, cpu_score             the CPU executor and its gradients:
                 -> slabs, workers                      pieces of a plan, on threads
              -> triton_forward -> cache, tuning, ...       launch of generated kernels
              -> reference                                  dense float64, the oracle

`attention` checks its arguments, binds captures and finds the plan, and hands over to one executor.
Executors take what was bound and never look at a user's function; only the reference does, so that
it stays an independent oracle. `evaluate` gives each op of an expression its meaning on tensors.
Nothing is imported here, so that `flexdsl` itself loads without torch.
"""
