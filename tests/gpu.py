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
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bench
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

import grpo
from common import Dialogue, as_tensors, masked_logprobs
from parts import runs, sharded
from parts.engines import HFEngine, VLLMEngine, load_model, without_adapter

GPU = sys.argv[1:2] != ["cpu"]
DEVICE = "cuda" if GPU else "cpu"
WORK = Path(os.environ.get("GPU_CHECKS", ""))  # the folder of all checks, which main() makes
SHAPE = "gemma-3-1b" if GPU else "gemma-tiny"
# initializer_range: large, so that a wrong mask shows in few layers
bench.SHAPES["gemma-tiny"] = (Gemma3ForCausalLM, Gemma3TextConfig(vocab_size=1024, hidden_size=64, intermediate_size=128, num_hidden_layers=6,
    num_attention_heads=4, num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32, sliding_window=16, initializer_range=0.1))  # fmt: skip
# conversations, tokens of a message, tokens of a turn; of GRPO: dialogues a group, tokens of a turn
CONVERSATIONS, MESSAGE, TURN, GROUP, GRPO_TURN = (128, (300, 900), 128, 8, 128) if GPU else (4, (40, 80), 8, 4, 8)
TEMPERATURE = 0.7  # not 1, so that a temperature left out shows
CLOSE, FAR = 0.02, 0.1  # nats a token: what rounding to bfloat16 explains, and what it does not
LORA = 32


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


def report_gap(what, gap, control, gap_of_control):
    """Adds a row: |log-prob of sampler − trainer|, nats a token, and the same in a case that must fail."""
    expected, found = f"≤ {CLOSE}; {control} ≥ {FAR}", f"{gap:.4f}; {gap_of_control:.2f}"
    report(what, expected, found, gap <= CLOSE and gap_of_control >= FAR)


# ------------------------------------------------------------------------------------- device and attention


def environment():
    """The device, the versions, and the model that the other checks use."""
    if GPU:
        gpu = torch.cuda.get_device_properties(0)
        found = f"{torch.cuda.device_count()} × {gpu.name}, {gpu.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
        report("device", "≥ 75 GB, bfloat16", found, gpu.total_memory >= 75e9 and torch.cuda.is_bf16_supported())
    free = shutil.disk_usage(WORK).free / 1e9
    report("disk of TMPDIR", "≥ 30 GB free" if GPU else "any", f"{free:.0f} GB free", free >= 30 if GPU else None)
    wanted = {"python": "≥ 3.11", "torch": "2.13.0", "transformers": "5.16.1 … 5.19", "peft": "0.21", "vllm": "0.32"}
    found = {"python": sys.version.split()[0], **{name: version(name) for name in list(wanted)[1:]}}
    report("versions", ", ".join(map(" ".join, wanted.items())), ", ".join(map(" ".join, found.items())))
    make, config = bench.SHAPES[SHAPE]
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = make(config).to(torch.bfloat16)
    model.save_pretrained(WORK / "model")
    AutoTokenizer.from_pretrained(ROOT / "toy" / "base").save_pretrained(WORK / "model")
    size = sum(p.numel() for p in model.parameters()) / 1e6
    report("a model with random weights", SHAPE, f"{size:,.1f} M parameters")


def version(package):
    """The version of an installed package, or "missing"."""
    for name in (package, f"{package}-cpu"):  # vLLM's CPU build has another name
        if importlib.util.find_spec(package):
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return "missing"


def has_vllm():
    return version("vllm").startswith("0.32.")


def attention():
    """Masks of the trainer, in float32; then the time of an attention layer with a window."""
    model = load_model(str(WORK / "model"), DEVICE)
    window, (shorter, longer) = model.config.sliding_window, (3, 4)
    torch.manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (2, longer * window), device=DEVICE)
    mask = torch.ones_like(ids)
    mask[1, shorter * window :] = 0  # padding
    with torch.no_grad():
        fast = masked_logprobs(model, ids, mask)
        alone = masked_logprobs(model, ids[1:, : shorter * window], mask[1:, : shorter * window])
        with no_window(model):
            control = masked_logprobs(model, ids, mask)
        model.set_attn_implementation("eager")
        plain = masked_logprobs(model, ids, mask)
    gap, padding, far = ((a - b).abs().mean().item() for a, b in (
        (fast, plain), (fast[-len(alone) :], alone), (fast, control)))  # fmt: skip
    found = f"{gap:.0e}, {padding:.0e}; {far:.2f}"
    ok = max(gap, padding) <= 1e-3 and far >= FAR
    report("trainer's masks: sdpa − eager, padded − alone", f"≤ 1e-3; without window ≥ {FAR}", found, ok)
    if not GPU:
        raise Skip("attention is timed on a GPU only")
    length, config = 8192, model.config
    q, k, v = (
        torch.randn(1, n, length, config.head_dim, device=DEVICE, dtype=torch.bfloat16)
        for n in (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    )
    many = [t.expand(-1, config.num_attention_heads, -1, -1) for t in (k, v)]
    near = torch.ones(length, length, device=DEVICE, dtype=torch.bool).tril().triu(1 - window)
    dense = milliseconds(lambda: F.scaled_dot_product_attention(q, *many, attn_mask=near))
    causal = milliseconds(lambda: F.scaled_dot_product_attention(q, *many, is_causal=True))
    found = f"dense mask {dense:.1f}, causal flash {causal:.1f} ms"
    try:
        from torch.nn.attention.varlen import varlen_attn

        packed = [t[0].transpose(0, 1).contiguous() for t in (q, k, v)]  # [T, heads, head size]
        ends = torch.tensor([0, length], device=DEVICE, dtype=torch.int32)
        options = {"window_size": (window - 1, 0), "enable_gqa": True}
        windowed = milliseconds(lambda: varlen_attn(*packed, ends, ends, length, length, **options))
    except (ImportError, TypeError, RuntimeError) as e:
        raise Skip(f"{found}; this torch has no windowed flash ({runs.first_line(e)})") from None
    report(f"a layer with a window, {length} tokens", "windowed ≤ causal", f"{found}, windowed {windowed:.1f} ms", windowed <= causal)


def milliseconds(function):
    """The median time of a function on the GPU."""
    times = []
    for _ in range(8):
        torch.cuda.synchronize()
        clock = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - clock))
    return sorted(times)[4]


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


# ------------------------------------------------------------------------------------------ samplers and sync


def engine_check(kind, lora=None):
    """Log-probs of a sampler beside the trainer's, before and after syncs of weights; its speed."""
    if kind == "vllm" and not has_vllm():
        raise Skip(f"vLLM 0.32 is not installed (found: {version('vllm')})")
    if lora and version("peft") == "missing":
        raise Skip("peft is not installed")
    path, free, name = str(WORK / "model"), free_memory(), {"hf": "transformers", "vllm": "vLLM"}[kind]
    name += " with LoRA" if lora else ""
    if kind == "vllm":
        engine = VLLMEngine(path, [1], TURN, TEMPERATURE, device=DEVICE, dtype="bfloat16", sleeps=not lora, lora=lora)
    else:
        engine = HFEngine(load_model(path, DEVICE, "bfloat16", lora), [1], TURN, TEMPERATURE)
    took = free - free_memory()
    policy = sharded.prepare(sharded.load_trained(path, lora, "bfloat16"), masked_logprobs, DEVICE, "bfloat16")
    if lora:
        change(policy)  # a new adapter has no effect
        engine.sync(sharded.weights(policy))

    first, speed = sample(engine, "first")
    with no_window(policy.model):
        control = mean_gap(policy, first)
    report_gap(f"{name}: log-probs as the trainer's", mean_gap(policy, first), "without window", control)
    if kind == "vllm" and not lora and GPU:
        free = free_memory()
        engine.llm.sleep(level=1)
        freed = free_memory() - free
        engine.llm.wake_up()
        again, _ = sample(engine, "again")
        report("vLLM: sleep of level 1 frees", "≥ 80 % of its memory", f"{freed / 1e9:.1f} of {took / 1e9:.1f} GB", freed >= 0.8 * took)
        report_gap("vLLM: after waking up from level 1", mean_gap(policy, again), "without window", control)

    free = free_memory()
    engine.sleep()
    freed = free_memory() - free
    change(policy)
    stale = mean_gap(policy, first)
    engine.sync(sharded.weights(policy))
    second, speed_after = sample(engine, "second")
    report_gap(f"{name}: after a sync", mean_gap(policy, second), "old weights", stale)
    if kind == "vllm" and not lora:
        if GPU:
            report("vLLM: sleep of level 2 freed", "≥ 80 % of its memory", f"{freed / 1e9:.1f} of {took / 1e9:.1f} GB", freed >= 0.8 * took)
            graphs = engine.llm.llm_engine.vllm_config.compilation_config.cudagraph_mode
            found = f"{speed_after:,.0f} after {speed:,.0f} tokens/s; {graphs}"
            report("vLLM: CUDA graphs after the sync", "≥ 0.8 of the speed before", found, speed_after >= 0.8 * speed)
        else:
            report("vLLM: sleep, CUDA graphs", "on a GPU", "skipped: a CPU has neither")
    if lora:
        teacher, _ = sample(engine.at_temperature(TEMPERATURE, frozen=True), "teacher")
        with without_adapter(policy.model):
            gap = mean_gap(policy, teacher)
        report_gap(f"{name}: the teacher, without adapter", gap, "with adapter", mean_gap(policy, teacher))
    least = {"hf": 1000, "vllm": 5000}[kind]
    report(f"{name}: rollouts", f"≥ {least:,} tokens/s on a GPU", f"{speed_after:,.0f} tokens/s", speed_after >= least if GPU else None)


def free_memory():
    """Free bytes of the GPU; 0 on a CPU."""
    return torch.cuda.mem_get_info()[0] if GPU else 0


def sample(engine, label):
    """(Dialogues, sampled tokens a second): two turns in each of some conversations about random tokens.

    The messages are always the same, so that keys and values of old weights, if an engine kept them, would be used.
    """
    source, clock = random.Random(0), time.perf_counter()
    dialogues = {i: Dialogue(str(i)) for i in range(CONVERSATIONS)}
    vocabulary = bench.SHAPES[SHAPE][1].vocab_size
    for turn in range(2):
        for i, dialogue in dialogues.items():
            dialogue.add("teacher", "", [source.randrange(5, vocabulary) for _ in range(source.randint(*MESSAGE))], 0)
            engine.submit((label, i, turn), str(i), dialogue.ids)
        while engine.pending:
            for (_, i, _), sampled in engine.poll():
                dialogues[i].add("student", "", sampled.ids, 1, sampled.logprobs)
    tokens = sum(sum(d.mask) for d in dialogues.values())
    return list(dialogues.values()), tokens / (time.perf_counter() - clock)


@torch.no_grad()
def mean_gap(policy, dialogues):
    """Mean of |trainer's − sampler's log-prob| over the sampled tokens."""
    gaps = []
    for indices in sharded.micro_batches([len(d.ids) for d in dialogues], 16384):
        rows = [dialogues[i] for i in indices]
        sampled = grpo.concatenated([d.sampled_logprobs for d in rows], DEVICE)
        gaps.append((policy(*as_tensors(rows, DEVICE), TEMPERATURE) - sampled).abs())
    policy.reshard()  # the next pass must gather the weights anew, which may have changed
    return torch.cat(gaps).mean().item()


@torch.no_grad()
def change(policy):
    """Adds noise to the trained weights, as much as they are large."""
    for p in sharded.trained(policy):
        if p.ndim > 1:
            p += bench.SHAPES[SHAPE][1].initializer_range * torch.randn_like(p)


# -------------------------------------------------------------------------------------------------- training


def update(length):
    """Speed and memory of an update on dialogues of one length."""
    length = length if GPU else length // 20
    config = bench.SHAPES[SHAPE][1]
    predicted = bench.for_training(bench.memory(config))
    speed, share, peak = bench.update(SHAPE, length, length)
    known = GPU and torch.cuda.get_device_name().startswith(("NVIDIA H100", "NVIDIA H200"))
    found = f"{speed:,.0f} tokens/s, {100 * share:.1f} %"
    report(f"update, {length} tokens", "≥ 10 % of an H100's peak", found, share >= 0.1 if known else None)
    ok = 0.7 <= peak / predicted <= 1.1 if GPU else None
    found = f"{peak / 1e9:.1f} of {predicted / 1e9:.1f} GB" + " (on a CPU the process)" * (not GPU)
    report("its peak memory by what bench.py memory says", "0.7 to 1.1 of it", found, ok)


def grpo_command(out, **options):
    """grpo.py on the toy world's problems, with a reward that random weights can earn."""
    toy, engine = ROOT / "toy", "vllm" if has_vllm() else "hf"
    options |= {"model": WORK / "model", "out": WORK / out, "problems": toy / "math_train.jsonl", "prompts": toy / "prompts.json"}
    options |= {"engine": engine, "group": GROUP, "turns": 2, "max-tokens": GRPO_TURN, "device": DEVICE, "dtype": "bfloat16"}
    words = itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in options.items())
    return [__file__, DEVICE, "grpo", *words]


def report_gaps(what, out, steps):
    """Adds a row: the gaps of all steps of a run."""
    rows = runs.read_jsonl(WORK / out / "metrics.jsonl")
    gaps, speed = [row["gap_mean"] for row in rows], rows[-1]["tokens_per_second"]
    found = f"{', '.join(f'{gap:.4f}' for gap in gaps)}; {speed:,.0f} tokens/s"
    ok = [row["step"] for row in rows] == list(range(1, steps + 1)) and max(gaps) <= CLOSE
    ok = ok and all(row["grad_norm"] > 0 for row in rows) and (WORK / out / "model").exists()
    report(what, f"gaps of {steps} steps ≤ {CLOSE}", found, ok)


def killed():
    """A run is killed in step 4 and resumes after step 2: its third step must be played by the same weights."""
    command = [sys.executable, *grpo_command("killed", batch=4, steps=4, lr=1e-3, **{"save-every": 2})]
    process = subprocess.Popen(command)
    while len(runs.read_jsonl(WORK / "killed" / "metrics.jsonl")) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("grpo.py ended before it was killed")
    first, before = mean_logprob("killed", 1), mean_logprob("killed", 3)
    subprocess.run(command, check=True)
    after = mean_logprob("killed", 3)
    report_gaps(f"grpo.py with {command[command.index('--engine') + 1]}, killed, resumed", "killed", 4)
    found = f"{before:.3f} before, {after:.3f} after the kill; {first:.3f}"
    ok = abs(after - before) <= 0.2 * abs(before - first)
    report("its step 3: mean log-prob of the tokens", "the same as before; step 1 differs", found, ok)


def mean_logprob(out, step):
    """The mean of the sampler's log-probs in a step of a run."""
    rows = [row for row in runs.read_jsonl(WORK / out / "dialogues.jsonl") if row["step"] == step]
    logprobs = sum((Dialogue.from_row(row).sampled_logprobs for row in rows), [])
    return sum(logprobs) / len(logprobs)


def torchrun(processes, lora=None):
    """grpo.py under torchrun."""
    if lora and version("peft") == "missing":
        raise Skip("peft is not installed")
    out = f"torchrun-{processes}"
    options = {"lora": lora, "lr": 1e-2} if lora else {"lr": 1e-3}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    subprocess.run([*launch, *grpo_command(out, batch=2 * processes, steps=2, **options)], check=True)
    report_gaps(f"torchrun, {processes} process{'es' * (processes > 1)}{', LoRA' * bool(lora)}", out, 2)


# ------------------------------------------------------------------------------------------------- the table

MORE = torch.cuda.device_count() if GPU else 2
CHECKS = {  # name: (function of no arguments, its most seconds)
    "environment": (environment, 90),
    "attention": (attention, 90),
    "transformers": (lambda: engine_check("hf"), 150),
    "transformers, LoRA": (lambda: engine_check("hf", LORA), 150),
    "vLLM": (lambda: engine_check("vllm"), 240),
    "vLLM, LoRA": (lambda: engine_check("vllm", LORA), 180),
    "update, 2000": (lambda: update(2000), 90),
    "update, 8000": (lambda: update(8000), 90),
    "grpo": (killed, 300),
    "torchrun, 1": (lambda: torchrun(1, LORA), 150),
    **({f"torchrun, {MORE}": (lambda: torchrun(MORE), 180)} if MORE > 1 else {}),
}


def run_check(name):
    """The rows of a check, which runs in a process of its own."""
    vllm_python = ROOT / ".venv-vllm" / "bin" / "python"  # of tests/vllm.sh
    python = vllm_python if not GPU and name.startswith("vLLM") and vllm_python.exists() else sys.executable
    log, rows, clock = WORK / f"{name}.log", WORK / f"{name}.jsonl", time.time()
    environment = os.environ | {"GPU_CHECKS": str(WORK), "GPU_ROWS": str(rows)}
    environment |= {} if GPU else {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [str(python), __file__, DEVICE, "check", name]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        problem = "ended by itself" if process.wait(CHECKS[name][1]) else None
    except subprocess.TimeoutExpired:
        problem = f"stopped after {CHECKS[name][1]} s"
    finally:  # also what it started
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    found = runs.read_jsonl(rows)
    if problem:
        last = ([line for line in log.read_text(errors="replace").splitlines() if line.strip()] or [""])[-1]
        row = {"what": name, "expected": "runs to its end", "found": f"{problem}: {last.strip()[:80]}", "ok": False}
        found.append(row | {"seconds": time.time() - clock - sum(r["seconds"] for r in found)})
    return found


def main():
    global WORK
    if GPU and not torch.cuda.is_available():
        raise runs.BadInput("torch finds no GPU here; `bash tests/gpu.sh cpu` tries the checks on a CPU")
    WORK, clock, table = Path(tempfile.mkdtemp(prefix="gpu-checks-")), time.time(), []
    for name in CHECKS:
        print(f"{time.time() - clock:4.0f} s  {name}", file=sys.stderr, flush=True)
        table += run_check(name)
    columns = [("check", "expected", "found", "ok", "s")]
    for row in table:
        ok = {True: "yes", False: "NO", None: "–"}[row["ok"]]
        columns.append((row["what"], row["expected"], row["found"], ok, f"{row['seconds']:.0f}"))
    widths = [max(map(len, column)) for column in zip(*columns)]
    for line in columns:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    failed = sum(row["ok"] is False for row in table)
    print(f"{failed} of {len(table)} rows failed, in {time.time() - clock:.0f} s" + f"; logs in {WORK}" * bool(failed))
    for path in WORK.iterdir():
        if path.is_dir():  # models and runs
            shutil.rmtree(path)
    if not failed:
        shutil.rmtree(WORK)
    sys.exit(failed > 0)


def one_check(name):
    """The work of the process of a check."""
    try:
        CHECKS[name][0]()
    except Skip as e:
        report(name, "", f"skipped: {e}")


if __name__ == "__main__":
    match sys.argv[2:]:
        case ["check", name]:
            runs.run_script(lambda: one_check(name))
        case ["grpo", *words]:
            grpo.reward, sys.argv = bench.every_second, ["grpo.py", *words]
            runs.run_script(grpo.main)
        case _:
            runs.run_script(main)
