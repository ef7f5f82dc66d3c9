"""The runtime: attention on tensors. Only it, and the rooms that stand on it, import torch.

    attention -> eager                                  outside of a graph:
                 -> remembered                          a kind of call that was met is found, or
                 -> validate, bind.read                 checks; what the user's functions are now
              -> operator_direct, operator              one node of a graph, with a gradient:
                 -> bind.bind (memory, heads)           ranges and plans
                 -> executors: cpu, cpu_backward        on the CPU
                    -> slabs, workers                   pieces of a plan, on threads
                 -> executors: triton_forward, ...      one pass by kernels, whoever brings them
                    -> passes                           what it allocates; run again by addresses
                    -> call, blocks, differences        what each argument of a kernel is
                    -> call_table                       and its table, made once
                    -> low_rank, magnitude              terms of scores that are matrix products
                    -> launch, descriptors, compiled    kernels compiled by triton
                    -> bundles, bundled, machine        kernels of bundles, by the driver alone
                       -> replay                        either, launched again by the driver
                    -> splits                           few queries: by parts of the keys, how many
                    -> run_table                        tables of runs, and who starts first
                    -> device_plan, extremes, members   plans made on the device, by kernels
                       -> part_tiles                    which rows of a tile have a pair there
                    -> mask_bits                        masks evaluated once for a plan, by a kernel
                    -> own_tiles, narrow_tiles          which rows of a tile have a pair, and how
                                                        wide tiles are where few have
              -> operator_compiled, operator_paths      the same, as torch.compile traces it
              -> reference                              dense float64, the oracle
    load      -> eager                                  of a bundle: no compiler is imported
    explain   -> the same choices                       in words, and nothing runs

`attention` checks its arguments and reads the mods, and hands over to the operator: from there on a
call is tensors, numbers and two texts (`operator_programs`), whoever traces it. Where nobody does,
`operator_direct` hands the programs themselves to the executor. Executors take what
was bound and never look at a user's function; only the reference does, so that it stays an
independent oracle. `evaluate` gives each op of an expression its meaning on tensors.
Nothing is imported here, so that `flexdsl` itself loads without torch.
"""
