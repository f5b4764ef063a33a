"""`prefdistill serve` under load: nothing lost while teacher and student die, the share that was wanted, the overhead.

    python tests/benchmarks/serve.py              # trains a small sandbox run first, about three minutes
    python tests/benchmarks/serve.py --run DIR    # a run of an earlier call (it says where)
    python tests/benchmarks/serve.py --run DIR --only overhead

*thousand*: 1,000 requests by the openai client, 16 in flight, sandbox student in its own process, teacher a server in
another; the teacher is killed and comes back, the student's process is killed. *overhead*: the same requests to a
loopback server and through the router in front of it, in turns, so that both see the same machine; the router has a
core of its own (`--shared` leaves that out), else waiting for the load would count as its work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
VALIDATION, SERVED, IN_FLIGHT = 4_000, 1_000, 16
"""With so many validation prompts the share of 1,000 requests is by chance more than two points off once in twenty."""
MOST_OFF, MOST_OVERHEAD_MS = 0.02, 5.0
QUIET_SECONDS = 2.0
"""For so long the server leaves a teacher alone that failed several times."""
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
LATENCY_SECONDS = 0.1
"""What the loopback server takes for an answer in the measurement of the overhead."""


def notes(count: int) -> list[dict[str, str]]:
    """Return sandbox prompts; the first ones are always the same."""
    from prefdistill.sandbox.world import notes as world

    return list(world(count, 0))


def train(folder: Path) -> Path:
    """Train a sandbox run with many validation prompts, whose thresholds are then known to about a point."""
    rows = notes(VALIDATION + 200)
    for number, row in enumerate(rows):
        row["part"] = "validation" if number < VALIDATION else "test" if number % 10 == 0 else "train"
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = (
        f"prompts.path={folder / 'prompts.jsonl'} prompts.split_column=part prompts.validation_limit=null "
        "evaluate.baselines=[base] loop.rounds=1 loop.prompts_per_round=128 sample.drafts=4"
    ).split()
    command = [sys.executable, "-m", "prefdistill", "run", str(ROOT / "recipes/quickstart.yaml"), *changes]
    subprocess.run([*command, "--run", str(folder / "run")], check=True, stdout=subprocess.DEVNULL)
    return folder / "run"


@contextmanager
def served(run: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `prefdistill serve`; yield its URL and process, and end it as a user would."""
    command = [sys.executable, "-m", "prefdistill", "serve", str(run.resolve()), *options, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = ""
        for line in process.stdout:
            print("   ", line.rstrip())
            if found := re.search(r"serving the model \S+ at (\S+)", line):
                url = found.group(1)
                break
        if not url:
            raise SystemExit("the server did not start")
        yield url, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        for line in process.stdout:
            print("   ", line.rstrip())
        process.wait(60)


class Child:
    """This script as another process: the teacher, or a bare loopback server; it can be killed and started again."""

    def __init__(self, kind: str, port: int = 0) -> None:
        command = [sys.executable, __file__, f"--be={kind}", f"--port={port}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.port = int(self.url.split(":")[2].split("/")[0])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def be(kind: str, port: int) -> None:
    """Be the sandbox's teacher behind HTTP, or a server that says the same to everyone."""
    from prefdistill.sandbox.world import parse_note
    from prefdistill.sandbox.writer import write_oracle
    from tests.loopback import Loopback, Served

    def teach(body: dict[str, Any]) -> Served:
        facts = parse_note(body["messages"][-1]["content"])
        return Served(write_oracle(facts) if facts else "I see no note.", delay_seconds=0.1)

    answer = teach if kind == "teacher" else lambda body: Served("Hello Ann, can you come on Friday? " * 4)
    server = Loopback(answer, 0.0 if kind == "teacher" else LATENCY_SECONDS)
    server.port = port
    with server:
        print(server.url, flush=True)
        sys.stdin.read()


async def thousand(
    url: str, name: str, teacher: Child, server: subprocess.Popen[str], time_: int
) -> Counter[tuple[str, str]]:
    """Send the requests; kill the teacher at 300, bring it back at 450, kill the student's process at 650.

    At 600 and 690 the load waits for whoever is being started, so that never both are down.
    """
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    rows = iter(notes(VALIDATION + 200 + SERVED * (time_ + 1))[-SERVED:])
    got: Counter[tuple[str, str]] = Counter()
    sent = 0
    taught, back = asyncio.Event(), asyncio.Event()

    async def one(row: dict[str, str], stream: bool) -> None:
        facts = {key: value for key, value in row.items() if key not in ("id", "prompt")}
        reply = await client.chat.completions.with_raw_response.create(
            model=name,
            messages=[{"role": "user", "content": row["prompt"]}],
            extra_body={"fields": facts},
            stream=stream,
        )
        found: Any = reply.parse()
        text = found.choices[0].message.content if not stream else ""
        if stream:
            async for event in found:
                text += event.choices[0].delta.content or ""
        assert text.strip()
        got[(reply.headers["x-prefdistill-route"], reply.headers["x-prefdistill-reason"])] += 1

    async def worker() -> None:
        nonlocal sent
        for row in rows:
            sent += 1
            number = sent
            if number == 300:
                print("    killing the teacher at request 300")
                teacher.kill()
            if number == 450:
                print("    the teacher is back at request 450")
                await asyncio.to_thread(teacher.__init__, "teacher", teacher.port)  # type: ignore[misc]
                await asyncio.sleep(QUIET_SECONDS + 0.5)  # by then it is no longer left alone
                taught.set()
            if number == 650:
                print("    killing the student's process at request 650")
                os.kill(worker_of(server.pid), signal.SIGKILL)
            if number > 600:
                await taught.wait()
            if number > 690:
                await back.wait()
            await one(row, stream=number % 5 == 0)
            if number == 690:
                await asyncio.to_thread(wait_for_student, url)
                print("    the student's process is back")
                back.set()

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    await client.close()
    return got


def wait_for_student(url: str) -> None:
    """Wait until the server says that its student is ready."""
    while json.loads(urllib.request.urlopen(url.removesuffix("/v1") + "/healthz").read())["student"] != "ready":
        time.sleep(0.2)


def worker_of(server: int) -> int:
    """Return the process id of the server's student."""
    found = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    return int(found[0])


def measure_thousands(run: Path, times: int) -> bool:
    """Do it some times with other requests each; True where nothing is lost and the mean share is as wanted."""
    found = [measure_thousand(run, each) for each in range(times)]
    off = [each for _, each in found]
    inside = sum(abs(each) <= MOST_OFF for each in off)
    mean = statistics.mean(off)
    print(
        f"    share within {MOST_OFF:.0%} of the wanted one in {inside} of {times} times; on average off by {mean:+.1%}"
    )
    return all(good for good, _ in found) and abs(mean) <= MOST_OFF


def measure_thousand(run: Path, time_: int) -> tuple[bool, float]:
    """Run the requests and compare what the log says; return whether all are there, and how far off the share is."""
    teacher = Child("teacher")
    log = run / "served-benchmark.jsonl"
    log.unlink(missing_ok=True)
    changes = ["teacher.use=openai", "teacher.model=oracle", f"teacher.base_url={teacher.url}"]
    changes.append("teacher.usd_per_million={input: 3, output: 15}")
    print("1,000 requests, 16 in flight")
    with served(run, *changes, "--log", str(log), "--shadow", "0.02") as (url, server):
        started = time.perf_counter()
        got = asyncio.run(thousand(url, run.name, teacher, server, time_))
        seconds = time.perf_counter() - started
        hostile = [hostile_prompt(url, run.name, size) for size in (1_000_000, 200_000)]
    teacher.kill()
    from prefdistill.served import read_served

    rows = [row for row in read_served([log]) if row.prompt_characters < 10_000]
    tested = [row for row in rows if row.reason != "student_down"]
    share = sum(bool(row.fired) for row in tested) / len(tested)
    wanted = json.loads((run / "calibration.json").read_text())["wanted"]
    lost = SERVED - sum(got.values())
    print(f"    {seconds:.0f} s; " + ", ".join(f"{a}/{b} {n}" for (a, b), n in sorted(got.items())))
    print(f"    lost {lost}, in the log {len(rows)}, judged {sum(row.score is not None for row in rows)}")
    print(f"    fallback share {share:.1%} of {len(tested)} with a draft, wanted {wanted:.1%}")
    print(f"    hostile prompts of 1 MB and 200 kB: {hostile}")
    return lost == 0 and len(rows) == SERVED, share - wanted


def hostile_prompt(url: str, name: str, characters: int) -> str:
    """Return what a prompt of one huge word gets."""
    import openai

    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    started = time.perf_counter()
    try:
        reply = client.chat.completions.with_raw_response.create(
            model=name, messages=[{"role": "user", "content": "a" * characters}]
        )
        found = f"200 by {reply.headers['x-prefdistill-route']} ({reply.headers['x-prefdistill-reason']})"
    except openai.APIStatusError as problem:
        found = f"{problem.status_code}"
    return f"{found} after {time.perf_counter() - started:.2f} s"


async def pairs(bare: str, routed: str, name: str, in_flight: int, count: int, stream: bool) -> list[list[float]]:
    """Return seconds of requests to the bare server and through the router, in turns: [bare, routed]."""
    import aiohttp

    taken: list[list[float]] = [[], []]
    prompt = notes(1)[0]["prompt"]
    turns = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(url: str) -> float:
            body = {"model": name, "messages": [{"role": "user", "content": prompt}], "stream": stream}
            started = time.perf_counter()
            async with session.post(f"{url}/chat/completions", json=body) as reply:
                assert reply.status == 200, await reply.text()
                await reply.read()
            return time.perf_counter() - started

        async def worker(number: int) -> None:
            await asyncio.sleep(number * 0.007)  # not all at the same moment
            for turn in turns:
                for place in (0, 1) if turn % 2 else (1, 0):
                    taken[place].append(await one((bare, routed)[place]))

        await asyncio.gather(*(worker(number) for number in range(in_flight)))
    return taken


def apart(router: int, bare: int) -> None:
    """Give the router a core, and the load and the server behind it the others."""
    for process, place in ((router, CORES[-1:]), (bare, CORES[:-1]), (os.getpid(), CORES[:-1])):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), place)


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], share: float) -> float:
    """Return a percentile in milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000


def measure_overhead(run: Path, repeats: int, shared: bool) -> bool:
    """Measure a few times and report every time, and the median; True where that is within the limit."""
    bare = Child("loopback")
    print(f"overhead in front of a loopback server that takes {LATENCY_SECONDS:g} s (p50 and p95, milliseconds)")
    print("    all on the same cores" if shared else "    the router on a core of its own")
    good = measure_routes(run, bare, "prompt-only", repeats, shared)
    measure_routes(run, bare, "gate,length", repeats, shared)  # apart: what reads the draft first has no limit
    bare.kill()
    return good


def measure_routes(run: Path, bare: Child, routes: str, repeats: int, shared: bool) -> bool:
    """Measure with some tests on; True where every median is within the limit."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    student = ["--student-url", bare.url, "--student-model", "m", "--log", os.devnull]
    with served(run, "--routes", routes, "--fallback", "0", *student) as (url, server):
        if not shared:
            apart(server.pid, bare.process.pid)
        asyncio.run(pairs(bare.url, url, run.name, 4, 40, False))
        for kind in ("whole", "streamed") * repeats:
            for in_flight in (1, IN_FLIGHT):
                busy, count = processor_seconds(server.pid), 50 + 20 * in_flight
                taken = asyncio.run(pairs(bare.url, url, run.name, in_flight, count, kind == "streamed"))
                p50, p95 = (percentile(taken[1], share) - percentile(taken[0], share) for share in (0.5, 0.95))
                own = (processor_seconds(server.pid) - busy) / count * 1000
                found.setdefault(f"{kind}, {in_flight:2} in flight", []).append((p50, p95, own))
    good = True
    for what, times in found.items():
        p50, p95, own = (statistics.median(each) for each in zip(*times, strict=True))
        good &= max(p50, p95) <= MOST_OVERHEAD_MS
        shown = "  ".join(f"{a:.1f}/{b:.1f}" for a, b, _ in times)
        print(f"    {routes}, {what}: {p50:.1f} and {p95:.1f}; each time {shown}; {own:.2f} ms of processor time each")
    return good


def main() -> None:
    """Measure and print; exit 1 where something is not as it should be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path)
    parser.add_argument("--only", choices=["thousand", "overhead"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--times", type=int, default=3, help="1,000 other requests each")
    parser.add_argument("--shared", action="store_true", help="router, load and server on the same cores")
    parser.add_argument("--be", choices=["teacher", "loopback"])
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    if options.be:
        be(options.be, options.port)
        return
    run = options.run or train(Path(tempfile.mkdtemp(prefix="serve-benchmark-")))
    print(f"run: {run}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    good = True
    if options.only != "overhead":
        good &= measure_thousands(run, options.times)
    if options.only != "thousand":
        good &= measure_overhead(run, options.repeats, options.shared or len(CORES) < 2)
    print("as it should be" if good else "NOT as it should be")
    sys.exit(not good)


if __name__ == "__main__":
    main()
