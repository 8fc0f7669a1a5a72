"""The trained weights: on one device, or shared out over processes by FSDP2; saving and resuming them.

Weights, gradients and optimiser state are float32, 16 bytes a parameter: in bfloat16 most updates would be
rounded away. FSDP2 also holds them in one process where the passes compute in another dtype. With LoRA that
is so for the adapter alone; frozen weights are held in the dtype of the passes, in bfloat16 2 bytes a
parameter. The passes see both in that dtype, as vLLM does: what rounding parts trainer and sampler by is no
more than without LoRA. A step comes out the same however its dialogues are spread. What a text model has no
use for (the eyes of a multimodal one) is not trained, stays on the CPU of the first process, and is saved as
it came. What costs seconds to import is imported where it is used.
"""

import shutil
import warnings

import torch

from parts.engines import load_model, save_adapter
from parts.runs import BadInput, barrier, first_line, gathered, rank_and_size


def uses_fsdp(dtype: str) -> bool:
    """Whether FSDP2 holds the weights: for several processes, or because the passes have another dtype."""
    return rank_and_size()[1] > 1 or dtype != "float32"


def load_trained(path: str, lora: int | None = None, dtype: str = "float32", seed: int = 0):
    """The model to train, on the CPU; of several processes only the first one reads its weights.

    What is trained is float32. With LoRA of rank `lora` that is an adapter, begun with `seed`; the rest is of
    `dtype`.
    """
    torch.manual_seed(seed)
    model = load_model(path, "cpu" if rank_and_size()[0] == 0 else "meta", dtype if lora else "float32", lora)
    for p in trained(model):
        p.data = p.data.float()
    return model


def trained(module):
    """The parameters that are trained: all, or those of an adapter."""
    return [p for p in module.parameters() if p.requires_grad]


class Policy(torch.nn.Module):
    """Decoder and head of a model, which are what is trained, as one module that FSDP2 can hold.

    forward() is a function of the whole model, which is `model`; its other parts are no parts of this.
    """

    def __init__(self, model, function):
        super().__init__()
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        object.__setattr__(self, "model", model)  # not as a part
        self.function = function

    def forward(self, *args):
        return self.function(self.model, *args)


def prepare(model, function, device: str, dtype: str) -> Policy:
    """The policy to train, in its place: policy(…) is function(model, …).

    model: of load_trained(), so that of several processes none needs room for all of it on its GPU.
    """
    policy, gpu = Policy(model, function), device.startswith("cuda")
    if gpu:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not uses_fsdp(dtype):
        policy.to(device)
        return policy.train()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not torch.distributed.is_initialized():
        alone = {"rank": 0, "world_size": 1, "store": torch.distributed.HashStore()}
        torch.distributed.init_process_group("nccl" if gpu else "gloo", **alone)
    rank, processes = rank_and_size()
    loaded = {name: tensor.detach() for name, tensor in policy.state_dict().items()} if rank == 0 else {}
    buffers = gathered(dict(policy.named_buffers()) if rank == 0 else None)[0]
    mesh = torch.distributed.init_device_mesh(torch.device(device).type, (processes,))
    mixed = MixedPrecisionPolicy(param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32)
    for layer in policy.decoder.layers:
        fully_shard(layer, mesh=mesh, mp_policy=mixed)
    fully_shard(policy, mesh=mesh, mp_policy=mixed, reshard_after_forward=False)
    if processes > 1:
        if rank:
            policy.to_empty(device=device)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(policy, loaded, options=options)
        for name, own in policy.named_buffers():
            own.copy_(buffers[name])
    return policy.train()


def adamw(policy: Policy, lr: float) -> torch.optim.AdamW:
    """The optimiser of all stages; on a GPU fused, which needs no second copy of what it updates."""
    parameters = trained(policy)
    return torch.optim.AdamW(parameters, lr, (0.9, 0.95), weight_decay=0.0, fused=parameters[0].is_cuda)


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
    """(name in the model, whole tensor) of each trained parameter; all processes go through it together."""
    own = set(trained(policy))
    named = ((name, p) for name, p in policy.model.named_parameters() if p in own)
    return ((name, whole(p.detach())) for name, p in named)


def save_model(run, policy: Policy, tokenizer) -> None:
    """Writes the checkpoint folder `model`, of `transformers` form; it appears when it is complete.

    Before it, of LoRA, the folder `adapter` of peft's form. In `model` it is merged into the weights as they
    came, in float32: rounded to bfloat16, sums of a large weight and a small update lose some of the update.
    """
    part, final = run.path / "model.part", run.path / "model"
    learned = {name: tensor.cpu() for name, tensor in weights(policy) if run.writes}
    if not run.writes:
        return
    model, state = policy.model, None
    if hasattr(model, "peft_config"):
        from peft import PeftModel

        adapter, path = run.path / "adapter", model.name_or_path
        save_adapter(adapter, learned.items(), model.peft_config["default"].r, path)
        model = PeftModel.from_pretrained(load_model(path, "cpu"), adapter).merge_and_unload()
    else:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        state = {n: t for n, t in model.state_dict().items() if n not in parameters}  # buffers
        state |= {n: t for n, t in model.named_parameters() if n not in learned} | learned
    model.save_pretrained(part, state_dict=state)
    tokenizer.save_pretrained(part)
    if final.exists():
        shutil.rmtree(final)
    part.replace(final)
    run.say(f"the model is in {final}")


def state_of(policy: Policy, optimizer) -> dict:
    """What is saved of a step: the trained weights, and the optimiser's state."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, moments = get_state_dict(policy, optimizer)
    names = {name for name, p in policy.named_parameters(remove_duplicate=False) if p.requires_grad}
    return {"model": {name: t for name, t in model.items() if name in names}, "optimizer": moments}


def save_state(run, policy: Policy, optimizer, step: int) -> None:
    """Writes what is trained and the optimiser's state to the folder resume/STEP, each process its own share.

    The folder appears when it is complete; then the older one goes.
    """
    from torch.distributed import checkpoint

    folder = run.path / "resume"
    part = folder / f"{step}.part"
    if run.writes:
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed while it wrote
        part.mkdir(parents=True)
    barrier()  # the folder is there
    state = state_of(policy, optimizer)
    try:
        with warnings.catch_warnings(action="ignore"):  # that one process saves alone
            checkpoint.save(state, checkpoint_id=part, no_dist=rank_and_size()[1] == 1)
    except checkpoint.api.CheckpointException as e:  # a full disk, say
        raise BadInput(
            f"{part}: the state cannot be written ({first_line(first_failure(e))}); the last one stays"
        ) from None
    barrier()  # all have written
    if run.writes:
        part.replace(folder / str(step))
        for old in folder.iterdir():
            if old.name != str(step):
                shutil.rmtree(old)


def first_failure(e) -> BaseException:
    """What one process raised, of the checkpoint library's exception (no Exception, by its kind)."""
    failures = getattr(e, "failures", {})
    return next(iter(failures.values()))[0] if failures else e


def load_state(run, policy: Policy, optimizer) -> int:
    """Sets policy and optimiser to a run's last saved state, also one of other processes; its step, or 0."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    saved = [int(old.name) for old in (run.path / "resume").glob("*") if old.name.isdigit()]
    step = gathered(max(saved, default=0))[0]
    if step:
        state = state_of(policy, optimizer)
        folder = run.path / "resume" / str(step)
        try:
            with warnings.catch_warnings(action="ignore"):
                checkpoint.load(state, checkpoint_id=folder, no_dist=rank_and_size()[1] == 1)
        except (Exception, checkpoint.api.CheckpointException) as e:  # whatever a damaged file makes of it
            if isinstance(first_failure(e), (KeyboardInterrupt, torch.OutOfMemoryError, PermissionError)):
                raise first_failure(e) from None
            told = f"{folder}: the saved state cannot be read ({first_line(first_failure(e))})"
            raise BadInput(f"{told}; remove this folder to go on from the start") from None
        loaded = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
        options = StateDictOptions(strict=False)  # of LoRA the frozen weights were not saved
        set_state_dict(policy, optimizer, **loaded, options=options)
    return step
