"""The trained weights: on one device, or shared out over several processes by FSDP2; saving and resuming
them.

Weights, gradients and optimiser state are float32, 16 bytes a parameter: in bfloat16 most updates would be
rounded away. FSDP2 also holds them in one process where the passes compute in another dtype. A step comes out
the same however its dialogues are spread.
"""

import shutil

import torch

from parts.runs import gathered, rank_and_size


def uses_fsdp(dtype: str) -> bool:
    """Whether FSDP2 holds the trained weights: of several processes, or because it computes in another dtype
    than it updates in."""
    return rank_and_size()[1] > 1 or dtype != "float32"


class Policy(torch.nn.Module):
    """A model with the function of it that is trained as its forward(), so that FSDP2 sees decoder and head
    as one module."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *args):
        return self.function(self.model, *args)


def prepare(model, function, device: str, dtype: str) -> Policy:
    """The policy to train, in its place: policy(…) is function(model, …).

    model: float32, still on the CPU, so that of several processes none needs room for all of it on its GPU.
    """
    policy, gpu = Policy(model, function), device.startswith("cuda")
    if gpu:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not uses_fsdp(dtype):
        model.to(device)
        return policy.train()
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not torch.distributed.is_initialized():
        alone = {"rank": 0, "world_size": 1, "store": torch.distributed.HashStore()}
        torch.distributed.init_process_group("nccl" if gpu else "gloo", **alone)
    mesh = torch.distributed.init_device_mesh(torch.device(device).type, (rank_and_size()[1],))
    mixed = MixedPrecisionPolicy(param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32)
    for layer in model.get_decoder().layers:
        fully_shard(layer, mesh=mesh, mp_policy=mixed)
    fully_shard(policy, mesh=mesh, mp_policy=mixed, reshard_after_forward=False)
    return policy.train()


def micro_batches(lengths: list[int], tokens: int) -> list[list[int]]:
    """Index lists that share out rows of these lengths, longest together: rows × longest is at most `tokens`.

    Of several processes all get the same number of lists, some empty: each must take part in every pass.
    """
    batches = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches + [[]] * (max(gathered(len(batches))) - len(batches))


def clip_gradient(policy: Policy, most: float) -> float:
    """Scales the gradient down to that norm if it is larger; returns its norm."""
    return whole(torch.nn.utils.clip_grad_norm_(policy.parameters(), most)).item()


def whole(tensor):
    """A tensor that may be sharded, put together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def weights(policy: Policy):
    """(name, whole tensor) of each parameter of the model; all processes must go through it together."""
    return ((name, whole(p.detach())) for name, p in policy.model.named_parameters())


def save_model(run, policy: Policy, tokenizer) -> None:
    """Writes the checkpoint folder `model` of a run, of ordinary `transformers` form; it appears only when it
    is complete."""
    part, final = run.path / "model.part", run.path / "model"
    tensors = {name: tensor.cpu() for name, tensor in weights(policy) if run.writes}
    if not run.writes:
        return
    policy.model.save_pretrained(part, state_dict=tensors)
    tokenizer.save_pretrained(part)
    if final.exists():
        shutil.rmtree(final)
    part.replace(final)


def save_state(run, policy: Policy, optimizer, step: int) -> None:
    """Writes resume.pt of a run, whole or not at all: weights and optimiser state after `step`, whole, on the
    CPU."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    state = get_state_dict(
        policy, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if run.writes:
        torch.save({"step": step, "state": state}, run.path / "resume.part")
        (run.path / "resume.part").replace(run.path / "resume.pt")


def load_state(run, policy: Policy, optimizer) -> int:
    """Sets policy and optimiser to the last saved state of a run, also one of another number of processes;
    its step, 0 without one."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    path = run.path / "resume.pt"
    saved = (
        torch.load(path, map_location="cpu", weights_only=False)
        if run.writes and path.exists()
        else {"step": 0, "state": ({}, {})}
    )
    step = gathered(saved["step"])[0]
    if step:
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=rank_and_size()[1] > 1)
        set_model_state_dict(policy, saved["state"][0], options=options)
        set_optimizer_state_dict(policy, optimizer, saved["state"][1], options=options)
    return step
