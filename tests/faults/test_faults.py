"""Every silent failure has a voice: each injected fault is named by a warning, a stop or an error, whatever the seed.

One seed of the cheapest runs with every test run, on a handful of prompts; `-m slow` runs all faults, three seeds each.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.injected import FAULTS, Fault, Outcome, run_broken

HANDFUL = (
    "loop.prompts_per_round=16", "train.batch_size=8", "train.epochs=1", "prompts.validation_limit=8",
    "prompts.test_limit=4",
)  # fmt: skip
SEEDS = (1, 2, 3)


def applies(fault: Fault) -> None:
    """Skip a fault that this machine cannot have."""
    if fault.needs and fault.needs not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"{fault.name}: the fault needs a CPU with {fault.needs}")


def check(fault: Fault, seed: int, found: Outcome) -> None:
    assert found.names(fault.expected), f"{fault.name}, seed {seed}: expected {fault.expected}\n{found}"


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda fault: fault.name)
def test_a_cheap_fault_is_named(fault, tmp_path, monkeypatch):
    check(fault, 1, run_broken(fault, 1, tmp_path, monkeypatch, *HANDFUL))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named(fault, seed, tmp_path, monkeypatch):
    applies(fault)
    check(fault, seed, run_broken(fault, seed, tmp_path, monkeypatch))


def test_sixteen_kinds_of_faults_are_injected():
    kinds = {fault.kind for fault in FAULTS}
    assert kinds == set(range(1, 17))
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
