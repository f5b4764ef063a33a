"""How far a prompt is from the training prompts: the share of its character n-grams that they hardly know.

Place in the flow: after a run. `prefdistill serve` sends a prompt that is too far to the teacher, `prefdistill drift`
counts how much of a log is. A prompt's n-gram counts 1/(1 + k) where k training prompts have it, and the distance is
the mean over its n-grams: near 0 where all of them are common there, 1 where none was ever seen. N-grams are of 2 to 5
characters within words, in lower case, all digits alike. scikit-learn's HashingVectorizer makes the same n-grams in
13 ms for 10,000 characters; a request can wait for a fraction of one, hence the hashing by array here.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prefdistill.errors import RunError
from prefdistill.records import Message

Array = npt.NDArray[np.float64]
Features = npt.NDArray[np.int64]

BITS = 18
"""N-grams are hashed to 2**18 features."""
LENGTHS = (2, 5)
"""Characters of the shortest and the longest n-gram."""
READ = 10_000
"""Characters of a prompt that are read; of a longer one the first and the last half of that."""
VERSION = 1
"""Of the file; another one is not read."""
_FACTORS = {
    2: np.uint64(0x9E3779B97F4A7C15), 3: np.uint64(0xC2B2AE3D27D4EB4F),
    4: np.uint64(0x165667B19E3779F9), 5: np.uint64(0x27D4EB2F165667C5),
}  # fmt: skip
_BASE = np.uint64(1_099_511_628_211)


def scope_text(messages: Sequence[Message]) -> str:
    """Return what of a conversation is compared: all but the system messages, a line each."""
    return "\n".join(message.content for message in messages if message.role != "system")


def grams(text: str) -> Features:
    """Return the hashed n-grams of a text in its order, repeated ones too; shape [n-grams].

    Only `READ` characters are read. A text without a word has none.
    """
    if len(text) > READ:
        text = f"{text[: READ // 2]} {text[-READ // 2 :]}"
    words = f" {' '.join(text.lower().split())} "
    if len(words) < 3:
        return np.zeros(0, dtype=np.int64)
    codes = np.frombuffer(words.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    codes[(codes >= ord("0")) & (codes <= ord("9"))] = ord("0")
    gap = codes == ord(" ")
    hashed, whole, found = codes, np.ones(len(codes), dtype=bool), []
    for length in range(2, LENGTHS[1] + 1):
        hashed = hashed[:-1] * _BASE + codes[length - 1 :]
        whole = whole[:-1] if length == 2 else whole[:-1] & ~gap[length - 2 : -1]
        mixed = (hashed * _FACTORS[length]) >> np.uint64(64 - BITS)
        found.append(mixed[whole].astype(np.int64))
    return np.concatenate(found)


@dataclass(frozen=True)
class Scope:
    """What the training prompts are made of, and how far each of them is from the others."""

    known: npt.NDArray[np.int32]
    """How many training prompts have an n-gram; shape [2**BITS]."""
    held_out: Array
    """The training prompts' own distances, each measured against all the others; sorted, shape [prompts]."""

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Scope:
        """Learn what the training prompts are made of; the same texts give the same scope.

        Raises:
            RunError: there are fewer than two texts that have a word.
        """
        rows = [grams(text) for text in texts]
        rows = [row for row in rows if len(row)]
        if len(rows) < 2:
            raise RunError(
                f"{len(rows)} training prompts with text; expected at least 2 to compare other prompts with; "
                "name a run whose prompts.jsonl holds its training prompts"
            )
        known = np.zeros(2**BITS, dtype=np.int32)
        for row in rows:
            known[np.unique(row)] += 1
        others = 1.0 / np.maximum(known, 1)  # an own n-gram is in one prompt less when the prompt itself is left out
        return cls(known, np.sort([float(others[row].mean()) for row in rows]))

    @property
    def prompts(self) -> int:
        """How many training prompts it was learned from."""
        return len(self.held_out)

    def distance(self, text: str) -> float:
        """Return how far a prompt is from the training prompts: 0 like them, 1 nothing in common.

        Only `READ` characters are read. A text without a word has distance 1.
        """
        row = grams(text)
        return float(np.mean(1.0 / (1.0 + self.known[row]))) if len(row) else 1.0

    def distances(self, texts: Sequence[str]) -> Array:
        """Return the distance of each text; shape [texts]."""
        return np.array([self.distance(text) for text in texts], dtype=np.float64)

    def threshold(self, share: float) -> float:
        """Return the distance that `share` (0 to 1) of the training prompts exceed, each held out.

        Raises:
            ValueError: the share is not between 0 and 1.
        """
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"found a share of {share}; expected 0 to 1")
        return float(np.quantile(self.held_out, 1.0 - share))

    def save(self, path: Path) -> None:
        """Write the scope to one .npz file, whole or not at all; it holds counts of hashed n-grams, and no text."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        seen = np.flatnonzero(self.known)
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(
                    file,
                    version=np.array([VERSION, BITS, *LENGTHS]),
                    seen=seen.astype(np.int32),
                    known=self.known[seen],
                    held_out=self.held_out,
                )
            os.replace(temporary, path)
        except OSError as problem:
            raise RunError(f"{path}: cannot be written: {problem.strerror or problem}; expected free space") from None
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Scope:
        """Read a scope; nothing in the file is run.

        Raises:
            RunError: it is not there, or is not a scope of this version.
        """
        again = "remove it: it is then learned again from the training prompts"
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in ("version", "seen", "known", "held_out")}
        except FileNotFoundError:
            raise RunError(f"{path}: no such file; expected what `Scope.save` wrote") from None
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as problem:
            raise RunError(f"{path}: not a scope file ({problem}); {again}") from None
        if found["version"].tolist() != [VERSION, BITS, *LENGTHS]:
            raise RunError(f"{path}: a scope of another version ({found['version'].tolist()}); {again}")
        seen, counts, held_out = found["seen"], found["known"], found["held_out"]
        if (
            seen.shape != counts.shape
            or len(held_out) < 2
            or (len(seen) and not 0 <= seen.min() <= seen.max() < 2**BITS)
        ):
            raise RunError(f"{path}: not a scope file (its parts do not fit together); {again}")
        known = np.zeros(2**BITS, dtype=np.int32)
        known[seen] = counts
        return cls(known, held_out.astype(np.float64))
