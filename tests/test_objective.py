"""The objective: token log-probs, rewards, advantages, the GRPO loss."""

import copy
import math

import pytest
import torch

from common import Dialogue, advantages, as_tensors, grpo_loss, masked_logprobs, sft_loss
from grpo import check_sane, reward, turn_advantages
from parts.runs import BadInput
from parts.sharded import micro_batches


@pytest.fixture
def rows():
    """Token rows of different lengths and masks of what the student said."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(6, 60, (n,), generator=generator).tolist() for n in (9, 30, 17, 24)]
    masks = [[int(i % 7 in (3, 4, 5)) for i in range(len(r))] for r in ids]
    return ids, masks


def gradient(model, ids, masks, batches, pad_to=0, **options):
    """Flat gradient of the mean student-token loss, in the given micro-batches; float64, to see no rounding."""
    model = copy.deepcopy(model).double()
    total = sum(sum(m[1:]) for m in masks)
    for batch in batches:
        padded = [Dialogue("", ids=ids[i] + [0] * (pad_to - len(ids[i])), mask=masks[i]) for i in batch]
        x, m = as_tensors(padded)
        m = torch.nn.functional.pad(m, (0, x.shape[1] - m.shape[1]))
        sft_loss(masked_logprobs(model, x, m, **options), total).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("batches", [[[0], [1], [2], [3]], [[1, 3], [0, 2]], [[3, 2, 1, 0]]])
def test_gradient_does_not_depend_on_the_micro_batch(shape, rows, batches):
    _, model, _ = shape
    reference = gradient(model, *rows, [[0, 1, 2, 3]])
    assert (gradient(model, *rows, batches) - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_gradient_does_not_depend_on_padding(shape, rows):
    _, model, _ = shape
    reference = gradient(model, *rows, [[0, 1, 2, 3]])
    assert (
        gradient(model, *rows, [[0, 1, 2, 3]], pad_to=50) - reference
    ).abs().max() <= 1e-5 * reference.abs().max()


def test_gradient_does_not_depend_on_the_chunks_of_the_head(shape, rows):
    _, model, _ = shape
    reference = gradient(model, *rows, [[0, 1, 2, 3]])
    small = gradient(
        model, *rows, [[0, 1, 2, 3]], chunk_bytes=4 * 3 * model.get_output_embeddings().weight.shape[0]
    )
    assert (small - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_logprobs_equal_a_log_softmax_over_all_positions(shape, rows):
    _, model, _ = shape
    ids, mask = as_tensors([Dialogue("", ids=i, mask=m) for i, m in zip(*rows)])
    logits = model(input_ids=ids).logits[:, :-1] / 0.7
    want = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0][mask[:, 1:].bool()]
    assert (masked_logprobs(model, ids, mask, temperature=0.7) - want).abs().max() <= 1e-5


def test_positions_that_are_masked_out_get_no_gradient(shape, rows):
    _, model, _ = shape
    ids, mask = as_tensors([Dialogue("", ids=i, mask=m) for i, m in zip(*rows)])
    states = []
    handle = model.get_decoder().register_forward_hook(
        lambda module, given, out: states.append(out.last_hidden_state)
    )
    loss = masked_logprobs(model, ids, mask).sum()
    handle.remove()
    size = torch.autograd.grad(loss, states[0])[0].abs().sum(-1)
    predicts = torch.nn.functional.pad(mask[:, 1:], (0, 1)).bool()
    assert (size[~predicts] == 0).all() and (size[predicts] > 0).all()


def test_micro_batches_hold_every_dialogue_once_within_the_token_limit():
    lengths = [5, 90, 30, 31, 7, 64, 200]
    batches = micro_batches(lengths, 128)
    assert sorted(i for b in batches for i in b) == list(range(7))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 128 for b in batches)


def test_grpo_loss_is_the_hand_computed_number():
    logprobs = torch.log(torch.tensor([0.5, 0.2, 0.9]))
    old = torch.log(torch.tensor([0.4, 0.4, 0.6]))  # ratios 1.25, 0.5, 1.5
    advantage = torch.tensor([1.0, -1.0, 2.0])
    # min(1.25, 1.2)·1 = 1.2;  min(0.5·−1, 0.8·−1) = −0.8;  min(1.5·2, 1.2·2) = 2.4;  sum 2.8 over 4
    assert grpo_loss(logprobs, old, advantage, denominator=4, clip=0.2).item() == pytest.approx(-0.7)


def test_kl_term_is_the_hand_computed_number():
    logprobs, reference = torch.log(torch.tensor([0.5])), torch.log(torch.tensor([0.25]))
    kl = 0.5 + math.log(2) - 1  # ratio − log ratio − 1 at ratio 1/2
    loss = grpo_loss(logprobs, logprobs.detach(), torch.tensor([0.0]), 1, reference=reference, beta=0.1)
    assert loss.item() == pytest.approx(0.1 * kl)


def test_expected_gradient_of_the_kl_term_is_that_of_the_kl_divergence_from_policy_to_reference():
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    policy, reference = torch.log_softmax(logits, 0), torch.log(torch.tensor([0.2, 0.5, 0.3])).double()
    (exact,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)
    expected = torch.zeros(3, dtype=torch.float64)
    for token in range(3):
        p = policy[token : token + 1]
        zero, ref = torch.zeros(1), reference[token : token + 1]
        loss = grpo_loss(p, p.detach(), zero, 1, reference=ref, beta=1.0)
        (of_token,) = torch.autograd.grad(loss, logits, retain_graph=True)
        expected += p.detach().exp() * of_token
    assert torch.allclose(expected, exact)


def test_on_policy_gradient_of_grpo_is_that_of_weighted_likelihood():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    advantage, picked = torch.tensor([1.0, -0.5, 0.0, 2.0, -1.0]), torch.arange(5)
    logprobs = torch.log_softmax(logits, -1)[torch.arange(5), picked]
    (a,) = torch.autograd.grad(
        grpo_loss(logprobs, logprobs.detach(), advantage, 5), logits, retain_graph=True
    )
    (b,) = torch.autograd.grad(-(advantage * logprobs).sum() / 5, logits)
    assert torch.allclose(a, b)


def test_sft_loss_is_grpo_loss_with_advantage_one():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logprobs = torch.log_softmax(logits, -1)[:, 0]
    (a,) = torch.autograd.grad(
        grpo_loss(logprobs, logprobs.detach(), torch.ones(5), 3), logits, retain_graph=True
    )
    (b,) = torch.autograd.grad(sft_loss(logprobs, 3), logits)
    assert torch.allclose(a, b)


def test_advantages_are_the_hand_computed_ones():
    rewards = torch.tensor([[1.0, 0.7, 0.0, 0.0], [0.49, 0.49, 0.49, 0.49]])
    mean, std = 0.425, math.sqrt((0.575**2 + 0.275**2 + 2 * 0.425**2) / 4)
    assert torch.allclose(advantages(rewards)[0], torch.tensor([0.575, 0.275, -0.425, -0.425]) / std)
    assert advantages(rewards)[1].tolist() == [0, 0, 0, 0]
    assert torch.allclose(advantages(1e-9 * rewards)[0], advantages(rewards)[0])  # solved late
    assert torch.allclose(advantages(rewards, normalize=False)[0], rewards[0] - mean)


def test_reward_is_discounted_by_the_turn_of_success():
    rewards = [reward(Dialogue("", solved=n), 0.7) for n in (1, 2, 3, 4)]
    assert rewards == pytest.approx([1, 0.7, 0.49, 0.343]) and reward(Dialogue(""), 0.7) == 0


def test_only_the_reply_to_a_dispute_pays_for_a_right_answer_that_is_given_up():
    class Args:
        gamma, no_std, per_turn_return, leaks = 0.5, True, False, "keep"

    kept = Dialogue("", solved=2, statuses=["wrong", "correct", "correct"])
    given_up = Dialogue("", solved=1, statuses=["correct", "wrong"])
    unsolved = Dialogue("", statuses=["wrong", "wrong"])  # rewards 0.5, 1, 0: mean 0.5
    assert turn_advantages([kept, given_up, unsolved], Args) == [[0, 0, 0], [0.5, -0.5], [-0.5, -0.5]]
    Args.per_turn_return = True  # returns 0.5, 1; 1; 0, 0: mean 0.5
    assert turn_advantages([kept, given_up, unsolved], Args) == [[0, 0.5, 0], [0.5, -0.5], [-0.5, -0.5]]


def test_no_dialogues_make_a_row_without_student_tokens_that_still_has_a_gradient(shape):
    logprobs = masked_logprobs(shape[1], *as_tensors([]))
    assert len(logprobs) == 0 and logprobs.requires_grad


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_no_token_weighs_more_than_the_truncation_however_far_sampler_and_trainer_are_apart(advantage):
    for ratio, weight in ((1.5, 1.5), (30.0, 2.0)):
        logprobs = torch.tensor([0.0], requires_grad=True)
        grpo_loss(
            logprobs, torch.tensor([-math.log(ratio)]), torch.tensor([advantage]), 1, clip=1e9
        ).backward()
        assert logprobs.grad.item() == pytest.approx(-weight * advantage)


def test_a_step_that_would_spoil_the_weights_ends_the_run():
    good = {"loss": 1.0, "gap_mean": 0.05}
    check_sane(1, good, 1.0)
    for bad, told in (
        ({"gap_mean": 0.2}, "the sampler does not have the trained weights"),
        ({"gap_mean": math.nan}, "the sampler does not have"),
    ):
        with pytest.raises(BadInput, match=told):
            check_sane(1, good | bad, 1.0)
    for loss, norm in ((math.inf, 1.0), (1.0, math.nan)):
        with pytest.raises(BadInput, match="lower --lr"):
            check_sane(1, good | {"loss": loss}, norm)


def test_a_process_without_targets_has_gradients_of_0_of_all_weights(shape):
    """FSDP waits for those of all processes, the head's too."""
    model = copy.deepcopy(shape[1])
    masked_logprobs(model, *as_tensors([])).sum().backward()
    trained = {*model.get_decoder().parameters(), *model.get_output_embeddings().parameters()}
    assert all(p.grad is not None and not p.grad.any() for p in trained)
