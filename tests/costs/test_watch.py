"""The line that corrects the estimate: once, after the first replies, in proportion to what they were."""

from types import SimpleNamespace

from prefdistill.costs.estimate import Estimate
from prefdistill.costs.questions import Line
from prefdistill.costs.watch import Watch, corrected_line
from prefdistill.records import Usage
from prefdistill.requests.prices import Price

ESTIMATE = Estimate((Line("judge", "training drafts", "m", Price(input=1, output=2), 1000, 400_000, 60_000, 2e6, 100),))


def watching(estimate: Estimate = ESTIMATE):
    said: list[str] = []
    passed: list[int] = []
    watch = Watch(lambda stage, done, total, note: passed.append(done), said.append)
    layer = SimpleNamespace(usage=Usage())
    watch._estimate, watch._layer = estimate, layer
    return watch, layer, said, passed


def test_it_speaks_once_when_twenty_replies_are_in():
    watch, layer, said, passed = watching()
    for calls in (0, 5, 19, 21, 40, 400):
        layer.usage = Usage(calls=calls, prompt_tokens=800 * calls, completion_tokens=30 * calls)
        watch.progress("judge", calls, 1000, "")
    assert passed == [0, 5, 19, 21, 40, 400], "progress is passed on"
    (line,) = said
    assert line.startswith(
        "corrected from the first 21 replies (800 and 30 tokens a call): 1,000 calls to m, 800 k prompt"
    )
    assert "30 k completion" in line
    assert "0.86 USD" in line


def test_replies_without_usage_correct_nothing():
    watch, layer, said, _ = watching()
    layer.usage = Usage(calls=50)
    watch.progress("judge", 50, 1000, "")
    assert said == []


def test_the_pace_so_far_gives_the_time():
    usage = Usage(calls=21, prompt_tokens=21 * 400, completion_tokens=21 * 60)
    assert "about 8 min" in corrected_line(ESTIMATE, usage, 1000 / 480)
    assert "about 2 min" in corrected_line(ESTIMATE, usage, None)
