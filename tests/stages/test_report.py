"""The report of a made-up but realistic run: its page, its numbers, and hostile texts."""

import json
import random
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from prefdistill.metrics.rates import gap_recovered
from prefdistill.metrics.scores import DraftScore
from prefdistill.records import (
    CriterionScore,
    Draft,
    EvaluationResult,
    Message,
    Policy,
    Prompt,
    RoundResult,
    TrainResult,
    Usage,
)
from prefdistill.rubric import Criterion, Rubric, RubricSet
from prefdistill.stages.evaluate import compare_scores, evaluate_policy
from prefdistill.stages.report import ReportData, pick_examples, render_report, render_result
from prefdistill.stages.report.charts import Chart, Point, Series, render_chart
from prefdistill.stages.report.examples import mark_differences, visible

BASE = Policy(model="Qwen/Qwen3-0.6B")
KEPT = Policy(model="Qwen/Qwen3-0.6B", adapter="policy", round=4)
CRITERIA = ("request_first", "keeps_the_facts", "no_filler", "length")
RECIPE = "name: email-tone\nseed: 7\nrubric: ../rubrics/email.yaml\nloop: {mode: online, rounds: 5}\n"
RUBRIC_TEXT = """name: email
purpose: Business e-mail a busy colleague can act on.
criteria:
  - name: request_first
    question: Is what the reader should do clear within two sentences?
    levels: ["no", partly, "yes"]
tests:
  - prompt: SECRET-TEST
    better: a
    worse: b
# the end
"""
BASE_TEXT = (
    "Hi {name},\n\nI hope this email finds you well. I just wanted to circle back and let you know that, due to "
    "unforeseen circumstances, the {topic} might possibly be moved to {day} at {time}. Please do let me know if you "
    "have any questions.\n\nBest regards,\nTomasz"
)
KEPT_TEXT = (
    "Hi {name},\n\nPlease bring the drawings to the {topic}: it moves to {day} at {time} because the crane inspection "
    "overran.\n\nBest regards,\nTomasz"
)
TEACHER_TEXT = (
    "Hi {name},\n\nCould you bring the drainage drawings to the {topic}? It is now on {day} at {time}, as the crane "
    "inspection overran.\n\nThanks,\nTomasz"
)


def make_draft(prompt: Prompt, source: str, text: str) -> Draft:
    return Draft(
        id=f"{prompt.id}/{source}",
        prompt_id=prompt.id,
        source=source,
        policy={"student": KEPT, "base": BASE}.get(source),
        round=4,
        purpose="test",
        index=0,
        completion=text,
        finish_reason="stop",
        tokens=60,
        seed=1,
    )


def make_score(chance: random.Random, mean: float, gate: float) -> DraftScore:
    levels = {0.0: "no", 0.5: "partly", 1.0: "yes"}
    rows = []
    for name in CRITERIA:
        score = chance.choices([0.0, 0.5, 1.0], [(1 - mean) ** 2, 2 * mean * (1 - mean), mean**2])[0]
        reason = "The ask is in the second paragraph, after an apology." if name == "request_first" else ""
        rows.append(CriterionScore(criterion=name, score=score, level=levels[score], reason=reason, path="parsed"))
    total = sum(row.score or 0.0 for row in rows) / len(rows)
    gates = ("invents_nothing",) if chance.random() < gate else ()
    return DraftScore(total, 0.0 if gates else total, gates, tuple(rows), "rubric")


def make_report(kinds: bool = True, seed: int = 3) -> ReportData:
    chance = random.Random(seed)
    rubric = Rubric(name="email", criteria=tuple(Criterion(name=name, check="length") for name in CRITERIA))
    rubrics = (
        RubricSet(column="task", rubrics={"email": rubric, "edit": rubric})
        if kinds
        else RubricSet(rubrics={"": rubric})
    )
    prompts, texts = [], {"base": [], "student": [], "teacher": []}
    scores: dict[str, DraftScore] = {}
    for index in range(120):
        facts = {
            "name": chance.choice(["Priya", "Helen", "Mr Okafor"]),
            "topic": chance.choice(["site visit", "budget review", "handover"]),
            "day": chance.choice(["Thursday", "Monday"]),
            "time": chance.choice(["14:30", "9 am"]),
        }
        note = "Tell {name} the {topic} moves to {day} at {time}; the crane inspection overran. Bring the drawings."
        message = Message(role="user", content=note.format(**facts))
        task = "email" if index % 3 else "edit"
        prompt = Prompt(id=f"p{index:03d}", messages=(message,), split="test", fields={**facts, "task": task})
        prompts.append(prompt)
        for source, text, mean, gate in [
            ("base", BASE_TEXT, 0.5, 0.15),
            ("student", KEPT_TEXT, 0.74, 0.05),
            ("teacher", TEACHER_TEXT, 0.9, 0.0),
        ]:
            draft = make_draft(prompt, source, text.format(**facts))
            texts[source].append(draft)
            scores[draft.id] = make_score(chance, mean, gate)
    del scores["p005/student"]

    def evaluate(baseline: str, split: str, policy: Policy, drafts: list[Draft]) -> tuple[EvaluationResult, ...]:
        rows = compare_scores(prompts, drafts, texts[baseline], scores, scores, baseline)
        return evaluate_policy(
            policy=policy,
            baseline=baseline,
            split=split,
            judge_name="held-out (gpt-5-mini)",
            self_judged=False,
            prompts=prompts,
            drafts=drafts,
            baseline_drafts=texts[baseline],
            scores=scores,
            baseline_scores=scores,
            comparisons=rows,
            rubrics=rubrics,
            seed=seed,
        )

    test = (*evaluate("base", "test", KEPT, texts["student"]), *evaluate("teacher", "test", KEPT, texts["student"]))
    curve = [0.50, 0.58, 0.63, 0.69, 0.735, 0.75]
    rounds = []
    for number, judge in enumerate(curve):
        result = next(each for each in test if each.baseline == "base" and each.kind is None)
        by_kind = [each for each in test if each.baseline == "base"] if number else []
        lift = (judge - 0.5) * 1.3
        evaluation = tuple(
            each.model_copy(
                update={
                    "split": "validation",
                    "win_rate": 0.5 + lift,
                    "interval": (0.5 + lift - 0.09, min(1.0, 0.5 + lift + 0.08)),
                }
            )
            for each in by_kind
        )
        train = TrainResult(
            start=BASE,
            reference=BASE,
            policy=KEPT,
            pairs=180,
            steps=12,
            loss=0.61,
            first_loss=0.6931,
            reward_margin=0.4,
            reward_accuracy=0.71,
            adapter_moved=0.9971,
            kl=0.031 + 0.02 * number,
            kl_standard_error=0.004,
            seconds=61.0,
        )
        rounds.append(
            RoundResult(
                round=number,
                drafts=1024 if number else 0,
                judged=1011 - 3 * number if number else 0,
                failed=13 + 3 * number if number else 0,
                failures={"judge.parse": 9 + number, "judge.provider": 4, "judge.truncated": 2} if number else {},
                pairs=184 - 9 * number if number else 0,
                drops={"tie": 31 + 5 * number, "flip": 22, "near_duplicate": 7 + number, "all_fail_gates": 3}
                if number
                else {},
                counts={"identical": 12.0 + number, "longer_chosen_share": 0.41 + 0.03 * number} if number else {},
                kinds={"email": {"drafts": 683, "pairs": 120}, "edit": {"drafts": 341, "pairs": 64}}
                if kinds and number
                else {},
                train=train if number else None,
                evaluation=evaluation,
                rubric_score=judge,
                held_out_score=0.47 + (0.1, 0.15, 0.19, 0.22, 0.235, 0.23)[number] - 0.1,
                baseline_rubric_score=0.5,
                teacher_rubric_score=0.905,
                gold=0.42 + (judge - 0.5) * 0.9,
                mean_tokens=88 - 5.5 * number,
                usage=Usage(calls=6100, cached=40, prompt_tokens=5_200_000, completion_tokens=410_000, usd=2.41)
                if number
                else Usage(),
                evaluation_usage=Usage(calls=480, prompt_tokens=300_000, completion_tokens=30_000, usd=0.14),
                seconds={"sample": 212.0, "judge": 431.5, "rank": 0.1, "pair": 0.2, "train": 61.0, "evaluate": 58.3}
                if number
                else {"evaluate": 96.0},
                warnings=("chosen is longer in 62 % of pairs (warn above 60 %): use length-matched pairs",)
                if number == 5
                else (),
            )
        )
        assert result.wins
    comparisons = compare_scores(prompts, texts["student"], texts["base"], scores, scores, "base")
    arms = [[scores[draft.id].gated_score for draft in texts[name][6:]] for name in ("base", "student", "teacher")]
    return ReportData(
        name="email-tone",
        version="0.1.0",
        mode="online",
        seed=7,
        student="Qwen/Qwen3-0.6B, nf4, LoRA r 16",
        teacher="teacher-large at localhost:8000",
        judge="rubric (teacher-large)",
        evaluation_judge="held-out (gpt-5-mini)",
        self_judged=False,
        prompts={"train": 1280, "validation": 160, "test": 120},
        rounds=tuple(rounds),
        best_round=4,
        policy=KEPT,
        recipe=RECIPE,
        rubrics={"email": RUBRIC_TEXT},
        kinds=rubrics.kinds,
        test=test,
        test_gold={"policy": 0.63, "base": 0.42, "teacher": 0.97},
        test_metrics={"rouge.rougeL": 0.4321},
        test_usage=Usage(calls=960, prompt_tokens=610_000, completion_tokens=61_000, usd=0.29),
        pgr=gap_recovered(*arms),
        manifest={
            "Python": "3.11.9",
            "torch": "2.13.0",
            "Started": "2026-03-02 09:14 UTC",
            "Machine": "H100, 16 cores",
        },
        seconds={"load": 3.1, "sample": 141.0},
        warnings=("2 near-duplicate prompts across train and test",),
        examples=pick_examples(
            prompts, comparisons, [draft for rows in texts.values() for draft in rows], scores, rubrics
        ),
    )


@pytest.fixture(scope="module")
def report() -> ReportData:
    return make_report()


class Page(HTMLParser):
    """Collects tags, visible text and outside addresses."""

    void = frozenset({"meta", "link", "br", "rect", "line", "circle", "polyline", "polygon"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [value or "" for name, value in attrs if name in ("src", "href") and "//" in (value or "")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_whole_and_loads_nothing(report: ReportData) -> None:
    html = render_report(report)
    page = Page(html)
    assert page.open == []
    assert page.outside == []
    assert "script" not in page.tags
    assert "url(" not in html
    assert len(html) < 150_000
    text = " ".join("".join(page.words).split())
    for words in (
        "Round 4 is kept: its drafts beat the base’s",
        "held-out (gpt-5-mini), which took no part in training",
        "0.42 → 0.63",
        "near duplicate",
        "judge.parse",
        "2 near-duplicate prompts",
        "chosen is longer in 62 %",
        "teacher-large at localhost:8000",
        "Largest gain",
        "Qwen/Qwen3-0.6B, nf4, LoRA r 16",
        "rouge.rougeL",
        "longer chosen share",
        "loop: {mode: online, rounds: 5}",
        "The ask is in the second paragraph",
    ):
        assert words in text, words
    assert render_report(report) == html


def test_no_text_leaves_out_prompts_drafts_and_reasons(report: ReportData) -> None:
    html = render_report(report, texts=False)
    assert Page(html).open == []
    for words in ("crane inspection", "SECRET-TEST", "second paragraph", "circle back"):
        assert words in render_report(report)
        assert words not in html
    assert "request_first" in html
    assert "Largest gain" in html


def test_hostile_texts_are_shown_as_text(report: ReportData) -> None:
    hostile = (
        '<script>alert(1)</script></textarea>{{ 7 * 7 }}<!--\x00\x1b[31m\u202egnp.exe\u2066\ud800\ufffe "onload="x'
    )
    first = report.examples[0]
    row = first.policy.criteria[0].model_copy(update={"reason": hostile, "level": hostile})
    policy = replace(first.policy, completion=hostile, criteria=(row, *first.policy.criteria[1:]), gates=(hostile,))
    prompt = first.prompt.model_copy(update={"messages": (Message.model_construct(role="user", content=hostile),)})
    example = replace(first, policy=policy, prompt=prompt, why=hostile, kind=hostile)
    attacked = replace(
        report,
        examples=(example,),
        recipe=hostile,
        rubrics={hostile: hostile},
        warnings=(hostile,),
        name=hostile,
        manifest={hostile: hostile},
    )
    html = render_report(attacked)
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags
    assert "textarea" not in page.tags
    assert "49" not in html.split("<body>")[1].split("<h2")[0]
    assert not any(bad in html for bad in ("\x00", "\x1b", "\u202e", "\u2066", "\ufffe"))
    html.encode("utf-8")
    shown = "".join(page.words)
    assert "<script>alert(1)</script></textarea>{{ 7 * 7 }}<!--␀␛[31m[U+202E]gnp.exe[U+2066][U+D800][U+FFFE]" in shown
    json.dumps(render_result(attacked)).encode("utf-8")


def test_a_huge_draft_is_cut_and_counted(report: ReportData) -> None:
    first = report.examples[0]
    huge = replace(first, policy=replace(first.policy, completion="word " * 200_000))
    html = render_report(replace(report, examples=(huge,)))
    assert len(html) < 200_000
    assert "(988,000 more characters)" in html


def test_result_has_the_keys_that_programs_read(report: ReportData) -> None:
    result = json.loads(json.dumps(render_result(report), allow_nan=False))
    assert set(result) == {
        "schema", "version", "name", "mode", "seed", "rounds", "best_round", "policy", "test", "pgr", "pgr_refused",
        "cost", "kinds", "stopped",
    }  # fmt: skip
    assert len(result["rounds"]) == 6
    for each in result["rounds"]:
        assert set(each) == {
            "round", "warm_start", "learned_from", "drafts", "judged", "failed", "failures", "pairs", "drops", "counts",
            "win_rate", "win_rate_interval", "rubric_score",
            "held_out_score", "baseline_rubric_score", "teacher_rubric_score", "gate_pass_rate", "gold", "mean_tokens",
            "adapter_moved", "kl", "judge_calls", "judge_cached", "judge_tokens", "judge_usd", "usd_per_pair",
            "usd_per_kept_pair", "tokens_per_kept_pair", "seconds", "warnings", "checks", "diagnostics", "facts",
            "findings", "remedy",
        }  # fmt: skip
    zero, one = result["rounds"][:2]
    assert (zero["round"], zero["adapter_moved"], zero["win_rate"]) == (0, None, None)
    assert (one["judge_calls"], one["judge_usd"]) == (6580, pytest.approx(2.55))
    test = result["test"]
    against_base = report.test[0]
    assert (test["win_rate"], test["win_rate_interval"]) == (against_base.win_rate, list(against_base.interval))
    assert (test["gold"], test["baseline_gold"], test["teacher_gold"]) == (0.63, 0.42, 0.97)
    assert (test["unknown"], test["self_judged"]) == (1, False)
    assert set(result["kinds"]) == {"email", "edit"}
    assert result["pgr"] == pytest.approx(report.pgr.value if report.pgr else None)


def test_not_a_number_becomes_none(report: ReportData) -> None:
    assert render_result(replace(report, test_gold={"policy": float("nan")}))["test"]["gold"] is None


def test_examples_are_picked_by_rule_and_whatever_the_order(report: ReportData) -> None:
    whys = [example.why for example in report.examples]
    assert whys == [
        "Largest gain",
        "Median change",
        "Largest loss",
        "A tie, drawn by hash",
        "Failed a gate, drawn by hash",
        "Not judged, drawn by hash",
    ]
    gain, _, loss, tie, gated, unknown = report.examples
    assert (gain.outcome, loss.outcome, tie.outcome, unknown.outcome) == ("win", "loss", "tie", "unknown")
    assert gated.policy.gates == ("invents_nothing",)
    assert (gain.policy.score or 0) - (gain.base.score or 0) > 0.5
    assert len({example.prompt.id for example in report.examples}) == 6
    assert [each.prompt.id for each in make_report().examples] == [each.prompt.id for each in report.examples]


@pytest.mark.parametrize(
    ("interval", "words"),
    [((0.55, 0.8), "beat the base’s"), ((0.45, 0.6), "no clear difference"), ((0.1, 0.4), "worse than the base’s")],
)
def test_the_headline_says_what_the_interval_allows(
    report: ReportData, interval: tuple[float, float], words: str
) -> None:
    first = report.test[0].model_copy(update={"interval": interval})
    assert words in render_report(replace(report, test=(first,)))


def test_a_run_that_kept_the_base(report: ReportData) -> None:
    html = render_report(replace(report, best_round=0, policy=BASE, test=(), examples=(), test_gold={}, pgr=None))
    assert "The base is kept: none of 5 rounds scored higher" in html
    assert Page(html).open == []


def test_a_bare_run_renders() -> None:
    bare = ReportData(
        name="bare", version="0", mode="offline", seed=0, student="tiny", teacher=None, judge="checks",
        evaluation_judge="checks", self_judged=True, prompts={}, rounds=(), best_round=0, policy=BASE, recipe="",
        rubrics={},
    )  # fmt: skip
    assert Page(render_report(bare)).open == []
    assert render_result(bare)["rounds"] == []


def test_self_judged_is_said(report: ReportData) -> None:
    assert "Self-judged: rubric" in render_report(
        replace(report, self_judged=True, evaluation_judge="rubric (teacher-large)")
    )


def test_a_judge_with_its_own_scale_gets_its_own_chart(report: ReportData) -> None:
    rounds = tuple(each.model_copy(update={"held_out_score": -2.0 - each.round}) for each in report.rounds)
    html = render_report(replace(report, rounds=rounds))
    assert "Score on the judge’s own scale" in html
    assert "−7" in html


def test_differences_are_marked() -> None:
    old, new = mark_differences("I hope that the visit moves to Friday.", "Please note: the visit moves to Monday.")
    assert [piece.text for piece in old if piece.changed] == ["I hope that", "Friday"]
    assert [piece.text for piece in new if piece.changed] == ["Please note:", "Monday"]
    assert "".join(piece.text for piece in old) == "I hope that the visit moves to Friday."
    assert not any(piece.changed for side in mark_differences("the same", "the same") for piece in side)


def test_visible_keeps_ordinary_text() -> None:
    assert visible("Привет, שלום\n\tZoë 👩‍🔧\r\nnext") == "Привет, שלום\n\tZoë 👩‍🔧\nnext"
    assert visible("abcdef", 4) == "abcd… (2 more characters)"


@pytest.mark.parametrize("values", [(), (0.5,), (1.0, 1.0), (0.0, 1.0), (1e-9, 2e-9), (-5.0, 1e6), (0.713, 0.714)])
def test_charts_draw_any_values_inside_the_frame(values: tuple[float, ...]) -> None:
    series = Series("s", tuple(Point(x, y) for x, y in enumerate(values)), 1)
    limits = (0.0, 1.0) if values and min(values) >= 0.0 and max(values) <= 1.0 else None
    svg = render_chart(Chart("<t>", (series,), str, str, kept=0.0, limits=limits))
    assert "&lt;t&gt;" in svg
    heights = [float(part.split(",")[1]) for part in svg.split('points="')[1].split('"')[0].split()]
    assert all(11.9 <= height <= 185 for height in heights)
    assert "nan" not in svg
