"""The loss on a teacher's distribution, against textbook formulas: divergences, T², masks, pieces and padding rows."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch.nn import functional

from prefdistill.trainers.logits_check import divergences
from prefdistill.trainers.logits_loss import Head, Soft, logit_scale, soft_loss

TOKENS, VOCABULARY = 7, 53


def head(rows=VOCABULARY, width=8, seed=0, **options):
    torch.manual_seed(seed)
    return Head(torch.randn(rows, width), None, options.get("scale", 1.0), options.get("softcap"))


def hidden(width=8, seed=1, tokens=TOKENS):
    torch.manual_seed(seed)
    return torch.randn(tokens, width)


def soft(temperature=1.0, beta=0.0):
    return Soft(None, VOCABULARY, 1.0, temperature, beta)


def logits(states, layer):
    return (states @ layer.weight.T).double()


def probabilities(values):
    return values.softmax(-1).numpy()


@pytest.fixture
def models():
    """Hidden states and output layers of a student and of a wider teacher."""
    return hidden().requires_grad_(), hidden(12, 2), head(), head(width=12, seed=3)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_forward_and_reverse_are_scipys_relative_entropies(models, temperature):
    ours, theirs, student, teacher = models
    s, t = (
        probabilities(logits(each.detach(), layer) / temperature)
        for each, layer in ((ours, student), (theirs, teacher))
    )
    forward = sum(entropy(t[row], s[row]) for row in range(TOKENS))
    reverse = sum(entropy(s[row], t[row]) for row in range(TOKENS))
    assert float(soft_loss(*models, soft(temperature))) == pytest.approx(temperature**2 * forward, rel=1e-5)
    assert float(soft_loss(*models, soft(temperature, 1.0))) == pytest.approx(temperature**2 * reverse, rel=1e-5)
    assert forward != pytest.approx(reverse, rel=1e-2)


def test_js_at_one_half_is_scipys(models):
    ours, theirs, student, teacher = models
    s, t = probabilities(logits(ours.detach(), student)), probabilities(logits(theirs, teacher))
    expected = sum(jensenshannon(s[row], t[row]) ** 2 for row in range(TOKENS))
    assert float(soft_loss(*models, soft(beta=0.5))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_independent_formula_agrees_and_is_the_generalised_one(models, beta):
    ours, theirs, student, teacher = models
    s, t = logits(ours.detach(), student), logits(theirs, teacher)
    found = divergences(s, t, beta)
    p, q = probabilities(t), probabilities(s)
    if beta not in (0.0, 1.0):
        mixture = beta * p + (1 - beta) * q
        expected = [beta * entropy(p[i], mixture[i]) + (1 - beta) * entropy(q[i], mixture[i]) for i in range(TOKENS)]
        assert np.allclose(found.numpy(), expected, rtol=1e-10)
    assert float(soft_loss(*models, soft(beta=beta))) == pytest.approx(float(found.sum()), rel=1e-5)
    torch_kl = functional.kl_div(s.log_softmax(-1), t.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert torch.allclose(divergences(s, t, 0.0), torch_kl)


def test_js_goes_to_the_relative_entropies_at_its_ends(models):
    ours, theirs, student, teacher = models
    s, t = logits(ours.detach(), student) / 3, logits(theirs, teacher) / 3
    small = 1e-6
    assert torch.allclose(divergences(s, t, small) / small, divergences(s, t, 0.0), rtol=1e-3)
    assert torch.allclose(divergences(s, t, 1 - small) / small, divergences(s, t, 1.0), rtol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gradients_are_autograds_through_the_whole_logits(models, beta, temperature):
    ours, theirs, student, teacher = models
    (found,) = torch.autograd.grad(soft_loss(*models, soft(temperature, beta)), ours)
    exact = ours.detach().double().requires_grad_()
    s = exact @ student.weight.double().T / temperature
    total = temperature**2 * divergences(s, logits(theirs, teacher) / temperature, beta).sum()
    (wanted,) = torch.autograd.grad(total, exact)
    assert float(wanted.abs().max()) > 0.01
    assert torch.allclose(found.double(), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_teacher_that_is_the_student_gives_no_gradient(beta):
    ours, layer = hidden().requires_grad_(), head()
    loss = soft_loss(ours, ours.detach(), layer, layer, soft(3.0, beta))
    (found,) = torch.autograd.grad(loss, ours)
    assert float(loss) == pytest.approx(0.0, abs=1e-4)
    assert float(found.abs().max()) < 1e-5


def test_at_a_high_temperature_the_gradient_matches_logits():
    """Hinton et al. 2015, equation 4: with logits of mean zero, T² times the gradient goes to (z_s - z_t) / N."""
    torch.manual_seed(0)
    z_s, z_t = (each - each.mean(-1, keepdim=True) for each in torch.randn(2, TOKENS, VOCABULARY).double())
    gaps = []
    for temperature in (10.0, 100.0, 1000.0):
        given = z_s.clone().requires_grad_()
        loss = temperature**2 * divergences(given / temperature, z_t / temperature, 0.0).sum()
        (found,) = torch.autograd.grad(loss, given)
        gaps.append(float((found - (z_s - z_t) / VOCABULARY).abs().max() * VOCABULARY))
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]
    assert gaps[2] < 0.01
    assert float((z_s - z_t).abs().max()) > 3
    # The loss that is trained, through an output layer that hands its input on, at the highest temperature allowed.
    eye = Head(torch.eye(VOCABULARY), None, 1.0, None)
    given = z_s.float().requires_grad_()
    (found,) = torch.autograd.grad(soft_loss(given, z_t.float(), eye, eye, soft(20.0)), given)
    assert torch.allclose(found, ((z_s - z_t) / VOCABULARY).float(), atol=0.5 / VOCABULARY)


def test_t_squared_keeps_the_gradients_size(models):
    ours = models[0]
    sizes = {}
    for temperature in (1.0, 2.0, 5.0, 10.0):
        (found,) = torch.autograd.grad(soft_loss(*models, soft(temperature)), ours)
        sizes[temperature] = float(found.norm())
    assert max(sizes.values()) < 10 * min(sizes.values())
    assert max(size / t**2 for t, size in sizes.items()) > 40 * min(size / t**2 for t, size in sizes.items())


@pytest.mark.parametrize("piece", [1, 3, 4096])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_pieces_change_nothing(models, piece, beta):
    ours = models[0]
    whole, parts = (soft_loss(*models, soft(2.0, beta), piece=size) for size in (TOKENS, piece))
    assert float(whole) == pytest.approx(float(parts), rel=1e-6)
    a, b = (torch.autograd.grad(each, ours)[0] for each in (whole, parts))
    assert torch.allclose(a, b, atol=1e-6)


def test_no_token_gives_a_loss_of_zero_that_can_be_followed_back():
    ours = hidden(tokens=3).requires_grad_()
    loss = soft_loss(ours[:0], hidden(12)[:0], head(), head(width=12), soft())
    assert float(loss) == 0.0
    assert torch.autograd.grad(loss + 0 * ours.sum(), ours)[0].eq(0).all()


class Config:
    model_type = "llama"

    def __init__(self, **values):
        self.__dict__.update(values)

    def get_text_config(self):
        return self


class Model:
    def __init__(self, layer, **values):
        self.layer, self.config = layer, Config(**values)

    def get_output_embeddings(self):
        return self.layer


def test_padding_rows_are_left_out_and_the_rest_is_renormalised():
    torch.manual_seed(0)
    small, large = torch.nn.Linear(8, VOCABULARY, bias=False), torch.nn.Linear(8, VOCABULARY + 11, bias=True)
    cut = Head.of(Model(large), VOCABULARY)
    assert cut.weight.shape == (VOCABULARY, 8)
    assert cut.bias.shape == (VOCABULARY,)
    ours, theirs = hidden(), hidden(seed=5)
    found = soft_loss(ours, theirs, Head.of(Model(small), VOCABULARY), cut, soft())
    t = large(theirs)[:, :VOCABULARY].double()
    assert float(found.detach()) == pytest.approx(float(divergences(small(ours).double(), t, 0.0).sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 1.0),
        ({"logit_scale": 0.25}, 0.25),
        ({"logit_scale": None, "logits_scaling": 8.0}, 0.125),
        ({"logits_scaling": 8.0, "model_type": "hyperclovax"}, 8.0),
        ({"lm_head_multiplier": 0.5}, 0.5),
    ],
)
def test_what_a_model_multiplies_its_logits_by_is_read(values, expected):
    assert logit_scale(Config(**values)) == expected


def test_scaled_and_capped_logits_are_the_models_own():
    ours, theirs = hidden(), hidden(12, 2)
    student, teacher = head(scale=0.5, softcap=2.0), head(width=12, seed=3)
    s = 2.0 * torch.tanh(logits(ours, student) * 0.5 / 2.0)
    expected = divergences(s, logits(theirs, teacher), 0.0).sum()
    assert float(soft_loss(ours, theirs, student, teacher, soft())) == pytest.approx(float(expected), rel=1e-5)
    assert not math.isclose(
        float(expected), float(divergences(logits(ours, student), logits(theirs, teacher), 0.0).sum())
    )
