"""Smells of a rubric as a whole: what is missing, what is there twice, and what outweighs the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from prefdistill.lint.findings import Finding, Smell, place
from prefdistill.lint.levels import level_smells
from prefdistill.lint.questions import question_smells
from prefdistill.records import Prompt
from prefdistill.rubric import Criterion, Rubric, fields_in

MANY = 12
"""Criteria above which one call's answers get careless."""
DOMINATES = 0.5
"""Share of the weight above which one criterion decides nearly alone."""
NEAR = 86.0
"""Likeness, 0 to 100, from which two questions are taken for one."""
_STOP = frozenset(
    "is are does do the a an of in to it its that this how well much what which on for with be and or draft text "
    "e-mail email "
    "reply answer response summary edit by at as any".split()
)
SUBJECTS: tuple[tuple[str, str], ...] = (
    ("how short it is", r"concise\w*|brief\w*|brevity|succinct\w*|wordy|wordiness|short"),
    ("politeness", r"polite\w*|courte\w+|friendly|friendliness"),
    ("clarity", r"clear|clarity|unclear|understandable|readab\w+|easy to (?:read|follow)"),
    ("right facts", r"accurate|accuracy|factual\w*|faithful\w*"),
    ("nothing left out", r"complete(?:ness)?|comprehensive\w*|thorough\w*|left out|leave out"),
    ("grammar", r"grammar|grammatical\w*|spelling"),
)
"""Words that ask for the same thing."""


def lint_rubric(rubric: Rubric, prompts: Sequence[Prompt] = ()) -> list[Finding]:
    """Return what smells in a rubric, in the order of its file; with prompts, also fields that none of them has."""
    findings: list[Finding] = []
    for criterion in rubric.all_criteria:
        if criterion.asked:
            smells = [*question_smells(criterion), *level_smells(criterion)]
            findings += [place(rubric, smell, criterion) for smell in smells]
    findings += [place(rubric, smell, criterion) for criterion, smell in _overlaps(rubric)]
    findings += [place(rubric, smell, criterion) for criterion, smell in _untested(rubric)]
    findings += [place(rubric, smell, criterion) for criterion, smell in _heavy(rubric)]
    findings += [place(rubric, smell, criterion) for criterion, smell in _fieldless(rubric, prompts)]
    findings += [place(rubric, smell) for smell in _missing(rubric)]
    return sorted(findings, key=lambda each: each.line or 0)


def _missing(rubric: Rubric) -> Iterator[Smell]:
    """What a rubric of this kind usually has and this one has not."""
    if not rubric.gates:
        fields = sorted({name for each in rubric.all_criteria for name in each.fields})
        wanted = f'["{{{fields[0]}}}"]' if fields else '["{day}"]'
        yield Smell(
            "no-gate",
            "hint",
            "criteria",
            "no gate: nothing is unforgivable",
            "a draft with a wrong fact can win on style, and be the chosen one of a pair",
            f"gates:\n  - {{name: keeps_the_facts, check: mentions, all_of: {wanted}}}"
            '     # or {name: invents_nothing, question: "…", pass_when: "no"}',
        )
    if not rubric.checked:
        yield Smell(
            "no-check",
            "hint",
            "criteria",
            f"all {len(rubric.all_criteria)} criteria are asked, none is checked",
            "a check costs nothing, never changes its mind and cannot be talked to; drafts that fail a checked "
            "gate cost "
            "no call at all",
            "- {name: names_and_numbers, check: grounded}     # every number, date and name occurs in the request\n"
            "- {name: length, check: length, unit: words, between: [20, 110], soft: 20}",
        )
    if len(rubric.all_criteria) > MANY:
        asked = len(rubric.asked)
        yield Smell(
            "too-many",
            "hint",
            "criteria",
            f"{len(rubric.all_criteria)} gates and criteria, {asked} of them asked; about {MANY} are as many as "
            "one call "
            "answers with care",
            "all criteria in one call already costs 1.8 points of accuracy (95 % interval -4.1 to +0.4), and each "
            "further "
            "one dilutes the weight of the others",
            "leave out those that hardly ever differ between drafts (`prefdistill agreement` names them), or set "
            "`judge.calls: per_criterion`",
        )
    if not rubric.tests:
        yield Smell(
            "no-test",
            "warning",
            "criteria",
            "the rubric has no test",
            "nobody can say whether the judge reads it as you mean it, nor whether tomorrow's edit breaks it",
            _example_test(rubric.asked[0].name if rubric.asked else rubric.all_criteria[0].name),
        )


def _example_test(name: str) -> str:
    return f'tests:\n  - {{prompt: "…", better: "…", worse: "the same, but worse on {name} alone", because: {name}}}'


def _untested(rubric: Rubric) -> Iterator[tuple[Criterion, Smell]]:
    """Asked criteria and gates that no test speaks of; checks do not depend on anybody's reading."""
    if not rubric.tests:
        return
    tested = {test.because for test in rubric.tests}
    gates = {gate.name for gate in rubric.gates}
    for criterion in rubric.asked:
        if criterion.name in tested:
            continue
        is_gate = criterion.name in gates
        yield (
            criterion,
            Smell(
                "no-test",
                "warning" if is_gate else "hint",
                "name",
                f"no test has `because: {criterion.name}`",
                "an asked gate that is misread throws good drafts away"
                if is_gate
                else "whether the judge reads this question as you do is not known",
                _example_test(criterion.name),
            ),
        )


def _heavy(rubric: Rubric) -> Iterator[tuple[Criterion, Smell]]:
    total = sum(each.weight for each in rubric.criteria)
    for each in rubric.criteria:
        share = each.weight / total
        if len(rubric.criteria) >= 3 and share > DOMINATES:
            rest = total - each.weight
            yield (
                each,
                Smell(
                    "dominates",
                    "hint",
                    "weight",
                    f"{each.name} has {share:.0%} of the weight, more than the other {len(rubric.criteria) - 1} "
                    "together",
                    "the others only break ties, and the student learns this one thing",
                    f"weight: {max(1, round(rest / 2)):g}     # a third, or make it a gate if nothing makes up for it",
                ),
            )


def _fieldless(rubric: Rubric, prompts: Sequence[Prompt]) -> Iterator[tuple[Criterion, Smell]]:
    """`{field}`s that no prompt has: the criterion would never apply."""
    from prefdistill.errors import did_you_mean

    known = sorted({name for prompt in prompts for name in prompt.fields})
    for criterion in rubric.all_criteria if prompts else ():
        for name in sorted(criterion.fields):
            if any(prompt.fields.get(name) not in (None, "") for prompt in prompts):
                continue
            near = did_you_mean(name, known)
            yield (
                criterion,
                Smell(
                    "no-field",
                    "warning",
                    "question" if name in fields_in(criterion.question) else "check",
                    f"{{{name}}} is a column of none of the {len(prompts)} prompts{near}",
                    "the criterion would apply to no prompt, and a run refuses to start",
                    f"name one of the columns: {', '.join(known) or 'the prompts have none'}",
                ),
            )


def _overlaps(rubric: Rubric) -> Iterator[tuple[Criterion, Smell]]:
    """Criteria that measure one thing twice: two questions, two names, or a question and a check."""
    seen: list[Criterion] = []
    for criterion in rubric.all_criteria:
        for other in seen:
            same = _same(other, criterion)
            if same is None:
                continue
            checked = next((each for each in (other, criterion) if not each.asked), None)
            better = (
                f"keep `{checked.name}`, which costs nothing, and remove the question"
                if checked
                else (
                    f"keep one of them with weight {criterion.weight + other.weight:g}, or ask for what "
                    f"`{criterion.name}` has "
                    f"that `{other.name}` has not"
                )
            )
            yield (
                criterion,
                Smell(
                    "overlap",
                    "warning" if checked else "hint",
                    "name",
                    f"`{criterion.name}` and `{other.name}` {same}",
                    "what both see counts twice, whatever the weights say",
                    better,
                ),
            )
            break
        seen.append(criterion)


def _same(a: Criterion, b: Criterion) -> str | None:
    """Return in which way two criteria are about the same thing, None where they are not."""
    from rapidfuzz import fuzz

    if a.asked and b.asked:
        if fuzz.token_sort_ratio(_content(a.question), _content(b.question)) >= NEAR and _content(a.question):
            return "ask nearly the same question"
        if a.name.rstrip("s") == b.name.rstrip("s") or fuzz.ratio(a.name, b.name) >= NEAR:
            return "have nearly the same name"
        shared = [what for what, words in SUBJECTS if _speaks_of(a, words) and _speaks_of(b, words)]
        return f"both ask for {shared[0]}" if shared else None
    if not a.asked and not b.asked:
        same = a.check == b.check and a.options == b.options and a.applies_if == b.applies_if
        return "are the same check with the same options" if same else None
    checked, asked = (b, a) if a.asked else (a, b)
    what = _checked_subject(checked, asked)
    return None if what is None else f"both look at {what}, one by a check and one by asking"


def _speaks_of(criterion: Criterion, words: str) -> bool:
    text = f"{criterion.name.replace('_', ' ')} {criterion.question}".lower()
    return re.search(rf"\b(?:{words})\b", text) is not None


_CHECKED_SUBJECTS: tuple[tuple[str, str, str], ...] = (
    ("length", "length", r"concise\w*|brevity|too long|too short|long enough|word count|how (?:long|short)"),
    ("phrases", "filler phrases", r"filler|clich\w*|stock phrases|empty phrases"),
    ("repetition", "repetition", r"repeat\w*|repetiti\w+"),
)
_PARTS = {
    "greeting": r"greet\w*|salutation",
    "sign_off": r"sign[- ]?off|sign[s-]* off|closing (?:line|formula)|signature",
    "subject": r"subject line",
    "placeholders": r"placeholders?|blanks?",
    "markdown": r"markdown",
    "preamble": r"preamble",
}


def _checked_subject(checked: Criterion, asked: Criterion) -> str | None:
    """Return what a check and a question both look at."""
    for check, what, words in _CHECKED_SUBJECTS:
        if checked.check == check and _speaks_of(asked, words):
            return what
    if checked.check == "structure":
        return next(
            (n.replace("_", " ") for n, w in _PARTS.items() if n in checked.options and _speaks_of(asked, w)), None
        )
    if checked.check == "mentions":
        shared = fields_in(list(checked.options.values())) & fields_in(asked.question)
        says = re.search(r"\b(?:mention|state|contain|include|name|say|give)s?\b", asked.question or "", re.IGNORECASE)
        return f"whether {{{sorted(shared)[0]}}} is there" if shared and says else None
    return None


def _content(question: str | None) -> str:
    words: Iterable[str] = re.findall(r"[a-z{}_]+", (question or "").lower())
    return " ".join(word for word in words if word not in _STOP)
