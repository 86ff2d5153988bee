"""CLUTRR's models: against plain loops, and what permuting and padding must not change."""

import copy

import pytest
import torch
from torch import nn

from srnlib.models.language import PairReasoner, StoryModel, TripleEncoder
from srnlib.models.story_encoder import StoryEncoder
from srnlib.restarts import RestartedRefiner
from srnlib.set_encoders import SetEncoder
from srnlib.tasks.clutrr import ClutrrSettings, clutrr_generated

MODELS = clutrr_generated.models


def build(model: str, **changes) -> StoryModel:
    """A model with batch norms that have seen something, in float64 and eval mode."""
    torch.manual_seed(0)
    settings = ClutrrSettings.smoke(model)
    settings = settings.__class__(**(vars(settings) | changes))
    module = clutrr_generated.build(model, settings).double()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return module.eval()


def stories(sizes=((5, 3, 4), (2, 6), (4, 4, 4, 7, 1)), S=6, W=9):
    """Stories of sentences of these lengths, and queries of two people who are named in each."""
    torch.manual_seed(1)
    tokens = torch.zeros(len(sizes), S, W, dtype=torch.long)
    for b, lengths in enumerate(sizes):
        for s, length in enumerate(lengths):
            tokens[b, s, :length] = torch.randint(22, 128, (length,))
        tokens[b, 0, 0], tokens[b, 1, 1], tokens[b, 1, 0] = 3 + b, 9, 3 + b
    return tokens, torch.tensor([[3 + b, 9] for b in range(len(sizes))])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("read_story", [False, True])
def test_encoder_is_a_plain_loop_over_sentences(layers, read_story):
    torch.manual_seed(0)
    encoder = StoryEncoder(128, 6, 5, layers, 0.0, read_story).double()
    tokens, query = stories()
    S0, here, z, said = encoder(tokens, query)
    assert S0.shape == (3, 5, 10) and here.sum(dim=1).tolist() == [3, 2, 5]
    for b, story in enumerate(tokens):
        elements, cells, outputs, words = [], [], [], []
        for sentence in story[:5][here[b]]:
            ids = sentence[sentence > 0]
            out, (_, cell) = encoder.lstm(encoder.embedding(ids)[None])
            elements.append(out[0].mean(dim=0))
            cells.append(cell[-2:, 0].flatten())
            outputs.append(out[0])
            words.append(ids)
        torch.testing.assert_close(S0[b, : len(elements)], torch.stack(elements))
        assert (S0[b, len(elements) :] == 0).all()
        torch.testing.assert_close(z[b], torch.stack(cells).mean(dim=0))
        words, outputs = torch.cat(words), torch.cat(outputs)
        if read_story:
            outputs = encoder.lstm(encoder.embedding(words)[None])[0][0]
        torch.testing.assert_close(said[b], torch.cat([outputs[words == person].sum(dim=0) for person in query[b]]))


def test_a_story_without_a_sentence_is_refused():
    tokens, query = stories()
    tokens[1] = 0
    with pytest.raises(ValueError, match=r"stories \[1\] of the batch have no sentence"):
        StoryEncoder(128, 6, 5, 1, 0.0, False)(tokens, query)


def test_reasoner_is_a_plain_loop_over_pairs():
    torch.manual_seed(0)
    F = PairReasoner(4, 6, 5, 3).double().eval()
    S, query, edges = (torch.randn(*shape, dtype=torch.double) for shape in ((2, 3, 4), (2, 6), (2, 3, 3)))
    here = torch.tensor([[True, True, True], [True, False, True]])
    first = nn.Linear(14, 5).double()  # g's first layer on [s_i, s_j, query]
    first.weight.data = torch.cat([F.left.weight, F.right.weight, F.ask.weight], dim=1)
    first.bias.data = F.left.bias.data
    for weights in (None, edges):
        total = torch.zeros(2, 5, dtype=torch.double)
        for b in range(2):
            for i in here[b].nonzero()[:, 0]:
                for j in here[b].nonzero()[:, 0]:
                    pair = F.g(first(torch.cat([S[b, i], S[b, j], query[b]]))[None])[0]
                    total[b] += pair if weights is None else weights[b, i, j] * pair
        torch.testing.assert_close(F(S, query, here, weights), F.answer(F.f(total)))


def test_triple_encoder_is_a_plain_loop_and_invariant():
    torch.manual_seed(0)
    H_agg = TripleEncoder(4, 5, 6).double()
    nodes, edges = torch.randn(2, 3, 4, dtype=torch.double), torch.randn(2, 3, 3, 1, dtype=torch.double)

    def message(b, i, j):
        triple = H_agg.subject(nodes[b, i]) + H_agg.edge(edges[b, i, j]) + H_agg.object(nodes[b, j])
        return triple.relu()

    for b in range(2):
        code = []
        for i in range(3):
            as_subject = sum(message(b, i, j) for j in range(3)) / 3
            as_object = sum(message(b, j, i) for j in range(3)) / 3
            code.append(H_agg.node(torch.cat([as_subject, as_object])))
        expected = H_agg.pool(torch.stack(code)[None] / 3)[0]
        torch.testing.assert_close(H_agg(nodes, edges)[b], expected)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(H_agg(nodes[:, order], edges[:, order][:, :, order]), H_agg(nodes, edges))


@pytest.mark.parametrize("model", MODELS)
def test_the_order_of_the_sentences_does_not_matter(model):
    module, (tokens, query) = build(model, inner_lr=1.0), stories()
    shuffled = tokens.clone()
    for b, n in enumerate((3, 2, 5)):
        shuffled[b, :n] = tokens[b, torch.randperm(n)]
    assert not torch.equal(shuffled, tokens)
    torch.testing.assert_close(module(shuffled, query).logits, module(tokens, query).logits)
    published = build(model, inner_lr=1.0, read_story=True)  # its query is read in that order
    assert not torch.allclose(published(shuffled, query).logits, published(tokens, query).logits)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("read_story", [False, True])
def test_padding_and_company_do_not_matter(model, read_story):
    module, (tokens, query) = build(model, inner_lr=1.0, read_story=read_story), stories()
    wider = nn.functional.pad(tokens, (0, 4, 0, 3))
    expected = module(tokens, query).logits
    torch.testing.assert_close(module(wider, query).logits, expected)
    alone = [module(tokens[b : b + 1, :n], query[b : b + 1]).logits for b, n in enumerate((3, 2, 5))]
    torch.testing.assert_close(torch.cat(alone), expected)


def test_names_are_told_apart_and_matter():
    module, (tokens, query) = build("rn"), stories()
    assert not torch.allclose(module(tokens, query).logits, module(tokens, query.flip(1)).logits)


def test_models_differ_by_padding_and_refiner_only():
    modules = {model: build(model) for model in MODELS}
    parameters = {model: dict(module.named_parameters()) for model, module in modules.items()}
    assert parameters["rn"].keys() == parameters["rn_fixed"].keys()
    for model in ("srn", "grn"):
        added = parameters[model].keys() - parameters["rn"].keys()
        assert added and all(name.startswith("refiner.H_agg.") for name in added)
    out = {model: module(*stories()) for model, module in modules.items()}
    assert out["rn"].S.shape == (3, 5, 16) and out["srn"].S.shape == (3, 14, 16)
    assert out["grn"].edges.shape == (3, 14, 14) and out["rn"].trace is out["rn_fixed"].trace is None
    assert torch.equal(out["rn_fixed"].S[:, :5], out["rn"].S) and (out["rn_fixed"].S[:, 5:] == 0).all()


@pytest.mark.parametrize("model", ["srn", "grn"])
def test_refinement_goes_downhill_and_no_step_is_rn_fixed(model):
    module, batch = build(model, inner_lr=0.1, inner_steps=5), stories()
    out = module(*batch)
    assert (out.trace.inner_loss[-1] < out.trace.inner_loss[0]).all()
    assert model == "srn" or (out.edges != 1).any()
    still, fixed = copy.deepcopy(module), build("rn_fixed")
    still.refiner.steps = 0
    fixed.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("refiner.")})
    torch.testing.assert_close(still(*batch).logits, fixed(*batch).logits)


@pytest.mark.parametrize("model", MODELS)
def test_inference_mode_gives_what_no_grad_gives(model):
    module, batch = build(model, inner_lr=1.0), stories()
    with torch.no_grad():
        expected = module(*batch).logits
    with torch.inference_mode():
        assert torch.equal(module(*batch).logits, expected)


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_learns(model):
    module, (tokens, query) = build(model, inner_lr=1.0).train(), stories()
    module(tokens, query).logits.logsumexp(dim=1).sum().backward()
    asleep = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias that shifts every element alike, or a code that batch norm centres, has no slope.
    assert {n for n in asleep if not n.endswith("bias")} == set()


def test_published_padding_takes_part_and_words_stay_in_the_unit_ball():
    """As in the baseline's code: zeros up to the batch's longest story are elements of all of them."""
    module, (tokens, query) = build("rn", original=True, dropout=0.5), stories()
    out = module(tokens, query)
    S0, _, _, said = module.encoder(tokens, query)
    everything = torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(out.logits, module.reasoner(S0, said, everything))
    alone = module(tokens[1:2, :2], query[1:2]).logits
    assert not torch.allclose(alone, out.logits[1:2])
    torch.testing.assert_close(module(tokens[1:2], query[1:2]).logits, alone)  # columns without a sentence are none
    assert module.encoder.dropout.p == 0 and module.encoder.embedding(tokens).norm(dim=3).max() <= 1 + 1e-6
    assert build("rn", original=True).encoder.embedding.max_norm == 1
    module.train()(tokens, query).logits.sum().backward()  # the bound is kept in place, and the backward pass stands it


def test_bad_input_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"tokens must be \[B, S, W\], none of them 0"):
        build("rn")(torch.zeros(0, 3, 4, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="up to 15 sentences, but the set has 14"):
        build("rn_fixed")(*stories(sizes=((2,) * 15,), S=15))
    few = [t.short() for t in stories(S=40)]  # room for more sentences is no sentence
    torch.testing.assert_close(build("rn_fixed")(*few).logits, build("rn_fixed")(*stories()).logits)
    rn = build("srn")
    with pytest.raises(ValueError, match="a refiner needs a set_size"):
        StoryModel(rn.encoder, rn.reasoner, None, rn.refiner)
    other = RestartedRefiner(SetEncoder(16, 16, hidden=8), steps=1, inner_lr=0.1)
    with pytest.raises(TypeError, match="must be a SetRefiner, a GraphRefiner or None, got RestartedRefiner"):
        StoryModel(rn.encoder, rn.reasoner, 14, other)


def changed(t: torch.Tensor, at: tuple[int, ...], to: int) -> torch.Tensor:
    t = t.clone()
    t[at] = to
    return t


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda t, q: (t.float(), q), TypeError, "tokens must be a tensor of integers, got torch.float32"),
        (lambda t, q: (t, q.tolist()), TypeError, "query must be a tensor of integers, got list"),
        (lambda t, q: (t, q[:2]), ValueError, r"query must be \[3, 2\], two people a story, got \[2, 2\]"),
        (lambda t, q: (t, q[:, :1]), ValueError, r"query must be .* got \[3, 1\]"),
        (lambda t, q: (changed(t, (0, 0, 8), -1), q), ValueError, "tokens must be 0 to 2047, .* got -1 to"),
        (lambda t, q: (changed(t, (0, 0, 0), 2048), q), ValueError, "tokens must be 0 to 2047, .* 0 to 2048"),
        (lambda t, q: (t, q + 2048), ValueError, "query must be 0 to 2047"),
        (lambda t, q: (changed(t, (0, 0, 2), 0), q), ValueError, "a word of tokens follows a 0"),
    ],
)
def test_illegal_stories_are_refused(change, error, says):
    with pytest.raises(error, match=says):
        build("rn")(*change(*stories()))
