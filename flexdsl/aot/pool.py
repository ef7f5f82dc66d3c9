"""Many jobs on a few compiling processes. What comes of the machine code is not known here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from flexdsl.aot.specs import Job
from flexdsl.aot.worker import SETTINGS, UNSET, Made, receive, send
from flexdsl.errors import BackendError, FlexdslError


def compile_all(
    jobs: Mapping[str, Job], processes: int, done: Callable[[str], None]
) -> dict[str, Made]:
    """Compile each job; the first error stops all of them and is raised.

    Args:
        jobs: by the digest of what they are made of.
        processes: at most so many at a time.
        done: called with the digest of each job that is finished.
    """
    waiting: SimpleQueue[str] = SimpleQueue()
    for digest in jobs:
        waiting.put(digest)
    made: dict[str, Made] = {}
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with _Process() as process:
                while not errors:
                    digest = waiting.get_nowait()
                    made[digest] = process.make(jobs[digest], digest)
                    done(digest)
        except Empty:
            return
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=work, daemon=True) for _ in range(min(processes, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C: the processes are stopped, too
        errors.append(error)
        raise
    if errors:
        raise errors[0]
    return made


class _Process:
    """A worker, started with the first job."""

    def __enter__(self) -> _Process:
        environment = {k: v for k, v in os.environ.items() if k not in UNSET} | SETTINGS
        # It imports what this process imports, wherever it is started.
        environment["PYTHONPATH"] = os.pathsep.join(p or str(Path.cwd()) for p in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from flexdsl.aot.worker import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def make(self, job: Job, digest: str) -> Made:
        """Compile a job there."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            send(self._process.stdin, (job, digest))
            answer = receive(self._process.stdout)
        except (EOFError, OSError):
            code = self._process.wait()
            raise BackendError(
                f"the process that compiled kernel {job.phase.value} for {job.target.name} died",
                why=f"its exit status is {code}",
                fix="more memory, or fewer jobs at a time",
            ) from None
        if isinstance(answer, FlexdslError):
            raise answer
        assert isinstance(answer, Made)
        return answer
