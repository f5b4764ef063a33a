"""Is the export the policy? Fixed texts are scored, and greedy ones written, before and after, here and elsewhere.

Before is the policy as the run trained it. After is the export, loaded in a fresh process by the code that its card
tells a reader to run. The loss is the mean absolute difference of the log-probabilities, nats a token, on drafts that
the policy wrote in the run; beside it stands how far training moved the policy from its base on the same texts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from prefdistill.assembly import opened_judge
from prefdistill.costs.questions import asked_by
from prefdistill.errors import PrefdistillError, RunError
from prefdistill.export import fresh
from prefdistill.export.forms import Base
from prefdistill.export.loading import Format
from prefdistill.export.source import Source
from prefdistill.metrics.scores import draft_scores
from prefdistill.plugins import name_of
from prefdistill.records import Draft, Prompt
from prefdistill.sections import StudentSection
from prefdistill.stages.judge import judge_prompts
from prefdistill.student import device_of, end_token_ids, free, load_policy, load_tokenizer, prompt_completion_ids
from prefdistill.traces import Parted, part, stray_tag

LIMITS: dict[tuple[Format, Base | None], float] = {
    ("adapter", None): 0.01,
    ("merged", "dequantized"): 0.01,
    ("merged", "original"): 0.1,
    ("nf4", "dequantized"): 0.1,
    ("nf4", "original"): 0.1,
}
"""Largest loss by form and base, nats a token. Measured on the quickstart's student: 0.0000, 0.0000, 0.0045, 0.037
and 0.0045; into the original base a larger student loses more, by what its quantisation changes."""
LARGEST_SHARE = 0.5
"""Where the base stays the one that was trained on: largest loss as a share of what training changed."""
RUN_GAP = 0.05
"""Nats a token by which drafts may be scored otherwise now than when they were sampled; 16 bit made 0.002."""


@dataclass(frozen=True)
class Probes:
    """Fixed texts, and what the policy makes of them."""

    drafts: tuple[Draft, ...]
    conversations: list[list[dict[str, str]]]
    prompts: list[list[int]]
    completions: list[list[int]]
    log_probs: list[list[float]] = field(repr=False)
    base_log_probs: list[list[float]] = field(repr=False)
    greedy: list[list[int]] = field(repr=False)
    end_ids: frozenset[int] = frozenset()

    @property
    def update(self) -> float:
        """How far training moved the policy from its base, nats a token."""
        return mean_difference(self.log_probs, self.base_log_probs)


@dataclass(frozen=True)
class Scores:
    """Mean rubric scores of greedy drafts, before and after."""

    judge: str
    before: float
    after: float
    prompts: int


@dataclass(frozen=True)
class Check:
    """What the check found."""

    drafts: int
    tokens: int
    loss: float
    """Mean |log-probability after - before|, nats a token."""
    max_loss: float
    update: float
    """The same between the policy and its base."""
    to_base: float
    """The same between the export and the policy's base; small where the training was lost."""
    greedy_same: int
    """Greedy drafts that are the same, token by token."""
    scores: Scores | None = None
    not_scored: str = ""
    """Why there are no rubric scores."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def mean_difference(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    """Return the mean absolute difference of two scorings of the same tokens."""
    return fmean(abs(a - b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


def limit_for(format: Format, base: Base | None, quantized: bool, update: float, given: float | None) -> float:
    """Return the largest loss that is let through, nats a token."""
    if given is not None:
        return given
    limit = LIMITS[format, base]
    same_base = format == "adapter" or base == "dequantized" or (format == "nf4" and quantized) or not quantized
    return min(limit, LARGEST_SHARE * update) if same_base else limit


def probe(source: Source, count: int) -> Probes:
    """Score the policy's own validation drafts with the policy and with its base, and have it write greedily.

    Raises:
        RunError: these are not the weights that wrote the drafts.
    """
    from prefdistill.samplers.decoding import Row, decode

    student, limit = source.recipe.student, source.recipe.sample.max_new_tokens
    drafts = source.drafts(count)
    tokenizer = load_tokenizer(student)
    model = load_policy(student, source.policy, source.run.path)
    rendered = []
    for draft in drafts:
        prompt, completion = prompt_completion_ids(
            tokenizer, source.prompts[draft.prompt_id].messages, draft.written, student
        )
        cut = draft.finish_reason == "length" and len(completion) > 1
        rendered.append((prompt, completion[:-1] if cut else completion))
    log_probs = fresh.score(model, rendered)
    _same_weights(source, drafts, log_probs)
    with model.disable_adapter():
        base_log_probs = fresh.score(model, rendered)
    ends = end_token_ids(tokenizer, model, student)
    prompts = [prompt for prompt, _ in rendered]
    greedy: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(prompts), fresh.BATCH):
        batch = prompts[start : start + fresh.BATCH]
        rows = [Row(index, 0, 0.0, 1.0, limit) for index in range(len(batch))]
        for written in decode(model, batch, rows, ends, int(tokenizer.pad_token_id or 0)):
            for each in written:
                greedy[start + each.row] = each.ids
    del model
    free()
    return Probes(
        drafts=tuple(drafts),
        conversations=[_turns(source.prompts[draft.prompt_id]) for draft in drafts],
        prompts=prompts,
        completions=[completion for _, completion in rendered],
        log_probs=log_probs,
        base_log_probs=base_log_probs,
        greedy=greedy,
        end_ids=frozenset(ends),
    )


def _turns(prompt: Prompt) -> list[dict[str, str]]:
    return [message.model_dump(mode="json") for message in prompt.messages]


def _same_weights(source: Source, drafts: Sequence[Draft], log_probs: Sequence[Sequence[float]]) -> None:
    """Compare with the log-probabilities that the sampler stored, so that another base is noticed."""
    known = [
        (abs(draft.log_prob - sum(found)), len(found))
        for draft, found in zip(drafts, log_probs, strict=True)
        if draft.log_prob is not None and draft.tokens == len(found)
    ]
    gap = sum(each for each, _ in known) / max(1, sum(tokens for _, tokens in known))
    if gap > RUN_GAP:
        raise RunError(
            f"{source.adapter}: on {source.recipe.student.source} this adapter scores its own drafts of round "
            f"{source.policy.round} {gap:.3f} nats a token otherwise than when it wrote them (expected at most {RUN_GAP}); "
            "the base or the adapter is not the one of the run: restore it, or run the recipe again"
        )


def reload(source: Source, folder: Path, code: str, probes: Probes) -> dict[str, Any]:
    """Load the export in a fresh process by its own loading code, and return what it scores and writes.

    Raises:
        RunError: it cannot be loaded, or it reads a prompt as other tokens than the run did.
    """
    tokenizer = load_tokenizer(source.recipe.student)
    answer = run_fresh(
        folder,
        {
            "code": code,
            "conversations": probes.conversations,
            "completions": probes.completions,
            "chat_template_kwargs": source.recipe.student.chat_template_kwargs,
            "block": source.recipe.student.block,
            "max_new_tokens": source.recipe.sample.max_new_tokens,
            "pad_id": int(tokenizer.pad_token_id or 0),
        },
        cpu=device_of(source.recipe.student).type == "cpu",
    )
    if answer["prompts"] != probes.prompts:
        raise RunError(
            f"{folder}: the exported tokenizer and chat template read a prompt as other tokens than the run did; "
            "expected the same ones: restore the base's tokenizer files, then export again"
        )
    return answer


def run_fresh(folder: Path, job: dict[str, Any], cpu: bool) -> dict[str, Any]:
    """Do a job of `fresh` in a process of its own, started in `folder`."""
    environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    # -P: the folder of the script is no place to import from.
    done = subprocess.run(
        [sys.executable, "-P", str(Path(fresh.__file__).resolve())],
        input=json.dumps(job),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise RunError(
            f"{folder}: plain transformers and peft cannot load the export in a fresh process: {said[-1].strip()}; "
            "expected the card's own code to work; nothing was exported"
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare(source: Source, probes: Probes, after: dict[str, Any], max_loss: float, ask_paid: bool) -> Check:
    """Set the reloaded export against the policy."""
    tokenizer = load_tokenizer(source.recipe.student)
    same = sum(a == b for a, b in zip(probes.greedy, after["greedy"], strict=True))
    scores, reason = None, why_not_judged(source, ask_paid)
    if not reason:
        student = source.recipe.student
        texts = [
            [_text(tokenizer, ids, probes.end_ids, student) for ids in each]
            for each in (probes.greedy, after["greedy"])
        ]
        scores, reason = judge_greedy(source, probes.drafts, texts[0], texts[1])
    return Check(
        drafts=len(probes.drafts),
        tokens=sum(map(len, probes.completions)),
        loss=mean_difference(after["log_probs"], probes.log_probs),
        max_loss=max_loss,
        update=probes.update,
        to_base=mean_difference(after["log_probs"], probes.base_log_probs),
        greedy_same=same,
        scores=scores,
        not_scored=reason,
    )


def _text(tokenizer: Any, ids: Sequence[int], ends: frozenset[int], student: StudentSection) -> tuple[str, bool]:
    """Return a completion's text, without reasoning in front of it, and whether it ended by itself."""
    ended = bool(ids) and ids[-1] in ends
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    parted = Parted("", str(text)) if student.trace is None else part(str(text), student.tags)
    return parted.completion, ended and parted.closed


def why_not_judged(source: Source, ask_paid: bool) -> str:
    """Return why the run's judge does not score the greedy drafts; empty where it does."""
    judge: Any = source.recipe.judge
    if not getattr(judge, "scores_alone", True):
        return f"the judge {name_of(judge)} gives no score to a draft alone"
    paid = bool(asked_by(judge, source.recipe)) or hasattr(judge, "url")
    if paid and not ask_paid:
        return f"the judge {name_of(judge)} asks a server that may cost money; --judge asks it"
    return ""


def judge_greedy(
    source: Source, drafts: Sequence[Draft], before: Sequence[tuple[str, bool]], after: Sequence[tuple[str, bool]]
) -> tuple[Scores | None, str]:
    """Return the run's judge's mean scores of greedy drafts, or why there are none."""
    groups: list[tuple[Prompt, list[Draft]]] = []
    student = source.recipe.student
    for draft, *sides in zip(drafts, before, after, strict=True):
        groups.append(
            (
                source.prompts[draft.prompt_id],
                [
                    Draft(
                        id=Draft.make_id(draft.prompt_id, f"file:{name}", 0, "validation", 0),
                        prompt_id=draft.prompt_id,
                        source=f"file:{name}",
                        policy=None,
                        round=0,
                        purpose="validation",
                        index=0,
                        completion=text,
                        finish_reason="stop" if ended else "length",
                        stray_tag="" if student.trace is None else stray_tag(text, student.tags),
                    )
                    for name, (text, ended) in zip(("before", "after"), sides, strict=True)
                ],
            )
        )
    try:
        with opened_judge(source.recipe) as (judge, _):
            verdicts = list(judge_prompts(judge, groups, source.recipe.rubrics))
    except PrefdistillError as problem:
        return None, f"the judge failed: {problem}"
    all_drafts = [each for _, two in groups for each in two]
    found = draft_scores(verdicts, all_drafts, [prompt for prompt, _ in groups], source.recipe.rubrics)
    pairs = [
        (found[one.id].gated_score, found[two.id].gated_score)
        for _, (one, two) in groups
        if one.id in found and two.id in found
    ]
    if not pairs:
        return None, "the judge gave no scores"
    return (
        Scores(name_of(source.recipe.judge), fmean(a for a, _ in pairs), fmean(b for _, b in pairs), len(pairs)),
        "",
    )


def refuse_above_limit(check: Check, format: Format, base: Base | None, given: bool) -> None:
    """Raise where the export is too far from the policy.

    Raises:
        RunError: with the loss, the limit and what to do.
    """
    if check.loss <= check.max_loss:
        return
    half = not given and check.max_loss < LIMITS[format, base]
    limit = f"half of the {check.update:.4f} that training changed" if half else "the limit"
    remedies = {
        "adapter": "load the base in the type that it was trained in; a GPU's 16 bit rounds more than --max-loss allows",
        "merged": "use --dtype float32, or --base dequantized, or ship the adapter (--format adapter)",
        "nf4": "use --base original or --format merged, or ship the adapter (--format adapter), which keeps the policy",
    }
    lost = " What is left is nearer to the base than to the policy." if check.to_base < check.loss else ""
    raise PrefdistillError(
        f"--format {format}{f' --base {base}' if base else ''}: the export scores the policy's own drafts "
        f"{check.loss:.4f} nats a token otherwise than the policy; expected at most {check.max_loss:.4f} ({limit}).{lost} "
        f"Nothing was exported; {remedies[format]}, or allow it with --max-loss {check.loss * 1.1:.2g}"
    )
