"""What people said about drafts: label files in plain JSONL, one row a label, by one or many people.

A row is a pair, a ranking or a criterion, told apart by its keys; a file may mix them:

    {"prompt": "…", "first": "…", "second": "…", "winner": "first", "by": "ann"}
    {"prompt": "…", "drafts": ["…", "…", "…", "…"], "ranking": [[2], [0, 1], [3]], "by": "ann"}
    {"prompt": "…", "draft": "…", "criterion": "tone", "level": "fitting", "by": "bob"}

`winner` is first, second or tie; `ranking` holds places in `drafts`, best first, tied ones together. A prompt is a text
or a list of messages. Optional: `prompt_id`, `fields` (what the rubric's `{name}` refer to), the ids of drafts in a run
(`first_id`, `second_id`, `draft_ids`, `draft_id`), `seconds` (how long it took) and `at` (when, ISO 8601).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from prefdistill.errors import PrefdistillError
from prefdistill.jsonl import explained, read_jsonl
from prefdistill.records import Message, Prompt, Record, digest

Winner = Literal["first", "second", "tie"]
SOMEONE = "someone"
"""Who labelled, where a row does not say."""


WHAT = (
    'a label file in JSONL, one label a line, such as {"prompt": "…", "first": "…", "second": "…", "winner": "first", '
    '"by": "ann"}'
)


class LabelError(PrefdistillError):
    """A label file cannot be used as written."""


class Label(Record):
    """What every label has: the prompt, and who said it when."""

    prompt: str | tuple[Message, ...]
    """The prompt's text, or its messages; ends with a user message."""
    by: str = Field(default=SOMEONE, min_length=1)
    """Who labelled: any name, the same on all rows of one person."""
    prompt_id: str | None = None
    """The prompt's id in a run."""
    fields: dict[str, Any] = {}
    """The prompt's named facts; `{name}` in a rubric refers to these."""
    seconds: float | None = Field(default=None, ge=0.0)
    """How long the person took."""
    at: str | None = None
    """When, ISO 8601."""

    @model_validator(mode="after")
    def _has_a_prompt(self) -> Self:
        self.to_prompt()
        return self

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as messages."""
        return (Message(role="user", content=self.prompt),) if isinstance(self.prompt, str) else self.prompt

    @property
    def prompt_key(self) -> str:
        """What labels of one prompt share: its id where it is given, else the hash of its messages and fields."""
        told = [[each.model_dump() for each in self.messages], self.fields]
        return self.prompt_id or f"prompt-{digest(told)}"

    def to_prompt(self) -> Prompt:
        """Return the prompt as a record of the test split, under `prompt_key`."""
        return Prompt(id=self.prompt_key, messages=self.messages, split="test", fields=self.fields)

    def key(self) -> tuple[Any, ...]:
        """Return what the label is about and who gave it: of two labels with one key the later one counts."""
        raise NotImplementedError(f"{type(self).__name__} has no key")

    def agrees_with(self, other: Label) -> bool:
        """Whether another label with the same key says the same."""
        raise NotImplementedError(f"{type(self).__name__} cannot be compared")


class PairLabel(Label):
    """Which of two drafts a person found better."""

    first: str
    """The text that was shown first."""
    second: str
    winner: Winner
    first_id: str | None = None
    """The draft's id in a run."""
    second_id: str | None = None

    @model_validator(mode="after")
    def _two_texts(self) -> Self:
        told_apart = self.first_id is not None and self.second_id is not None and self.first_id != self.second_id
        if self.first.strip() == self.second.strip() and self.winner != "tie" and not told_apart:
            raise ValueError(f"first and second are the same text, so winner cannot be `{self.winner}`; expected `tie`")
        return self

    def key(self) -> tuple[Any, ...]:
        """Return the person, the prompt and the two texts in any order."""
        return self.by, self.prompt_key, "pair", frozenset(self._texts)

    def agrees_with(self, other: Label) -> bool:
        """Whether the same text won, whichever stood first."""
        return isinstance(other, PairLabel) and self._won == other._won

    @property
    def _texts(self) -> tuple[str, str]:
        """What tells the two drafts apart: their texts, their ids only where the texts are the same."""
        texts = self.first.strip(), self.second.strip()
        return texts if texts[0] != texts[1] else (self.first_id or texts[0], self.second_id or texts[1])

    @property
    def _won(self) -> str | None:
        return {"first": self._texts[0], "second": self._texts[1]}.get(self.winner)


class RankingLabel(Label):
    """How a person ranked n drafts."""

    drafts: tuple[str, ...] = Field(min_length=2)
    ranking: tuple[tuple[int, ...], ...]
    """Places in `drafts` (from 0), best first; tied ones stand together."""
    draft_ids: tuple[str, ...] | None = None
    """The drafts' ids in a run, in the order of `drafts`."""

    @model_validator(mode="after")
    def _ranks_each_once(self) -> Self:
        places = sorted(place for group in self.ranking for place in group)
        if places != list(range(len(self.drafts))) or not all(self.ranking):
            raise ValueError(
                f"ranking has the places {places}; expected each of 0 to {len(self.drafts) - 1} once, in groups such as "
                "[[2], [0, 1]], best first"
            )
        if self.draft_ids is not None and len(self.draft_ids) != len(self.drafts):
            raise ValueError(f"{len(self.draft_ids)} draft_ids for {len(self.drafts)} drafts; expected one each")
        ranks: dict[str, int] = {}
        for text, rank in zip(self.drafts, self.ranks, strict=True):
            if ranks.setdefault(text.strip(), rank) != rank and self.draft_ids is None:
                raise ValueError("two drafts with the same text have different ranks; expected them to be tied")
        return self

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each draft, from 1, in the order of `drafts`; tied ones share the first of their places."""
        ranks, place = [0] * len(self.drafts), 1
        for group in self.ranking:
            for draft in group:
                ranks[draft] = place
            place += len(group)
        return tuple(ranks)

    def key(self) -> tuple[Any, ...]:
        """Return the person, the prompt and the texts in any order."""
        return self.by, self.prompt_key, "ranking", tuple(sorted(text.strip() for text in self.drafts))

    def agrees_with(self, other: Label) -> bool:
        """Whether every text has the same rank."""
        return isinstance(other, RankingLabel) and self._rank_of() == other._rank_of()

    def _rank_of(self) -> dict[str, int]:
        return dict(zip((text.strip() for text in self.drafts), self.ranks, strict=True))


class CriterionLabel(Label):
    """Which level of one of the rubric's criteria a person gave a draft."""

    draft: str
    criterion: str
    level: str
    draft_id: str | None = None
    """The draft's id in a run."""

    def key(self) -> tuple[Any, ...]:
        """Return the person, the prompt, the text and the criterion."""
        return self.by, self.prompt_key, "criterion", self.draft.strip(), self.criterion

    def agrees_with(self, other: Label) -> bool:
        """Whether the level is the same."""
        return isinstance(other, CriterionLabel) and self.level == other.level


@dataclass(frozen=True)
class Labels:
    """A label file, read; of labels on one thing by one person only the last is kept."""

    paths: tuple[Path, ...] = ()
    pairs: tuple[PairLabel, ...] = ()
    rankings: tuple[RankingLabel, ...] = ()
    criteria: tuple[CriterionLabel, ...] = ()
    replaced: int = 0
    """Rows that a later row by the same person on the same thing replaced."""

    confirmed: int = 0
    """How many of those said the same."""

    def __len__(self) -> int:
        return len(self.all)

    @property
    def all(self) -> tuple[PairLabel | RankingLabel | CriterionLabel, ...]:
        """Every label."""
        return (*self.pairs, *self.rankings, *self.criteria)

    @property
    def people(self) -> tuple[str, ...]:
        """Who labelled, sorted."""
        return tuple(sorted({each.by for each in self.all}))


def load_labels(path: Path, *more: Path) -> Labels:
    """Read one label file or several, one a person perhaps.

    Raises:
        LabelError: a file is missing or empty, or rows cannot be read; each bad row has a line of the message.
    """
    kept: dict[tuple[Any, ...], Label] = {}
    rows = same = 0
    for file in (path, *more):
        for label in read_jsonl(file, parse_label, LabelError, WHAT):
            rows += 1
            before = kept.pop(label.key(), None)  # the later one counts, and stands where it was written
            same += before is not None and label.agrees_with(before)
            kept[label.key()] = label
    return labels_of(kept.values(), (path, *more), replaced=rows - len(kept), confirmed=same)


def labels_of(rows: Iterable[Label], paths: tuple[Path, ...] = (), replaced: int = 0, confirmed: int = 0) -> Labels:
    """Return labels that are at hand, sorted into their kinds."""
    found = list(rows)
    return Labels(
        paths=paths,
        pairs=tuple(each for each in found if isinstance(each, PairLabel)),
        rankings=tuple(each for each in found if isinstance(each, RankingLabel)),
        criteria=tuple(each for each in found if isinstance(each, CriterionLabel)),
        replaced=replaced,
        confirmed=confirmed,
    )


def parse_label(data: Mapping[str, Any]) -> Label:
    """Read one row.

    Raises:
        ValueError: it is no label; the message says what was found and expected.
    """
    kinds = [kind for key, kind in KINDS.items() if key in data]
    if len(kinds) != 1:
        raise ValueError(
            f"found the keys {', '.join(data) or 'none'}; expected a pair (with `winner`), a ranking (with `ranking`) "
            "or a criterion's level (with `criterion`)"
        )
    if not isinstance(data.get("prompt", ""), (str, list)):
        found = repr(data["prompt"])[:80]
        raise ValueError(f"prompt: found {found}; expected a text, or a list of messages (role and content)")
    try:
        return kinds[0].model_validate(data)
    except ValidationError as problem:
        raise ValueError(explained(problem, kinds[0])) from None


KINDS: Mapping[str, type[Label]] = {"winner": PairLabel, "ranking": RankingLabel, "criterion": CriterionLabel}
"""The key by which each kind of row is known."""
