"""A training measures itself: what is broken between the records and the first step is seen, and nothing is changed."""

import math
from types import SimpleNamespace

import pytest
import torch

from prefdistill import student as loading
from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.training import RULES, start_lines
from prefdistill.errors import TrainError
from prefdistill.probing import kl_to, policy_log_probs
from prefdistill.protocols import Probe, RunContext, TrainingData
from prefdistill.records import Policy
from prefdistill.trainers import building, dpo, tuning
from prefdistill.trainers.building import require_finite
from prefdistill.trainers.dpo import DPOTrainer
from prefdistill.trainers.gradients import gradient_ratio
from prefdistill.trainers.independent import Before, Texts
from prefdistill.trainers.outcome import Job, _of_pairs, _of_rows
from prefdistill.trainers.pairs import Tokenized, TokenPair
from tests.tiny_student import build_tiny_student, pairs, section
from tests.trainers.test_dpo import OPTIONS, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny")


@pytest.fixture(scope="module")
def base(folder):
    return Policy(model=str(folder))


@pytest.fixture(scope="module")
def run(folder, base, tmp_path_factory):
    """A run with two rounds; what a test trains comes after them."""
    run = tmp_path_factory.mktemp("run")
    first = train(folder, run, base, base, data=TrainingData(pairs(8)), epochs=4).policy
    train(folder, run, first, base, "round-02", TrainingData(pairs(8, round=2, offset=50)), epochs=4)
    return run


@pytest.fixture
def policies(base, run):
    return base, *(Policy(model=base.model, adapter=f"round-0{n}/5-policy", round=n) for n in (1, 2))


def drafts(folder, run, policy, count=12):
    """Probes that `policy` wrote, as far as their log-probabilities say."""
    asked = [(pair.prompt, pair.chosen) for pair in pairs(count, offset=300)]
    scored = policy_log_probs(section(folder), policy, run, asked)
    return tuple(
        Probe(prompt, text, log_prob, tokens, policy)
        for (prompt, text), (log_prob, tokens) in zip(asked, scored, strict=True)
    )


def names(result):
    return {each.check for rule in RULES for each in rule([{}, result.diagnostics], Levels())}


def state(result, name):
    lines = start_lines(result.diagnostics, result.facts, [f for r in RULES for f in r([result.diagnostics], Levels())])
    return next(each for each in lines if each.name == name)


def on_policy(count=8, round=3):
    return pairs(count, round=round, offset=300)


@pytest.mark.parametrize("reference", [0, 1])
def test_the_checks_change_nothing_that_is_trained(folder, run, policies, monkeypatch, reference):
    data = TrainingData(on_policy(), drafts(folder, run, policies[1]), None, policies[0])
    checked = train(folder, run, policies[1], policies[reference], "a", data)
    monkeypatch.setattr(tuning, "measure_before", lambda *args: Before(Texts((), (), (), ()), {}))
    monkeypatch.setattr(DPOTrainer, "_check_start", lambda *args: None)
    plain = train(folder, run, policies[1], policies[reference], "b", data)
    assert {"sampler_gap", "gradient_ratio"} <= checked.diagnostics.keys()
    assert not {"sampler_gap", "gradient_ratio", "kl"} & plain.diagnostics.keys()
    files = [(run / each.policy.adapter / "adapter_model.safetensors").read_bytes() for each in (checked, plain)]
    assert files[0] == files[1]


def test_a_healthy_round_is_quiet_and_says_what_it_checked(folder, run, policies):
    data = TrainingData(on_policy(), drafts(folder, run, policies[2]), None, policies[1])
    result = train(folder, run, policies[2], policies[0], "healthy", data)
    assert names(result) <= {"small_difference"}, "the tiny student's texts are a few tokens long"
    assert result.diagnostics["sampler_gap"] < 1e-6 < 1e-3 < result.diagnostics["previous_gap"]
    assert state(result, "policies").text == "start round 2 (round-02/5-policy), reference the base"
    assert state(result, "sampler").state == state(result, "gradients").state == "ok"
    assert result.diagnostics["pair_margin_up_share"] > 0.5
    assert result.diagnostics["change_norm"] > 0
    assert result.diagnostics["grad_norm_max"] >= result.diagnostics["grad_norm"] > 0


def test_a_sampler_with_stale_weights_is_named(folder, run, policies):
    stale = tuple(
        Probe(each.messages, each.completion, each.log_prob, each.tokens, policies[2])
        for each in drafts(folder, run, policies[1])
    )
    result = train(folder, run, policies[2], policies[0], "stale", TrainingData(on_policy(), stale, None, policies[1]))
    gap, before = (result.diagnostics[name] for name in ("sampler_gap", "previous_gap"))
    assert gap == pytest.approx(before, rel=1e-3)
    assert "sampler_staleness" in names(result)
    assert state(result, "sampler").state == "warn"


def test_checks_of_on_policy_drafts_are_off_for_others(folder, run, policies):
    probes = drafts(folder, run, policies[1])
    result = train(folder, run, policies[2], policies[0], "other", TrainingData(on_policy(), probes))
    assert state(result, "sampler").text == (
        "off-policy: the drafts were written by round 1 (round-01/5-policy), the round starts from round 2 "
        "(round-02/5-policy)"
    )
    assert "sampler_gap" not in result.diagnostics
    elsewhere = train(folder, run, policies[1], policies[0], "file", TrainingData(pairs(8, round=3), probes))
    assert state(elsewhere, "sampler").state == "off"
    assert "just wrote" in elsewhere.facts["off/sampler"]


def test_drafts_that_tokenise_to_another_count_are_left_out(folder, run, policies):
    first, *others = drafts(folder, run, policies[1])
    odd = Probe(first.messages, first.completion, -99.0, (first.tokens or 0) + 1, policies[1])
    unknown = Probe(first.messages, first.completion, None, None, policies[1])
    data = TrainingData(on_policy(), (odd, unknown, *others))
    result = train(folder, run, policies[1], policies[0], "count", data)
    assert result.diagnostics["sampler_drafts"] == len(others)
    assert result.diagnostics["sampler_gap"] < 1e-6


def test_a_swapped_reference_is_named(folder, run, policies, monkeypatch):
    original = building.load_adapters
    monkeypatch.setattr(
        building,
        "load_adapters",
        lambda model, start, reference, directory: original(
            model, start, policies[1] if reference.adapter else reference, directory
        ),
    )
    result = train(folder, run, policies[2], policies[2], "swapped", TrainingData(on_policy()))
    assert result.diagnostics["independent_loss"] == pytest.approx(math.log(2))
    assert result.diagnostics["first_margin_gap"] > 0.001
    assert "first_step" in names(result)


def test_inverted_labels_are_named(folder, base, run, monkeypatch):
    original = dpo.to_columns

    def inverted(steps):
        columns = original(steps)
        return {**columns, "chosen_ids": columns["rejected_ids"], "rejected_ids": columns["chosen_ids"]}

    monkeypatch.setattr(dpo, "to_columns", inverted)
    result = train(folder, run, base, base, "inverted", TrainingData(pairs(16)), epochs=4)
    assert result.diagnostics["first_tokens_differing"] == 1.0
    assert result.diagnostics["pair_margin_up_share"] < 0.3
    assert {"first_step", "margin_direction"} <= names(result)


def test_a_fresh_adapter_that_is_not_float32_is_refused(folder, base, run, monkeypatch):
    monkeypatch.setattr(building, "cast_adapters", lambda model: None)
    with pytest.raises(TrainError, match="fresh adapter is bfloat16, expected float32"):
        train(folder, run, base, base, "bf16", TrainingData(pairs(8)))


def can_pack() -> bool:
    """Whether bitsandbytes would pack 4-bit weights on this CPU."""
    from bitsandbytes.functional import has_avx512bf16

    return bool(has_avx512bf16())


@pytest.mark.skipif(not can_pack(), reason="bitsandbytes packs 4-bit weights on CPUs with AVX512-BF16 only")
def test_without_the_gradient_guard_nothing_is_trained(folder, base, run, monkeypatch):
    monkeypatch.setattr(loading, "guard_cpu_gradients", lambda model: None)
    with pytest.raises(TrainError, match=r"gradients of the 4-bit layers are wrong .* 0\.000 .*student\.quantization"):
        train(folder, run, base, base, "unguarded", TrainingData(pairs(8)))


def test_the_gradient_ratio_tells_what_a_layer_without_autograd_does(folder, monkeypatch):
    from bitsandbytes.nn import Linear4bit

    model = loading.load_base(section(folder), for_training=True)
    random_state = torch.get_rng_state()
    assert gradient_ratio(model)[0] == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(torch.get_rng_state(), random_state)
    broken = model.model.layers[1].mlp.up_proj
    original = Linear4bit.forward
    monkeypatch.setattr(
        Linear4bit,
        "forward",
        lambda self, x: original(self, x.detach() if self is broken else x),
    )
    assert gradient_ratio(model) == (0.0, "model.layers.1.mlp.up_proj")


def test_gradients_are_not_asked_where_nothing_packs_them(folder, base, tmp_path):
    trainer = DPOTrainer(**OPTIONS)
    trainer.open(RunContext(directory=tmp_path, seed=0, student=section(folder, quantization="none")))
    result = trainer.train(TrainingData(pairs(8)), base, base, tmp_path / "round-01" / "5-policy", 7)
    assert state(result, "gradients").state == "off"
    assert result.diagnostics["first_margin_gap"] < 1e-6


@pytest.mark.parametrize(
    ("options", "off"),
    [
        ({"loss": "ipo"}, {"first_loss": "the loss is ipo"}),
        ({"extra": {"ld_alpha": 0.5}}, {"first_step": "ld_alpha"}),
        ({"extra": {"use_weighting": True}}, {"first_loss": "use_weighting"}),
        ({"lora": {"dropout": 0.1}, "extra": {"disable_dropout": False}}, {"first_step": "dropout is on"}),
        ({"lora": {"dropout": 0.1}}, {}),
    ],
)
def test_what_cannot_be_compared_is_off(options, off):
    found = DPOTrainer(**{**OPTIONS, **options})._not_compared()
    assert found.keys() == off.keys()
    assert all(off[name] in found[name] for name in off)


@pytest.mark.parametrize(
    ("logs", "fp16", "told"),
    [
        ({"loss": 0.6, "grad_norm": 1.0}, False, None),
        ({"loss": math.nan, "grad_norm": 1.0}, False, "loss is nan at step 3"),
        ({"loss": 0.6, "grad_norm": math.inf}, False, r"grad_norm is inf .* lower train\.learning_rate \(0.5\)"),
        ({"loss": 0.6, "grad_norm": math.inf}, True, None),
    ],
)
def test_a_training_that_ran_away_stops(logs, fp16, told):
    class Args:
        learning_rate = 0.5

    Args.fp16 = fp16
    if told is None:
        require_finite(3, logs, Args)
    else:
        with pytest.raises(TrainError, match=told):
            require_finite(3, logs, Args)


def test_an_infinite_loss_ends_the_training(folder, base, run):
    with pytest.raises(TrainError, match=r"train: (loss|grad_norm) is (nan|inf) at step \d+, .*train\.learning_rate"):
        train(folder, run, base, base, "nan", TrainingData(pairs(8)), learning_rate=1e30, epochs=3)


def test_what_the_trained_tokens_are_like(base, tmp_path):
    end, bos = 1, 7
    long, other = list(range(20, 40)), list(range(60, 80))
    rows = [
        TokenPair(pair, prompt, chosen, rejected)
        for pair, prompt, chosen, rejected in zip(
            pairs(4),
            ([bos, bos, 9], [bos, 9], [9], [9]),
            ([*long, end], [*long, end], long, [*long[:7], end]),
            ([*other, end], [*long[:13], end], [*other, end], [*long[:6], end]),
            strict=True,
        )
    ]
    tokenizer = SimpleNamespace(bos_token_id=bos, eos_token_id=end, all_special_ids=[0, end])
    data = TrainingData(pairs(5))
    made = Tokenized(tuple(rows), frozenset({rows[2].pair.id}), 23)
    job = Job(data, made, [rows], base, base, tmp_path, 1, tokenizer, 0.0)
    seen = {**_of_rows(job), **_of_pairs(job)}
    assert seen["double_bos_share"] == 0.25
    assert seen["unended_share"] == 1 / 8
    assert seen["small_difference_share"] == 0.5, "seven tokens fewer, and one token fewer"
    assert (seen["truncated_share"], seen["max_length"]) == (0.25, 23.0)
    assert seen["dropped_share"] == pytest.approx(0.2)
    tokenizer.bos_token_id = None
    assert _of_rows(job)["double_bos_share"] == 0.0


def test_texts_scored_under_two_policies_tell_their_distance(folder, run, policies):
    asked = [(pair.prompt, pair.chosen) for pair in pairs(6, offset=900)]
    new, old = (policy_log_probs(section(folder), each, run, asked) for each in policies[1::-1])
    same, none = kl_to(new, new)
    assert (same, none) == (0.0, 0.0)
    kl, error = kl_to(new, old)
    assert kl > 0 < error
    assert policy_log_probs(section(folder), policies[0], run, []) == []
    # r - 1 - ln r with r = base / new = e for one text of log-probability -2 under new, -1 under base.
    assert kl_to([(-2.0, 3)], [(-1.0, 3)])[0] == pytest.approx(math.e - 2)
