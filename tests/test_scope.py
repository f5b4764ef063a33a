import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from prefdistill.errors import RunError
from prefdistill.records import Message
from prefdistill.sandbox import world
from prefdistill.scope import READ, Scope, grams, scope_text


@pytest.fixture(scope="module")
def scope() -> Scope:
    return Scope.fit([row["prompt"] for row in world.notes(300, 1)])


def test_what_training_had_is_near_and_what_it_never_had_is_far(scope: Scope) -> None:
    near = [scope.distance(row["prompt"]) for row in world.notes(50, 2)]
    far = [
        scope.distance(text) for text in ("def f(x): return x ** 2", "Gib mir die Hauptstadt von Frankreich", "зачем")
    ]
    assert max(near) < 0.1 < min(far) <= max(far) <= 1


def test_a_text_without_a_word_is_as_far_as_can_be(scope: Scope) -> None:
    assert scope.distance("") == scope.distance(" \n ") == 1.0
    assert len(grams("")) == 0


def test_the_threshold_is_passed_by_its_share_of_prompts_that_were_not_trained_on(scope: Scope) -> None:
    distances = scope.distances([row["prompt"] for row in world.notes(2_000, 3)])
    assert np.mean(distances > scope.threshold(0.1)) == pytest.approx(0.1, abs=0.05)
    assert scope.threshold(0.01) > scope.threshold(0.1) > scope.threshold(1.0) == scope.held_out[0]
    with pytest.raises(ValueError, match="0 to 1"):
        scope.threshold(5)


def test_a_training_prompt_is_held_out_from_what_it_is_measured_against() -> None:
    fitted = Scope.fit(["send report", "send report", "xylo kiwi"])
    assert fitted.held_out.tolist() == [0.5, 0.5, 1.0]
    assert fitted.distance("xylo kiwi") == 0.5
    assert fitted.distance("send report") == pytest.approx(1 / 3)


def test_capitals_spaces_and_which_digit_make_no_difference(scope: Scope) -> None:
    assert scope.distance("SEND  the\tagenda by 9:30") == scope.distance("send the agenda by 1:22")


def test_ngrams_stay_within_words_and_repeat() -> None:
    assert len(grams("ab")) == 3 + 2 + 1  # of two, three and four characters, the spaces around the word among them
    assert len(grams("ab ab")) == 2 * len(grams("ab"))
    assert set(grams("ab cd").tolist()) == set(grams("ab").tolist()) | set(grams("cd").tolist())


def test_it_is_the_same_after_saving_and_holds_no_text(scope: Scope, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scope.npz"
    scope.save(path)
    again = Scope.load(path)
    assert again.distance("Write to Ada") == scope.distance("Write to Ada")
    assert again.threshold(0.05) == scope.threshold(0.05)
    assert again.prompts == 300
    assert b"Ada" not in path.read_bytes()
    assert [each.name for each in path.parent.iterdir()] == ["scope.npz"]


class Trap:
    def __reduce__(self):
        return (Path("trapped").touch, ())


@pytest.mark.parametrize(
    "content", [b"", b"not a scope", pickle.dumps(Trap()), pickle.dumps({"version": [1]})], ids=str
)
def test_a_file_that_is_no_scope_is_refused_and_never_run(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scope.npz").write_bytes(content)
    with pytest.raises(RunError, match="not a scope file"):
        Scope.load(tmp_path / "scope.npz")
    assert not (tmp_path / "trapped").exists()


def test_other_arrays_another_version_and_no_file_are_refused(scope: Scope, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(RunError, match="not a scope file"):
        Scope.load(tmp_path / "one.npy")
    np.savez(tmp_path / "old.npz", version=np.array([0, 1, 2, 3]), seen=[], known=[], held_out=[0.0, 1.0])
    with pytest.raises(RunError, match="another version"):
        Scope.load(tmp_path / "old.npz")
    with pytest.raises(RunError, match="no such file"):
        Scope.load(tmp_path / "none.npz")


def test_two_texts_are_needed() -> None:
    with pytest.raises(RunError, match="at least 2"):
        Scope.fit(["one", " "])


def test_a_megabyte_is_read_at_both_ends_and_costs_no_more(scope: Scope) -> None:
    text = "please review " * 100_000
    hidden = text[: READ // 2] + "ж" * 1_000_000 + text[-READ // 2 :]
    assert scope.distance(hidden) == scope.distance(text)
    assert scope.distance("ж " * 500_000) == 1.0
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        scope.distance(hidden)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.002


@pytest.mark.parametrize("text", ["\ud800 broken", "\x00\x01", "🙂🙂", "a" * 50_000, "中文没有空格" * 100])
def test_hostile_text_has_a_distance(text: str, scope: Scope) -> None:
    assert 0 <= scope.distance(text) <= 1


def test_system_messages_are_not_part_of_what_is_compared() -> None:
    roles = (("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Bye"))
    assert scope_text([Message(role=role, content=text) for role, text in roles]) == "Hello\nHi\nBye"
