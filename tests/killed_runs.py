"""Whole runs in processes that are killed: a helper that has imported everything, and forks a run whenever it is told to.

Importing torch and TRL takes longer than the run itself, so the helper does it once. Each run is a process of its own,
killed with SIGKILL from outside; it says in a file of shared memory what it is doing at the moment, and nothing else
about it differs from `prefdistill run`.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

STAGES = ("between", "sampling", "judging", "training", "evaluating", "writing")
STATE = struct.Struct("ii")
"""Index of the stage, and how many files were written whole so far."""


class Watched:
    """What a run is doing, in shared memory."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(STATE.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), STATE.size)

    @property
    def stage(self) -> str:
        return STAGES[STATE.unpack(self._memory[:])[0]]

    @property
    def writes(self) -> int:
        return STATE.unpack(self._memory[:])[1]

    def clear(self) -> None:
        """Note that a run begins."""
        self._memory[:] = bytes(STATE.size)

    def enter(self, stage: str) -> str:
        """Note the stage at work and return the one before."""
        before, writes = STATE.unpack(self._memory[:])
        self._memory[:] = STATE.pack(STAGES.index(stage), writes + (stage == "writing"))
        return STAGES[before]


class Helper:
    """The process that forks runs."""

    def __init__(self, folder: Path) -> None:
        self.state = Watched(folder / "state")
        self._path = folder / "state"
        self.checkpoints = folder / "checkpoints"
        """From which checkpoint each training of the last run went on, a line each."""
        self._log = (folder / "helper.log").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.killed_runs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=Path(__file__).parent.parent,
            env=environment,
        )
        assert self._line() == "ready"

    def start(self, recipe: Path, run: Path) -> int:
        """Fork a run and return its process id."""
        assert self._process.stdin is not None
        self.state.clear()
        self.checkpoints.unlink(missing_ok=True)
        self._process.stdin.write(json.dumps([str(self._path), str(recipe), str(run)]) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def result(self) -> int:
        """Wait for the run's end and return its exit code, negative for a signal."""
        return int(self._line())

    def kill(self, process: int) -> tuple[str, int]:
        """Kill the run; return what it was doing and its exit code, which is 0 where it had just ended."""
        os.kill(process, signal.SIGKILL)  # the helper reaps it with the next start, so the id is still its own
        code = self.result()
        return self.state.stage, code

    def ended(self) -> bool:
        """Whether the run has ended by itself; its result is then still to be asked for."""
        import select

        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def close(self) -> None:
        """End the helper."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._log.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, f"the helper ended: {Path(self._log.name).read_text()[-2000:]}"
        return line


@contextmanager
def during(state: Watched, stage: str) -> Iterator[None]:
    before = state.enter(stage)
    try:
        yield
    finally:
        state.enter(before)


def _noting(state: Watched, name: str, function: Any) -> Any:
    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        with during(state, name):
            return function(*arguments, **options)

    return wrapped


def note_stages(state: Watched) -> None:
    """Have the run say what it is doing."""
    from prefdistill import drafting, evaluation, run
    from prefdistill.trainers.dpo import DPOTrainer

    write, verdicts = drafting._Source._write, drafting._verdicts

    def sampling(source: Any) -> Iterator[Any]:
        rows = write(source)
        while True:
            with during(state, "sampling" if source.wanted.purpose == "train" else "evaluating"):
                row = next(rows, None)
            if row is None:
                return
            yield row

    def judging(shop: Any, wanted: Any, *rest: Any) -> Any:
        with during(state, "judging" if wanted.purpose == "train" else "evaluating"):
            return verdicts(shop, wanted, *rest)

    drafting._Source._write = sampling  # type: ignore[method-assign]
    drafting._verdicts = judging
    evaluation._both_orders = _noting(state, "evaluating", evaluation._both_orders)
    DPOTrainer.train = _noting(state, "training", DPOTrainer.train)  # type: ignore[method-assign]
    run.write_text = _noting(state, "writing", run.write_text)


def note_checkpoints(path: Path) -> None:
    """Have the run write down from which checkpoint each training goes on."""
    from prefdistill.trainers import tuning

    last = tuning.last_checkpoint

    def noted(*arguments: Any) -> Path | None:
        found = last(*arguments)
        with path.open("a") as file:
            file.write(f"{found.name if found else 'the start'}\n")
        return found

    tuning.last_checkpoint = noted


def main() -> None:
    """Import everything, then fork a run for each line of standard input."""
    import bitsandbytes  # noqa: F401
    import openai  # noqa: F401
    import peft  # noqa: F401
    import torch
    import trl  # noqa: F401
    from trl.trainer.dpo_trainer import DPOTrainer  # noqa: F401

    import prefdistill.loop
    from prefdistill.recipe import load_recipe
    from prefdistill.student import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=out, flush=True)
    child = 0
    for line in sys.stdin:
        state, recipe, folder = map(Path, json.loads(line))
        if child:
            os.waitpid(child, 0)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                note_stages(Watched(state))
                note_checkpoints(state.with_name("checkpoints"))
                prefdistill.loop.run_recipe(load_recipe(recipe), folder)
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        print(child, file=out, flush=True)
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, file=out, flush=True)


if __name__ == "__main__":
    main()
