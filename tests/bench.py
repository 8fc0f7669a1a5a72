"""Measures speed and memory of the kit, mostly against the plain way of doing the same. Asserts nothing.

    python tests/bench.py rollout          # dialogues a second: our engine against stock generate with a barrier after every turn
    python tests/bench.py growth [vllm]    # cost of more dialogues, more turns and longer turns (the first row is a warm-up)
    python tests/bench.py trainer          # time and peak memory of token log-probs: at selected positions against log_softmax at all
    python tests/bench.py step             # GRPO steps on the toy world: their time, and the shares of its parts
    python tests/bench.py trl [FOLDER]     # GRPO steps against TRL's trainer, on the toy world or with a model's folder; needs pip install trl
    python tests/bench.py update [MODEL]   # one GRPO update with random weights, dialogues of 2,000 to 8,000 tokens; also under torchrun
    python tests/bench.py memory MODEL [--gpus 8] [--lora 32] [--micro-tokens 8192]    # a GPU's memory, computed from the model's config

MODEL is a name in SHAPES; for `memory` also a transformers folder or a hub name.
"""

import argparse
import importlib.util
import itertools
import json
import math
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import grpo
from common import Dialogue, as_tensors, grade, grpo_loss, load_problems, masked_logprobs
from generate import Cast, converse, informed, load_prompts
from grpo import concatenated
from parts import runs, sharded
from parts.chat import load_chat
from parts.driver import Grade, Grader, Speaker, drive
from parts.engines import HFEngine, Turn, VLLMEngine, add_adapter, load_model


def start(chat, engine, problems, turns=4, prompts=ROOT / "toy" / "prompts.json", group=1):
    """(speakers, coroutines) of dialogues of a model with itself, `group` for each problem."""
    speaker = Speaker(chat, engine)
    cast = Cast(speaker, speaker, speaker, load_prompts(prompts))
    names = [(p, f"{p.id}/{k}") for p in problems for k in range(group)]
    return cast.speakers, [(name, converse(cast, p, name, turns, informed)) for p, name in names]


def our_engine(model, chat, problems, max_tokens):
    """Plays dialogues with HFEngine; returns them."""
    speakers, coroutines = start(chat, HFEngine(model, chat.stops, max_tokens), problems)
    return list(drive(coroutines, speakers, grade))


def stock_generate(model, chat, problems, max_tokens, **kwargs):
    """Plays the same dialogues with stock generate, one turn of all at a time, each read again from its first token.

    kwargs: of start(). Returns the dialogues.
    """
    grader, running, requests, done = Grader(grade), dict(start(chat, None, problems, **kwargs)[1]), {}, []
    values = dict.fromkeys(running)
    while running:
        for name, dialogue in list(running.items()):
            try:
                request = dialogue.send(values[name])
                while isinstance(request, Grade):
                    grader.submit(name, request)
                    request = dialogue.send(grader.poll(block=True)[0][1])
                requests[name] = request
            except StopIteration as end:
                del running[name], values[name]
                done.append(end.value)
        names = list(running)
        if names:
            longest = max(len(requests[n].ids) for n in names)
            ids = torch.tensor([[0] * (longest - len(requests[n].ids)) + requests[n].ids for n in names])
            mask = torch.arange(longest) >= longest - torch.tensor([[len(requests[n].ids)] for n in names])
            out = model.generate(
                ids,
                attention_mask=mask.long(),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=max_tokens,
                eos_token_id=chat.stops,
                pad_token_id=0,
            )
            for n, row in zip(names, out[:, longest:].tolist()):
                end = next((i + 1 for i, t in enumerate(row) if t in chat.stops), len(row))
                values[n] = Turn(row[:end], [0.0] * end, "stop" if row[end - 1] in chat.stops else "length")
    return done


def llama_24m(chat):
    """A Llama of 24 million random parameters with the toy world's vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(chat.tokenizer),
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=7,
        num_attention_heads=8,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def rollout():
    """96 dialogues of four turns with the toy base; then 24 with a model of 24 M parameters, turns of up to 64 tokens, 24 on average."""
    for name, max_tokens, n, times in (("toy base", 8, 96, 9), ("Llama, 24 M", 64, 24, 1)):
        base = str(ROOT / "toy" / "base")
        model, chat = load_model(base, "cpu"), load_chat(base)
        if name != "toy base":
            model = llama_24m(chat)
            ends = 2.3 * F.one_hot(torch.tensor(chat.end), model.config.vocab_size)
            model.lm_head.bias = torch.nn.Parameter(ends.float())  # turns end at random lengths
        problems = load_problems(ROOT / "toy" / "math_test.jsonl")[:n]
        seconds = {our_engine: [], stock_generate: []}
        for run in seconds:
            run(model, chat, problems[:4], max_tokens)  # warm-up: first calls are slow
        for _ in range(times):  # alternating, so that a slow moment of the machine hits both
            for run, measured in seconds.items():
                clock = time.perf_counter()
                run(model, chat, problems, max_tokens)
                measured.append(time.perf_counter() - clock)
        fast, slow = (n / statistics.median(measured) for measured in seconds.values())
        print(
            f"rollout, {name}: {fast:.1f} dialogues/s, stock generate with barriers {slow:.1f}, ratio {fast / slow:.1f}",
            flush=True,
        )


def growth(kind="hf"):
    """The cost of more dialogues, more turns and longer turns, with a model of 24 M parameters whose turns all reach the token limit.

    Milliseconds a token of both views on one thread of an AMD EPYC, one run. The other two sizes are 24 dialogues, 4 turns, 16 tokens:

                     24, 48, 96 dialogues     2, 4, 8 turns         16, 32, 64 tokens a turn
        transformers   1.17, 1.04, 0.95       0.85, 1.17, 1.44          1.17, 1.20, 1.42
        vLLM           0.66, 0.78, 0.75       0.51, 0.66, 1.06          0.66, 1.02, 1.30
    """
    if kind not in ("hf", "vllm"):
        raise runs.BadInput(f"growth {kind}: unknown engine; write growth, or growth vllm")
    chat = load_chat(str(ROOT / "toy" / "base"))
    problems, model = load_problems(ROOT / "toy" / "math_test.jsonl"), llama_24m(chat)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        chat.tokenizer.save_pretrained(folder)
        sampler = VLLMEngine(folder, [], device="cpu") if kind == "vllm" else HFEngine(model, [])
    print("dialogues  turns  tokens a turn  tokens, both views  processor seconds  milliseconds a token")
    for n, turns, tokens in (
        (24, 4, 16),
        (24, 4, 16),
        (48, 4, 16),
        (96, 4, 16),
        (24, 2, 16),
        (24, 8, 16),
        (24, 4, 32),
        (24, 4, 64),
    ):
        sampler.max_tokens, clock = tokens, time.process_time()
        speakers, coroutines = start(chat, sampler, problems[:n], turns)
        total = 2 * sum(len(d.ids) for d in drive(coroutines, speakers, grade))
        seconds = time.process_time() - clock
        print(
            f"{n:9}  {turns:5}  {tokens:13}  {total:18,}  {seconds:17.1f}  {1000 * seconds / total:20.2f}",
            flush=True,
        )


def one_trainer_case(kind, vocabulary, length):
    """Forward and backward pass of one row, an eighth of it student tokens. Prints seconds and peak memory in MB."""
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))  # an error, instead of swapping
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=length,
        )
    )
    ids, mask = torch.randint(vocabulary, (1, length)), (torch.arange(length) % 32 < 4).long()[None]
    before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if kind == "ours":
        loss = masked_logprobs(model, ids, mask).sum()
    else:
        loss = (
            F.log_softmax(model(input_ids=ids).logits[:, :-1].float(), -1).gather(2, ids[:, 1:, None])[..., 0]
            * mask[:, 1:]
        ).sum()
    loss.backward()
    print(time.perf_counter() - clock, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def trainer():
    """one_trainer_case() in a process each, with the kit's log-probs and with log_softmax over all positions."""
    for vocabulary in (152_000, 262_000):
        for length in (1024, 2048, 4096, 8192):
            cases = []
            for kind in ("ours", "plain"):
                out = subprocess.run(
                    [sys.executable, __file__, "case", kind, str(vocabulary), str(length)],
                    capture_output=True,
                    text=True,
                )
                cases.append([float(x) for x in out.stdout.split()] if out.returncode == 0 else None)
            (seconds, memory), plain = cases
            against = (
                f"{plain[0]:.1f} s and {plain[1]:,.0f} MB, ratios {plain[0] / seconds:.1f} and {plain[1] / memory:.1f}"
                if plain
                else "out of memory"
            )
            print(
                f"V = {vocabulary:,}, T = {length}: {seconds:.1f} s and {memory:,.0f} MB over the model; log_softmax over all: {against}",
                flush=True,
            )


def step():
    """Ten GRPO steps of 12 × 8 dialogues on the toy world; the first is not counted."""
    shares, total, toy = Counter(), 0.0, ROOT / "toy"
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, ROOT / "grpo.py", "--model", toy / "base", "--out", out]
        command += ["--problems", toy / "code_train.jsonl", "--prompts", toy / "prompts.json", "--batch", 12]
        command += ["--steps", 10, "--max-tokens", 8, "--teacher-temperature", 0.7, "--threads", 1]
        command += ["--lr", 8e-4]
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
        for line in (Path(out) / "metrics.jsonl").read_text().splitlines()[1:]:
            seconds = json.loads(line)["seconds"]
            total += seconds.pop("all")
            shares.update(seconds)
    shares["the rest"] = total - sum(shares.values())
    print(
        f"step: {total / 9:.2f} s; "
        + ", ".join(f"{name} {100 * value / total:.1f} %" for name, value in shares.items())
    )


def every_second(dialogue, *_):
    """The reward in trl(): 1 for every second dialogue, so that every group is trained on, whatever the model can do."""
    return float(int(dialogue.id[-1]) % 2)


def kit_side(path, size, problems, out):
    """Runs grpo.py. Returns for each step {"rollouts", "step": seconds, "tokens": of the student}."""
    command = ["--model", path, "--problems", problems, "--out", out]
    command += ["--batch", size["problems"], "--turns", size["turns"], "--max-tokens", size["tokens"]]
    command += ["--steps", size["steps"], "--threads", 1, "--lr", 1e-6, "--teacher-temperature", 1]
    command += ["--dtype", size["dtype"]]
    command += ["--prompts", size["prompts"]] if size["prompts"] else []
    sys.argv = ["grpo.py", *map(str, command)]
    grpo.reward = every_second
    grpo.main()
    steps = []
    for row in runs.read_jsonl(Path(out) / "metrics.jsonl"):
        seconds = row["seconds"]
        rollouts = seconds["all"] - seconds["training"] - seconds["sync"]
        steps.append({"rollouts": rollouts, "step": seconds["all"], "tokens": row["tokens"]})
    return steps


def trl_side(path, size, problems, out):
    """Runs TRL's GRPOTrainer for as many steps on such dialogues, played by stock_generate(). Returns the same as kit_side()."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    problems, chat = load_problems(problems), load_chat(path)
    by_id, bfloat16 = {p.id: p for p in problems}, size["dtype"] == "bfloat16"
    clock, seconds = [], []

    def play(prompts, trainer):
        clock.append(time.perf_counter())
        chosen = [by_id[name] for name in dict.fromkeys(prompts)]
        model = trainer.accelerator.unwrap_model(trainer.model).eval()
        with torch.no_grad():
            turns, templates = size["turns"], size["prompts"]
            played = stock_generate(
                model, chat, chosen, size["tokens"], turns=turns, prompts=templates, group=8
            )
        model.train()
        played = {d.id: d for d in played}
        ordered = [played[f"{p.id}/{k}"] for p in chosen for k in range(8)]
        starts = [d.spans[0][0] for d in ordered]
        tokens = sum(sum(d.mask) for d in ordered)
        seconds.append({"rollouts": time.perf_counter() - clock[-1], "tokens": tokens})
        return {
            "prompt_ids": [d.ids[:start] for d, start in zip(ordered, starts)],
            "completion_ids": [d.ids[start:] for d, start in zip(ordered, starts)],
            "env_mask": [d.mask[start:] for d, start in zip(ordered, starts)],
            "logprobs": None,
            "reward": [every_second(d) for d in ordered],
        }

    config = GRPOConfig(
        max_completion_length=100_000,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=size["problems"],
        num_generations=8,
        temperature=1.0,
        learning_rate=1e-6,
        max_steps=size["steps"],
        use_cpu=True,
        bf16=bfloat16,
        gradient_checkpointing=bfloat16,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        output_dir=out,
    )
    GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype="float32"),
        reward_funcs=lambda completions, reward, **_: reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": p.id} for p in problems]),
        processing_class=chat.tokenizer,
        rollout_func=play,
    ).train()
    ends = [*clock[1:], time.perf_counter()]
    return [{**s, "step": end - begin} for s, begin, end in zip(seconds, clock, ends)]


def trl(path=None):
    """GRPO steps of the kit against TRL's trainer, on one CPU thread: processor time, with the same model, prompts, problems and grading.

    Three alternating runs of each side, in float32 and in bfloat16; prints ratios of medians. On the toy world
    the first of three steps is not counted; with a model's folder there is one step. The two sides differ:
    TRL's dialogues are played by stock_generate() as its rollout_func, with the trained model as the teacher,
    while the kit holds a second, frozen model. TRL's trainer processes one group per pass. Its bfloat16 is
    autocast over float32 weights with activation checkpointing; both are its defaults. Peak memory is that of
    the process, imports included; tokens are those that the students sampled. The numbers say nothing about GPUs.

    The kit's processor time and peak memory as shares of TRL's (TRL 1.16, an idle AMD EPYC with AVX512-BF16, medians of
    three runs; students sampled 0.94 to 1.01 times as many tokens):

                                                                     rollouts  training  a step  memory
        toy world, float32, 96 dialogues of 4 turns a step               0.64      0.69    0.66    0.93
        SmolLM2-135M-Instruct, float32, 16 dialogues of 3 turns          0.53      0.61    0.56    0.42
        the same, the kit in bfloat16                                    0.34      0.42    0.38    0.41
        the same, both in bfloat16, TRL with checkpointing: defaults     0.31      0.62    0.41    0.71

    Where the kit's float32 step on SmolLM2 spends its time (one thread of an AMD EPYC, 73 GFLOPS): rollouts take 62 s,
    of them 21 s for the prefill of 7,210 new tokens, 31 s for 235 decoding steps (two thirds of this in matrix products
    that read all weights for 16 rows), 9 s for head and sampling. Training takes 52 s, all of it matrix products. All
    this runs at the machine's limit. The update passes a group's common problem once for each dialogue. That is a fifth
    of its tokens here, where a problem has 75 of the 320 tokens of a dialogue, and next to nothing in long dialogues.
    Passing it once, with its keys and values repeated for the group, was tried on the toy world (one thread, medians of
    five): the update takes 0.88 of the processor time in the first step, where it saves 22 % of the tokens, but 1.09 in
    step 20, although it saves 28 %. Dialogues of a group must stay together, so rows of different lengths are padded.
    """
    if importlib.util.find_spec("trl") is None:
        sys.exit("error: trl is not installed; pip install trl, and run it again")
    size = {
        "problems": 12,
        "turns": 4,
        "tokens": 8,
        "steps": 3,
        "prompts": str(ROOT / "toy" / "prompts.json"),
    }
    if path:
        size |= {"problems": 2, "turns": 3, "tokens": 48, "steps": 1, "prompts": None}
    results = {f"{side}, {dtype}": [] for dtype in ("float32", "bfloat16") for side in ("kit", "TRL")}
    for _ in range(3):
        for side, measured in results.items():
            task = json.dumps(size | {"dtype": side.split(", ")[1]})
            command = [sys.executable, __file__, "side", side, path or str(ROOT / "toy" / "base"), task]
            out = subprocess.run(command, capture_output=True, text=True)
            if out.returncode:
                sys.exit(f"{side}: {out.stderr[-2000:]}")
            measured.append(json.loads(out.stdout.splitlines()[-1]))
            shown = ", ".join(f"{key} {value:.2f}" for key, value in measured[-1].items())
            print(f"{side}, run {len(measured)}: {shown}", flush=True)
    print(
        f"a step of {size['problems']} × 8 dialogues of {size['turns']} turns of up to {size['tokens']} tokens:"
    )
    medians = {
        side: {key: statistics.median(run[key] for run in measured) for key in measured[0]}
        for side, measured in results.items()
    }
    for side, other in itertools.product(
        ("kit, float32", "kit, bfloat16"), ("TRL, float32", "TRL, bfloat16")
    ):
        shares = [f"{key} {value / medians[other][key]:.2f}" for key, value in medians[side].items()]
        print(f"{side}, as a share of {other}: {', '.join(shares)}", flush=True)


def side(name, path, task):
    """One run of one side of trl(). Prints means over steps: {"rollouts", "training", "step": processor seconds, "tokens"}, and peak "GB"."""
    size, time.perf_counter = json.loads(task), time.process_time
    lines = (ROOT / "toy" / "math_train.jsonl").read_text().splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as folder:
        problems = (
            Path(folder) / "problems.jsonl"
        )  # those of one step: every step of both sides plays the same ones
        problems.write_text("".join(lines[: size["problems"]]))
        play = kit_side if name.startswith("kit") else trl_side
        steps = play(path, size, problems, Path(folder) / "run")[-2:]
    mean = {key: sum(step[key] for step in steps) / len(steps) for key in steps[0]}
    mean["training"] = mean["step"] - mean["rollouts"]
    print(json.dumps(mean | {"GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


SHAPES = {  # sizes of models; Gemma's without its vision tower
    "tiny": (Qwen3ForCausalLM, Qwen3Config(vocab_size=152_000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                                           num_key_value_heads=1, head_dim=32)),
    "gemma-3-1b": (Gemma3ForCausalLM, Gemma3TextConfig(vocab_size=262_144, hidden_size=1152, intermediate_size=6912, num_hidden_layers=26, num_attention_heads=4,
                                                       num_key_value_heads=1, head_dim=256, sliding_window=512)),
    "qwen3-8b": (Qwen3ForCausalLM, Qwen3Config(vocab_size=151_936, hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32,
                                               num_key_value_heads=8, head_dim=128, tie_word_embeddings=False)),
    "gemma-3-12b": (Gemma3ForCausalLM, Gemma3TextConfig(vocab_size=262_208, hidden_size=3840, intermediate_size=15_360, num_hidden_layers=48,
                                                        num_attention_heads=16, num_key_value_heads=8, head_dim=256, sliding_window=1024)),
}  # fmt: skip
PEAK = 989e12  # bfloat16 operations a second of an H100


def update(name, shortest=2000, longest=8000, micro_tokens=16384):
    """Times the second of two GRPO updates, on any device and any number of processes. Prints the result.

    A GPU has 16 dialogues (a CPU 2) of four student turns, each an eighth of the dialogue's tokens. Returns
    (tokens a second, share of an H100's peak, peak memory of a process in bytes, on a GPU of its tensors).
    """
    if name not in SHAPES:
        raise runs.BadInput(f"{name}: unknown; choose one of {', '.join(SHAPES)}")
    kind, config = SHAPES[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    runs.start_processes(device)
    rank, processes = runs.rank_and_size()
    config.max_position_embeddings = longest
    random.seed(0)
    torch.manual_seed(0)
    with torch.device("meta" if rank else "cpu"):
        model = kind(config)
    policy = sharded.prepare(model, masked_logprobs, device, dtype)
    optimizer, played = sharded.adamw(policy, 1e-6, betas=(0.9, 0.95), weight_decay=0.0), []
    for i in range((16 if device == "cuda" else 2) * processes):
        n = random.randint(shortest, longest)
        ids, mask = (
            [random.randrange(config.vocab_size) for _ in range(n)],
            [8 * i // n % 2 for i in range(n)],
        )
        if i % processes == rank:
            played.append((Dialogue("", ids=ids, mask=mask, logprobs=[-12.0] * n), random.gauss(0, 1)))
    trained_tokens = sum(runs.all_gather(sum(sum(d.mask) for d, _ in played)))
    for _ in range(2):
        runs.barrier()
        clock = time.perf_counter()
        for rows in sharded.micro_batches([len(d.ids) for d, _ in played], micro_tokens):
            rows = [played[i] for i in rows]
            ids, mask = as_tensors([d for d, _ in rows], device)
            sampled = concatenated([d.sampled_logprobs for d, _ in rows], device)
            advantage = concatenated([[a] * sum(d.mask) for d, a in rows], device)
            part = grpo_loss(policy(ids, mask, 1.0), sampled, advantage, trained_tokens)
            (part * processes).backward()  # FSDP averages over processes
        sharded.clip_gradient(policy, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
    seconds = time.perf_counter() - clock
    lengths = sum(runs.all_gather([len(d.ids) for d, _ in played]), [])
    gpu = device == "cuda"
    peak = (
        torch.cuda.max_memory_allocated()
        if gpu
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    peak, tokens = max(runs.all_gather(peak)), sum(lengths)
    size = config.num_attention_heads * config.head_dim
    parameters = sum(math.prod(p.shape) for layer in policy.decoder.layers for p in layer.parameters())
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    attention = 0
    for n, kind in itertools.product(lengths, types):
        window = min(n, config.sliding_window) if kind == "sliding_attention" else n
        attention += 12 * size * (n * window - window**2 / 2)  # causal: the first tokens see fewer
    head = 6 * config.vocab_size * config.hidden_size * trained_tokens
    operations = 6 * parameters * tokens + head + attention
    share = operations / seconds / PEAK / processes
    if rank == 0:
        of_peak = f", {100 * share:.0f} % of an H100's peak" if gpu else ""
        print(
            f"update, {name} on {processes} {device} in {dtype}: {tokens:,} tokens in {seconds:.1f} s, "
            f"{tokens / seconds:,.0f} tokens/s{of_peak}, {peak / 1e9:.1f} GB at most in a process"
        )
    return tokens / seconds, share, peak


def memory(config, gpus=1, micro_tokens=16384, lora=None):
    """{use: bytes} of each GPU when a model of that config is trained on micro_tokens tokens, with checkpointing.

    lora: rank of an adapter that is trained instead of the weights.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        if lora:
            add_adapter(model, lora)
    policy = sharded.Policy(model, None)
    trained = sum(p.numel() for p in sharded.trained(policy))
    text, layers = config.get_text_config(), policy.decoder.layers
    parameters = sum(p.numel() for p in policy.parameters())
    layer = sum(p.numel() for p in layers[0].parameters())
    outside = parameters - sum(
        p.numel() for block in layers for p in block.parameters()
    )  # embeddings and head
    outputs = []  # widths of the linear outputs of each layer; an adapter adds its output in place, so not counted
    for block in layers:
        linear = [(n, m) for n, m in block.named_modules() if isinstance(m, torch.nn.Linear)]
        outputs.append(sum(m.out_features for n, m in linear if "lora_B" not in n))
    inside = max(outputs)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    gathered = (2 if lora else 4) * (outside + 2 * layer)
    activations = 4 * micro_tokens * (inside + 4 * text.hidden_size)
    cache = 2 * 2 * len(layers) * text.num_key_value_heads * head  # keys and values, two bytes each
    return {
        "frozen weights, bfloat16": 2 * (parameters - trained) / gpus,
        "trained weights, float32": 4 * trained / gpus,
        "gradients, float32": 4 * trained / gpus,
        "AdamW's moments, float32": 8 * trained / gpus,
        f"gathered for a pass: embeddings, head and two layers, bfloat16{'' if lora else ', and their gradients'}": gathered,
        "activations between layers, bfloat16": 2 * micro_tokens * text.hidden_size * len(layers),
        "activations inside a layer and their gradients, bfloat16": activations,
        "a chunk of logits, float32, and its gradients": 3 * 2**28,
        "each vLLM's weights, bfloat16": 2 * parameters,
        "keys and values of 1,000 tokens, bfloat16": 1000 * cache,
    }


def for_training(sizes):
    """The bytes of memory() that training needs; sampling comes on top."""
    return sum(size for use, size in sizes.items() if "vLLM" not in use and "keys" not in use)


def print_memory(name, **kwargs):
    """Prints memory() of a shape (also by its hub name), a folder or a hub name. kwargs: of memory()."""
    shape = name.rpartition("/")[2].removesuffix("-it")
    try:
        config = SHAPES[shape][1] if shape in SHAPES else AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        known = ", ".join(SHAPES)
        raise runs.BadInput(f"{name}: is none of {known}, no transformers folder and no hub name") from None
    sizes = memory(config, **kwargs)
    for use, size in sizes.items():
        print(f"{size / 1e9:8.2f} GB  {use}")
    training = for_training(sizes)
    print(
        f"{training / 1e9:8.2f} GB  in all for training {name}, on each of {kwargs['gpus']} GPUs; sampling comes on top"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=("rollout", "growth", "trainer", "step", "trl", "update", "memory", "case", "side")
    )
    parser.add_argument("case", nargs="*", metavar="MODEL")
    parser.add_argument(
        "--gpus", type=runs.COUNT, default=1, help="memory: number of GPUs that share the training"
    )
    parser.add_argument("--lora", type=runs.lora_rank, help="memory: rank of a LoRA adapter to train")
    parser.add_argument(
        "--micro-tokens", type=runs.COUNT, default=16384, help="memory: tokens of a micro-batch"
    )
    args = parser.parse_args()
    words = {"growth": 1, "trl": 1, "update": 1, "memory": 1, "case": 3, "side": 3}.get(args.what, 0)
    if len(args.case) > words:
        raise runs.BadInput(f"{args.what}: unknown word {args.case[words]!r}; leave it out")
    torch.set_num_threads(1)
    if args.what == "case":
        one_trainer_case(args.case[0], int(args.case[1]), int(args.case[2]))
    elif args.what == "update":
        update(*(args.case or ["gemma-3-1b" if torch.cuda.is_available() else "tiny"]))
    elif args.what == "memory":
        name = (args.case or ["gemma-3-12b"])[0]
        print_memory(name, gpus=args.gpus, micro_tokens=args.micro_tokens, lora=args.lora)
    else:
        tasks = {"rollout": rollout, "growth": growth, "trainer": trainer, "step": step}
        (tasks | {"trl": trl, "side": side})[args.what](*args.case)


if __name__ == "__main__":
    runs.run_script(main)
