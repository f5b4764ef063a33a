"""Training in several processes: the run's own process starts them with `accelerate launch`, watches, and ends them.

Place in the flow: inside the trainer's `train`, in the place of `trainer.train()`. The parent has loaded the start policy
and the reference and has measured what is to be measured; the children (`prefdistill.trainers.worker`) optimise, and
hand back the adapter and the log. The job is plain JSON in `5-policy/launch/`, which is removed when it is done.

No process is left behind: children wait for a lock that the parent holds. The operating system lets go of it when the
parent ends, however it ends, and whoever gets the lock has no parent any more and ends itself.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from prefdistill.documents import load_document
from prefdistill.errors import RecipeError, TrainError
from prefdistill.records import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefdistill.sections import StudentSection
    from prefdistill.trainers.building import Algorithm

ONE_PROCESS = ("NO", "MULTI_CPU")
"""accelerate's `distributed_type`s that start one process here, whatever `num_processes` says."""
CONFIGURED, WORKER = "accelerate.yaml", "prefdistill.trainers.worker"
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 10.0
"""What the launcher gets to end its processes before it is killed; they end by themselves too."""
INHERITED = re.compile(
    r"(ACCELERATE|FSDP|TORCHELASTIC|PARALLELISM_CONFIG)_|"
    r"(RANK|LOCAL_RANK|GROUP_RANK|ROLE_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT)$"
)
"""Environment variables of a launch around this process; its own launch must not take them over."""


class Launch(BaseModel):
    """Training in several processes of this machine, started by `accelerate launch`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    processes: int = Field(ge=1)
    """How many; 1 without `config` trains in the run's own process, as without `launch`."""
    config: Path | None = None
    """A file of `accelerate config`, relative to the recipe; DDP on this machine by default. FSDP and DeepSpeed are
    whatever this file makes of them: they are not tested."""

    @field_validator("config")
    @classmethod
    def _beside_the_recipe(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return None
        full = (Path((info.context or {}).get("directory", Path.cwd())) / path.expanduser()).resolve()
        if not full.is_file():
            raise ValueError(
                f"no such file: {full}; expected one of `accelerate config` (paths are relative to the recipe)"
            )
        return full

    @model_validator(mode="after")
    def _config_starts_as_many(self) -> Self:
        if self.config is not None:
            try:
                config = load_document(self.config, RecipeError).data
            except RecipeError as problem:
                raise ValueError(str(problem)) from None
            fault = fault_of(config, self.processes)
            if fault:
                raise ValueError(f"{self.config}: {fault}")
        return self

    @property
    def starts_processes(self) -> bool:
        """Whether training leaves this process."""
        return self.processes > 1 or self.config is not None

    @property
    def mark(self) -> list[Any]:
        """What a checkpoint depends on beside the pairs: the world size, and how it was configured."""
        return [self.processes, self.config.read_text(encoding="utf-8") if self.config else None]


def fault_of(config: Mapping[str, Any], processes: int) -> str | None:
    """Return why an accelerate config cannot start `processes` processes on this machine, None where it can."""
    if config.get("num_machines") not in (None, 1):
        return (
            f"num_machines is {config['num_machines']}; the run starts its processes on one machine: set num_machines "
            "to 1"
        )
    if config.get("compute_environment") not in (None, "LOCAL_MACHINE"):
        return f"compute_environment is {config['compute_environment']}; expected LOCAL_MACHINE"
    if config.get("num_processes") not in (None, processes):
        return f"num_processes is {config['num_processes']}, but launch.processes is {processes}; make them equal"
    kind = str(config.get("distributed_type", "NO"))
    if processes > 1 and kind in ONE_PROCESS:
        return (
            f"distributed_type {kind} starts one process, not {processes}; write MULTI_GPU, on a CPU too, or leave "
            "`config` out"
        )
    return None


def check_launch(launch: Launch, student: StudentSection) -> None:
    """Check what needs torch to be checked, before anything is sampled.

    Raises:
        TrainError: accelerate cannot read the config, or there are fewer devices than processes.
    """
    import torch
    from accelerate.commands.config.config_args import load_config_from_file

    from prefdistill.student import device_of

    if launch.config is not None:
        try:
            load_config_from_file(str(launch.config))
        except (AttributeError, TypeError, ValueError) as problem:
            raise TrainError(
                f"train.launch.config: {problem}; expected a file as `accelerate config --config_file FILE` writes it"
            ) from None
    elif device_of(student).type == "cuda" and torch.cuda.device_count() < launch.processes:
        raise TrainError(
            f"train.launch.processes: found {launch.processes}, but PyTorch sees {torch.cuda.device_count()} CUDA "
            "device(s); each process needs one: lower it, or train on the CPU with student.device: cpu"
        )


class Task(BaseModel):
    """What the children are told: job.json. Tokens are in columns.json beside it; no secret is in either."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: int
    started_by: str
    """Whose number of processes it is, for messages."""
    alive: str
    """Name of the lock that the parent holds as long as it lives."""
    threads: int
    """Torch threads of each process."""
    student: dict[str, Any]
    start: Policy
    reference: Policy
    directory: Path
    """The run folder."""
    lora: tuple[int, int, float]
    """Rank, alpha, dropout."""
    options: dict[str, Any]
    """Those of TRL's config."""
    algorithm: Literal["dpo", "sft", "logits", "distillation"] = "dpo"
    scored: bool
    """Whether the columns hold the reference's log-probabilities."""
    resume: Path | None
    metrics: Path
    checkpoint_seconds: float


class Fault(BaseModel):
    """What a child says when it fails: failed-RANK.json."""

    kind: Literal["error", "memory", "bug"]
    message: str


@dataclass(frozen=True)
class Launched:
    """Everything that one launch needs beside the trainer that the parent has built."""

    launch: Launch
    student: StudentSection
    policies: tuple[Policy, Policy]
    """Start and reference."""
    directory: Path
    """The run folder."""
    folder: Path
    """The new policy's folder."""
    lora: tuple[int, int, float]
    options: Mapping[str, Any]
    watch: tuple[Path, float, Callable[[int, int, Mapping[str, float]], None]]
    """metrics.jsonl, seconds between checkpoints, and what is called after each step."""
    algorithm: Algorithm = "dpo"


def train_in_processes(trainer: Any, launched: Launched, resume: Path | None) -> None:
    """Do what `trainer.train(resume)` does in `launched.launch.processes` processes, and leave `trainer` as it would.

    Afterwards the trainer's adapter holds the trained weights and its state the log. Each optimiser step sees exactly
    the pairs that it would see in one process: the batches are dealt out in order, one a process.

    Raises:
        TrainError: a process failed; its last words are in the message and its output in `launch/log.txt`.
        torch.OutOfMemoryError: a process ran out of memory.
    """
    from prefdistill.trainers.building import load_into

    folder = launched.folder / "launch"
    folder.mkdir(parents=True)
    task = _write_job(trainer, launched, resume, folder)
    with _alive(folder / task.alive):
        code = _watch(
            _command(launched, task, folder), _environment(launched), folder, launched, len(trainer.train_dataset)
        )
    if code or not (folder / "history.json").is_file():
        raise _failure(folder, code, launched.launch)
    adapter = Policy(model=launched.policies[0].model, adapter=f"{folder.name}/adapter")
    load_into(trainer.model, "default", adapter, folder.parent)
    trainer.state.log_history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    shutil.rmtree(folder)


def _write_job(trainer: Any, launched: Launched, resume: Path | None, folder: Path) -> Task:
    import torch

    launch, student = launched.launch, launched.student
    task = Task(
        processes=launch.processes,
        started_by=str(launch.config) if launch.config else "accelerate launch",
        alive=f"{secrets.token_hex(8)}.lock",
        threads=max(1, torch.get_num_threads() // launch.processes),
        # The source is absolute, so that the child needs no recipe to find it.
        student=student.model_copy(update={"model": student.source, "system": None}).model_dump(mode="json"),
        start=launched.policies[0],
        reference=launched.policies[1],
        directory=launched.directory.resolve(),
        lora=launched.lora,
        options=dict(launched.options),
        algorithm=launched.algorithm,
        scored=bool(getattr(trainer, "precompute_ref_logps", False)),
        resume=resume.resolve() if resume else None,
        metrics=launched.watch[0].resolve(),
        checkpoint_seconds=launched.watch[1],
    )
    (folder / "columns.json").write_text(json.dumps(trainer.train_dataset.to_dict()), encoding="utf-8")
    (folder / "job.json").write_text(task.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return task


@contextmanager
def _alive(path: Path) -> Iterator[None]:
    """Hold the lock that tells the children that their parent is there."""
    from filelock import FileLock

    lock = FileLock(path)
    lock.acquire(timeout=0)
    try:
        yield
    finally:
        lock.release()


def _command(launched: Launched, task: Task, folder: Path) -> list[str]:
    """Return the command line, with this interpreter's own accelerate."""
    launch = launched.launch
    config = launch.config or folder / CONFIGURED
    if launch.config is None:
        # A file of our own, or accelerate would read the one that the user once made for something else. On a CPU
        # too: --cpu and MULTI_CPU start one process without a word.
        config.write_text(
            "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_machines: 1\nmachine_rank: 0\n"
            f"num_processes: {launch.processes}\n",
            encoding="utf-8",
        )
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)),
        *("--num_processes", str(launch.processes)),
        *("--main_process_port", "0"),  # a free one
        *("--num_cpu_threads_per_process", str(task.threads)),
        *("--mixed_precision", "no"),  # the type of computation is the student's, as in one process
        *("-m", WORKER, str(folder.resolve() / "job.json")),
    ]


def _environment(launched: Launched) -> dict[str, str]:
    from prefdistill.student import device_of

    kept = {name: value for name, value in os.environ.items() if not INHERITED.match(name)}
    # Without the first, a folder of the working directory named like a library would be imported in its place.
    return {
        **kept,
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **({"ACCELERATE_USE_CPU": "true"} if device_of(launched.student).type == "cpu" else {}),
    }


def _watch(command: Sequence[str], environment: Mapping[str, str], folder: Path, launched: Launched, rows: int) -> int:
    """Run a command to its end, passing on each step that is logged, and return its exit status."""
    metrics, _, report = launched.watch
    options = launched.options
    batch = options["per_device_train_batch_size"] * options["gradient_accumulation_steps"] * launched.launch.processes
    done = 0
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the others
        )
        try:
            while True:
                ended = _ended(process)
                lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
                for line in lines[done:]:
                    if line.endswith("\n"):
                        entry, done = json.loads(line), done + 1
                        report(entry["step"], rows // batch, entry)
                if ended:
                    return process.returncode
        finally:
            _end(process)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the launcher where it still runs; it ends its processes."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _failure(folder: Path, code: int, launch: Launch) -> Exception:
    """Return what the first process that failed said, or else what is known about how it ended."""
    import torch

    where = folder / "log.txt"
    text = where.read_text(encoding="utf-8", errors="replace")
    # The launcher ends those that are left with signal 15.
    signals = (
        [str(-code)] if code < 0 else [each for each in re.findall(r"exitcode\s*:\s*-(\d+)", text) if each != "15"]
    )
    said = [(path, Fault.model_validate_json(path.read_bytes())) for path in folder.glob("failed-*.json")]
    # A process that was cut off from one that ended says so as well, as a bug of its own: the cause comes first.
    said = [each for each in said if each[1].kind != "bug" or not signals]
    if said:
        path, fault = min(said, key=lambda each: (each[1].kind == "bug", each[0].stat().st_mtime))
        place = f"process {path.stem.removeprefix('failed-')} of {launch.processes}"
        if fault.kind == "memory":
            return torch.OutOfMemoryError(f"out of memory in {place}: {fault.message}")
        if fault.kind == "error":
            return TrainError(f"{fault.message} (in {place}; all output: {where})")
        return TrainError(f"train.launch: {place} failed: {' '.join(fault.message.split())} (all output: {where})")
    if signals:
        return TrainError(
            f"train.launch: a process was ended by signal {signals[0]}; signal 9 is often the system's lack of memory: "
            f"lower train.micro_batch or launch.processes. What was trained up to the last checkpoint is kept: run "
            f"again to go on (all output: {where})"
        )
    words = [line.strip() for line in text.splitlines() if line.strip()]
    last = words[-1] if words else "it said nothing"
    return TrainError(f"train.launch: `accelerate launch` ended with status {code}: {last} (all output: {where})")
