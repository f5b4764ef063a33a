"""Training in several processes: the same policy as in one, and nothing left behind, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from filelock import FileLock

from prefdistill.errors import RecipeError, TrainError
from prefdistill.protocols import RunContext, TrainingData
from prefdistill.recipe import load_recipe
from prefdistill.records import Policy
from prefdistill.student import adapter_state
from prefdistill.trainers import launching, worker
from prefdistill.trainers.checkpoints import is_complete, last_checkpoint
from prefdistill.trainers.dpo import DPOTrainer
from prefdistill.trainers.launching import Launch
from tests.conftest import ROOT
from tests.tiny_student import build_tiny_student, pairs, section

OPTIONS = {"learning_rate": 2e-3, "batch_size": 8, "lora": {"r": 4, "alpha": 8}, "epochs": 2}
TWO = {"launch": {"processes": 2}}
CONFIG = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_machines: 1\nnum_processes: 2\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny")


def train(folder, run, name="round-01", progress=None, start=None, reference=None, count=16, number=1, **options):
    trainer = DPOTrainer.model_validate({**OPTIONS, **options})
    student = section(folder, dtype=trainer.extra.get("dtype", "auto"))
    context = RunContext(directory=run, seed=0, student=student, progress=progress or (lambda *call: None))
    trainer.open(context)
    base = Policy(model=str(folder))
    data = TrainingData(pairs(count, round=number))
    return trainer.train(data, start or base, reference or base, run / name / "5-policy", 7)


def log_of(run, policy):
    return [json.loads(line) for line in (run / policy.adapter / "metrics.jsonl").read_text().splitlines()]


def weights(run, policy):
    return (run / policy.adapter / "adapter_model.safetensors").read_bytes()


def distance(run, first, second):
    """The relative distance of two policies' adapters."""
    one, other = (adapter_state(run / policy.adapter) for policy in (first, second))
    assert one.keys() == other.keys()
    squares = [(float(((one[name] - other[name]) ** 2).sum()), float((one[name] ** 2).sum())) for name in one]
    return (sum(each[0] for each in squares) / sum(each[1] for each in squares)) ** 0.5


def assert_equal_training(run, one, many):
    for first, second in zip(log_of(run, one.policy), log_of(run, many.policy), strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
        assert second["rewards/margins"] == pytest.approx(first["rewards/margins"], abs=1e-5)
        assert second["logps/chosen"] == pytest.approx(first["logps/chosen"], abs=1e-3)
    assert distance(run, one.policy, many.policy) < 1e-4
    counts = {"pairs", "pairs_dropped", "steps", "truncated"}
    assert many.model_dump(include=counts) == one.model_dump(include=counts)


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_drop_the_same_remainder(folder, tmp_path):
    seen = []
    many = train(folder, tmp_path, progress=lambda *call: seen.append(call), count=19, **TWO)
    one = train(folder, tmp_path, "round-02", count=19)
    assert_equal_training(tmp_path, one, many)
    assert (many.pairs, many.pairs_dropped, many.steps) == (16, 3, 4)
    assert [call[:3] for call in seen] == [("train", step, 4) for step in range(5)]
    assert seen[0][3] == "starting 2 processes"
    assert seen[1][3].startswith("loss 0.69")
    assert not {"launch", "checkpoints"} & {path.name for path in (tmp_path / many.policy.adapter).iterdir()}


SPY = """
import json, os, sys
from pathlib import Path
from prefdistill.trainers import building, worker

plain = building.trainer_class()
class Spy(plain):
    def compute_loss(self, model, inputs, *rest, **named):
        rows = [[int(each) for each, kept in zip(row, mask) if kept]
                for row, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist())]
        with open(os.environ["SPIED"] + os.environ["RANK"], "a") as file:
            file.write(json.dumps([self.state.global_step, self.args.world_size, rows]) + "\\n")
        return super().compute_loss(model, inputs, *rest, **named)
building.trainer_class = lambda algorithm: Spy
worker.main(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_each_step_sees_the_pairs_that_it_sees_in_one_process(folder, tmp_path, monkeypatch):
    """Read from what the processes really computed on, not from what the samplers promise."""
    (tmp_path / "spying.py").write_text(SPY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SPIED", str(tmp_path / "rank-"))
    monkeypatch.setattr(launching, "WORKER", "spying")
    train(folder, tmp_path, count=21, micro_batch=2, **TWO)
    steps = {}
    for rank in (0, 1):
        lines = [json.loads(line) for line in (tmp_path / f"rank-{rank}").read_text().splitlines()]
        assert len(lines) == 8
        for step, world, rows in lines:
            assert world == 2
            assert len(rows) == 4  # two pairs, chosen and rejected
            steps.setdefault(step, []).extend(rows)
    spied = []
    monkeypatch.setattr(launching, "WORKER", "none")
    from prefdistill.trainers import dpo

    original = dpo.to_columns
    monkeypatch.setattr(dpo, "to_columns", lambda wanted: spied.append(wanted) or original(wanted))
    train(folder, tmp_path, "round-02", count=21)
    for number, step in enumerate(spied[0]):
        wanted = [row.prompt_ids + part for row in step for part in (row.chosen_ids, row.rejected_ids)]
        assert sorted(steps[number]) == sorted(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["base", "previous"])
@pytest.mark.parametrize(
    "options", [{}, {"extra": {"ld_alpha": 0.5}, "micro_batch": 2}], ids=["scored", "in every step"]
)
def test_a_later_round_is_trained_equally(folder, tmp_path, reference, options):
    start = train(folder, tmp_path).policy
    against = start if reference == "previous" else None
    parts = {"start": start, "reference": against, "number": 2, **options}
    one = train(folder, tmp_path, "round-02", **parts)
    many = train(folder, tmp_path, "round-03", **parts, **TWO)
    assert_equal_training(tmp_path, one, many)
    assert many.first_loss == pytest.approx(one.first_loss, abs=1e-6)


@pytest.mark.slow
def test_a_config_of_ones_own_trains_equally(folder, tmp_path):
    (tmp_path / "accelerate.yaml").write_text(CONFIG + "mixed_precision: bf16\n")
    one = train(folder, tmp_path)
    many = train(folder, tmp_path, "round-02", launch={"processes": 2, "config": str(tmp_path / "accelerate.yaml")})
    assert_equal_training(tmp_path, one, many)


@pytest.mark.slow
def test_four_processes_train_equally(folder, tmp_path):
    one, many = train(folder, tmp_path), train(folder, tmp_path, "round-02", launch={"processes": 4})
    assert_equal_training(tmp_path, one, many)


def test_one_process_without_config_is_this_one(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "_watch", lambda *call: pytest.fail("a process was started"))
    plain = train(folder, tmp_path, epochs=1)
    (tmp_path / "round-02" / "5-policy" / "launch").mkdir(parents=True)  # of an attempt that failed
    one = train(folder, tmp_path, "round-02", epochs=1, launch={"processes": 1})
    assert weights(tmp_path, plain.policy) == weights(tmp_path, one.policy)
    assert not (tmp_path / "round-02" / "5-policy" / "launch").exists()


# What goes wrong


def a_job(folder, **changes) -> Path:
    task = launching.Task(
        processes=2, started_by="accelerate.yaml", alive="alive.lock", threads=1, student={}, start=Policy(model="m"),
        reference=Policy(model="m"), directory=folder, lora=(4, 8, 0.0), options={}, scored=False, resume=None,
        metrics=folder / "metrics.jsonl", checkpoint_seconds=0.0,
    )  # fmt: skip
    path = folder / "job.json"
    path.write_text(task.model_copy(update=changes).model_dump_json())
    return path


def test_a_process_that_is_not_one_of_as_many_as_wanted_fails(tmp_path):
    path = a_job(tmp_path)
    with FileLock(tmp_path / "alive.lock"):
        ended = subprocess.run(
            [sys.executable, "-m", "prefdistill.trainers.worker", str(path)], capture_output=True, text=True, timeout=60
        )
    assert ended.returncode == 1
    fault = launching.Fault.model_validate_json((tmp_path / "failed-0.json").read_bytes())
    assert fault.kind == "error"
    assert fault.message.startswith("train.launch: accelerate.yaml started 1 process; expected 2 (launch.processes)")
    (tmp_path / "log.txt").write_text(ended.stderr)
    told = str(launching._failure(tmp_path, 1, Launch(processes=2)))
    assert told.startswith("train.launch: accelerate.yaml started 1 process; expected 2")
    assert "(in process 0 of 2; all output: " in told
    assert "MULTI_CPU" in told


@pytest.mark.slow
def test_a_config_that_starts_one_process_is_noticed_by_the_child(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "fault_of", lambda *call: None)
    path = tmp_path / "accelerate.yaml"
    path.write_text(CONFIG.replace("MULTI_GPU", "MULTI_CPU"))
    with pytest.raises(TrainError, match="started 1 process; expected 2"):
        train(folder, tmp_path, launch={"processes": 2, "config": str(path)})
    assert not left_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("num_processes: 2", "num_processes: 1"), "num_processes is 1, but launch.processes is 2"),
        (("MULTI_GPU", "MULTI_CPU"), "MULTI_CPU starts one process, not 2; write MULTI_GPU"),
        (("MULTI_GPU", "'NO'"), "NO starts one process"),
        (("num_machines: 1", "num_machines: 2"), "num_machines is 2; the run starts its processes on one machine"),
        (("LOCAL_MACHINE", "AMAZON_SAGEMAKER"), "expected LOCAL_MACHINE"),
        (("num_machines: 1", "num_machines: [1"), "not valid YAML"),
    ],
)
def test_a_config_that_cannot_do_it_is_refused_with_the_recipe(tiny_recipe, change, told):
    (tiny_recipe.parent / "accelerate.yaml").write_text(CONFIG.replace(*change))
    with pytest.raises(RecipeError, match=r"train\.launch") as problem:
        load_recipe(tiny_recipe, ["train.launch={processes: 2, config: accelerate.yaml}"])
    assert told in str(problem.value)


def test_what_needs_torch_to_be_checked_is_checked_before_anything_is_sampled(folder, tmp_path, monkeypatch):
    path = tmp_path / "accelerate.yaml"
    path.write_text(CONFIG + "fsdp: true\n")
    context = RunContext(directory=tmp_path, seed=0, student=section(folder))
    with pytest.raises(TrainError, match=r"train\.launch\.config: .*unknown keys \(\['fsdp'\]\)"):
        DPOTrainer(**OPTIONS, launch=Launch(processes=2, config=path)).open(context)
    DPOTrainer(**OPTIONS, **TWO).open(context)
    monkeypatch.setattr("prefdistill.student.device_of", lambda student: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainError, match=r"found 2, but PyTorch sees 1 CUDA device"):
        DPOTrainer(**OPTIONS, **TWO).open(context)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.launch={processes: 2, config: nowhere.yaml}"], "no such file"),
        (["train.launch={processes: 0}"], "greater than or equal to 1"),
        (["train.launch={proceses: 2}"], "did you mean `processes`"),
        (["train.launch={processes: 3}"], "launch.processes 3 does not divide batch_size 4"),
        (
            ["train.launch={processes: 2}", "train.micro_batch=4"],
            "micro_batch 4 does not divide batch_size 4 / 2 processes",
        ),
    ],
)
def test_a_launch_that_cannot_be_is_refused_with_the_recipe(tiny_recipe, overrides, told):
    with pytest.raises(RecipeError, match=r"train") as problem:
        load_recipe(tiny_recipe, overrides)
    assert told in str(problem.value)


def test_the_config_is_found_beside_the_recipe_and_changes_no_policy_fingerprint(tiny_recipe, monkeypatch):
    (tiny_recipe.parent / "accelerate.yaml").write_text(CONFIG)
    monkeypatch.chdir("/")
    trainer = load_recipe(tiny_recipe, ["train.launch={processes: 2, config: accelerate.yaml}"]).train.trainer
    assert trainer.launch.config == (tiny_recipe.parent / "accelerate.yaml").resolve()
    assert trainer.identity() == load_recipe(tiny_recipe).train.trainer.identity()
    assert trainer.launch.mark != Launch(processes=2).mark


@pytest.mark.parametrize("fault", ["missing", "torn"])
def test_each_process_must_have_left_its_random_state(tmp_path, fault):
    path = tmp_path / "checkpoint-3"
    path.mkdir()
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt"):
        (path / name).write_bytes(b"x")
    (path / "trainer_state.json").write_text('{"global_step": 3}')
    for rank in (0, 1):
        torch.save({"cpu": torch.random.get_rng_state()}, path / f"rng_state_{rank}.pth")
    assert is_complete(path, 2)
    assert not is_complete(path, 1)
    assert not is_complete(path, 3)
    last = path / "rng_state_1.pth"
    if fault == "missing":
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[:-30])
    assert not is_complete(path, 2)
    assert last_checkpoint(tmp_path, 2) is None


def test_memory_that_runs_out_in_a_child_is_the_parents_to_answer(tmp_path):
    for rank, kind, message in ((0, "bug", "RuntimeError: connection closed"), (1, "memory", "CUDA out of memory")):
        fault = launching.Fault(kind=kind, message=message)
        (tmp_path / f"failed-{rank}.json").write_text(fault.model_dump_json())
    (tmp_path / "log.txt").write_text("")
    with pytest.raises(torch.OutOfMemoryError, match="process 1 of 2"):
        raise launching._failure(tmp_path, 1, Launch(processes=2))


@pytest.mark.parametrize(
    ("code", "log", "kind", "told"),
    [
        (1, "  exitcode  : 1\n  exitcode  : -9 (pid: 7)\n", "bug", "ended by signal 9"),
        (-9, "", "bug", "ended by signal 9"),
        (1, "  exitcode  : -15 (pid: 7)\n", "bug", "process 0 of 2 failed: it broke"),
        (1, "  exitcode  : -9 (pid: 7)\n", "error", "it broke (in process 0 of 2"),
        (1, "first\n\nlast words\n", None, "ended with status 1: last words (all output: "),
        (1, "", None, "it said nothing"),
    ],
)
def test_a_failure_is_told_by_its_cause(tmp_path, code, log, kind, told):
    (tmp_path / "log.txt").write_text(log)
    if kind:
        (tmp_path / "failed-0.json").write_text(launching.Fault(kind=kind, message="it\nbroke").model_dump_json())
    assert told.replace("it broke (", "it\nbroke (") in str(launching._failure(tmp_path, code, Launch(processes=2)))


def test_a_launch_around_this_process_is_not_taken_over(folder, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "ACCELERATE_MIXED_PRECISION", "FSDP_VERSION", "OMP_NUM_THREADS", "MY_RANK"):
        monkeypatch.setenv(name, "1")
    launched = launching.Launched(Launch(processes=2), section(folder), (), Path(), Path(), (1, 1, 0.0), {}, ())
    environment = launching._environment(launched)
    assert not {"WORLD_SIZE", "RANK", "ACCELERATE_MIXED_PRECISION", "FSDP_VERSION"} & environment.keys()
    assert environment["MY_RANK"] == environment["OMP_NUM_THREADS"] == "1"
    assert environment["ACCELERATE_USE_CPU"] == "true"


# Killed


def left_of(run: Path) -> list[str]:
    """Processes that name the run folder in their command line."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if f"{run}{os.sep}" in line and "prefdistill" in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


def wait_until(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return seen


def test_a_process_ends_with_its_parent(tmp_path):
    alive = tmp_path / "alive.lock"
    parent = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from filelock import FileLock\n"
         "lock = FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(100)", str(alive)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert parent.stdout.readline() == b"held\n"
    script = "import sys, time; from pathlib import Path; from prefdistill.trainers.worker import end_with_parent\n"
    script += "end_with_parent(Path(sys.argv[1])); time.sleep(100)"
    children = [subprocess.Popen([sys.executable, "-c", script, str(alive)]) for _ in range(2)]
    try:
        time.sleep(1.0)
        assert [child.poll() for child in children] == [None, None]
        parent.kill()
        assert [child.wait(20) for child in children] == [worker.ORPHAN, worker.ORPHAN]
    finally:
        for process in (parent, *children):
            process.kill()
            process.wait()


def started(folder, run) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """Start a training of 60 steps in a process of its own; return it and its children when five steps are done."""
    script = (
        "import sys; from pathlib import Path; from tests.trainers.test_launch import train, TWO\n"
        "train(Path(sys.argv[1]), Path(sys.argv[2]), epochs=30, checkpoint_seconds=0.0, **TWO)"
    )
    command = [sys.executable, "-c", script, str(folder), str(run)]
    parent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = run / "round-01" / "5-policy" / "metrics.jsonl"
    try:
        wait_until(
            lambda: parent.poll() is not None or (metrics.exists() and len(metrics.read_bytes().splitlines()) >= 5)
        )
        assert parent.poll() is None, parent.stderr.read()
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 3  # the launcher and two processes
    except BaseException:
        parent.kill()
        raise
    return parent, children


@pytest.mark.slow
def test_all_killed_in_the_middle_and_gone_on_ends_in_the_same_bytes(folder, tmp_path):
    whole = train(folder, tmp_path, "round-02", epochs=30, **TWO)
    parent, children = started(folder, tmp_path)
    for process in (parent, *children):
        process.send_signal(signal.SIGKILL)
    parent.wait()
    steps = []
    resumed = train(
        folder, tmp_path, epochs=30, checkpoint_seconds=0.0, progress=lambda *call: steps.append(call[1]), **TWO
    )
    assert 4 <= steps[1] < 60
    assert steps[1:] == list(range(steps[1], 61))
    assert weights(tmp_path, resumed.policy) == weights(tmp_path, whole.policy)
    assert [each["loss"] for each in log_of(tmp_path, resumed.policy)] == [
        each["loss"] for each in log_of(tmp_path, whole.policy)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda each: each.name
)
def test_a_parent_that_is_ended_leaves_no_process(folder, tmp_path, sent):
    parent, children = started(folder, tmp_path)
    parent.send_signal(sent)
    parent.wait(30)
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not left_of(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["launcher", "process"])
def test_a_child_that_is_killed_is_a_clear_error_and_leaves_no_process(folder, tmp_path, which):
    parent, children = started(folder, tmp_path)
    launcher = next(each for each in children if "accelerate.commands.launch" in each.cmdline())
    victim = launcher if which == "launcher" else launcher.children()[-1]
    victim.kill()
    _, said = parent.communicate(timeout=60)
    assert parent.returncode != 0
    assert "TrainError: train.launch: " in said
    assert "signal 9" in said
    assert not psutil.wait_procs(children, timeout=10)[1]
