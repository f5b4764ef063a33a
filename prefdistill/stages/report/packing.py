"""The browser's rows as blocks of base64: what a page with thousands of drafts holds instead of their text.

Texts are cut here, and made safe to show by the rules of the report's examples, so that one huge draft does not bloat
the file and the script has nothing to spell out.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prefdistill.records import CriterionScore, Message, digest
from prefdistill.stages.report.browsing import (
    NO_ANSWER,
    NO_PAIR,
    BrowserData,
    BrowserDraft,
    BrowserPair,
    BrowserRow,
    PairRow,
)
from prefdistill.stages.report.examples import LONGEST_SHOWN, visible

ROWS_IN_BLOCK = 200
MOST_CHARACTERS = 54_000_000
"""Characters of all texts together: about 20 MB of the file, gzipped and in base64."""
SHORTER = (LONGEST_SHOWN, 6000, 3000, 1500, 800)
"""Where a text is cut; a shorter cut is taken where a longer one would come to too many characters."""
SHARE = 0.75
"""Where rows must be left out, texts are cut so that test prompts take no more of the room than this."""
LONGEST_REASON = 600
OVERHEAD = 300
"""Characters that a row's numbers, names and ids come to, about."""


@dataclass(frozen=True)
class Packed:
    """The rows, ready to stand in a page."""

    blocks: tuple[str, ...]
    """Gzipped JSON in base64: first what holds for all rows, then rows."""
    left_out: tuple[int, int]
    """Test prompts, and training prompts, that there is no room for."""
    limit: int
    """Characters after which a text is cut."""


def pack_browser(data: BrowserData, texts: bool, most: int | None = None) -> Packed:
    """Return the rows as blocks.

    Where all rows together have more than `most` characters (MOST_CHARACTERS by default) even when cut short, rows are
    left out, those of pairs first, drawn by the hash of their ids.
    """
    limit, rows, pairs = _fitting(data, texts, MOST_CHARACTERS if most is None else most)
    packer = _Packer(data, texts, limit)
    reasons = NO_PAIR if data.trains_on == "pairs" else NO_ANSWER
    head = {
        "columns": [
            {"title": visible(each.title), "role": each.role, "note": visible(each.note)} for each in data.columns
        ],
        "judge": visible(data.judge),
        "evaluationJudge": visible(data.evaluation_judge),
        "selfJudged": data.self_judged,
        "criteria": packer.criteria,
        "kinds": sorted({*(visible(row.kind) for row in rows), *(visible(row.kind) for row in pairs)} - {""}),
        "rounds": sorted({row.round for row in pairs}),
        "reasons": [
            {"name": visible(name), "words": reasons.get(name, visible(name).replace("_", " ")), "count": count}
            for name, count in Counter(row.reason for row in pairs if row.reason).most_common()
        ],
        "trainsOn": data.trains_on,
        "texts": texts,
        "rows": len(rows),
        "pairs": len(pairs),
    }
    blocks = (
        _block(head),
        *(_block({"rows": block}) for block in _blocks(rows, packer.row)),
        *(_block({"pairs": block}) for block in _blocks(pairs, packer.pair_row)),
    )
    return Packed(blocks, (len(data.rows) - len(rows), len(data.pair_rows) - len(pairs)), limit)


def _block(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode()


def _blocks(rows: Sequence[Any], pack: Callable[[Any], dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), ROWS_IN_BLOCK):
        yield [pack(each) for each in rows[start : start + ROWS_IN_BLOCK]]


def _fitting(data: BrowserData, texts: bool, most: int) -> tuple[int, Sequence[BrowserRow], Sequence[PairRow]]:
    """Return where texts are cut so that all fits, and the rows that do."""
    own = [_lengths(row.messages, row.drafts.values()) if texts else [] for row in data.rows]
    paired = [_lengths(row.messages, row.drafts) if texts else [] for row in data.pair_rows]
    for limit in SHORTER:
        if sum(_sizes(own, limit)) + sum(_sizes(paired, limit)) <= most:
            return limit, data.rows, data.pair_rows
    limit = next((each for each in SHORTER if sum(_sizes(own, each)) <= SHARE * most), SHORTER[-1])
    kept, room = _chosen([row.id for row in data.rows], _sizes(own, limit), most)
    pairs, _ = _chosen([f"{row.round}/{row.id}" for row in data.pair_rows], _sizes(paired, limit), room)
    return limit, [data.rows[index] for index in kept], [data.pair_rows[index] for index in pairs]


def _sizes(rows: Iterable[Sequence[int]], limit: int) -> list[int]:
    return [OVERHEAD + sum(min(limit, each) for each in row) for row in rows]


def _chosen(names: Sequence[str], sizes: Sequence[int], room: int) -> tuple[list[int], int]:
    """Return the indexes of rows for which there is room, drawn by the hash of their names, and what room is left."""
    found = []
    for index in sorted(range(len(names)), key=lambda index: digest(names[index])):
        if sizes[index] <= room:
            room -= sizes[index]
            found.append(index)
    return sorted(found), room


def _lengths(messages: Iterable[Message], drafts: Iterable[BrowserDraft]) -> list[int]:
    """Return the characters of every text of a row."""
    found = [len(each.content) for each in messages]
    for draft in drafts:
        found.append(len(draft.completion))
        reasons = (len(score.reason) for score in (*draft.criteria, *draft.evaluation_criteria))
        found.extend(min(LONGEST_REASON, length) for length in reasons)
    return found


class _Packer:
    """Turns rows into JSON values."""

    def __init__(self, data: BrowserData, texts: bool, limit: int) -> None:
        self._texts = texts
        self._limit = limit
        self._titles = [each.title for each in data.columns]
        self._index: dict[tuple[str, str], int] = {}
        drafts = (
            *(draft for row in data.rows for draft in row.drafts.values()),
            *(draft for row in data.pair_rows for draft in row.drafts),
        )
        for judge in ("judge", "evaluation"):
            for draft in drafts:
                for score in draft.criteria if judge == "judge" else draft.evaluation_criteria:
                    self._index.setdefault((judge, score.criterion), len(self._index))

    @property
    def criteria(self) -> list[dict[str, str]]:
        """Name and judge of each criterion, in the order of their numbers."""
        return [{"judge": judge, "name": visible(name).replace("_", " ")} for judge, name in self._index]

    def row(self, row: BrowserRow) -> dict[str, Any]:
        drafts = [row.drafts.get(title) for title in self._titles]
        return {
            **self._prompt(row),
            "outcomes": [row.outcomes.get(title) for title in self._titles],
            "drafts": [None if draft is None else self._draft(draft) for draft in drafts],
        }

    def pair_row(self, row: PairRow) -> dict[str, Any]:
        return {
            **self._prompt(row),
            "round": row.round,
            "drafts": [self._draft(draft) for draft in row.drafts],
            "pairs": [self._pair(each) for each in row.pairs],
            "reason": visible(row.reason),
            "detail": self._said(row.detail),
        }

    def _prompt(self, row: BrowserRow | PairRow) -> dict[str, Any]:
        messages = row.messages if self._texts else ()
        return {
            "id": visible(row.id),
            "label": visible(row.label),
            "kind": visible(row.kind),
            "messages": [[each.role, visible(each.content, self._limit)] for each in messages],
        }

    def _draft(self, draft: BrowserDraft) -> dict[str, Any]:
        found: dict[str, Any] = {"words": len(draft.completion.split()), "writer": visible(draft.writer)}
        if self._texts:
            found["text"] = visible(draft.completion, self._limit)
        for name in ("evaluation", "judge", "gold"):
            value = _rounded(getattr(draft, name))
            if value is not None:
                found[name] = value
        scores = [
            *(self._score("judge", each) for each in draft.criteria),
            *(self._score("evaluation", each) for each in draft.evaluation_criteria),
        ]
        said = {"failure": visible(draft.failure), "said": self._said(draft.failure_detail)}
        # how a draft addresses its judge begins with the kind, which is ours; what follows quotes the draft
        addresses = visible(draft.addresses if self._texts else draft.addresses.partition(":")[0], LONGEST_REASON)
        extra = {
            "gates": [visible(each) for each in draft.gates],
            "scores": scores,
            "cut": int(draft.cut),
            "addresses": addresses,
            **said,
        }
        return found | {name: value for name, value in extra.items() if value}

    def _score(self, judge: str, score: CriterionScore) -> list[Any]:
        found = [
            self._index[judge, score.criterion],
            _rounded(score.score),
            visible(score.level or ""),
            self._said(score.reason),
        ]
        while len(found) > 2 and not found[-1]:
            found.pop()
        return found

    def _pair(self, pair: BrowserPair) -> dict[str, Any]:
        return {
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "scores": [_rounded(pair.chosen_score), _rounded(pair.rejected_score)],
            "margin": _rounded(pair.margin),
            "why": [visible(each) for each in pair.why],
        }

    def _said(self, words: str) -> str:
        return visible(words, LONGEST_REASON) if self._texts else ""


def _rounded(value: float | None) -> float | None:
    """Return a score to five digits; what is no finite number is not known."""
    return round(value, 5) if value is not None and math.isfinite(value) else None
