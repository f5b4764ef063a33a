import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prefdistill.export import command, fresh, verifying
from tests.export.runs import make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("export"))


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the check's job here: the process of its own has its own test, and costs seconds to start."""

    def here(folder, job, cpu):
        before = Path.cwd()
        os.chdir(folder)
        try:
            return fresh.answer(job)
        finally:
            os.chdir(before)

    monkeypatch.setattr(verifying, "run_fresh", here)


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., list[str]]:
    """Export a run into `tmp_path/out` (or `to`) and return the lines that were printed."""

    def run(source: Path, to: str = "out", confirm=lambda text: False, **options) -> list[str]:
        lines: list[str] = []
        wanted = command.Wanted(folder=tmp_path / to, **{"probes": 2, **options})
        command.export_run(source, wanted, lines.append, confirm)
        return lines

    return run
