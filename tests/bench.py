"""Speed and memory beside the plain way of doing the same. Prints ratios, asserts nothing.

    python tests/bench.py rollout     # dialogues a second: our engine, and stock generate with a barrier after every turn
    python tests/bench.py trainer     # time and peak memory of token log-probs: selected positions, and log_softmax over all of them
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from common import Grader, HFEngine, load_model, load_problems, load_prompts, masked_logprobs  # noqa: E402
from generate import Check, converse, play  # noqa: E402


def talks(chat, problems, turns=4):
    prompts = load_prompts(ROOT / "toy" / "prompts.json")
    return [(p.id, converse(p, p.id, chat, chat, prompts, turns)) for p in problems]


def engine(model, chat, problems, max_tokens):
    """The dialogues with our engine."""
    return len(list(play(talks(chat, problems), dict.fromkeys(("student", "teacher"), HFEngine(model, chat, max_tokens)), Grader())))


def barrier(model, chat, problems, max_tokens):
    """The same dialogues, a turn of all of them at a time, each time from their first token, with stock generate."""
    grader, running, requests, done = Grader(), dict(talks(chat, problems)), {}, 0
    values = dict.fromkeys(running)
    while running:
        for name, talk in list(running.items()):
            try:
                request = talk.send(values[name])
                while isinstance(request, Check):
                    grader.submit(name, request.problem, request.text)
                    request = talk.send(grader.poll(block=True)[0][1])
                requests[name] = request
            except StopIteration:
                del running[name], values[name]
                done += 1
        names = list(running)
        if names:
            longest = max(len(requests[n].ids) for n in names)
            ids = torch.tensor([[0] * (longest - len(requests[n].ids)) + requests[n].ids for n in names])
            out = model.generate(ids, attention_mask=(torch.arange(longest) >= longest - torch.tensor([[len(requests[n].ids)] for n in names])).long(),
                                 do_sample=True, top_k=0, max_new_tokens=max_tokens, eos_token_id=chat.stops, pad_token_id=0)  # fmt: skip
            for n, row in zip(names, out[:, longest:].tolist()):
                end = next((i + 1 for i, t in enumerate(row) if t in chat.stops), len(row))
                values[n] = type("Turn", (), {"ids": row[:end], "logprobs": [0.0] * end, "finish": "stop" if row[end - 1] in chat.stops else "length"})
    return done


def rollout():
    """96 toy dialogues of four turns; then a model of 24 M parameters and turns of up to 64 tokens, 24 on the average."""
    for name, max_tokens, n, times in (("toy base", 8, 96, 9), ("Llama, 24 M", 64, 24, 1)):
        model, chat = load_model(ROOT / "toy" / "base", "cpu", "float32")
        if name != "toy base":
            torch.manual_seed(0)
            model = LlamaForCausalLM(LlamaConfig(vocab_size=model.config.vocab_size, hidden_size=512, intermediate_size=1408, num_hidden_layers=7,
                                                 num_attention_heads=8, max_position_embeddings=2048, pad_token_id=0, bos_token_id=None, eos_token_id=5))  # fmt: skip
            model.lm_head.bias = torch.nn.Parameter(2.3 * F.one_hot(torch.tensor(chat.end), model.config.vocab_size).float())  # turns end at random lengths
        problems = load_problems(ROOT / "toy" / "math_test.jsonl")[:n]
        seconds = {engine: [], barrier: []}
        for run in seconds:
            run(model, chat, problems[:4], max_tokens)  # the first call of anything is slow
        for _ in range(times):  # by turns, so that both see the machine at its slow and its fast moments
            for run, measured in seconds.items():
                clock = time.perf_counter()
                run(model, chat, problems, max_tokens)
                measured.append(time.perf_counter() - clock)
        fast, slow = (n / statistics.median(measured) for measured in seconds.values())
        print(f"rollout, {name}: {fast:.1f} dialogues/s, stock generate with barriers {slow:.1f}, ratio {fast / slow:.1f}", flush=True)


def one_trainer_case(kind, vocabulary, length):
    """Forward and backward of one row, an eighth of whose tokens are the student's; prints seconds and peak memory in MB."""
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))  # rather an error than a machine that swaps
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
                                         max_position_embeddings=length))  # fmt: skip
    ids, mask = torch.randint(vocabulary, (1, length)), (torch.arange(length) % 32 < 4).long()[None]
    before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if kind == "ours":
        loss = masked_logprobs(model, ids, mask).sum()
    else:
        loss = (F.log_softmax(model(input_ids=ids).logits[:, :-1].float(), -1).gather(2, ids[:, 1:, None])[..., 0] * mask[:, 1:]).sum()
    loss.backward()
    print(time.perf_counter() - clock, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def trainer():
    for vocabulary in (152_000, 262_000):
        for length in (1024, 2048, 4096, 8192):
            shown = []
            for kind in ("ours", "plain"):
                out = subprocess.run([sys.executable, __file__, "case", kind, str(vocabulary), str(length)], capture_output=True, text=True)
                shown.append([float(x) for x in out.stdout.split()] if out.returncode == 0 else None)
            (seconds, memory), plain = shown
            beside = f"{plain[0]:.1f} s and {plain[1]:,.0f} MB, ratios {plain[0] / seconds:.1f} and {plain[1] / memory:.1f}" if plain else "out of memory"
            print(f"V = {vocabulary:,}, T = {length}: {seconds:.1f} s and {memory:,.0f} MB over the model; log_softmax over all: {beside}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rollout", "trainer", "case"))
    parser.add_argument("case", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "case":
        one_trainer_case(args.case[0], int(args.case[1]), int(args.case[2]))
    else:
        {"rollout": rollout, "trainer": trainer}[args.what]()
