"""The run folder: paths, JSONL files that survive a kill, fingerprints, and what is still owed.

Appends flush per row; rewrites go to a temporary file and are renamed. A torn last line is cut off before the first
append, so its row is owed again. Fingerprints chain: an artefact is valid while everything it was made from is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from pydantic import ValidationError

from prefdistill.errors import RunError
from prefdistill.records import Row

RowType = TypeVar("RowType", bound=Row)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a disk that is full, read-only or in the way into a RunError that names the file."""
    try:
        yield
    except OSError as problem:
        raise RunError(
            f"{path}: cannot be written: {problem.strerror or problem}; expected a writable folder with free space; "
            "mend that and run the same command again; what was finished is kept"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write `text` whole or not at all: to a temporary file in the same folder, then renamed."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def as_json(value: Any) -> str:
    """Return `value` as the indented JSON of the run folder."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, as_json(value))


def read_json(path: Path) -> Any:
    """Read a JSON file of the run folder.

    Raises:
        RunError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise RunError(f"{path}:{problem.lineno}: not valid JSON ({problem.msg}); restore or remove the file") from None


class RowFile(Generic[RowType]):
    """A JSONL file of one kind of record, read by key and appended row by row."""

    def __init__(self, path: Path, kind: type[RowType]) -> None:
        self.path = path
        self.kind = kind
        self._file: IO[str] | None = None

    def read(self) -> dict[str, RowType]:
        """Return the rows by key, the last of equal keys winning; a torn last line is left out.

        Raises:
            RunError: a line that is not the last cannot be read.
        """
        if not self.path.exists():
            return {}
        rows: dict[str, RowType] = {}
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = self.kind.model_validate_json(line)
            except ValidationError as problem:
                if number == len(lines):
                    break
                raise RunError(
                    f"{self.path}:{number}: not a {self.kind.__name__} row ({problem.errors()[0]['msg']}); "
                    "restore the line, or remove it: it is then made again"
                ) from None
            rows[row.key()] = row
        return rows

    def append(self, row: RowType) -> None:
        """Add one row; it is handed to the operating system before this returns."""
        with disk_errors(self.path):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _cut_torn_line(self.path)
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(row.model_dump_json() + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file for appending."""
        if self._file is not None:
            file, self._file = self._file, None
            with disk_errors(self.path):
                file.close()

    def rewrite(self, rows: Iterable[RowType]) -> None:
        """Replace the file by `rows`, sorted by key."""
        self.close()
        write_text(self.path, "".join(row.model_dump_json() + "\n" for row in sorted(rows, key=lambda row: row.key())))

    def finish(self) -> dict[str, RowType]:
        """Sort the file by key, now that its stage is complete, and return the rows."""
        self.close()
        rows = self.read()
        self.rewrite(rows.values())
        return dict(sorted(rows.items()))


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that a kill left without its newline."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


class RunDirectory:
    """The folder of one run; every path in it is named here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._replaced = path / "replaced" / datetime.now().strftime("%Y-%m-%dT%H-%M-%S")

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        """Versions, seed, commit, machine, and choices made once."""
        return self.path / "manifest.json"

    @property
    def prompts(self) -> Path:
        """All prompts, with their splits."""
        return self.path / "prompts.jsonl"

    def prompts_also(self, task: str) -> Path:
        """Return the file of the prompts of a task of `evaluate.also`."""
        return self.path / f"prompts-also-{task}.jsonl"

    @property
    def all_prompts(self) -> tuple[Path, ...]:
        """The files of prompts that are there: the recipe's own, then those of other tasks, past ones too."""
        found = (self.prompts, *sorted(self.path.glob("prompts-also-*.jsonl")))
        return tuple(path for path in found if path.is_file())

    @property
    def forgotten(self) -> Path:
        """Prompts whose texts were removed on request."""
        return self.path / "forgotten.jsonl"

    @property
    def baselines(self) -> Path:
        """Drafts and verdicts of base and teacher."""
        return self.path / "baselines"

    def test(self, number: int) -> Path:
        """Return the folder of drafts and verdicts on the test split, of round `number`'s policy when it is kept."""
        return self.path / "test" / f"round-{number:02d}"

    @property
    def policy(self) -> Path:
        """The kept policy."""
        return self.path / "policy"

    @property
    def result(self) -> Path:
        """The machine-readable result."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """The report that a person reads."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """What was checked, found and decided, a dated line each."""
        return self.path / "log.txt"

    def finished_rounds(self) -> set[int]:
        """Return the rounds whose `round.json` is there; round 0 is the base."""
        found = {int(path.parent.name.removeprefix("round-")) for path in self.path.glob("round-[0-9]*/round.json")}
        return found | ({0} if (self.baselines / "round.json").exists() else set())

    def round(self, number: int) -> Path:
        """Return the folder of round `number`; 0 is the base's, among the baselines."""
        return self.baselines if number == 0 else self.path / f"round-{number:02d}"

    def rows(self, folder: Path, name: str, kind: type[RowType]) -> RowFile[RowType]:
        """Return the JSONL file `name` of `folder`."""
        return RowFile(folder / name, kind)

    @property
    def agreement(self) -> tuple[Path, Path]:
        """How its judge agrees with people, as JSON and as a page."""
        return self.path / "agreement.json", self.path / "agreement.html"

    @property
    def refresh_page(self) -> Path:
        """Old and new student side by side, where the run is a refresh of another."""
        return self.path / "refresh.html"

    @property
    def refresh_files(self) -> tuple[Path, Path, Path]:
        """What a refresh says of this run's result: the page, the same as Markdown, and its numbers."""
        return self.refresh_page, self.path / "refresh.md", self.path / "refresh.json"

    @property
    def drift_reports(self) -> tuple[Path, ...]:
        """What `prefdistill drift` writes where it is not told another folder; they quote requests."""
        return tuple(self.path / "drift" / f"drift.{kind}" for kind in ("html", "md", "json"))

    @property
    def label_files(self) -> Path:
        """Names of the label files that are not in the run folder."""
        return self.path / "label-files.json"

    @property
    def report_data(self) -> Path:
        """What the report was rendered from."""
        return self.path / "report.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the operating system lets go when the process ends, however it ends.

        A folder that was made for it, and in which nothing was written, goes away again.

        Raises:
            RunError: another process holds it.
        """
        from filelock import FileLock, Timeout

        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            made = not self.path.exists()
            if made:
                self.path.mkdir(mode=0o700, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise RunError(
                    f"{self.path}: another prefdistill process is working in this run; "
                    "wait for it, end it, or choose another folder with --run"
                ) from None
        try:
            yield
        finally:
            if made and [each.name for each in self.path.glob("*")] == [".lock"]:
                shutil.rmtree(self.path, ignore_errors=True)  # while it is held, so that nobody begins in it
            lock.release()

    def set_aside(self, artefacts: Iterable[Path]) -> Path | None:
        """Move artefacts to `replaced/<date>/…`, so that what is redone on purpose loses nothing."""
        target = None
        for artefact in artefacts:
            if artefact.exists():
                target = self._replaced
                place = target / artefact.relative_to(self.path)
                with disk_errors(place):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(str(artefact), place)
        return target


class Fingerprints:
    """`fingerprints.json` of one folder: artefact to fingerprint and row count."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fingerprints.json"
        self.entries: dict[str, dict[str, Any]] = read_json(self.path) if self.path.exists() else {}

    def of(self, artefact: str) -> str | None:
        """Return the stored fingerprint, None where there is none."""
        return self.entries.get(artefact, {}).get("fingerprint")

    def done(self, artefact: str, fingerprint: str) -> bool:
        """Whether the artefact was completed under this fingerprint."""
        entry = self.entries.get(artefact, {})
        return entry.get("fingerprint") == fingerprint and entry.get("rows") is not None

    def note(self, artefact: str, fingerprint: str, rows: int | None, seconds: float = 0.0) -> None:
        """Store a fingerprint and add `seconds` of work; `rows` is None while the artefact is being made."""
        before = self.entries.get(artefact, {})
        spent = round(float(before.get("seconds", 0.0)) + seconds, 3)
        entry = {"fingerprint": fingerprint, "rows": rows, "seconds": spent}
        if before != entry:
            self.entries[artefact] = entry
            write_json(self.path, self.entries)

    def reopen(self, artefact: str) -> None:
        """Note that an artefact, where there is one, must be made again from what is being made now."""
        if artefact in self.entries:
            self.entries[artefact]["rows"] = None
            write_json(self.path, self.entries)

    def seconds(self, artefact: str) -> float:
        """Return the seconds of work that went into an artefact, killed attempts included where they could say so."""
        return float(self.entries.get(artefact, {}).get("seconds", 0.0))

    def forget(self, artefacts: Iterable[str]) -> None:
        """Remove entries whose artefacts were set aside."""
        for artefact in artefacts:
            self.entries.pop(artefact, None)
        if self.path.parent.exists():
            write_json(self.path, self.entries)
