"""Losses by numbers worked out by hand, and against transformers where it has the same."""

import importlib.util
import math

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("needs torch", allow_module_level=True)

import torch

from llama_index_mm.alignment.losses import LEARNED, info_nce, margin_loss, sigmoid_loss
from llama_index_mm.errors import AlignmentError

EVERY = [margin_loss, info_nce, sigmoid_loss]


def vectors(n, d=6, seed=0):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(n, d)))
    return rows / rows.norm(dim=1, keepdim=True)


def test_margin_loss_by_hand():
    source = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # Squared distances: 0, 0.8 in the first row; 2, 0.4 in the second.
    assert margin_loss(source, target, reduction="sum").item() == pytest.approx(0 + 0.4 + (1 - 0.8) + 0)
    assert margin_loss(source, target).item() == pytest.approx((0 + 0.4) / 2 + (0.2 + 0) / 2)
    assert margin_loss(source, target, margin=3.0, reduction="sum").item() == pytest.approx(0.4 + 2.2 + 1.0)
    both = torch.tensor([[True, True], [False, True]])
    assert margin_loss(source, target, both, reduction="sum").item() == pytest.approx(0 + 0.8 + 0.4 + 0)


def test_margin_loss_without_negatives():
    same = torch.tensor([[1.0, 0.0]])
    assert margin_loss(same, same).item() == 0.0


def test_info_nce_by_hand():
    source = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    expected = math.log(1 + math.exp(-2.0))  # the right one has similarity 1, the wrong one 0
    assert info_nce(source, source, log_scale=math.log(2.0)).item() == pytest.approx(expected)
    alike = torch.ones(5, 1, dtype=torch.float64)
    assert info_nce(alike, alike).item() == pytest.approx(math.log(5))


def test_info_nce_takes_no_positive_for_a_negative():
    """Three items, two of one class: each of these has two positives, and one negative."""
    source, target = vectors(3, seed=1), vectors(3, seed=2)
    labels = torch.tensor([0, 0, 1])
    together = labels[:, None] == labels
    s = (10 * source @ target.T).numpy()

    def one(i, p, negatives):
        return -math.log(math.exp(s[i, p]) / (math.exp(s[i, p]) + sum(math.exp(s[k]) for k in negatives)))

    rows = [
        (one(0, 0, [(0, 2)]) + one(0, 1, [(0, 2)])) / 2,
        (one(1, 0, [(1, 2)]) + one(1, 1, [(1, 2)])) / 2,
        one(2, 2, [(2, 0), (2, 1)]),
    ]
    columns = [
        (one(0, 0, [(2, 0)]) + one(1, 0, [(2, 0)])) / 2,
        (one(0, 1, [(2, 1)]) + one(1, 1, [(2, 1)])) / 2,
        one(2, 2, [(0, 2), (1, 2)]),
    ]
    found = info_nce(source, target, together, log_scale=math.log(10.0)).item()
    assert found == pytest.approx((np.mean(rows) + np.mean(columns)) / 2)


def test_rows_without_a_positive_are_left_out():
    source, target = vectors(3, seed=1), vectors(2, seed=2)
    together = torch.tensor([[True, False], [False, True], [False, False]])
    s = (source @ target.T).exp().numpy()
    rows = [-math.log(s[0, 0] / s[0].sum()), -math.log(s[1, 1] / s[1].sum())]
    columns = [-math.log(s[0, 0] / s[:, 0].sum()), -math.log(s[1, 1] / s[:, 1].sum())]
    assert info_nce(source, target, together, log_scale=0.0).item() == pytest.approx((np.mean(rows) + np.mean(columns)) / 2)


def test_sigmoid_loss_by_hand():
    source = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    def log_sigmoid(x):
        return -math.log(1 + math.exp(-x))

    expected = -(2 * log_sigmoid(3.0 - 1.0) + 2 * log_sigmoid(1.0)) / 2
    assert sigmoid_loss(source, source, log_scale=math.log(3.0), bias=-1.0).item() == pytest.approx(expected)


def test_they_equal_those_of_transformers():
    clip = pytest.importorskip("transformers.models.clip.modeling_clip")
    source, target = vectors(7, seed=3), vectors(7, seed=4)
    scale = math.exp(LEARNED["info_nce"]["log_scale"])
    theirs = clip.image_text_contrastive_loss(scale * source @ target.T).item()
    assert info_nce(source, target).item() == pytest.approx(theirs, rel=1e-12)


def test_sigmoid_loss_equals_that_of_siglip():
    """Through the whole of a tiny SigLIP, whose loss has no function of its own."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 30, "max_position_embeddings": 8, "projection_size": 16}
    torch.manual_seed(0)
    config = transformers.SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 16, "patch_size": 8})
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(1.7)
        model.logit_bias.fill_(-2.5)
        out = model(input_ids=torch.randint(0, 30, (5, 8)), pixel_values=torch.randn(5, 3, 16, 16), return_loss=True)
    found = sigmoid_loss(out.text_embeds, out.image_embeds, log_scale=1.7, bias=-2.5)
    assert found.item() == pytest.approx(out.loss.item(), rel=1e-5)


@pytest.mark.parametrize("loss", EVERY)
def test_the_order_of_pairs_does_not_matter(loss):
    source, target = vectors(6, seed=5), vectors(6, seed=6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert loss(source[order], target[order]).item() == pytest.approx(loss(source, target).item())


@pytest.mark.parametrize("loss", EVERY)
def test_descent_brings_pairs_together(loss):
    target = vectors(5, seed=8)
    free = vectors(5, seed=9).requires_grad_()
    optimiser = torch.optim.Adam([free], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        loss(free / free.norm(dim=1, keepdim=True), target).backward()
        optimiser.step()
    similar = (free / free.norm(dim=1, keepdim=True)).detach() @ target.T
    assert similar.argmax(1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("loss", EVERY)
def test_all_negatives_are_as_many_as_there_are(loss):
    source, target = vectors(6, seed=5), vectors(6, seed=6)
    assert loss(source, target, hardest=5).item() == pytest.approx(loss(source, target).item())
    assert loss(source, target, hardest=99).item() == pytest.approx(loss(source, target).item())


def test_hardest_takes_the_most_similar_negative():
    source, target = vectors(4, seed=5), vectors(4, seed=6)
    s = (source @ target.T).numpy()
    off = np.where(np.eye(4, dtype=bool), -np.inf, s)
    rows = [math.log(1 + math.exp(off[i].max() - s[i, i])) for i in range(4)]
    columns = [math.log(1 + math.exp(off[:, j].max() - s[j, j])) for j in range(4)]
    found = info_nce(source, target, log_scale=0.0, hardest=1).item()
    assert found == pytest.approx((np.mean(rows) + np.mean(columns)) / 2)
    with pytest.raises(AlignmentError, match="hardest to be 1 or more"):
        info_nce(source, target, hardest=0)


def test_the_scale_is_cut_at_100():
    source, target = vectors(4, seed=5), vectors(4, seed=6)
    at_most = info_nce(source, target, log_scale=math.log(100.0)).item()
    assert info_nce(source, target, log_scale=9.0).item() == pytest.approx(at_most)
    learned = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    loss = info_nce(source, target, log_scale=learned)
    loss.backward()
    assert (loss.item(), learned.grad.item()) == (pytest.approx(at_most), 0.0)


@pytest.mark.parametrize("loss", EVERY)
def test_gradients_are_right(loss):
    source, target = vectors(4, seed=5).requires_grad_(), vectors(4, seed=6).requires_grad_()
    labels = torch.tensor([0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, labels[:, None] == labels), (source, target))


@pytest.mark.parametrize("loss", EVERY)
def test_what_does_not_fit_is_refused(loss):
    with pytest.raises(AlignmentError, match=r"\(n, d\) and \(m, d\), got \(3, 6\) and \(3, 5\)"):
        loss(vectors(3), vectors(3, 5))
    with pytest.raises(AlignmentError, match="as many vectors on both sides or a mask of positives; got 3 and 2"):
        loss(vectors(3), vectors(2))
    with pytest.raises(AlignmentError, match=r"mask \(3, 2\) of bool, got \(2, 3\) of torch.bool"):
        loss(vectors(3), vectors(2), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(AlignmentError, match="at least one positive"):
        loss(vectors(3), vectors(2), torch.zeros(3, 2, dtype=torch.bool))
    with pytest.raises(AlignmentError, match=r"margin in \(0, 4\)"):
        margin_loss(vectors(3), vectors(3), margin=4.0)
