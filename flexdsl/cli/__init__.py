"""The `flexdsl` command: a thin shell over the public functions.

    main        the group of commands, and how a user's error is shown
    spec        what a SPEC argument names: a mod in a Python file, or inline text
    plan_command, check_command, build_command, ...      one command each

A command reads its arguments, calls the library and prints; anything worth testing by itself stands
in another room.
"""
