"""One of several processes that train together: `python -m prefdistill.trainers.worker JOB`, started by `launching`.

It builds what the parent has built, from the same files by the same functions, optimises, and hands back the adapter
and the log. The first process alone writes.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from prefdistill.errors import PrefdistillError, TrainError
from prefdistill.trainers.launching import Fault, Task

ORPHAN = 3
"""Exit status of a process whose parent is gone."""


def main(path: Path) -> None:
    """Train as the job at `path` says, or leave the reason beside it and exit."""
    task, rank = Task.model_validate_json(path.read_bytes()), int(os.environ.get("RANK", "0"))
    end_with_parent(path.parent / task.alive)
    try:
        check_world(task, int(os.environ.get("WORLD_SIZE", "1")))
        optimise(task, path.parent, rank)
    except Exception as problem:
        from prefdistill.student import is_out_of_memory

        traceback.print_exc()
        known = isinstance(problem, PrefdistillError)
        kind = "memory" if is_out_of_memory(problem) else "error" if known else "bug"
        message = str(problem) if known else f"{type(problem).__name__}: {problem}"
        fault = Fault(kind=kind, message=message)
        said = path.parent / f"failed-{rank}.part"
        said.write_text(fault.model_dump_json(), encoding="utf-8")
        said.rename(said.with_suffix(".json"))  # at once: this process may be ended any moment
        leave(1)


def leave(status: int) -> None:
    """End this process without taking anything down: everything is written.

    Taking down gloo's process group can wait for ever: it joins its thread while holding the interpreter, which that
    thread wants for a tensor that it lets go of.
    """
    atexit._run_exitfuncs()  # trackers send what they have left
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def end_with_parent(alive: Path) -> None:
    """End this process as soon as the lock `alive`, which its parent holds, is free: the parent is gone then."""
    from filelock import FileLock

    def wait() -> None:
        try:
            FileLock(alive).acquire(poll_interval=0.2)
        finally:
            os._exit(ORPHAN)  # also when the folder is gone

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def check_world(task: Task, found: int) -> None:
    """Compare the number of processes that were started with the number wanted.

    Raises:
        TrainError: they differ; every process would train, and write, something else than the recipe says.
    """
    if found != task.processes:
        raise TrainError(
            f"train.launch: {task.started_by} started {found} process{'es' * (found != 1)}; expected {task.processes} "
            "(launch.processes); in an accelerate config check num_processes and distributed_type (MULTI_CPU starts one "
            "process without a word: write MULTI_GPU), or leave launch.config out"
        )


def optimise(task: Task, folder: Path, rank: int) -> None:
    """Build the trainer, train, write adapter and log to `folder`, and leave."""
    import torch

    torch.set_num_threads(task.threads)
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ and not task.options["use_cpu"]:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    trainer = build(task, folder, rank)
    check_world(task, trainer.accelerator.num_processes)
    trainer.train(resume_from_checkpoint=str(task.resume) if task.resume else None)
    # Sharded weights (FSDP, ZeRO) are gathered by all processes together; DDP has them whole.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if rank == 0:
        trainer.model.save_pretrained(folder / "adapter", selected_adapters=["default"], state_dict=state)
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    leave(0)  # here, while the trainer is still held


def build(task: Task, folder: Path, rank: int) -> Any:
    """Return the trainer of the parent, built anew."""
    import datasets

    from prefdistill.sections import StudentSection
    from prefdistill.student import load_base, load_tokenizer, lora_config
    from prefdistill.trainers.building import build_trainer

    student = StudentSection.model_validate(task.student)
    columns = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    trainer = build_trainer(
        load_base(student, for_training=True),
        {name: values for name, values in columns.items() if not name.startswith("ref_")},
        load_tokenizer(student),
        lora_config(*task.lora),
        task.options,
        (task.start, task.reference),
        task.directory,
        (task.metrics if rank == 0 else Path(os.devnull), task.checkpoint_seconds, lambda *call: None),
        task.algorithm,
    )
    if task.scored:
        # The parent has scored the reference once, for all.
        trainer.train_dataset = datasets.Dataset.from_dict(columns)
        trainer.precompute_ref_logps = True
    trainer.add_callback(_agreement()())
    return trainer


def _agreement() -> type:
    from accelerate.utils import broadcast_object_list
    from transformers import TrainerCallback

    class Agreement(TrainerCallback):
        """Has every process save a checkpoint when the first one does: each has a clock of its own."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_save = broadcast_object_list([control.should_save])[0]

    return Agreement


if __name__ == "__main__":
    main(Path(sys.argv[1]))
