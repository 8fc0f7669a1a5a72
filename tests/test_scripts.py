"""The scripts as a user runs them: every stage, bad input, kills."""

import gc
import http.server
import itertools
import json
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from commands import fork, kill_when, rows, run, start, wait_for
from conftest import OPENED, ROOT, characters
from transformers import AutoModelForCausalLM

import generate
import sft
from common import Dialogue, as_tensors, load_problems, masked_logprobs
from parts.chat import load_chat
from parts.engines import Endpoint, EngineError, Turn, load_model
from parts.measures import load_test
from parts.runs import Run, read_jsonl, revision, run_script
from sft import successful

PROMPTS = ROOT / "toy" / "prompts.json"
TALK = dict(prompts=PROMPTS, max_tokens=8, threads=1)


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """File of 24 problems: certain ones that the base often solves."""
    folder = tmp_path_factory.mktemp("problems")
    lines = [
        line for line in (ROOT / "toy" / "code_train.jsonl").read_text().splitlines(True) if "?" not in line
    ]
    (folder / "code.jsonl").write_text("".join(lines[:24]))
    return folder / "code.jsonl"


@pytest.fixture(scope="module")
def played(problems, base, tmp_path_factory):
    """Run folder of generate.py."""
    out = tmp_path_factory.mktemp("runs") / "dialogues"
    run("generate", model=base, problems=problems, out=out, samples=2, **TALK)
    return out


@pytest.mark.parametrize("script", ["generate", "sft", "qprime", "grpo", "evaluate"])
def test_help_shows_what_the_script_does(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
    assert stop.value.code == 0 and f"python {script}.py" in capsys.readouterr().out


def test_generate_writes_a_dialogue_for_every_problem_and_sample(played):
    dialogues = rows(played)
    assert len(dialogues) == 48 == len({d["id"] for d in dialogues})
    assert any(d["solved"] for d in dialogues)
    assert json.loads((played / "config.json").read_text())["arguments"]["seed"] == 0
    assert rows(played, "metrics.jsonl")[0]["dialogues"] == 48


def test_sft_says_which_solved_dialogues_it_leaves_out(base, capsys):
    class Say:
        def say(self, text):
            print(text)

    def solved(id, reply=None, leaks=()):
        return Dialogue(id, solved=1, statuses=["correct", *([reply] if reply else [])], leaks=list(leaks))

    dialogues = [
        solved("b"),
        solved("a", "correct"),
        solved("c", "wrong"),
        solved("d", leaks=[1]),
        Dialogue("e"),
    ]
    assert [d.id for d in successful(dialogues, Say(), "drop")] == ["a", "b"]
    told = capsys.readouterr().out
    assert told.startswith(
        "4 of 5 dialogues were solved; in 1 the student did not repeat its answer when that was disputed"
    )
    assert "in 1 a hint gave the answer away; training on 2" in told
    assert [d.id for d in successful(dialogues, Say(), "keep")] == ["a", "b", "d"]


def test_a_changed_test_file_is_no_resumed_run(problems, base, tmp_path, capsys):
    test = tmp_path / "test.jsonl"
    test.write_text(problems.read_text())
    rl = dict(model=base, problems=problems, test=test, out=tmp_path / "rl", batch=2, group=2, **TALK)
    run("grpo", steps=1, **rl)
    test.write_text("".join(problems.read_text().splitlines(True)[:9]))
    refused(capsys, "content of", "grpo", steps=2, **rl)


def test_sft_raises_the_likelihood_of_successful_dialogues(played, base, tmp_path):
    run("sft", model=base, data=played, out=tmp_path / "sft", lr="1e-3", epochs=6, batch=8, threads=1)
    losses = [r["loss"] for r in rows(tmp_path / "sft", "metrics.jsonl")]
    assert sum(losses[-3:]) < sum(losses[:3])
    AutoModelForCausalLM.from_pretrained(tmp_path / "sft" / "model")


def test_sft_on_solutions_counts_exactly_their_tokens_behind_the_problem_as_in_a_test(
    problems, base, tmp_path
):
    boxless = {"id": "m", "domain": "math", "prompt": "What?", "answer": "000+20+3", "solution": " So: "}
    both = tmp_path / "both.jsonl"
    both.write_text(problems.read_text() + json.dumps(boxless))
    chat, expected, counted = load_chat(base), {"m": ("What?", "So:\n\n\\boxed{000+20+3}")}, 0
    expected |= {problem.id: (problem.prompt, problem.solution) for problem in load_problems(problems)}
    for d in sft.solutions(both, chat, generate.load_prompts(PROMPTS)):
        prompt, solution = expected.pop(d.problem)
        start = len(chat.view([{"role": "user", "content": prompt}]))
        assert d.ids[start:] == chat.turn(solution) and d.mask == [0] * start + [1] * (len(d.ids) - start)
        counted += len(d.ids) - start
    run("sft", model=base, data=both, out=tmp_path / "sft", lr="1e-4", threads=1, prompts=PROMPTS)
    assert not expected and rows(tmp_path / "sft", "metrics.jsonl")[0]["tokens"] == counted  # of 25 dialogues


def test_problems_without_solutions_are_refused(base, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"id": "m", "domain": "math", "prompt": "What?", "answer": "3"}')
    refused(
        capsys, "no problem has a solution", "sft", model=base, data=tmp_path / "p.jsonl", out=tmp_path / "s"
    )


def test_sft_on_the_teachers_turns_too_sees_more_tokens_and_the_model_can_teach_itself(
    problems, played, base, tmp_path
):
    for name, flags in (("student", {}), ("both", dict(predict_teacher=True, prompts=PROMPTS))):
        run("sft", model=base, data=played, out=tmp_path / name, lr="1e-4", threads=1, **flags)
    tokens = [
        sum(r["tokens"] for r in rows(tmp_path / name, "metrics.jsonl")) for name in ("student", "both")
    ]
    assert tokens[1] > tokens[0]
    run(
        "evaluate",
        "play",
        model=tmp_path / "both" / "model",
        teacher="critic",
        problems=problems,
        turns=2,
        out=tmp_path / "test",
        **TALK,
    )
    assert len(rows(tmp_path / "test" / "code")) == 24


def test_hints_are_not_trained_on_in_a_view_that_no_teacher_will_have(played, base, tmp_path, capsys):
    (tmp_path / "prompts.json").write_text(json.dumps({"critic_math": "{turn} Help."}))
    told = dict(predict_teacher=True, prompts=tmp_path / "prompts.json")
    with pytest.raises(SystemExit):
        run("sft", model=base, data=played, out=tmp_path / "sft", **told)
    assert "prompt critic_math is '{turn} Help.'" in capsys.readouterr().err


def test_a_model_that_cannot_ask_without_reasoning_is_not_primed(problems, tmp_path, capsys):
    characters(
        ["<pad>", "<|im_start|>", "<|im_end|>", "<think>"], OPENED, None, "<|im_end|>"
    ).save_pretrained(tmp_path / "thinker")
    with pytest.raises(SystemExit):
        run("qprime", model=tmp_path / "thinker", problems=problems, out=tmp_path / "primed", **TALK)
    assert "opens each turn with reasoning" in capsys.readouterr().err and not (tmp_path / "primed").exists()


def test_grpo_logs_a_vanishing_gap_and_changes_the_student_only(problems, base, tmp_path):
    run(
        "grpo",
        model=base,
        problems=problems,
        out=tmp_path / "rl",
        steps=2,
        batch=8,
        group=4,
        lr="1e-3",
        **TALK,
    )
    metrics, dialogues = rows(tmp_path / "rl", "metrics.jsonl"), rows(tmp_path / "rl")
    assert (
        [m["step"] for m in metrics] == [1, 2]
        and all(m["gap_max"] <= 1e-4 for m in metrics)
        and len(dialogues) == 64
    )
    assert {
        "reward",
        "equal_groups",
        "leaks",
        "repeats",
        "cut",
        "no_attempt",
        "questions",
        "tokens_per_second",
    } <= metrics[0].keys()
    detailed = [d for d in dialogues if "pieces" in d]
    assert [d["step"] for d in detailed] == [1] * 4 + [2] * 4  # one group a step
    for d in detailed:
        d |= {"sampled": [p for p, m in zip(d["logprobs"], d["mask"]) if m]}
        assert d["trainer_logprobs"] == pytest.approx(d["sampled"], abs=1e-4)
        assert "".join(d["pieces"]).startswith(d["messages"][1]["content"])
    before, after = (
        AutoModelForCausalLM.from_pretrained(f, dtype="float32") for f in (base, tmp_path / "rl" / "model")
    )
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters()))


def test_a_test_curve_is_logged_and_leaves_the_trained_weights_as_they_are(problems, base, tmp_path):
    settings = dict(model=base, problems=problems, steps=3, batch=4, group=4, lr="1e-3", **TALK)
    run("grpo", out=tmp_path / "plain", **settings)
    run("grpo", out=tmp_path / "tested", test=problems, test_every=2, **settings)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("plain", "tested")]
    assert weights[0] == weights[1]
    curve = [row.get("test_solved_1") for row in rows(tmp_path / "tested", "metrics.jsonl")]
    assert curve[0] is not None and curve[1] is None and curve[2] is not None


def test_predicting_the_teacher_adds_the_mean_negative_log_likelihood_of_the_hints_to_the_loss(
    problems, base, tmp_path
):
    settings = dict(model=base, problems=problems, steps=1, batch=6, group=4, lr="1e-3", **TALK)
    run("grpo", out=tmp_path / "plain", **settings)
    run("grpo", out=tmp_path / "both", predict_teacher=0.5, **settings)
    plain, both = (rows(tmp_path / name, "metrics.jsonl")[0] for name in ("plain", "both"))
    learned = [Dialogue.from_row(row) for row in rows(tmp_path / "both") if any(row["advantages"])]
    ids, _ = as_tensors(learned)
    hints = torch.nn.utils.rnn.pad_sequence([torch.tensor(d.hint_mask) for d in learned], batch_first=True)
    with torch.no_grad():
        logprobs = masked_logprobs(load_model(base, "cpu"), ids, hints)
    assert both["trained_tokens"] == plain["trained_tokens"]
    assert both["loss"] - plain["loss"] == pytest.approx(-0.5 * logprobs.mean().item(), abs=1e-5)


def test_the_sampler_sleeps_before_every_update_and_gets_the_weights_after_it(
    problems, base, tmp_path, monkeypatch
):
    calls = []
    for name in ("sleep", "sync"):
        monkeypatch.setattr(f"parts.engines.HFEngine.{name}", lambda self, *_, name=name: calls.append(name))
    monkeypatch.setattr("parts.sharded.clip_gradient", lambda *_, max_norm: calls.append("update") or 0.0)
    run("grpo", model=base, problems=problems, out=tmp_path / "rl", steps=2, batch=8, group=8, **TALK)
    assert calls == ["sleep", "sync"] + ["sleep", "update", "sync"] * 2


def test_a_full_gpu_is_one_line_and_exit_code_2(capsys):
    def main():
        raise torch.OutOfMemoryError("CUDA out of memory.\nAnd more.")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(
        "error: the GPU's memory is full (CUDA out of memory.); lower --micro-tokens"
    )


def test_qprime_injects_questions_and_the_control_arm_none(problems, base, tmp_path):
    for arm, flags in (("primed", {}), ("control", dict(no_questions=True))):
        run("qprime", model=base, problems=problems, out=tmp_path / arm, lr="1e-3", **flags, **TALK)
    injected = {
        arm: [t for d in rows(tmp_path / arm) for t in d["injected"]] for arm in ("primed", "control")
    }
    assert injected["primed"] and not injected["control"]
    first = {d["id"]: d["statuses"][0] for d in rows(tmp_path / "control")}
    for d in rows(tmp_path / "primed"):  # the same first turns; only wrong ones are replaced
        assert 1 not in d["injected"] or first[d["id"]] != "correct"


def test_evaluate_plays_and_compares(problems, played, base, tmp_path, capsys):
    shards = tmp_path / "shards.jsonl"
    shards.write_text("".join((ROOT / "toy" / "code_shards.jsonl").read_text().splitlines(True)[:10]))
    run("evaluate", "play", model=base, problems=problems, out=tmp_path / "tests", turns=3, losses=5, **TALK)
    run("evaluate", "play", model=base, problems=shards, sharded=True, out=tmp_path / "tests", **TALK)
    run("grpo", model=base, problems=problems, out=tmp_path / "rl", steps=1, batch=2, group=2, **TALK)
    run(
        "evaluate",
        "compare",
        tmp_path / "tests" / "code",
        tmp_path / "tests" / "shards",
        tmp_path / "rl",
        out=tmp_path / "figures",
    )
    table = (tmp_path / "figures" / "report.md").read_text()
    assert (
        "24 problems, up to 3 turns" in table
        and "shards (sharded): 10 problems" in table
        and "| base |" in table
    )
    assert {f.name for f in (tmp_path / "figures").iterdir()} >= {
        "report.md",
        "report.html",
        "results.json",
        "fig1.png",
    }


def test_log_losses_are_those_of_different_problems_first(problems, base, tmp_path):
    run("evaluate", "play", model=base, problems=problems, out=tmp_path, samples=2, losses=5, turns=1, **TALK)
    assert len({row["id"].split("/")[0] for row in rows(tmp_path / "code", "losses.jsonl")}) == 5


def test_log_losses_without_a_solution_are_told_to_be_none(problems, base, tmp_path, capsys):
    bare = [json.loads(line) | {"solution": None} for line in open(problems)]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    play = dict(model=base, problems=tmp_path / "bare.jsonl", turns=1, losses=2, **TALK)
    run("evaluate", "play", **play, out=tmp_path / "tests")
    assert "--losses measures nothing" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gemma", "qwen"])
def test_other_architectures_and_templates_run_through_the_same_scripts(
    shapes, name, problems, tmp_path, capsys
):
    options = dict(model=shapes[name], max_tokens=12, threads=1, turns=3)
    load_chat.cache_clear()  # its note is printed once in a process
    run("generate", **options, problems=problems, out=tmp_path / "dialogues")
    assert all(d["statuses"] == ["no attempt"] * 3 for d in rows(tmp_path / "dialogues"))
    assert ("rewrites earlier turns" in capsys.readouterr().err) == (name == "qwen")
    rl = dict(problems=problems, out=tmp_path / "rl", steps=1, batch=3, group=2)
    refused(capsys, "no step trained the model", "grpo", **options, **rl)  # as nothing was solved
    assert rows(tmp_path / "rl", "metrics.jsonl")[0]["equal_groups"] == 1.0


def test_a_run_that_trained_nothing_says_why_saves_no_model_and_goes_on_with_more_steps(
    shapes, problems, tmp_path, capsys
):
    rl = dict(model=shapes["gemma"], problems=problems, out=tmp_path / "rl", batch=3, group=2, turns=2)
    rl |= dict(max_tokens=8, threads=1)
    refused(
        capsys, "of the turns were cut off by the token limit (raise --max-tokens)", "grpo", steps=1, **rl
    )
    gc.collect()  # frees the run, which has the folder's lock and hangs on the exception's frames
    for _ in range(2):  # the second time all steps are done and saved
        refused(capsys, "as it was and is not saved", "grpo", steps=2, **rl)
        gc.collect()
    assert [row["step"] for row in rows(tmp_path / "rl", "metrics.jsonl")] == [1, 2]
    assert not (tmp_path / "rl" / "model").exists()


LINE = {"id": "a", "domain": "math", "prompt": "x", "answer": "1"}


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "no such file"),
        ("", "holds no problem"),
        (json.dumps(LINE) + "\n{oops\n", "line 2"),
        (json.dumps({**LINE, "domain": "law"}), "line 1: domain is 'law'"),
        (json.dumps({**LINE, "answer": " "}), "line 1: a math problem needs 'answer'"),
        (
            json.dumps({"id": "a", "domain": "code", "prompt": "x"}),
            "line 1: a code problem needs 'tests' or 'asserts'",
        ),
        (json.dumps(LINE) + "\n" + json.dumps(LINE), "line 2: id 'a' occurs twice"),
        (json.dumps({**LINE, "colour": 1}), "line 1: unknown field 'colour'"),
        (
            "{oops\n" * 3,
            "line 1: is not JSON (Expecting property name enclosed in double quotes); 2 more lines",
        ),
    ],
)
def test_a_bad_problem_file_is_one_line_and_exit_code_2(text, said, base, tmp_path, capsys):
    if text is not None:
        (tmp_path / "p.jsonl").write_text(text)
    refused(capsys, said, "generate", model=base, problems=tmp_path / "p.jsonl", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dialogues_that_are_not_all_played_are_not_trained_on(played, base, tmp_path, capsys):
    shutil.copytree(played, tmp_path / "half")
    (tmp_path / "half" / "metrics.jsonl").unlink()
    refused(capsys, "is not finished", "sft", model=base, data=tmp_path / "half", out=tmp_path / "sft")


@pytest.mark.parametrize("edited", ["problems", "prompts"])
def test_a_run_does_not_go_on_with_a_file_that_was_edited(edited, problems, base, tmp_path, capsys):
    given = {"problems": tmp_path / "p.jsonl", "prompts": tmp_path / "prompts.json"}
    shutil.copy(problems, given["problems"])
    shutil.copy(TALK["prompts"], given["prompts"])
    command = TALK | given | dict(model=base, turns=1, out=tmp_path / "out")
    run("generate", **command)
    with given[edited].open("a") as file:
        file.write("\n")
    refused(capsys, f"content of {given[edited]}", "generate", **command)


def test_sft_does_not_go_on_with_dialogues_that_were_played_anew(played, base, tmp_path, capsys):
    command = dict(
        model=base, data=shutil.copytree(played, tmp_path / "data"), out=tmp_path / "sft", threads=1
    )
    run("sft", **command)
    with (tmp_path / "data" / "dialogues.jsonl").open("a") as file:
        file.write("\n")
    refused(capsys, "content of", "sft", **command)


def refused(capsys, said, *args, **options):
    """The script ends with exit code 2 and one line that holds `said`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*args, **options)
    errors = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if "error: " in line]
    assert stop.value.code == 2 and len(errors) == 1 and said in errors[0]


def test_other_bad_input_is_one_line_and_exit_code_2(problems, played, base, shapes, tmp_path, capsys):
    ok = dict(model=base, problems=problems)
    refused(capsys, "at least 2", "grpo", **ok, out=tmp_path / "a", group=1)
    refused(capsys, "leaves no room", "generate", **ok, out=tmp_path / "b", max_tokens=5000)
    refused(
        capsys, "no such folder", "generate", model=tmp_path / "none", problems=problems, out=tmp_path / "c"
    )
    refused(capsys, "prompts file", "generate", **ok, out=tmp_path / "d", prompts=problems)
    refused(capsys, "holds a run whose", "generate", **ok, out=played, seed=5)
    refused(capsys, "holds no dialogues", "sft", model=base, data=tmp_path / "none", out=tmp_path / "e")
    refused(capsys, "has no shards", "evaluate", "play", **ok, sharded=True, out=tmp_path / "f")
    refused(capsys, "is no run folder", "evaluate", "compare", tmp_path, out=tmp_path / "g")


@pytest.fixture
def server():
    """A function (replies) → (address, requests seen): a server that gives each reply, bytes, and then the last again."""
    started = []

    def start(*replies):
        seen, left = [], list(replies)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append({**body, "key": self.headers["Authorization"], "headers": dict(self.headers)})
                self.wfile.write(left.pop(0) if len(left) > 1 else left[0])

            def log_message(self, *_):
                pass

        one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True).start()
        started.append(one)
        return f"http://127.0.0.1:{one.server_port}/v1", seen

    yield start
    for one in started:
        one.shutdown()


def reply(content="1st is 4, 2nd not 3, 3rd is 8.", status="200 OK", headers=""):
    body = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})
    return f"HTTP/1.0 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.fixture
def endpoint(server):
    """(address, requests seen) of an OpenAI-compatible server that fails once and then always hints the same."""
    return server(reply(status="500 Oops"), reply())


BROKEN = {
    "cut body": reply()[:-9],
    "bad status line": b"HELLO\r\n\r\n",
    "no JSON": b"HTTP/1.0 200 OK\r\n\r\n<html>",
    "no choices": b'HTTP/1.0 200 OK\r\n\r\n{"choices": []}',
    "an error": b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"error": "busy"}',
    "lone surrogate": reply("\ud800"),
    "too many requests": reply(status="429 Slow", headers="Retry-After: 7\r\n"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_reply_is_asked_for_again_and_then_named(broken, server, monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    address, seen = server(broken, reply("fine"))
    assert Endpoint(f"{address}#m").ask([]).ids == "fine" and len(seen) == 2 and len(pauses) == 1
    assert pauses == [7] if b"429" in broken else 0.375 <= pauses[0] <= 0.5  # `openai` shortens it at random
    address, seen = server(broken)
    with pytest.raises(EngineError, match="does not answer"):
        Endpoint(f"{address}#m").ask([])
    assert len(seen) == (40 if b"429" in broken else 6)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 425, 501, 408, 409, 429, 500, 503])
def test_a_request_is_made_again_only_if_that_can_help(status, server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    address, seen = server(reply(status=f"{status} No"))
    with pytest.raises(EngineError, match=f"--teacher-model {address}: does not answer .HTTP {status}"):
        Endpoint(f"{address}#m").ask([])
    assert len(seen) == (40 if status == 429 else 6 if status in (408, 409) or status >= 500 else 1)


def test_a_silent_endpoint_is_asked_again_after_ten_minutes_and_then_named(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert Endpoint("http://h/v1#m").client.timeout == 600
    monkeypatch.setattr("parts.engines.TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and sends nothing
        with pytest.raises(EngineError, match="ReadTimeout"):
            Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}/v1#m").ask([])
        silent.settimeout(0)
        assert all(silent.accept() for _ in range(6))
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_request_holds_the_dialogue_and_four_settings(server):
    address, seen = server(reply())
    message = {"role": "user", "content": "2 ≤ 3?"}
    Endpoint(f"{address}/#m", max_tokens=7, temperature=0.5).ask([message])
    row = {k: v for k, v in seen[0].items() if k not in ("key", "headers")}
    assert row == {"model": "m", "messages": [message], "max_tokens": 7, "temperature": 0.5}
    assert seen[0]["key"] == "Bearer EMPTY"  # what `openai` needs where there is no key


def test_the_environment_sends_no_key_elsewhere_and_nothing_more_to_an_endpoint(server, monkeypatch):
    address, seen = server(reply())
    other, stolen = server(reply())
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    for name in ("OPENAI_BASE_URL", "ALL_PROXY"):
        monkeypatch.setenv(name, other)
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_WEBHOOK_SECRET"):
        monkeypatch.setenv(name, "private")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer private")
    assert Endpoint(f"{address}#m").ask([]).finish == "stop" and not stolen
    assert seen[0]["key"] == "Bearer secret" and "private" not in str(seen)


@pytest.mark.parametrize("bad", ["http://[::1", "http://h:port/v1", "http://h/\x00"])
def test_an_address_that_is_none_is_one_line(bad):
    with pytest.raises(EngineError, match="--judge http://"):
        Endpoint(f"{bad}#m", "--judge").ask([])


def test_without_its_package_an_endpoint_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(EngineError, match="--judge http://h/v1#m: needs a package; run `pip install openai`"):
        Endpoint("http://h/v1#m", "--judge")


def test_an_endpoint_loads_its_package_only_when_it_is_made():
    code = "import sys, parts.engines; print({'openai', 'transformers', 'vllm'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_ctrl_c_does_not_wait_for_an_endpoint(problems, base, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1#m"
        silent.settimeout(60)
        options = dict(model=base, problems=problems, teacher_model=address, out=tmp_path, **TALK)
        process = start("generate", **options)
        connection, _ = silent.accept()  # the first hint is asked for
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "the request exceeds the available context size (4096 tokens), try increasing it",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.",
        "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
        "Prompt exceeds max length",
        "prompt is too long: 5000 tokens > 4096 maximum",
    ],
)
def test_a_dialogue_that_does_not_fit_at_an_endpoint_ends_alone(refusal, server):
    address, seen = server(reply(refusal, status="400 Bad Request"))
    assert Endpoint(f"{address}#m").ask([]) == Turn("", [], "context") and len(seen) == 1


def test_an_endpoint_where_nothing_fits_is_named(server):
    address, _ = server(reply("max_tokens is too large for the context", status="400 Bad Request"))
    teacher = Endpoint(f"{address}#m")
    with pytest.raises(EngineError, match="max_tokens is too large"):
        for _ in range(20):
            teacher.ask([])


def test_what_an_endpoint_says_with_a_refusal_is_shown(server):
    address, _ = server(reply("no such model", status="404 Not Found"))
    with pytest.raises(EngineError, match="no such model"):
        Endpoint(f"{address}#m").ask([])


def test_a_key_is_shown_to_nobody_and_a_line_end_behind_it_does_no_harm(server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    address, seen = server(reply())
    monkeypatch.setenv("OPENAI_API_KEY", "secret\r\n")
    assert Endpoint(f"{address}#m").ask([]).finish == "stop" and seen[0]["key"] == "Bearer secret"
    monkeypatch.setenv("OPENAI_API_KEY", "sec\nret")
    with pytest.raises(EngineError, match="OPENAI_API_KEY") as error:
        Endpoint(f"{address}#m")
    assert "sec" not in str(error.value)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    address, _ = server(reply("secret is unknown", status="401 No"))
    with pytest.raises(EngineError, match="… is unknown"):
        Endpoint(f"{address}#m").ask([])


def test_a_run_needs_no_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert revision() is None


def test_a_key_is_not_sent_to_another_host_and_a_refusal_is_not_repeated(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    other, stolen = server(reply())
    for status, headers in (("401 No", ""), ("404 No", ""), ("302 Moved", f"Location: {other}/x\r\n")):
        address, seen = server(reply(status=status, headers=headers))
        with pytest.raises(EngineError, match=status[:3]):
            Endpoint(f"{address}#m").ask([])
        assert [row["key"] for row in seen] == ["Bearer secret"] and not stolen


def test_a_teacher_may_be_an_endpoint(problems, base, endpoint, tmp_path, capsys):
    address, seen = endpoint
    run(
        "generate",
        model=base,
        problems=problems,
        teacher_model=f"{address}#big",
        out=tmp_path / "run",
        **TALK,
    )
    hints = {
        m["content"] for d in rows(tmp_path / "run") for m in d["messages"][2:] if m["role"] == "teacher"
    }
    assert len(rows(tmp_path / "run")) == 24 and hints == {"1st is 4, 2nd not 3, 3rd is 8."}
    assert {r["model"] for r in seen} == {"big"} and "expected" in seen[0]["messages"][-1]["content"]
    refused(
        capsys,
        "names no model",
        "generate",
        model=base,
        problems=problems,
        teacher_model=address,
        out=tmp_path / "b",
        **TALK,
    )


def test_a_judge_labels_finished_test_runs_and_goes_on_where_it_was(
    problems, base, endpoint, tmp_path, capsys
):
    address, seen = endpoint
    run("evaluate", "play", model=base, problems=problems, out=tmp_path, turns=2, **TALK)
    judge = partial(run, "evaluate", "judge", tmp_path / "code", judge=f"{address}#big", threads=1)
    judge()
    judged, asked = rows(tmp_path / "code" / "judged", "judged.jsonl"), len(seen)
    assert (
        len(judged) == 24
        and all(t is None for row in judged for t in row["types"])
        and "no label 100.0 %" in capsys.readouterr().out
    )
    (tmp_path / "code" / "judged" / "judged.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in judged[:-1])
    )
    judge()
    assert sorted(rows(tmp_path / "code" / "judged", "judged.jsonl"), key=lambda r: r["id"]) == sorted(
        judged, key=lambda r: r["id"]
    )
    assert 0 < len(seen) - asked <= 3
    run("evaluate", "compare", tmp_path / "code", out=tmp_path / "figures")
    assert "Turns and hints by the judge" in (tmp_path / "figures" / "report.md").read_text()


def test_a_judge_refuses_a_problem_file_that_changed_since_it_was_played(problems, base, tmp_path, capsys):
    file = shutil.copy(problems, tmp_path / "p.jsonl")
    run("evaluate", "play", model=base, problems=file, out=tmp_path, turns=1, **TALK)
    file.write_text(json.dumps(LINE))
    told = f"is not the problem file that {tmp_path}/p played"
    refused(capsys, told, "evaluate", "judge", tmp_path / "p", judge=base, threads=1)
    assert not (tmp_path / "p" / "judged" / "judged.jsonl").exists()


def test_an_endpoint_that_is_down_is_named(problems, base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    refused(
        capsys,
        "does not answer",
        "generate",
        model=base,
        problems=problems,
        teacher_model="http://127.0.0.1:9/v1#x",
        out=tmp_path / "a",
        **TALK,
    )


def test_two_processes_cannot_work_on_one_run(problems, base, tmp_path, capsys):
    command = dict(model=base, problems=problems, out=tmp_path / "run", samples=40, concurrent=8, **TALK)
    process = fork("generate", **command)
    try:
        wait_for(process, (tmp_path / "run" / "dialogues.jsonl").exists)
        refused(capsys, "another process is at work", "generate", **command)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()


def test_a_folder_that_is_no_run_is_not_touched(problems, base, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    refused(capsys, "is not empty and holds no run", "generate", model=base, problems=problems, out=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_tokenizer_without_chat_template_is_refused(problems, base, tmp_path, capsys):
    model = AutoModelForCausalLM.from_pretrained(base)
    from toy import world

    tokenizer = world.tokenizer()
    tokenizer.chat_template = None
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    refused(
        capsys,
        "has no chat template",
        "generate",
        model=tmp_path / "m",
        problems=problems,
        out=tmp_path / "out",
    )


def test_runs_that_cannot_be_compared_are_refused(problems, base, tmp_path, capsys):
    for name, turns in (("a", 2), ("b", 3)):
        how = {"turns": turns, "seed": turns, **TALK}
        run("evaluate", "play", model=base, problems=problems, out=tmp_path / name, **how)
    refused(
        capsys,
        "play both with the same --turns",
        "evaluate",
        "compare",
        tmp_path / "a/code",
        tmp_path / "b/code",
        out=tmp_path / "x",
    )


def test_a_half_written_last_line_is_dropped_and_played_again(problems, base, tmp_path):
    again = partial(run, "generate", model=base, problems=problems, out=tmp_path / "run", **TALK)
    again()
    whole = rows(tmp_path / "run")
    (tmp_path / "run" / "dialogues.jsonl").write_text("\n".join(map(json.dumps, whole))[:-200])
    again()
    same(rows(tmp_path / "run"), whole)


def test_a_folder_in_which_nothing_was_finished_yet_is_no_obstacle(problems, base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json.123.part").write_text('{"argu')  # killed while writing it
    run("generate", model=base, problems=problems, out=tmp_path / "run", **TALK)
    assert len(rows(tmp_path / "run")) == 24 and not list((tmp_path / "run").glob("*.part"))


def test_a_command_that_was_wrong_leaves_nothing_that_refuses_the_right_one(problems, base, tmp_path):
    common = dict(problems=problems, out=tmp_path / "run", prompts=PROMPTS, threads=1)
    for model, tokens, code in ((tmp_path / "typo", 8, 2), (base, 5000, 2), (base, 8, 0)):
        process = fork("generate", model=model, max_tokens=tokens, **common)
        process.join()
        assert process.exitcode == code
    assert len(rows(tmp_path / "run")) == 24


def test_a_test_whose_last_line_was_cut_off_is_not_taken_for_finished(problems, base, tmp_path):
    again = partial(run, "evaluate", "play", model=base, problems=problems, turns=2, out=tmp_path, **TALK)
    again()
    metrics = (tmp_path / "code" / "metrics.jsonl").read_text()
    (tmp_path / "code" / "metrics.jsonl").write_text(metrics[:50])
    again()
    assert (tmp_path / "code" / "metrics.jsonl").read_text() == metrics


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"arguments": 5}'])
def test_a_damaged_config_is_one_line(damage, problems, base, tmp_path, capsys):
    (tmp_path / "config.json").write_text(damage)
    refused(capsys, "is damaged", "generate", model=base, problems=problems, out=tmp_path, **TALK)


def test_a_damaged_state_is_one_line(problems, base, tmp_path, capsys):
    command = dict(model=base, problems=problems, out=tmp_path / "rl", steps=2, batch=2, group=2, **TALK)
    run("grpo", **command)
    shutil.rmtree(tmp_path / "rl" / "model")
    for file in (tmp_path / "rl" / "resume" / "2").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    refused(capsys, "remove this folder", "grpo", **command)


def test_an_output_path_that_is_a_file_is_one_line(problems, base, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    refused(capsys, "file", "generate", model=base, problems=problems, out=tmp_path / "file", **TALK)


def test_a_training_whose_loss_is_not_finite_stops_and_saves_no_model(
    played, problems, base, tmp_path, capsys
):
    refused(
        capsys,
        "lower --lr",
        "sft",
        model=base,
        data=played,
        out=tmp_path / "sft",
        lr="1e30",
        batch=4,
        threads=1,
    )
    refused(
        capsys,
        "lower --lr",
        "grpo",
        model=base,
        problems=problems,
        out=tmp_path / "rl",
        lr="1e30",
        steps=3,
        batch=8,
        **TALK,
    )
    assert not (tmp_path / "sft" / "model").exists() and not (tmp_path / "rl" / "model").exists()


def same(a, b):
    """Rows are equal in any order: times aside, and log-probs up to rounding, which depends on what else was in a batch."""
    key = lambda r: (r.get("step", 0), r.get("id", ""))  # noqa: E731
    drop = ("seconds", "tokens_per_second", "logprobs")
    assert [{k: v for k, v in r.items() if k not in drop} for r in sorted(a, key=key)] == [
        {k: v for k, v in r.items() if k not in drop} for r in sorted(b, key=key)
    ]
    for x, y in zip(sorted(a, key=key), sorted(b, key=key)):
        assert x.get("logprobs", []) == pytest.approx(y.get("logprobs", []), abs=1e-4)


LINES = {"generate": "dialogues.jsonl", "evaluate": "code/dialogues.jsonl"}  # of the others: "metrics.jsonl"
KILLED = {
    "generate": dict(samples=4, concurrent=8, **TALK),
    "grpo": dict(steps=6, batch=4, group=4, lr="1e-3", save_every=2, **TALK),
    "evaluate": dict(turns=10, concurrent=8, **TALK),
    "qprime": dict(samples=8, batch=4, save_every=2, lr="1e-3", **TALK),
}


@pytest.mark.parametrize("script", KILLED)
def test_killed_at_any_moment_the_same_command_ends_with_the_same_result(script, problems, base, tmp_path):
    def command(way, out):
        play = ["play"] * (script == "evaluate")
        return way(script, *play, model=base, problems=problems, out=tmp_path / out, **KILLED[script])

    def written():
        log = tmp_path / "killed" / LINES.get(script, "metrics.jsonl")
        return len(log.read_bytes().splitlines()) if log.exists() else 0

    command(run, "whole")
    if script == "generate":  # a real process, interrupted as by Ctrl-C
        process = command(start, "killed")
        while written() < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 1
    before = written()
    kill_when(command(fork, "killed"), lambda: written() >= before + (2 if script == "qprime" else 3))
    command(run, "killed")
    folder = "code" if script == "evaluate" else ""
    for name in ("dialogues.jsonl", "metrics.jsonl"):
        same(rows(tmp_path / "whole" / folder, name), rows(tmp_path / "killed" / folder, name))
    if script in ("grpo", "qprime"):
        a, b = (
            AutoModelForCausalLM.from_pretrained(tmp_path / out / "model").state_dict()
            for out in ("whole", "killed")
        )
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_with_more_steps_goes_on_and_ends_as_one_that_had_them_from_the_start(problems, base, tmp_path):
    rl = dict(model=base, problems=problems, batch=2, group=4, lr="1e-3", save_every=2, **TALK)
    run("grpo", steps=3, out=tmp_path / "grown", **rl)
    run("grpo", steps=5, out=tmp_path / "grown", **rl)
    run("grpo", steps=5, out=tmp_path / "once", **rl)
    for folder in ("grown", "once"):
        assert [row["step"] for row in rows(tmp_path / folder, "metrics.jsonl")] == [1, 2, 3, 4, 5]
    grown, once = (AutoModelForCausalLM.from_pretrained(tmp_path / f / "model") for f in ("grown", "once"))
    for (name, p), q in zip(grown.named_parameters(), once.parameters()):
        assert torch.equal(p, q), name


def test_a_run_with_fewer_steps_is_refused(problems, base, tmp_path, capsys):
    rl = dict(model=base, problems=problems, batch=2, group=2, out=tmp_path, **TALK)
    run("grpo", steps=2, **rl)
    refused(capsys, "whose steps is 2, but this command has 1", "grpo", steps=1, **rl)


def test_a_teacher_of_ones_own_is_found_by_its_name_and_spoken_by_another_model(
    problems, base, server, tmp_path, monkeypatch
):
    monkeypatch.setattr("generate.PROMPTS", dict(generate.PROMPTS))
    monkeypatch.setattr("generate.TEACHERS", dict(generate.TEACHERS))

    @generate.role(generate.TEACHERS, opening="Lie.", math="{turn}", code="{turn}")
    def liar(cast, dialogue, problem, latest):
        """Gives false hints."""
        return (yield from generate.speak(cast, dialogue, problem, "liar"))

    address, seen = server(reply("A lie."))
    play = dict(model=base, problems=problems, out=tmp_path, max_tokens=8, threads=1)
    run("generate", teacher="liar", teacher_model=f"{address}#other", **play)
    hints = {m["content"] for d in rows(tmp_path) for m in d["messages"][2::2]}
    assert hints == {"A lie."} and {s["model"] for s in seen} == {"other"}
    assert {s["messages"][0]["content"] for s in seen} == {"Lie."}


def test_a_user_who_samples_nothing_needs_no_model(base, tmp_path):
    (tmp_path / "shards.jsonl").write_text(open(ROOT / "toy" / "code_shards.jsonl").readline())
    play = dict(model=base, problems=tmp_path / "shards.jsonl", sharded=True, out=tmp_path / "tests", **TALK)
    run("evaluate", "play", teacher_model=tmp_path / "none", **play)
    assert len(rows(tmp_path / "tests" / "shards")) == 1


def test_a_person_can_be_the_teacher_and_stop_and_go_on(problems, base, tmp_path, monkeypatch, capsys):
    lines = iter(["1st not 0.", "", "Please try.", ""])  # two hints; the third is not written

    def written(prompt=""):
        if (text := next(lines, None)) is None:
            raise EOFError
        return text

    monkeypatch.setattr("builtins.input", written)
    play = dict(model=base, teacher="me", problems=problems, out=tmp_path, turns=2, **TALK)
    with pytest.raises(SystemExit, match="the same command goes on"):
        run("generate", **play)
    done = rows(tmp_path)
    hints = [d["messages"][2]["content"] for d in done if len(d["messages"]) > 2]
    assert hints == ["1st not 0.", "Please try."] and "only you see: Test 1: f(" in capsys.readouterr().out
    assert all(d["knowledge"][0] for d in done if not d["solved"])
    lines = itertools.cycle(["Please try.", ""])
    run("generate", **play)
    assert len({d["id"] for d in rows(tmp_path)}) == 24  # two of each problem


def test_a_person_can_be_the_student(problems, base, tmp_path, monkeypatch):
    problem = rows(problems.parent, problems.name)[0]
    lines = iter(["Which 1st?", "", *problem["solution"].split("\n"), ""])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps(problem))
    run("generate", model="me", teacher_model=base, problems=one, out=tmp_path / "run", turns=3, **TALK)
    (dialogue,) = rows(tmp_path / "run")
    assert dialogue["solved"] == 2 and dialogue["messages"][2]["content"] == "Please try."


@pytest.mark.parametrize("script", ["grpo", "qprime"])
def test_a_person_cannot_be_trained(script, problems, base, tmp_path, capsys):
    command = dict(model="me", teacher_model=base, problems=problems, out=tmp_path / "run")
    refused(capsys, "a person is no model to train", script, **command)


def test_a_mute_teacher_says_its_prompt_to_every_turn_and_needs_no_model(problems, base, tmp_path):
    play = dict(model=base, teacher="mute", problems=problems, out=tmp_path, turns=3, **TALK)
    run("evaluate", "play", teacher_model=tmp_path / "none", **play)
    dialogues = rows(tmp_path / problems.stem)
    assert {m["content"] for d in dialogues for m in d["messages"][2::2]} == {"Please try."}
    assert load_test(tmp_path / problems.stem, Dialogue.from_row).teacher == "mute"


def test_a_run_that_goes_on_says_which_code_has_changed(problems, base, tmp_path, capsys):
    command = dict(model=base, problems=problems, out=tmp_path / "run", turns=1, **TALK)
    run("generate", **command)
    capsys.readouterr()
    run("generate", **command)
    assert "changed since" not in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["code"]["common.py"] = "00000000"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    run("generate", **command)
    assert "note: common.py changed since" in capsys.readouterr().out


def test_the_folder_of_another_script_is_named_as_such(played, problems, base, capsys):
    refused(capsys, "holds a run of generate.py", "grpo", model=base, problems=problems, out=played, **TALK)


def test_sft_refuses_the_dialogues_of_another_model_unless_it_is_meant(
    played, base, shapes, tmp_path, capsys
):
    twin, out = shutil.copytree(base, tmp_path / "twin"), tmp_path / "sft"
    talk = dict(data=played, threads=1)
    refused(capsys, f"student was {base}, not --model {twin}", "sft", model=twin, out=tmp_path / "a", **talk)
    other = dict(model=shapes["gemma"], other_model=True, out=tmp_path / "b")
    refused(capsys, "reads as another text", "sft", **other, **talk)
    run("sft", model=twin, other_model=True, out=out, **talk)
    assert (out / "model").exists()


def test_sft_refuses_tests_and_the_dialogues_of_grpo(problems, base, tmp_path, capsys):
    run("evaluate", "play", model=base, problems=problems, out=tmp_path, turns=1, **TALK)
    run("grpo", model=base, problems=problems, out=tmp_path / "rl", steps=1, batch=2, group=2, **TALK)
    for folder in ("code", "rl"):
        out = tmp_path / f"sft-{folder}"
        refused(capsys, "which are a test", "sft", model=base, data=tmp_path / folder, out=out, threads=1)


def test_a_path_that_is_no_model_is_told_what_it_is(problems, base, played, tmp_path, capsys):
    (tmp_path / "rl" / "model").mkdir(parents=True)
    (tmp_path / "rl" / "config.json").write_text("{}")
    paths = {tmp_path / "rl": f"is a run folder; give its model, {tmp_path}/rl/model"}
    paths |= {played: "has saved no model", tmp_path / "none": "no such folder"}
    for path, told in paths.items():
        for script in ("generate", "grpo"):
            out = tmp_path / f"{script}-{path.name}"
            refused(capsys, told, script, model=path, problems=problems, out=out, **TALK)


def test_a_finished_run_whose_state_was_removed_stays_finished_and_takes_no_more_steps(
    problems, base, tmp_path, capsys
):
    rl = dict(model=base, problems=problems, out=tmp_path / "rl", batch=8, group=4, **TALK)
    run("grpo", steps=1, **rl)
    shutil.rmtree(tmp_path / "rl" / "resume")
    log = (tmp_path / "rl" / "metrics.jsonl").read_text()
    capsys.readouterr()
    run("grpo", steps=1, **rl)
    assert "is finished" in capsys.readouterr().out
    refused(capsys, "has no resume/ to go on from", "grpo", steps=2, **rl)
    assert (tmp_path / "rl" / "metrics.jsonl").read_text() == log


def test_a_line_that_another_process_did_not_finish_is_cut_before_the_next_is_written(tmp_path):
    run_folder = Run(SimpleNamespace(out=tmp_path / "run"))
    run_folder.append("log.jsonl", [{"a": 1}])
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"a": 2, "b"')
    run_folder.append("log.jsonl", [{"a": 3}])
    assert read_jsonl(tmp_path / "run" / "log.jsonl") == [{"a": 1}, {"a": 3}]


def test_check_lists_all_faults_of_a_file_at_once_and_counts_them_by_kind(tmp_path, capsys):
    code = {"id": "b", "domain": "code", "prompt": "x", "func_name": "f", "asserts": ["assert f(1) == 2"]}
    test = {"output": "2", "testtype": "functional"}
    lines = [
        LINE,
        {**LINE, "id": "prose", "answer": "because it is so"},
        {**LINE, "id": "other", "solution": "so \\boxed{2}"},
        {**LINE, "colour": 1},
        code | {"solution": "def f(x): return x + 1"},
        code | {"id": "fails", "solution": "def f(x): return x"},
        code | {"id": "input", "tests": [{"input": "x = 1", **test}]},
        code | {"id": "fine", "tests": [{"input": "1\n", **test}]},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(SystemExit) as stop:
        run("evaluate", "check", tmp_path / "p.jsonl")
    shown = capsys.readouterr()
    assert stop.value.code == 2 and "error: 5 of 8 problems have faults" in shown.err
    found = dict(re.findall(r"line (\d): ([\w ]+)", shown.out))
    assert list(found) == ["2", "3", "4", "6", "7"]
    assert "     2  its own solution is not graded as correct" in shown.out
    (tmp_path / "p.jsonl").write_text(json.dumps(LINE))
    run("evaluate", "check", tmp_path / "p.jsonl")
    assert "1 problems, no fault found" in capsys.readouterr().out
