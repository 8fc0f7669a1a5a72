"""The first ten minutes on a GPU: checks what no test on a CPU can, and prints a table of what it found.

    bash tests/gpu.sh        # on one 80 GB card and all others that are there; 30 GB of disk in TMPDIR
    bash tests/gpu.sh cpu    # the same with tiny models on a CPU, which tests this file

Models have the shape of Gemma 3 1B and random weights, so nothing is downloaded. Each check is a process of its
own with a time limit. What is not installed is skipped. Most rows have a control: the same measurement where
it must fail, such as log-probs of weights that the sampler does not have. Exit code 1: a check failed.
"""

import importlib.metadata
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bench
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

import grpo
from common import Dialogue, as_tensors, masked_logprobs
from parts import packed, runs, sharded
from parts.engines import HFEngine, VLLMEngine, load_model, without_adapter

GPU = sys.argv[1:2] != ["cpu"]
DEVICE = "cuda" if GPU else "cpu"
WORK = Path(os.environ.get("GPU_CHECKS", ""))  # the folder of all checks, which main() makes
SHAPE = "gemma-3-1b" if GPU else "gemma-tiny"
# initializer_range: large, so that a wrong mask shows in few layers
bench.SHAPES["gemma-tiny"] = (Gemma3ForCausalLM, Gemma3TextConfig(vocab_size=1024, hidden_size=64, intermediate_size=128, num_hidden_layers=6,
    num_attention_heads=4, num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32, sliding_window=16, initializer_range=0.1))  # fmt: skip
# conversations, tokens of a message, tokens of a turn; of GRPO: dialogues a group, tokens of a turn
CONVERSATIONS, MESSAGE, TURN, GROUP, GRPO_TURN = (
    (128, (300, 900), 128, 8, 128) if GPU else (4, (40, 80), 8, 4, 8)
)
TEMPERATURE = 0.7  # not 1, so that a temperature left out shows
# Nats a token. CLOSE: rounding to bfloat16 moves log-probs of the 1B shape with random weights by 0.018 on the
# average (measured on a CPU against float32), so those of two programs differ by about 0.026.
CLOSE, FAR = 0.05, 0.1
LORA = 32
# Of GRPO: large, so that a sampler or a resumed run with old weights shows, and small enough for three steps
# of random weights. A wide model needs less: Adam changes each weight by the rate, and more of them add up.
RATE = 2e-4 if GPU else 5e-3


class Skip(Exception):
    """The check cannot run here. The message says why."""


def report(what, expected, found, ok=None):
    """Adds a row to the table. ok: None if nothing was judged."""
    now = time.time()
    row = {"what": what, "expected": expected, "found": found, "ok": ok, "seconds": now - report.last}
    report.last = now
    with open(os.environ["GPU_ROWS"], "a") as file:
        file.write(json.dumps(row) + "\n")


report.last = time.time()


def report_least(what, least, found, unit):
    """Adds a row: a number that must not be smaller than another. A CPU is not judged."""
    ok, digits = found >= least if GPU else None, 0 if found >= 10 else 2
    report(what, f"≥ {least:,} {unit}", f"{found:,.{digits}f} {unit}", ok)


def report_gap(what, gap, control, gap_of_control):
    """Adds a row: |log-prob of sampler − trainer|, nats a token, and the same in a case that must fail."""
    expected, found = f"≤ {CLOSE}; {control} ≥ {FAR}", f"{gap:.4f}; {gap_of_control:.2f}"
    report(what, expected, found, gap <= CLOSE and gap_of_control >= FAR)


def version(package):
    """The version of an installed package, or "missing"."""
    names = (package, f"{package}-cpu") if importlib.util.find_spec(package) else ()  # vLLM's CPU build
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "missing"


def need(package, wanted):
    """Raises Skip if a package is not installed, or of another version."""
    if not (found := version(package)).startswith(wanted):
        raise Skip(f"{package} {wanted}* is needed; it is {found}")


# ------------------------------------------------------------------------------------- device and attention


def environment():
    """The device, the versions, and the model that the other checks use."""
    if GPU:
        gpu = torch.cuda.get_device_properties(0)
        report_least(f"{torch.cuda.device_count()} × {gpu.name}", 75, gpu.total_memory / 1e9, "GB")
        report("bfloat16 on it", "yes", str(torch.cuda.is_bf16_supported()), torch.cuda.is_bf16_supported())
    report_least("free disk for TMPDIR", 30, shutil.disk_usage(WORK).free / 1e9, "GB")
    found = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "vllm"))
    report("versions", "torch 2.13.0, transformers 5.16 … 5.19, peft 0.21, vllm 0.32", found)
    make, config = bench.SHAPES[SHAPE]
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = make(config).to(torch.bfloat16)
    model.save_pretrained(WORK / "model")
    AutoTokenizer.from_pretrained(ROOT / "toy" / "base").save_pretrained(WORK / "model")
    size = sum(p.numel() for p in model.parameters()) / 1e6
    report("a model with random weights", SHAPE, f"{size:,.1f} M parameters")


def masks():
    """The trainer's attention, in float32: against a plain one, and with padding."""
    model = load_model(str(WORK / "model"), DEVICE)
    window = model.config.sliding_window
    torch.manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (2, 3 * window), device=DEVICE)
    mask = torch.ones_like(ids)
    mask[1, 2 * window :] = 0  # padding
    with torch.no_grad():
        ours = masked_logprobs(model, ids, mask)
        alone = masked_logprobs(model, ids[1:, : 2 * window], mask[1:, : 2 * window])
        with no_window(model):
            control = masked_logprobs(model, ids, mask)
        model.set_attn_implementation("eager")
        plain = masked_logprobs(model, ids, mask)
    pairs = (ours, plain), (ours[-len(alone) :], alone), (ours, control)
    gap, padding, far = ((a - b).abs().mean().item() for a, b in pairs)
    found, ok = f"{gap:.0e}, {padding:.0e}; {far:.2f}", max(gap, padding) <= 1e-3 and far >= FAR
    report("masks: sdpa − eager, padded − alone", f"≤ 1e-3; without window ≥ {FAR}", found, ok)
    if not GPU:
        raise Skip("the time of attention is measured on a GPU only")
    time_attention(model.config, window, 8192)


def packed_rows():
    """The trainer's attention in bfloat16, packed rows against padded ones: log-probs and a gradient."""
    if not GPU:  # where torch's attention does not run
        from test_packed import plain_varlen_attn
        from torch.nn.attention import varlen

        varlen.varlen_attn = plain_varlen_attn
    window, source, rows = bench.SHAPES[SHAPE][1].sliding_window, random.Random(0), []
    for n in (3 * window, 2 * window + 1, window // 2):
        ids = [source.randrange(5, bench.SHAPES[SHAPE][1].vocab_size) for _ in range(n)]
        rows.append(Dialogue("", ids=ids, mask=[int(i > n // 4) for i in range(n)]))

    def scored(packs, context=nullcontext):
        packed.fits = lambda *_: packs
        model = sharded.load_trained(str(WORK / "model"))
        policy = sharded.prepare(model, masked_logprobs, DEVICE, "bfloat16")
        with context(model):
            logprobs = policy(*as_tensors(rows, DEVICE), TEMPERATURE)
            logprobs.mean().backward()
        gradient = sharded.whole(policy.decoder.layers[0].self_attn.q_proj.weight.grad)
        return logprobs.detach(), F.normalize(gradient.flatten(), dim=0)

    (ours, gradient), (padded, other), (control, far) = scored(True), scored(False), scored(True, no_window)
    gap, gap_of_control = ((a - padded).abs().mean().item() for a in (ours, control))
    report_gap("packed rows: log-probs as padded", gap, "without window", gap_of_control)
    cosine, of_control = (other @ gradient).item(), (other @ far).item()
    found, ok = f"{cosine:.3f}; {of_control:.2f}", cosine >= 0.95 > of_control
    report("cosine of their gradients of a layer", "≥ 0.95; without window less", found, ok)


@contextmanager
def no_window(model):
    """Inside this context the model's sliding layers see all earlier tokens."""
    parts = [m for m in (model.get_decoder().config, *model.modules()) if getattr(m, "sliding_window", None)]
    window = parts[0].sliding_window
    for part in parts:
        part.sliding_window = 2**20
    yield
    for part in parts:
        part.sliding_window = window


def time_attention(config, window, length):
    """The time of a layer with a window: with a dense mask, as if it had none, and with windowed flash."""
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    q, k, v = (torch.randn(1, n, length, config.head_dim, device=DEVICE, dtype=torch.bfloat16) for n in heads)
    each = [q, *(t.expand(-1, heads[0], -1, -1) for t in (k, v))]  # a key for each query head
    near = torch.ones(length, length, device=DEVICE, dtype=torch.bool).tril().triu(1 - window)
    dense = milliseconds(lambda: F.scaled_dot_product_attention(*each, attn_mask=near))
    causal = milliseconds(lambda: F.scaled_dot_product_attention(*each, is_causal=True))
    found = f"dense mask {dense:.1f}, causal flash {causal:.1f}"
    try:
        from torch.nn.attention.varlen import varlen_attn

        packed = [t[0].transpose(0, 1).contiguous() for t in (q, k, v)]  # [T, heads, head size]
        ends = torch.tensor([0, length], device=DEVICE, dtype=torch.int32)
        kwargs = {"window_size": (window - 1, 0), "enable_gqa": True}
        flash = milliseconds(lambda: varlen_attn(*packed, ends, ends, length, length, **kwargs))
    except (ImportError, TypeError, RuntimeError) as e:
        raise Skip(f"{found} ms; no windowed flash here ({runs.first_line(e)})") from None
    found = f"{found}, windowed {flash:.1f}"
    report(f"a layer, {length} tokens, ms", "windowed ≤ causal", found, flash <= causal)


def milliseconds(function):
    """The median time of a function on the GPU."""
    times = []
    for _ in range(9):
        clock = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - clock))
    return sorted(times)[4]


# ------------------------------------------------------------------------------------------ samplers and sync


def engine_check(name, lora=None):
    """Log-probs of a sampler beside the trainer's, before and after syncs of weights; its speed."""
    if name == "vLLM":
        need("vllm", "0.32")
    if lora:
        need("peft", "0.")
    path, free = str(WORK / "model"), free_memory()
    if name == "vLLM":
        kwargs = {"device": DEVICE, "dtype": "bfloat16", "sleeps": not lora, "lora": lora}
        engine = VLLMEngine(path, [1], TURN, TEMPERATURE, **kwargs)
    else:
        engine = HFEngine(load_model(path, DEVICE, "bfloat16", lora), [1], TURN, TEMPERATURE)
    taken, sleeps = free - free_memory(), name == "vLLM" and GPU and not lora
    model = sharded.load_trained(path, lora, "bfloat16")
    policy = sharded.prepare(model, masked_logprobs, DEVICE, "bfloat16")
    if lora:
        change(policy)  # a new adapter has no effect
        engine.sync(sharded.weights(policy))
        name += ", LoRA"

    first, speed = sample(engine, "first")
    with no_window(model):
        control = mean_gap(policy, first)
    report_gap(f"{name}: log-probs as the trainer's", mean_gap(policy, first), "without window", control)
    if sleeps:  # the kit uses level 2 only, which keeps nothing
        freed = freed_by(lambda: engine.llm.sleep(level=1))
        engine.llm.wake_up()
        report_least(f"{name}: freed by sleep of level 1", 0.8, freed / taken, "of its memory")
        again, _ = sample(engine, "again")
        report_gap(f"{name}: awake after it", mean_gap(policy, again), "without window", control)

    freed = freed_by(engine.sleep)
    change(policy)
    old = mean_gap(policy, first)
    engine.sync(sharded.weights(policy))
    second, later_speed = sample(engine, "second")
    report_gap(f"{name}: after a sync", mean_gap(policy, second), "old weights", old)
    if sleeps:
        report_least(f"{name}: freed by sleep of level 2", 0.8, freed / taken, "of its memory")
        graphs = engine.llm.llm_engine.vllm_config.compilation_config.cudagraph_mode
        report_least(f"{name}: speed after the sync ({graphs})", 0.8, later_speed / speed, "of that before")
    elif name == "vLLM":
        report("vLLM: sleep, CUDA graphs", "", "skipped: a CPU has neither")
    if lora:
        teacher, _ = sample(engine.at_temperature(TEMPERATURE, frozen=True), "teacher")
        with without_adapter(model):
            gap = mean_gap(policy, teacher)
        report_gap(f"{name}: teacher, adapter off", gap, "with adapter", mean_gap(policy, teacher))
    report_least(f"{name}: rollouts", 5000 if "vLLM" in name else 500, later_speed, "tokens/s")


def free_memory():
    """Free bytes of the GPU; 0 on a CPU."""
    return torch.cuda.mem_get_info()[0] if GPU else 0


def freed_by(function):
    """The bytes of GPU memory that a function frees."""
    free = free_memory()
    function()
    return free_memory() - free


def sample(engine, label):
    """(Dialogues, sampled tokens a second): two turns in each of some conversations about random tokens.

    The messages are always the same. So keys and values of old weights would be used, if an engine kept them.
    """
    source, clock = random.Random(0), time.perf_counter()
    dialogues, vocabulary = (
        [Dialogue(str(i)) for i in range(CONVERSATIONS)],
        bench.SHAPES[SHAPE][1].vocab_size,
    )
    for turn in range(2):
        for i, dialogue in enumerate(dialogues):
            message = [source.randrange(5, vocabulary) for _ in range(source.randint(*MESSAGE))]
            dialogue.add("teacher", "", message, 0)
            engine.submit((label, i, turn), str(i), dialogue.ids)
        while engine.pending:
            for (_, i, _), sampled in engine.poll():
                dialogues[i].add("student", "", sampled.ids, 1, sampled.logprobs)
    return dialogues, sum(sum(d.mask) for d in dialogues) / (time.perf_counter() - clock)


@torch.no_grad()
def mean_gap(policy, dialogues):
    """Mean of |trainer's − sampler's log-prob| over the sampled tokens."""
    gaps = []
    for indices in sharded.micro_batches([len(d.ids) for d in dialogues], 16384):
        rows = [dialogues[i] for i in indices]
        sampled = grpo.concatenated([d.sampled_logprobs for d in rows], DEVICE)
        gaps.append((policy(*as_tensors(rows, DEVICE), TEMPERATURE) - sampled).abs())
    policy.reshard()  # so that the next pass gathers the weights anew, which may have changed
    return torch.cat(gaps).mean().item()


@torch.no_grad()
def change(policy):
    """Adds noise to the trained matrices, as large as their first values."""
    for p in sharded.trained(policy):
        if p.ndim > 1:
            p += bench.SHAPES[SHAPE][1].initializer_range * torch.randn_like(p)


# -------------------------------------------------------------------------------------------------- training


def update(length):
    """Speed and memory of an update on dialogues of one length."""
    length = length if GPU else length // 20
    predicted = bench.for_training(bench.memory(bench.SHAPES[SHAPE][1]))
    speed, share, peak = bench.update(SHAPE, length, length)
    report_least(f"update, {length} tokens: {speed:,.0f} tokens/s", 10, 100 * share, "% of an H100's peak")
    found, ok = f"{peak / 1e9:.1f} of {predicted / 1e9:.1f} GB", 0.7 <= peak / predicted <= 1.1
    report("its peak memory, and bench.py memory", "0.7 to 1.1 of it", found, ok if GPU else None)


def grpo_command(out, engine, **options):
    """grpo.py on the toy world's problems, with a reward that random weights can earn."""
    toy = ROOT / "toy"
    options |= {"model": WORK / "model", "out": WORK / out, "engine": engine, "group": GROUP, "turns": 2}
    options |= {"problems": toy / "math_train.jsonl", "prompts": toy / "prompts.json"}
    options |= {"max_tokens": GRPO_TURN, "device": DEVICE, "dtype": "bfloat16"}
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
    return [__file__, DEVICE, "grpo", *itertools.chain(*words)]


def best_engine():
    return "vllm" if version("vllm").startswith("0.32") else "hf"


def report_gaps(what, out, steps):
    """Adds a row: the gaps of all steps of a run."""
    rows, saved = runs.read_jsonl(WORK / out / "metrics.jsonl"), (WORK / out / "model").exists()
    gaps, speed = [row["gap_mean"] for row in rows], rows[-1]["tokens_per_second"]
    ok = saved and len(rows) == steps and max(gaps) <= CLOSE and all(row["grad_norm"] > 0 for row in rows)
    found = f"{', '.join(f'{gap:.4f}' for gap in gaps)}; {speed:,.0f} tokens/s"
    report(f"{what}, {best_engine()}", f"gaps of {steps} steps ≤ {CLOSE}", found, ok)


def killed():
    """A run is killed in step 4 and resumes after step 2: the same weights must play its step 3."""
    options = {"batch": 4, "steps": 4, "save_every": 2, "lr": RATE}
    command = [sys.executable, *grpo_command("killed", best_engine(), **options)]
    process = subprocess.Popen(command)
    while len(runs.read_jsonl(WORK / "killed" / "metrics.jsonl")) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("grpo.py ended before it was killed")
    first, before = mean_logprob("killed", 1), mean_logprob("killed", 3)
    subprocess.run(command, check=True)
    after = mean_logprob("killed", 3)
    report_gaps("grpo.py, killed, resumed", "killed", 4)
    found, ok = f"{before:.3f}, {after:.3f}; {first:.3f}", abs(after - before) <= 0.2 * abs(before - first)
    report("mean log-prob of its step 3, twice", "equal; step 1 differs", found, ok)


def mean_logprob(out, step):
    """The mean of the sampler's log-probs in a step of a run."""
    rows = [row for row in runs.read_jsonl(WORK / out / "dialogues.jsonl") if row["step"] == step]
    logprobs = sum((Dialogue.from_row(row).sampled_logprobs for row in rows), [])
    return sum(logprobs) / len(logprobs)


def torchrun(processes, **options):
    """grpo.py under torchrun."""
    if "lora" in options:
        need("peft", "0.")
    out = f"torchrun-{processes}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = grpo_command(out, best_engine(), batch=2 * processes, steps=2, **options)
    subprocess.run([*launch, *command], check=True)
    report_gaps(f"torchrun, processes: {processes}{', LoRA' * ('lora' in options)}", out, 2)


# ------------------------------------------------------------------------------------------------- the table

MORE = torch.cuda.device_count() if GPU else 2
CHECKS = {  # name: (function of no arguments, its most seconds)
    "environment": (environment, 90),
    "masks": (masks, 90),
    "packed rows": (packed_rows, 90),
    "transformers": (lambda: engine_check("transformers"), 150),
    "transformers, LoRA": (lambda: engine_check("transformers", LORA), 150),
    "vLLM": (lambda: engine_check("vLLM"), 240),
    "vLLM, LoRA": (lambda: engine_check("vLLM", LORA), 180),
    "update, 2000": (lambda: update(2000), 90),
    "update, 8000": (lambda: update(8000), 90),
    "grpo": (killed, 300),
    "torchrun, 1": (lambda: torchrun(1, lora=LORA, lr=1e-2), 150),
    **({f"torchrun, {MORE}": (lambda: torchrun(MORE, lr=RATE), 180)} if MORE > 1 else {}),
}


def run_check(name):
    """The rows of a check, which runs in a process of its own."""
    log, rows, clock = WORK / f"{name}.log", WORK / f"{name}.jsonl", time.time()
    python, variables = sys.executable, {"GPU_CHECKS": str(WORK), "GPU_ROWS": str(rows)}
    if not GPU:
        variables |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        with_vllm = ROOT / ".venv-vllm" / "bin" / "python"  # of tests/vllm.sh
        python = with_vllm if name.startswith("vLLM") and with_vllm.exists() else python
    command, kwargs = [python, __file__, DEVICE, "check", name], {"start_new_session": True}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | variables, **kwargs)
    try:
        problem = "ended by itself" if process.wait(CHECKS[name][1]) else None
    except subprocess.TimeoutExpired:
        problem = f"stopped after {CHECKS[name][1]} s"
    finally:
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(process.pid, signal.SIGTERM)  # also what it started; torchrun ends its workers itself
            time.sleep(5)
            os.killpg(process.pid, signal.SIGKILL)
    found = runs.read_jsonl(rows)
    if problem:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        text = f"{problem}: {last[0][:80]}"
        found.append({"what": name, "expected": "runs to its end", "found": text, "ok": False, "seconds": 0})
    found[0]["seconds"] += time.time() - clock - sum(row["seconds"] for row in found)  # imports and the end
    return found


def main():
    global WORK
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the running check ends, too
    if GPU and not torch.cuda.is_available():
        raise runs.BadInput("torch finds no GPU here; `bash tests/gpu.sh cpu` tries the checks on a CPU")
    WORK, clock, table = Path(tempfile.mkdtemp(prefix="gpu-checks-")), time.time(), []
    for name in CHECKS:
        print(f"{time.time() - clock:4.0f} s  {name}", file=sys.stderr, flush=True)
        table += run_check(name)
    lines, words = [("check", "expected", "found", "ok", "s")], {True: "yes", False: "NO", None: "–"}
    for row in table:
        lines.append((row["what"], row["expected"], row["found"], words[row["ok"]], f"{row['seconds']:.0f}"))
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    failed = sum(row["ok"] is False for row in table)
    print(f"{failed} of {len(table)} rows failed; {time.time() - clock:.0f} s; logs: {WORK}")
    for path in WORK.iterdir():
        if path.is_dir():  # models and runs
            shutil.rmtree(path)
    sys.exit(failed > 0)


def one_check(name):
    """The work of the process of a check."""
    try:
        CHECKS[name][0]()
    except Skip as e:
        report(name, "", f"skipped: {e}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [_, "check", name]:
            runs.run_script(lambda: one_check(name))
        case [_, "grpo", *words]:
            grpo.reward, sys.argv = bench.every_second, ["grpo.py", *words]
            runs.run_script(grpo.main)
        case [] | ["cpu"]:
            runs.run_script(main)
        case _:
            sys.exit("usage: bash tests/gpu.sh [cpu]")
