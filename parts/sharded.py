"""Trained weights: on one device or sharded by FSDP2; saving and resuming. Not needed to read the method.

Trained weights, gradients and optimizer state are float32, 16 bytes a parameter: bfloat16 would round most
updates to nothing. If forward and backward passes compute in another dtype (--dtype), FSDP2 casts the weights
for them, even in one process. With LoRA only the adapter is float32. The frozen weights are kept in the dtype
of the passes, which in bfloat16 takes 2 bytes a parameter. The passes see adapter and weights in that dtype,
as vLLM does, so that LoRA does not widen the gap between trainer and sampler.

A step gives the same result however its dialogues are spread over processes. Parts of a model that text does
not pass through, such as a vision tower, are not trained. They stay on the CPU of the first process and are
saved unchanged. Libraries that take seconds to import are imported where they are used.
"""

import shutil
import warnings

import torch

from parts import packed
from parts.engines import load_model, save_adapter
from parts.runs import BadInput, all_gather, barrier, first_line, rank_and_size


def uses_fsdp(dtype: str) -> bool:
    """Whether FSDP2 holds the weights: with several processes, or if the passes are not in float32."""
    return rank_and_size()[1] > 1 or dtype != "float32"


def load_trained(path: str, lora: int | None = None, dtype: str = "float32", seed: int = 0):
    """The model to train, on the CPU. Only the first process reads its weights; the others have meta tensors.

    The trained weights are float32. lora: rank of an adapter, initialized from `seed`; then only the adapter
    is trained, and the frozen weights have `dtype`.
    """
    torch.manual_seed(seed)
    model = load_model(path, "cpu" if rank_and_size()[0] == 0 else "meta", dtype if lora else "float32", lora)
    if not lora:  # Ernie's router may be frozen as a meta tensor, but not as the first process loads it
        model.requires_grad_()
    for p in trained(model):
        p.data = p.data.float()
    return model


def trained(module):
    """The trained parameters: all, or those of the adapter."""
    return [p for p in module.parameters() if p.requires_grad]


class Policy(torch.nn.Module):
    """The parts of a model that are trained, its decoder and head, as one module that FSDP2 can hold.

    policy(ids, mask, …) returns function(model, ids, mask, …). packs: whether it first packs the rows into
    one (parts/packed.py). The model's other parts are not submodules.
    """

    def __init__(self, model, function, packs=False):
        super().__init__()
        if packs:
            packed.switch_on(model)
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        object.__setattr__(self, "model", model)  # past Module's __setattr__, which would add a submodule
        self.function, self.packs = function, packs

    def train(self, mode=True):
        """As Module.train(), but not of layers that would add jitter (Mixtral) or draw experts (Phimoe)."""
        super().train(mode)
        for module in self.modules():
            if any("jitter" in name for name in vars(module)):
                module.eval()
        return self

    def forward(self, ids, mask, *args):
        ids, mask, packing = packed.pack(ids, mask) if self.packs else (ids, mask, {})
        return self.function(self.model, ids, mask, *args, **packing)


def prepare(model, function, device: str, dtype: str) -> Policy:
    """The Policy of a model, on its device and ready to train.

    model: from load_trained(), on the CPU, so that no process needs room for all weights on its GPU.
    """
    gpu, packs = device.startswith("cuda"), packed.fits(model.config.get_text_config(), device, dtype)
    policy = Policy(model, function, packs)
    if gpu:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not uses_fsdp(dtype):
        policy.to(device)
        return policy.train()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not torch.distributed.is_initialized():
        backend, store = "nccl" if gpu else "gloo", torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, rank=0, world_size=1, store=store)
    rank, processes = rank_and_size()
    loaded = {name: tensor.detach() for name, tensor in policy.state_dict().items()} if rank == 0 else {}
    # Some buffers are not in a state_dict, but the other processes need their values too.
    buffers = all_gather(dict(policy.named_buffers()) if rank == 0 else None)[0]
    mesh = torch.distributed.init_device_mesh(torch.device(device).type, (processes,))
    mixed = MixedPrecisionPolicy(param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32)
    # The decoder's layers are its largest ModuleList. Its name differs (h in GPT-2 and Falcon), and there may
    # be other, small lists (Gemma 3n).
    lists = [m for m in policy.decoder.children() if isinstance(m, torch.nn.ModuleList)]
    for layer in max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters())):
        fully_shard(layer, mesh=mesh, mp_policy=mixed)
    fully_shard(policy, mesh=mesh, mp_policy=mixed, reshard_after_forward=False)
    if processes > 1:
        if rank:
            policy.to_empty(device=device)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(policy, loaded, options=options)
        for name, buffer in policy.named_buffers():
            buffer.copy_(buffers[name])
    return policy.train()


def adamw(policy: Policy, lr: float, betas: tuple, weight_decay: float) -> torch.optim.AdamW:
    """AdamW on the trained parameters; fused on a GPU, where the default would need a second copy of them."""
    parameters = trained(policy)
    return torch.optim.AdamW(parameters, lr, betas, weight_decay=weight_decay, fused=parameters[0].is_cuda)


def micro_batches(lengths: list[int], tokens: int) -> list[list[int]]:
    """Splits rows of these lengths into micro-batches, each a list of row numbers.

    A micro-batch has at most `tokens` tokens with padding (rows × longest row), unless it is a single longer
    row. Rows of similar lengths go together. Every process gets the same number of micro-batches (some
    empty), because FSDP needs all processes in every pass.
    """
    batches = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches + [[]] * (max(all_gather(len(batches))) - len(batches))


def clip_gradient(policy: Policy, max_norm: float) -> float:
    """Scales the gradient down to max_norm if its norm is larger; returns its norm before that.

    A weight without a gradient gets a gradient of 0, so that the optimizer saves a state for it, too.
    """
    for p in trained(policy):
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    return whole(torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)).item()


def whole(tensor):
    """A tensor that may be sharded, in full. All processes must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def weights(policy: Policy):
    """Yields (name in the model, full tensor) of each trained parameter. All processes must run through it.

    If all weights are trained, it also yields the buffers that a checkpoint has (Apertus, the routers of
    DeepSeek and GLM). A reload must bring them, or vLLM would leave them without values.
    """
    model, wanted = policy.model, set(trained(policy))
    named = dict(model.named_parameters())
    if not hasattr(model, "peft_config"):
        wanted |= set(policy.buffers())
        saved = model.state_dict().keys()
        named |= {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return ((name, whole(t.detach())) for name, t in named.items() if t in wanted)


def save_model(run, policy: Policy, tokenizer) -> None:
    """Writes the `transformers` checkpoint in the folder `model`, which appears when it is complete.

    With LoRA it first writes the folder `adapter`, in peft's format. `model` then has the adapter merged into
    the original weights in float32: bfloat16 would round away part of a small update to a large weight.
    """
    from safetensors import SafetensorError

    part, final = run.path / "model.part", run.path / "model"
    learned = {name: tensor.cpu() for name, tensor in weights(policy) if run.writes}  # all processes gather
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
        untrained = {n: t for n, t in model.named_parameters() if n not in learned}
        state |= untrained | learned
    try:
        model.save_pretrained(part, state_dict=state)
    except SafetensorError as e:
        problem = f"{part}: the model cannot be written ({first_line(e)}; {free_space(part)})"
        raise BadInput(f"{problem}; the same command goes on from the last saved state") from None
    tokenizer.save_pretrained(part)
    if final.exists():
        shutil.rmtree(final)
    part.replace(final)
    run.say(f"the model is in {final}")


def free_space(folder) -> str:
    """How much room a folder's disk has, for a message."""
    return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free there"


def state_of(policy: Policy, optimizer) -> dict:
    """The saved state of a step: {"model": trained weights, "optimizer": its moments}."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, moments = get_state_dict(policy, optimizer)
    names = {name for name, p in policy.named_parameters(remove_duplicate=False) if p.requires_grad}
    return {"model": {name: t for name, t in model.items() if name in names}, "optimizer": moments}


def save_state(run, policy: Policy, optimizer, step: int) -> None:
    """Writes trained weights and optimizer state to the folder resume/STEP, each process its own shard.

    The folder appears when it is complete. Then the older one is removed. A step that is saved already, by a
    run that is resumed at its end, is not saved again.
    """
    from torch.distributed import checkpoint

    if saved_step(run) == step:
        return
    folder = run.path / "resume"
    part = folder / f"{step}.part"
    if run.writes:
        shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed while it wrote
        part.mkdir(parents=True)
    barrier()  # the folder is there
    state = state_of(policy, optimizer)
    try:
        with warnings.catch_warnings(action="ignore"):  # about saving without a process group
            checkpoint.save(state, checkpoint_id=part, no_dist=rank_and_size()[1] == 1)
    except checkpoint.api.CheckpointException as e:  # a full disk, say
        problem = f"{part}: the state cannot be written ({first_line(first_failure(e))}; {free_space(part)})"
        raise BadInput(f"{problem}; the same command goes on from the last saved state") from None
    barrier()  # all have written
    if run.writes:
        part.replace(folder / str(step))
        for old in folder.iterdir():
            if old.name != str(step):
                shutil.rmtree(old)


def first_failure(e) -> BaseException:
    """The exception of one process, if e is a CheckpointException (a BaseException); else e itself."""
    failures = getattr(e, "failures", {})
    return next(iter(failures.values()))[0] if failures else e


def saved_step(run) -> int:
    """The step of a run's last saved state, or 0. All processes must call it."""
    saved = [int(old.name) for old in (run.path / "resume").glob("*") if old.name.isdigit()]
    return all_gather(max(saved, default=0))[0]


def load_state(run, policy: Policy, optimizer) -> int:
    """Sets policy and optimizer to a run's last saved state; returns its step, or 0.

    The state may have been saved by another number of processes.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    step = saved_step(run)
    if step:
        state = state_of(policy, optimizer)
        folder = run.path / "resume" / str(step)
        try:
            with warnings.catch_warnings(action="ignore"):
                checkpoint.load(state, checkpoint_id=folder, no_dist=rank_and_size()[1] == 1)
        except (Exception, checkpoint.api.CheckpointException) as e:  # a damaged file may raise anything
            if isinstance(first_failure(e), (KeyboardInterrupt, torch.OutOfMemoryError, PermissionError)):
                raise first_failure(e) from None
            reason = f"the saved state cannot be read ({first_line(first_failure(e))})"
            raise BadInput(f"{folder}: {reason}; remove this folder to start again") from None
        options = StateDictOptions(strict=False)  # with LoRA the frozen weights were not saved
        set_state_dict(
            policy,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=options,
        )
    return step
