"""Sample: prompts and a policy to drafts, each with a seed that depends on nothing but what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prefdistill.protocols import Completion, Sampler, SampleRequest, Teacher, TeacherRequest
from prefdistill.records import Draft, Failure, Message, Policy, Prompt, Split, seed_of
from prefdistill.traces import Reasoning, Tags, stray_tag


def draft_ids(prompt: Prompt, source: str, round: int, purpose: Split, drafts: int) -> list[str]:
    """Return the ids of the drafts that a prompt should have."""
    return [Draft.make_id(prompt.id, source, round, purpose, index) for index in range(drafts)]


def sample_drafts(
    sampler: Sampler,
    policy: Policy,
    prompts: Sequence[Prompt],
    present: Mapping[str, Draft],
    *,
    source: str,
    round: int,
    purpose: Split,
    drafts: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    tags: Tags | None = None,
) -> Iterator[Draft | Failure]:
    """Yield the drafts that are wanted and not `present`, each as soon as it is written.

    The seed of a train draft depends on run seed, round, prompt and index; that of an evaluation draft not on the
    round, so that every policy is measured with the same random numbers. `tags` are those of a student that reasons:
    none may stand in an answer, whatever sampler parted it from its reasoning.
    """
    wanted: dict[str, tuple[Prompt, int, SampleRequest]] = {}
    for prompt in prompts:
        for index, key in enumerate(draft_ids(prompt, source, round, purpose, drafts)):
            parts = (seed, "sample", purpose, round if purpose == "train" else 0, prompt.id, index)
            request = SampleRequest(key, prompt.messages, seed_of(*parts), temperature, top_p, max_new_tokens)
            wanted[key] = (prompt, index, request)
    requests = [request for _, _, request in wanted.values()]
    # A sampler whose drafts depend on their batch (16 bit) asks for whole batches again.
    owed: Callable[..., list[SampleRequest]] | None = getattr(sampler, "owed", None)
    missing = [each for each in requests if each.key not in present]
    if not missing:
        return
    for answer in sampler.sample(policy, missing if owed is None else owed(requests, set(present))):
        if isinstance(answer, Failure):
            yield answer
            continue
        prompt, index, request = wanted[answer.key]
        stray = "" if tags is None else stray_tag(answer.completion, tags)
        yield _draft(answer, prompt, index, request, policy, source, round, purpose, stray)


def _draft(
    answer: Completion,
    prompt: Prompt,
    index: int,
    request: SampleRequest,
    policy: Policy,
    source: str,
    round: int,
    purpose: Split,
    stray: str,
) -> Draft:
    return Draft.model_validate(
        {
            "id": answer.key,
            "prompt_id": prompt.id,
            "source": source,
            "policy": policy,
            "round": round,
            "purpose": purpose,
            "index": index,
            "completion": answer.completion,
            "finish_reason": answer.finish_reason,
            "tokens": answer.tokens,
            "seed": request.seed,
            "log_prob": answer.log_prob,
            "trace": answer.trace,
            "stray_tag": stray,
        }
    )


def teacher_drafts(
    teacher: Teacher,
    prompts: Sequence[Prompt],
    present: Mapping[str, Draft],
    *,
    system: str | None,
    round: int,
    purpose: Split,
    drafts: int,
    max_tokens: int,
    temperature: float | None,
    reasoning: Reasoning | None = None,
) -> Iterator[Draft | Failure]:
    """Yield the teacher's own drafts that are wanted and not `present`; its system prompt replaces the student's.

    With `reasoning` it is asked to reason first; what it wrote before its answer is the draft's trace, and a reply in
    which the two cannot be told apart is a failure.
    """
    wanted: dict[str, tuple[Prompt, int, TeacherRequest]] = {}
    most = max_tokens + (0 if reasoning is None else reasoning.room)
    for prompt in prompts:
        messages = tuple(message for message in prompt.messages if message.role != "system" or system is None)
        if system is not None:
            messages = (Message(role="system", content=system), *messages)
        if reasoning is not None:
            messages = reasoning.ask(messages)
        for index, key in enumerate(draft_ids(prompt, "teacher", round, purpose, drafts)):
            if key not in present:
                request = TeacherRequest(key, messages, most, temperature, repeat=index)
                wanted[key] = (prompt, index, request)
    for reply in teacher.replies([request for _, _, request in wanted.values()]) if wanted else ():
        if isinstance(reply, Failure):
            yield reply.model_copy(update={"stage": "sample"})
            continue
        trace, text = "", reply.text
        if reasoning is not None:
            read = reasoning.read(reply)
            if isinstance(read, Failure):
                yield read
                continue
            trace, text = read
        prompt, index, _ = wanted[reply.key]
        yield Draft(
            id=reply.key,
            prompt_id=prompt.id,
            source="teacher",
            policy=None,
            round=round,
            purpose=purpose,
            index=index,
            completion=text,
            trace=trace,
            finish_reason="length" if reply.finish_reason == "length" else "stop",
            tokens=reply.usage.completion_tokens or None,
        )
