"""`prefdistill …` as a process of its own that begins at once: forked from a server that has imported everything.

    done = run_command(["validate", "recipe.yaml"], tmp_path)
    assert done.returncode == 0, done.stderr

The process has its own memory, folder, environment and streams, and dies of signals, like one that a shell starts; only
the seconds that importing torch takes are spent once a test worker. Tests of importing itself start Python.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryDirectory
from typing import NoReturn

PRELOADED = (
    "prefdistill.console",
    "prefdistill.loop",
    "prefdistill.trainers.dpo",
    "prefdistill.samplers.transformers",
    "transformers.models.llama.modeling_llama",
    "trl.trainer.dpo_trainer",
    "peft.tuners.lora.bnb",
    "scipy.stats",
    "statsmodels.stats.proportion",
    "tests.requests.judging_stage",
)


def forking() -> multiprocessing.context.ForkServerContext:
    """Return the context whose children begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def start_command(
    arguments: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    output: Path | None = None,
    largest_file: int | None = None,
) -> BaseProcess:
    """Start `prefdistill ARGUMENTS…` in a folder.

    Args:
        arguments: of the command line.
        folder: where it runs.
        environment: what is added to this process's.
        output: what it prints goes to this path with `.out` and `.err` added; nowhere by default.
        largest_file: bytes; writing beyond them fails, as on a disk without space.
    """
    streams = [f"{output}{end}" if output else os.devnull for end in (".out", ".err")]
    given = {**os.environ, "COLUMNS": "140", **(environment or {})}
    asked = (list(map(str, arguments)), str(folder), given, streams, largest_file)
    process = forking().Process(target=_command, args=asked)
    process.start()
    return process


def run_command(
    arguments: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    largest_file: int | None = None,
    seconds: float = 300,
) -> CompletedProcess[str]:
    """Run `prefdistill ARGUMENTS…` in a folder to its end; return its exit code and what it printed."""
    with TemporaryDirectory() as place:
        output = Path(place) / "printed"
        process = start_command(arguments, folder, environment, output, largest_file)
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise TimeoutExpired(list(map(str, arguments)), seconds)
        return CompletedProcess(list(map(str, arguments)), process.exitcode, *printed(output))


def printed(output: Path) -> tuple[str, str]:
    """Return what a command printed and what it said on standard error."""
    said, problems = (Path(f"{output}{end}").read_text() for end in (".out", ".err"))
    return said, problems


def _command(
    arguments: list[str], folder: str, environment: dict[str, str], streams: list[str], largest_file: int | None
) -> NoReturn:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner may ignore it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(streams, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = ["prefdistill", *arguments]
    from prefdistill.cli import main

    main()
