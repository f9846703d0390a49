from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from clozerec_core.catalogue import SpecialRows
from clozerec_core.hybrid import ItemSpace
from clozerec_trainer.cloze import Batch, causal_batch, cloze_batch
from clozerec_trainer.item_features import Content, no_content, whiten
from clozerec_trainer.lift import lift_new_items
from clozerec_trainer.model import HybridBert4Rec, NetworkSpec
from clozerec_trainer.objective import Objective

NUM_ITEMS, DIM, POSITIONS = 12, 8, 6
SPECIAL = SpecialRows(NUM_ITEMS)
PAD, MASK = SPECIAL.pad, SPECIAL.mask


def some_content() -> Content:
    """Crowded vectors, as sentence models give them; item 3 has no text."""
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 5)).astype(np.float32) * 0.2 + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[3] = 0
    return whiten(vectors, 0)


def make(
    content: Content | None = None,
    tied: bool = True,
    mask: bool = True,
    temperature: float | None = None,
    behaviour_limit: float | None = None,
    taste: bool = True,
) -> HybridBert4Rec:
    torch.manual_seed(3)
    trained = torch.ones(NUM_ITEMS, dtype=torch.bool)
    trained[[3, 7]] = False
    spec = NetworkSpec(DIM, POSITIONS, depth=2, heads=2, dropout=0.0, use_attention_mask=mask, taste=taste)
    return HybridBert4Rec(spec, content or some_content(), trained, tied, temperature, behaviour_limit).eval()


def intents(model: HybridBert4Rec, *rows: list[int]) -> Tensor:
    return model.intents(torch.tensor(rows), model.catalogue_vectors()[0])


def test_item_vectors_are_unit_and_zero_only_without_text_and_training() -> None:
    vectors, _ = make().catalogue_vectors()
    norms = vectors.norm(dim=1)
    assert norms[3] == 0
    assert torch.allclose(norms[torch.arange(NUM_ITEMS) != 3], torch.ones(NUM_ITEMS - 1))


def test_an_item_without_training_events_is_its_text_alone() -> None:
    model = make()
    weights = model.to_weights()
    assert not weights["items.output.behaviour"][7].any()
    space = ItemSpace.from_weights(weights, "output")
    alone = space.day_zero_vectors(model.content.vectors_NC[7:8])
    assert np.allclose(model.catalogue_vectors()[1][7].numpy(), alone[0], atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("content", [some_content(), no_content(NUM_ITEMS)], ids=["text", "no text"])
def test_torch_and_numpy_read_the_hybrid_space_alike(tied: bool, content: Content) -> None:
    model = make(content, tied)
    weights = model.to_weights()
    for side, vectors in zip(("input", "output"), model.catalogue_vectors(), strict=True):
        same = ItemSpace.from_weights(weights, side).catalogue_vectors(content.vectors_NC)
        assert np.allclose(vectors.numpy(), same, atol=1e-5)


def test_tied_sides_are_one_and_untied_ones_are_two() -> None:
    tied, untied = make(tied=True), make(tied=False)
    assert torch.equal(*tied.catalogue_vectors())
    assert not torch.equal(*untied.catalogue_vectors())
    assert sum(p.numel() for p in untied.items_output.parameters()) == sum(
        p.numel() for p in tied.items_input.parameters()
    )


@pytest.mark.parametrize("taste", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_survive_writing_and_reading(tied: bool, taste: bool) -> None:
    model, other = make(tied=tied, taste=taste), make(tied=tied, taste=taste)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    other.load_weights(model.to_weights())
    assert torch.allclose(intents(model, [1, 2, MASK]), intents(other, [1, 2, MASK]))


def test_padding_changes_nothing_under_the_attention_mask() -> None:
    model = make()
    assert torch.allclose(intents(model, [1, 2, MASK]), intents(model, [PAD, PAD, PAD, 1, 2, MASK]), atol=1e-6)


def test_padding_is_read_without_the_attention_mask() -> None:
    model = make(mask=False)
    assert not torch.allclose(intents(model, [1, 2, MASK]), intents(model, [PAD, PAD, PAD, 1, 2, MASK]), atol=1e-4)


def test_the_intent_reads_what_comes_after_the_mask_too() -> None:
    model = make()
    vectors = model.catalogue_vectors()[0]

    def at_second(rows: list[int]) -> Tensor:
        rows_BL = torch.tensor([rows])
        return model.encode(rows_BL, vectors, rows_BL.clamp(max=NUM_ITEMS - 1)).hidden[0, 1]

    assert not torch.allclose(at_second([1, MASK, 4]), at_second([1, MASK, 5]), atol=1e-4)


def test_causal_reading_sees_the_past_only() -> None:
    model = make()
    vectors = model.catalogue_vectors()[0]

    def read(rows: list[int]) -> Tensor:
        rows_BL = torch.tensor([rows])
        states = model.encode(rows_BL, vectors, rows_BL.clamp(max=NUM_ITEMS - 1), causal=True)
        return torch.cat(states, dim=2)[0]

    one, other = read([PAD, 1, 2, 4, MASK]), read([PAD, 1, 2, 5, MASK])
    assert torch.allclose(one[:3], other[:3], atol=1e-6)
    assert not torch.allclose(one[3:], other[3:], atol=1e-4)
    assert torch.isfinite(one).all()


@pytest.mark.parametrize("causal", [False, True])
def test_the_taste_is_the_mean_of_what_is_read_by_distance_and_by_what_is_asked(causal: bool) -> None:
    model = make()
    vectors_ND = model.catalogue_vectors()[0]
    with torch.no_grad():
        model.network.log_recency.copy_(torch.randn(POSITIONS))
        model.network.taste_query.weight.copy_(torch.randn(DIM, DIM))
    recency = model.network.log_recency.tolist()
    rows = [PAD, 1, 2, MASK, 5, MASK]
    rows_BL = torch.tensor([rows])
    hidden_LD, taste_LD = (
        each[0] for each in model.encode(rows_BL, vectors_ND, rows_BL.clamp(max=NUM_ITEMS - 1), causal)
    )
    for place, row in enumerate(rows):
        asked_for = place + 1 if causal and row != MASK else place
        asks_D = model.network.taste_query(hidden_LD[place])
        read = [
            (asks_D @ vectors_ND[item] + recency[abs(asked_for - other) - 1]).exp() * vectors_ND[item]
            for other, item in enumerate(rows)
            if item < NUM_ITEMS and (other <= place if causal else other != place)
        ]
        expected = torch.stack(read).sum(dim=0) if read else torch.zeros(DIM)
        if causal or row == MASK:  # what is read at an item is asked for nothing otherwise
            torch.testing.assert_close(taste_LD[place], torch.nn.functional.normalize(expected, dim=0, eps=1e-6))


def test_a_model_without_the_taste_answers_as_one_whose_taste_counts_for_nothing() -> None:
    model, without = make(), make(taste=False)
    without.load_state_dict({name: model.state_dict()[name] for name in without.state_dict()})
    torch.nn.init.zeros_(model.network.taste.weight)
    torch.testing.assert_close(intents(without, [1, 2, MASK]), intents(model, [1, 2, MASK]))


def test_before_training_the_intent_leans_towards_what_was_read() -> None:
    model = make()
    vectors_ND = model.catalogue_vectors()[1]
    scores_N = intents(model, [1, 1, 1, MASK])[0] @ vectors_ND.T
    assert scores_N.argmax() == 1


@pytest.mark.parametrize("causal", [False, True])
def test_not_looking_for_padding_changes_nothing_where_there_is_none(causal: bool) -> None:
    model = make()
    vectors = model.catalogue_vectors()[0]
    rows_BL = torch.tensor([[1, 2, 4, MASK], [5, MASK, 6, 2]])
    looked_for, taken_as_read = (
        model.encode(rows_BL, vectors, rows_BL.clamp(max=NUM_ITEMS - 1), causal, padded) for padded in (True, False)
    )
    torch.testing.assert_close(tuple(looked_for), tuple(taken_as_read))


@pytest.mark.parametrize("task", ["cloze", "causal"])
def test_padding_does_not_change_the_loss(task: str) -> None:
    objective = Objective(make(temperature=0.5), trained_rows(), 0, 0.0)

    def loss(rows: list[int], weights: list[float]) -> Tensor:
        rows_BL, weights_BL = torch.tensor([rows]), torch.tensor([weights])
        if task == "causal":
            return objective.loss(causal_batch(rows_BL, weights_BL, SPECIAL), torch.Generator())
        last_only = cloze_batch(rows_BL, weights_BL, SPECIAL, 0.5, 1.0, torch.Generator())
        return objective.loss(last_only, torch.Generator())

    torch.testing.assert_close(loss([1, 2, 4], [1, 1, 1]), loss([PAD, PAD, 1, 2, 4], [0, 0, 1, 1, 1]))


def batch() -> Batch:
    return causal_batch(torch.tensor([[PAD, 1, 2, 4, 5, 6]]), torch.tensor([[0.0, 1, 1, 1, 1, 1]]), SPECIAL)


def trained_rows() -> Tensor:
    return torch.tensor([row for row in range(NUM_ITEMS) if row not in (3, 7)])


def test_the_full_softmax_is_the_cross_entropy_over_items_with_training_events() -> None:
    model = make(temperature=0.5)
    loss = Objective(model, trained_rows(), 0, 0.0).loss(batch(), torch.Generator())
    input_ND, output_ND = model.catalogue_vectors()
    asked = batch()
    states = model.encode(asked.rows_BL, input_ND, asked.rows_BL.clamp(max=NUM_ITEMS - 1), causal=True)
    logits = model.network.answer(states.at(asked.asked_BL)) @ output_ND.T / 0.5
    logits[:, [3, 7]] = -torch.inf
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits, asked.targets_M), atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 3, 9])
def test_the_sampled_softmax_has_the_full_ones_denominator_in_expectation(num_samples: int) -> None:
    model = make(temperature=0.5)
    # One answer, whose loss is the logarithm of the denominator over the right item's part.
    one = cloze_batch(torch.tensor([[1, 2, 4]]), torch.ones(1, 3), SPECIAL, 0.5, 1.0, torch.Generator())
    full = Objective(model, trained_rows(), 0, 0.0).loss(one, torch.Generator()).exp().item()
    sampled = Objective(model, trained_rows(), num_samples, 0.0)
    draws = [sampled.loss(one, torch.Generator().manual_seed(seed)).exp().item() for seed in range(300)]
    spread = np.std(draws) / len(draws) ** 0.5
    if num_samples > 1:
        assert abs(np.mean(draws) - full) < 4 * spread
    else:  # where the only sample is the right item, nothing stands for the wrong ones
        share = (len(trained_rows()) - 1) / len(trained_rows())
        assert abs(np.mean(draws) - (share * full + (1 - share))) < 4 * spread


def test_a_sampled_negative_that_is_the_right_item_leaves_gradients_finite() -> None:
    model = make(temperature=None)
    for seed in range(10):  # one sample for ten items
        Objective(model, trained_rows(), 1, 0.0).loss(batch(), torch.Generator().manual_seed(seed)).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert model.log_temperature.grad is not None
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_answers_count_by_their_weights() -> None:
    model = make()
    objective = Objective(model, trained_rows(), 0, 0.0)
    rows = torch.tensor([[PAD, 1, 2, 4, 5, 6]])
    only_last = objective.loss(causal_batch(rows, torch.tensor([[0.0, 0, 0, 0, 0, 2]]), SPECIAL), torch.Generator())
    halved = objective.loss(causal_batch(rows, torch.tensor([[0.0, 0, 0, 0, 0, 1]]), SPECIAL), torch.Generator())
    everything = objective.loss(causal_batch(rows, torch.ones(1, 6), SPECIAL), torch.Generator())
    assert torch.allclose(only_last, halved)
    assert not torch.allclose(only_last, everything)


def test_dropping_the_id_part_leaves_the_text_and_spares_items_without_text() -> None:
    model = make()
    items = model.items_input
    rows = torch.arange(NUM_ITEMS)
    dropped = items(rows, torch.zeros(NUM_ITEMS, 1))
    assert torch.allclose(dropped[7], items(rows)[7])
    assert not torch.allclose(dropped[1], items(rows)[1])
    with torch.no_grad():
        items.behaviour.copy_(torch.randn(items.behaviour.shape))
    assert torch.allclose(items(rows, torch.zeros(NUM_ITEMS, 1))[1], dropped[1])


def test_the_id_part_stays_within_its_limit_of_the_text_and_is_free_without_text() -> None:
    model = make(behaviour_limit=0.5)
    rows = torch.arange(NUM_ITEMS)
    with torch.no_grad():
        model.items_input.behaviour.copy_(torch.randn(NUM_ITEMS, DIM) * torch.linspace(0.01, 9, NUM_ITEMS)[:, None])
    vectors = model.items_input(rows)
    tensors = {name: tensor.detach() for name, tensor in model.items_input.tensors().items()}
    content = make().items_input(rows, torch.zeros(NUM_ITEMS, 1)).detach()  # the same draw of weights
    text_only = torch.nn.functional.normalize(
        model.items_input.whitened_NK @ tensors["projection"].T + tensors["bias"], dim=1
    )
    with_text = [row for row in range(NUM_ITEMS) if row not in (3, 7)]
    assert torch.allclose(text_only[with_text], content[with_text], atol=1e-6)
    lengths = tensors["behaviour"].norm(dim=1)
    texts = (model.items_input.whitened_NK @ tensors["projection"].T + tensors["bias"]).norm(dim=1)
    assert (lengths[with_text] <= 0.5 * texts[with_text] + 1e-6).all()
    assert (lengths[with_text] >= 0.499 * texts[with_text]).any()
    # What the bundle keeps makes the same vectors, and an angle of more than 30 degrees from the text is out of reach.
    space = ItemSpace.from_weights(model.to_weights(), "input")
    assert np.allclose(space.catalogue_vectors(model.content.vectors_NC), vectors.detach().numpy(), atol=1e-5)
    assert ((vectors * text_only).sum(dim=1)[with_text] >= np.cos(np.pi / 6) - 1e-5).all()


@pytest.mark.parametrize("taste", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_lift_adds_to_the_scores_of_new_items_alone(tied: bool, taste: bool) -> None:
    histories_BT = torch.tensor([[PAD, PAD, PAD, 1, 2, MASK], [5, 6, 2, 1, 4, MASK], [PAD, 0, 8, 9, 10, MASK]])

    def lifted(lift: float) -> tuple[HybridBert4Rec, Tensor]:
        model = make(tied=tied, behaviour_limit=0.5, taste=taste)
        with torch.no_grad():
            model.items_output.behaviour.copy_(torch.randn(NUM_ITEMS, DIM, generator=torch.Generator().manual_seed(1)))
        input_ND = model.catalogue_vectors()[0]
        lift_new_items(model, lift, histories_BT)
        torch.testing.assert_close(model.catalogue_vectors()[0], input_ND)
        return model, model.intents(histories_BT, input_ND) @ model.catalogue_vectors()[1].T

    (_, level_BN), (model, after_BN) = lifted(0.0), lifted(0.1)
    others = torch.arange(NUM_ITEMS) != 7  # 3 has neither text nor training events, 7 no training events
    torch.testing.assert_close(after_BN[:, others], level_BN[:, others])
    added_B = after_BN[:, 7] - level_BN[:, 7]
    assert ((added_B > 0.03) & (added_B < 0.3)).all()  # 0.1 for a text of mean length after an answer of mean length
    after_ND = model.catalogue_vectors()[1]
    space = ItemSpace.from_weights(model.to_weights(), "output")
    np.testing.assert_allclose(space.catalogue_vectors(model.content.vectors_NC), after_ND, atol=1e-5)
    np.testing.assert_allclose(space.day_zero_vectors(model.content.vectors_NC[7:8])[0], after_ND[7], atol=1e-5)


def test_the_direction_given_up_for_the_lift_is_one_that_is_not_used() -> None:
    model = make()
    with torch.no_grad():
        for tensor in (model.items_input.projection, model.network.head[-1].weight, model.network.taste.weight):
            tensor[5] = 0
        for tensor in (model.items_input.bias, model.items_input.behaviour, model.network.head[-1].bias):
            tensor[..., 5] = 0
    input_ND, before_ND = model.catalogue_vectors()
    histories_BT = torch.tensor([[PAD, PAD, PAD, 1, 2, MASK], [5, 6, 2, 1, 4, MASK]])
    before_BN = model.intents(histories_BT, input_ND) @ before_ND.T
    lift_new_items(model, 0.1, histories_BT)
    after_BN = model.intents(histories_BT, input_ND) @ model.catalogue_vectors()[1].T
    known = [row for row in range(NUM_ITEMS) if row not in (3, 7)]
    shrunk_B1 = (after_BN / before_BN)[:, known].mean(dim=1, keepdim=True)
    torch.testing.assert_close(after_BN[:, known], before_BN[:, known] * shrunk_B1)  # all by the same, a query
    assert ((shrunk_B1 > 0.7) & (shrunk_B1 < 1)).all()


def test_whitened_content_is_centred_and_of_equal_spread() -> None:
    content = some_content()
    with_text = content.whitened()[content.vectors_NC.any(axis=1)]
    assert np.allclose(with_text.mean(axis=0), 0, atol=1e-4)
    correlations = np.corrcoef(with_text.T) - np.eye(with_text.shape[1])
    assert np.abs(correlations).max() < 0.01
    assert not content.whitened()[3].any()


def test_content_dims_keeps_the_principal_ones() -> None:
    content = some_content()
    assert whiten(content.vectors_NC, 2).whitening_CK.shape == (5, 2)
