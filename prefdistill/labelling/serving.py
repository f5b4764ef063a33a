"""`prefdistill label`: pick the questions, serve the page until Ctrl-C, and say what is where and what comes next."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import signal
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Literal

from prefdistill.errors import RunError
from prefdistill.labelling.picking import Choice, mixture, pick_criteria, pick_pairs
from prefdistill.labelling.server import LabelServer
from prefdistill.labelling.session import Session
from prefdistill.labelling.tasks import PairTask, Task
from prefdistill.run import RunDirectory, read_json, write_json

Kind = Literal["pair", "criterion"]
_NAME = re.compile(r"\w[\w.-]{0,63}")


def label_run(
    choice: Choice,
    kind: Kind,
    by: str | None = None,
    out: Path | None = None,
    port: int = 0,
    browser: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the labelling page of a run until Ctrl-C or SIGTERM.

    Args:
        choice: what to ask.
        kind: pairs, or one draft and criterion at a time.
        by: the person's name; the login name by default.
        out: the label file; `labels-NAME.jsonl` in the run folder by default.
        port: of 127.0.0.1; 0 is any free one.
        browser: whether to open the page.
        say: where lines for the person go.

    Raises:
        RunError: the folder is no run or has nothing to label, or the label file cannot be used.
    """
    name = person(by)
    path = out or choice.run / f"labels-{name}.jsonl"
    tasks: list[Task] = [*pick_pairs(choice)] if kind == "pair" else [*pick_criteria(choice)]
    with Session(tasks, path, name) as session, LabelServer(session, kind, port) as server:
        _note_file(choice.run, path)
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            for line in _greeting(session, choice, server.url):
                say(line)
            if browser:
                _open_page(server.opening_url)
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
        for line in _parting(session, choice, kind):
            say(line)


def _note_file(folder: Path, path: Path) -> None:
    """Write the name of a label file that is elsewhere into the run folder, so that `forget` can speak of it."""
    run, name = RunDirectory(folder), str(path.resolve())
    if path.resolve().parent == folder.resolve():
        return
    with suppress(RunError):  # a folder that can only be read can be labelled all the same
        known = read_json(run.label_files) if run.label_files.exists() else []
        if name not in known:
            write_json(run.label_files, [*known, name])


def _open_page(url: str) -> None:
    """Open the page in a browser with a window; one that would take over the terminal is left alone."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if type(browser) is not webbrowser.GenericBrowser or "BROWSER" in os.environ:
        browser.open(url)


def person(by: str | None) -> str:
    """Return the name under which labels are stored, fit for a file name.

    Raises:
        RunError: it is not.
    """
    try:
        name = getpass.getuser() if by is None else by.strip()
    except (KeyError, OSError):
        raise RunError("--by: this machine knows no login name; expected a name, such as --by ada") from None
    if not _NAME.fullmatch(name):
        raise RunError(f"--by: `{name}`: expected up to 64 letters, digits, dots, dashes or underscores")
    return name


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _greeting(session: Session, choice: Choice, url: str) -> list[str]:
    pairs = [task for task in session.tasks if isinstance(task, PairTask)]
    if pairs:
        again = sum(task.again for task in pairs)
        what = f"{len(pairs) - again} pairs ({mixture(pairs)})"
        what += f" and {again} of them again with the sides exchanged" if again else ""
    else:
        drafts = len({task.identity[:3] for task in session.tasks})
        what = f"{len(session.tasks)} questions about {drafts} drafts"
    so_far = f"; {session.resumed} answered before" if session.resumed else ""
    return [
        f"{choice.run}: {what}{so_far}",
        f"labels by {session.by} go to {session.path}",
        f"open {url}",
        "  only this machine can, and only with the whole address; Ctrl-C ends, every answer is saved as it is given",
    ]


def _parting(session: Session, choice: Choice, kind: Kind) -> list[str]:
    still_open = len(session.tasks) - session.done
    skipped = f", {session.skipped} of them skipped" if session.skipped else ""
    more = f"; {still_open} still open{skipped}: the same command goes on there" if still_open else ""
    lines = ["", f"{session.done} labels by {session.by} are in {session.path}{more}"]
    same, asked = session.consistency()
    if asked:
        lines.append(f"pairs that came twice, sides exchanged: the same answer {same} of {asked} times")
    if session.done:
        paths = shlex.join([str(session.path), "--verdicts", str(choice.run)])
        lines.append(f"next: prefdistill agreement {paths}")
    return lines
