"""The recorded verdicts of ../shared/data in prefdistill's own formats: labels, recorded rows, drafts by real systems."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from prefdistill.agreement.asking import look_up_verdicts
from prefdistill.agreement.cases import judged_case
from prefdistill.agreement.labelled import Case, Labelled, Placing
from prefdistill.agreement.measuring import Measured, measure
from prefdistill.judges.recorded import RecordedJudge
from prefdistill.labels import load_labels
from prefdistill.protocols import RunContext
from prefdistill.records import Draft, Prompt, Verdict
from prefdistill.selection import PairOptions
from prefdistill.stages.judge import judge_prompts
from tests.conftest import ROOT
from tests.making import ASKED, make_prompt, make_rubric, one_rubric

DATA = ROOT.parent / "shared" / "data"
LLMBAR, VICUNA = DATA / "llmbar", DATA / "vicuna80_gpt4_roundrobin"
HUMAN = ("faireval_human", "llmeval2_human", "mtbench_human_majority")
TRAPS = ("adversarial_gptinst", "adversarial_gptout", "adversarial_manual", "adversarial_neighbor")
SYSTEMS = ("13b-guanaco", "30b-guanaco", "65b-guanaco", "7b-guanaco", "bard", "gpt35", "gpt4", "vicuna-13b")
RUBRIC = make_rubric(ASKED)
WINNERS = {1: "first", 2: "second", 3: "tie", -1: None}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, written: Iterable[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    return path


def llmbar_labels(path: Path, sets: Sequence[str]) -> Path:
    """A label file of LLMBar sets; some pairs are in a set twice, so prompts and drafts have ids."""
    written = []
    for name in sets:
        for number, row in enumerate(json.loads((LLMBAR / f"{name}.json").read_text())):
            key = f"{name}/{number}"
            texts = {"prompt": row["input"], "first": row["output_1"], "second": row["output_2"]}
            ids = {"prompt_id": key, "first_id": f"{key}/1", "second_id": f"{key}/2"}
            written.append({**texts, **ids, "winner": WINNERS[row["label"]], "by": "people"})
    return write_rows(path, written)


def llmbar_verdicts(path: Path, judge: str, sets: Sequence[str]) -> Path:
    """The recorded verdicts of one judge and prompt, such as `GPT-4/CoT`, one row an order."""
    written = []
    for row in rows(LLMBAR / "recorded_verdicts.jsonl"):
        if row["set"] not in sets or judge not in row["verdicts"]:
            continue
        key = f"{row['set']}/{row['idx']}"
        for (first, second), winner in zip((("1", "2"), ("2", "1")), row["verdicts"][judge], strict=True):
            said = None if winner == "-" else "first" if winner == first else "second"
            names = {"prompt_id": key, "first": f"{key}/{first}", "second": f"{key}/{second}"}
            written.append({**names, "winner": said, "judge": judge})
    return write_rows(path, written)


def measured_llmbar(folder: Path, judge: str, sets: Sequence[str]) -> Measured:
    labels = load_labels(llmbar_labels(folder / "labels.jsonl", sets))
    answered = look_up_verdicts(labels, llmbar_verdicts(folder / "verdicts.jsonl", judge, sets))
    return measure(answered.labelled, answered.judged, answered.options)


def vicuna_verdicts(path: Path) -> Path:
    """GPT-4's 4,480 verdicts, drafts named by the system that wrote them."""
    return write_rows(
        path,
        (
            {
                "prompt_id": f"q{row['question_id']}",
                "first": row["first"],
                "second": row["second"],
                "winner": WINNERS[row["score"]],
                "judge": "gpt-4",
            }
            for row in rows(VICUNA / "gpt4_verdicts.jsonl")
        ),
    )


def vicuna_groups(turn: int = 0) -> list[tuple[Prompt, list[Draft]]]:
    """The eighty questions with eight answers each, numbered from system `turn` on."""
    answers = {(row["question_id"], row["model"]): row["text"] for row in rows(VICUNA / "answers.jsonl")}
    groups = []
    for row in rows(VICUNA / "questions.jsonl"):
        prompt = make_prompt(f"q{row['question_id']}", row["text"])
        drafts = [
            Draft(
                id=f"{prompt.id}/{(place - turn) % len(SYSTEMS)}",
                prompt_id=prompt.id,
                source=f"file:{system}",
                policy=None,
                round=1,
                purpose="train",
                index=(place - turn) % len(SYSTEMS),
                completion=answers[row["question_id"], system],
            )
            for place, system in enumerate(SYSTEMS)
        ]
        groups.append((prompt, drafts))
    return groups


def judged_by(path: Path, groups: Sequence[tuple[Prompt, Sequence[Draft]]], **options: object) -> list[Verdict]:
    """The recorded judge's verdicts on the groups, through the judge stage."""
    judge = RecordedJudge(path=path, **options)
    judge.open(RunContext(directory=path.parent, seed=0))
    found = {each.prompt_id: each for each in judge_prompts(judge, groups, one_rubric(RUBRIC))}
    return [found[prompt.id] for prompt, _ in groups]


def against_full_round_robin(
    path: Path, turns: Iterable[int], truth: Path | None = None, **options: object
) -> tuple[Measured, int]:
    """Measure a schedule against the ranking that the full round robin in both orders gives; and count its calls.

    In each turn the drafts are numbered from another system on, so that each is the anchor once.
    """
    cases, judged, placings, calls = [], [], [], 0
    for turn in turns:
        groups = vicuna_groups(turn)
        full, part = judged_by(truth or path, groups), judged_by(path, groups, **options)
        for (prompt, drafts), all_of_it, some in zip(groups, full, part, strict=True):
            own = prompt.model_copy(update={"id": f"{prompt.id}-{turn}"})
            case = Case(own, tuple(drafts))
            whole = judged_case(case, RUBRIC, [all_of_it])
            cases.append(case)
            judged.append(judged_case(case, RUBRIC, [some]))
            placings.append(Placing("full round robin", own.id, whole.ranks))
            calls += len(some.preferences) + len(some.failures)
    drafts = {draft.id: draft for case in cases for draft in case.drafts}
    labelled = Labelled(tuple(cases), (), tuple(placings), (), ("full round robin",), drafts)
    return measure(labelled, judged, PairOptions(min_margin=0.0)), calls // len(cases)
