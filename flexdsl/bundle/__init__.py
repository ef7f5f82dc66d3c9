"""Bundles: kernels in machine code with all that is needed to run them, as files.

    folder --files--> Bundle(manifest, folder)
        expressions.py   expressions as data, and back
        manifest.py      what a bundle says of itself: variants, builds, kernels
        schema.py        the JSON schema of that, `manifest.schema.json`, and its check
        files.py         opening a folder: version, digests, what is there
        words.py         the parameters of a kernel, as the machine gets them
        assembly.py      what a kernel's assembly says of them
        driver.py        what runs kernels: a narrow protocol
        cuda.py          the driver of NVIDIA GPUs, by its C interface alone
        describe.py      a bundle in words

A bundle is data: opening one runs nothing that is in it. This room imports no tensor library, no
compiler and no parser. Which call takes which kernel is for the runtime; bundles are built by
`flexdsl/aot/`.
"""
