"""The judge stage: what a judge does wrong fails its own group, and only that."""

import threading
import time

import pytest

from prefdistill.errors import BudgetError, JudgeError
from prefdistill.plugins import Plugin
from prefdistill.records import CriterionScore, Judgement, Verdict
from prefdistill.stages.judge import judge_prompts, threads_for
from tests.making import ASKED, failed, make_drafts, make_prompt, make_rubric, one_rubric, preferred, scored, valued

RUBRICS = one_rubric(make_rubric(ASKED))


class Custom(Plugin):
    """A judge that does as it is told."""

    def __init__(self, act, **options):
        super().__init__(**options)
        object.__setattr__(self, "act", act)

    model_config = {**Plugin.model_config, "extra": "allow"}

    def judge(self, prompt, drafts, rubric):
        return self.act(prompt, drafts)


def group(id="p", texts=("a", "bb")):
    return make_prompt(id), make_drafts(texts, id)


def verdict_of(act):
    (verdict,) = judge_prompts(Custom(act), [group()], RUBRICS)
    return verdict


def test_numbers_one_a_draft():
    verdict = verdict_of(lambda prompt, drafts: [len(draft.completion) for draft in drafts])
    assert [(j.value, j.scale) for j in verdict.judgements] == [(1.0, "custom"), (2.0, "custom")]
    assert [f.key[-1] for f in verdict_of(lambda p, d: [None, 3]).failures] == ["0"]


def bad_level(prompt, drafts):
    scores = (CriterionScore(criterion="good", level="great", score=1.0, path="parsed"),)
    return Verdict(
        prompt_id="p", judgements=[Judgement(draft_id=d.id, judge="t", scores=scores, scale="rubric") for d in drafts]
    )


BREACHES = {
    "expected a Verdict": lambda p, d: "good",
    "1 numbers for 2 drafts": lambda p, d: [1.0],
    "finite": lambda p, d: [1.0, float("nan")],
    "for prompt q": lambda p, d: Verdict(prompt_id="q"),
    "no draft of prompt p": lambda p, d: Verdict(prompt_id="p", judgements=[scored(make_drafts("x", "zzz")[0], 1.0)]),
    "no judgement, no preference": lambda p, d: Verdict(prompt_id="p", judgements=[scored(d[0], 1.0)]),
    "different scales": lambda p, d: Verdict(prompt_id="p", judgements=[scored(d[0], 1.0), valued(d[1], 1.0)]),
    "no score for good": lambda p, d: Verdict(
        prompt_id="p",
        judgements=[
            Judgement(
                draft_id=x.id,
                judge="t",
                scores=[CriterionScore(criterion="other", score=1.0, path="parsed")],
                scale="rubric",
            )
            for x in d
        ],
    ),
    "unexpected score": lambda p, d: Verdict(prompt_id="p", judgements=[scored(x, 1.0, gate=1.0) for x in d]),
    "level `great`": bad_level,
}


@pytest.mark.parametrize("message", BREACHES)
def test_a_breach_of_the_contract_fails_every_draft_of_the_group(message):
    verdict = verdict_of(BREACHES[message])
    assert [(failure.key[-1], failure.kind) for failure in verdict.failures] == [("0", "parse"), ("1", "parse")]
    assert message in verdict.failures[0].message
    assert verdict.judgements == ()


@pytest.mark.parametrize("problem", [ZeroDivisionError("oops"), JudgeError("the judge is tired"), KeyError("x")])
def test_a_judge_that_raises_fails_its_group_and_only_its_group(problem):
    def act(prompt, drafts):
        if prompt.id == "p3":
            raise problem
        return [1.0, 2.0]

    verdicts = {v.prompt_id: v for v in judge_prompts(Custom(act), [group(f"p{n}") for n in range(6)], RUBRICS)}
    assert len(verdicts) == 6
    assert [failure.kind for failure in verdicts["p3"].failures] == ["provider", "provider"]
    assert verdicts["p3"].owed
    assert str(problem) in verdicts["p3"].failures[0].message
    assert all(len(verdicts[f"p{n}"].judgements) == 2 for n in (0, 1, 2, 4, 5))


def test_an_error_that_no_group_can_escape_stops_the_stage():
    def act(prompt, drafts):
        raise BudgetError("spent")

    with pytest.raises(BudgetError):
        list(judge_prompts(Custom(act), [group(f"p{n}") for n in range(50)], RUBRICS))


def test_complete_verdicts_pass():
    a_verdict = verdict_of(
        lambda p, d: Verdict(prompt_id="p", judgements=[scored(d[0], 1.0)], failures=[failed(d[1].id)])
    )
    assert len(a_verdict.judgements) == len(a_verdict.failures) == 1
    compared = verdict_of(lambda p, d: Verdict(prompt_id="p", preferences=[preferred(d[0], d[1], 1.0)]))
    assert len(compared.preferences) == 1
    lost = verdict_of(lambda p, d: Verdict(prompt_id="p", failures=[failed(f"{d[0].id}|{d[1].id}")]))
    assert len(lost.failures) == 1


def test_judging_runs_while_later_groups_are_still_written():
    judged, seen = [], []

    def act(prompt, drafts):
        judged.append(prompt.id)
        return [1.0, 2.0]

    def slow_groups():
        for number in range(5):
            yield group(f"p{number}")
            time.sleep(0.05)
            seen.append(len(judged))

    assert len(list(judge_prompts(Custom(act), slow_groups(), RUBRICS))) == 5
    assert seen == [1, 2, 3, 4, 5]


def test_a_slow_judge_does_not_hold_the_sampler_up():
    times = []

    def groups():
        for number in range(20):
            yield group(f"p{number}")
            times.append(time.monotonic())

    def act(prompt, drafts):
        time.sleep(0.02)
        return [1.0, 2.0]

    assert len(list(judge_prompts(Custom(act), groups(), RUBRICS, threads=2))) == 20
    assert times[-1] - times[0] < 0.1


def test_max_concurrency_is_respected():
    busy, most = set(), []

    class Single(Custom):
        """One at a time."""

        max_concurrency = 1

    def act(prompt, drafts):
        busy.add(threading.get_ident())
        most.append(len(busy))
        time.sleep(0.01)
        busy.discard(threading.get_ident())
        return [1.0, 2.0]

    list(judge_prompts(Single(act), [group(f"p{n}") for n in range(10)], RUBRICS, threads=8))
    assert max(most) == 1
    assert threads_for(Single(act), 8) == 1
    assert threads_for(Custom(act), 5) == 5


def test_leaving_early_leaves_no_work_behind():
    started = []

    def act(prompt, drafts):
        started.append(prompt.id)
        time.sleep(0.01)
        return [1.0, 2.0]

    for _ in judge_prompts(Custom(act), [group(f"p{n}") for n in range(200)], RUBRICS, threads=2):
        break
    time.sleep(0.05)
    count = len(started)
    time.sleep(0.1)
    assert len(started) == count < 200


def test_a_stage_that_takes_too_long_stops_with_what_is_done_and_how_to_go_on():
    release = threading.Event()

    def act(prompt, drafts):
        if prompt.id != "p0":
            release.wait(10)
        return [1.0, 2.0]

    judge = Custom(act, stage_deadline_seconds=0.3)
    started = time.monotonic()
    verdicts = judge_prompts(judge, [group(f"p{n}") for n in range(4)], RUBRICS)
    assert next(verdicts).prompt_id == "p0"
    with pytest.raises(JudgeError, match=r"stage_deadline_seconds \(0.3\): 1 of 4 prompts are done.*go on"):
        next(verdicts)
    assert 0.2 < time.monotonic() - started < 5
    release.set()


def test_time_spent_waiting_for_drafts_is_not_the_judges():
    def slowly():
        for number in range(3):
            time.sleep(0.2)
            yield group(f"p{number}")

    judge = Custom(lambda prompt, drafts: [1.0, 2.0], stage_deadline_seconds=0.3)
    assert len(list(judge_prompts(judge, slowly(), RUBRICS))) == 3
