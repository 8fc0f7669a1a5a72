"""Figures on constructed runs with a known truth: intervals, pass@k, averages, leaks, the page."""

import itertools
import json
import re
import shutil
import subprocess

import pytest
import torch

from common import Problem
from evaluate import (TYPES, accuracy_table, assess, by_problem, interval, judged_shares, loss_curves, page, pass_at, pass_curve, premature,
                      seed_interval, spent, teachers_table, turn_types, within, within_tokens)  # fmt: skip
from generate import leaks, summary


def row(problem="p", statuses=("wrong", "correct"), said=None, limit=4, **more):
    """A dialogue row as in dialogues.jsonl: a problem of three tokens, student turns of two, hints of four."""
    said = said or ["x"] * len(statuses)
    messages = [{"role": "teacher", "content": "problem"}]
    for text in said:
        messages += [{"role": "student", "content": text}, {"role": "teacher", "content": "hint"}]
    solved = statuses.index("correct") + 1 if "correct" in statuses else None
    return {"id": f"{problem}/0", "problem": problem, "domain": "math", "limit": limit, "messages": messages[: 2 * len(said)], "ids": [], "mask": [0, 0, 0, 1, 1] + [0, 0, 0, 0, 1, 1] * (len(said) - 1),
            "logprobs": [], "statuses": list(statuses), "finishes": ["stop"] * len(statuses), "injected": [], "leaks": 0, "solved": solved,
            "knowledge": ["42"] * len(statuses), **more}  # fmt: skip


def as_run(rows):
    return [({"sharded": False, "dispute": False}, rows, [], [])]


def test_intervals_cover_the_truth_in_95_of_100_runs():
    generator = torch.Generator().manual_seed(1)
    for rate in (0.1, 0.5):
        runs = (torch.rand(500, 1000, generator=generator) < rate).double()  # 1,000 runs of 500 problems
        _, low, high = interval(runs)
        assert abs(((low <= rate) & (rate <= high)).double().mean() - 0.95) <= 0.02


def test_intervals_of_paired_differences_cover_the_truth_and_are_narrower():
    generator = torch.Generator().manual_seed(2)
    hard = torch.rand(500, 1000, generator=generator)  # what the two models share
    first, second = ((hard * 0.8 + torch.rand(500, 1000, generator=generator) * 0.2) < t for t in (0.4, 0.5))
    truth = second.double().mean() - first.double().mean()
    _, low, high = interval(second.double() - first.double())
    assert abs(((low <= truth) & (truth <= high)).double().mean() - 0.95) <= 0.02
    alone = interval(second.double())
    assert (high - low).mean() < (alone[2] - alone[1]).mean()


def test_intervals_over_three_seeds_cover_the_truth_in_95_of_100_runs():
    means = 0.6 + 0.05 * torch.randn(3, 1000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    covered = (means.mean(0) - 0.6).abs() <= seed_interval(means)
    assert abs(covered.double().mean() - 0.95) <= 0.02


def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_that_hold_a_right_one():
    samples = [True, True, False, False, False, False]
    for k in range(1, 7):
        choices = list(itertools.combinations(samples, k))
        assert pass_at(k, 6, 2) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_of_runs_is_the_mean_of_each_runs_own():
    first = ({}, [row("a", ("correct",)), row("a"), row("b"), row("b")], [], [])
    second = ({}, [row("a"), row("a"), row("b"), row("b")], [], [])
    assert pass_curve([first, second], 1).tolist() == [0.25, 0.0] and pass_curve([first, second], 2).tolist() == [0.5, 0.0]
    assert pass_curve([first, second], 3) is None


def test_tokens_are_those_of_both_sides_behind_the_problem():
    assert spent(row(statuses=("wrong", "wrong", "correct"))) == [2, 8, 14]
    assert [within_tokens(n)(row()) for n in (7, 8)] == [0.0, 1.0] and within_tokens(99)(row(statuses=("wrong",))) == 0.0


def test_accuracy_within_n_turns_is_averaged_over_samples_and_seeds_of_a_problem():
    seeds = [({}, [row("a"), row("b", ("wrong",) * 4)], [], []), ({}, [row("a", ("correct",)), row("b", ("wrong",) * 4)], [], [])]
    assert by_problem(seeds, within(4)).tolist() == [[0.5, 1.0, 1.0, 1.0], [0.0] * 4]


def test_the_two_averages_of_the_log_loss():
    runs = [({}, [], [{"losses": [4.0, 2.0]}, {"losses": [2.0, 2.0, 6.0]}], [])]
    kept, left = loss_curves(runs, 3)
    assert kept == [3.0, 2.0, 4.0] and left == [3.0, 2.0, 6.0]


def test_turns_are_attempts_questions_or_other():
    dialogue = row(statuses=("no attempt", "no attempt", "wrong"), said=["Which 1st?", "Hm.", "\\boxed{1}?"])
    assert turn_types(dialogue) == [1.0, 1.0, 1.0]


def test_an_attempt_before_the_last_shard_is_premature():
    assert premature(row(statuses=("no attempt", "wrong", "no attempt"), limit=3)) == [1.0]
    assert premature(row(statuses=("no attempt", "no attempt", "wrong"), limit=3)) == [0.0]


def test_leaks_that_were_planted_are_all_found():
    problem = Problem("p", "math", "x", answer="42")
    hints = ["Look at the sum again."] * 97 + ["It is 42.", "so \\boxed{42}", "42"]
    rows = [row(f"p{i}", ("wrong", "wrong"), leaks=leaks(problem, hint)) for i, hint in enumerate(hints)]
    assert summary(rows, 4)["leaks"] == pytest.approx(0.03)


def test_undecided_verdicts_are_in_the_table():
    table = accuracy_table("t", {"base": as_run([row("a", ("undecided", "correct")), row("b", ("wrong", "wrong"))])}, "base")
    head, cells = (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| "))
    assert dict(zip(head, cells))["undecided"] == "25.0"


def test_right_answers_that_survive_a_dispute_are_counted_among_the_solved():
    rows = [row("a", ("wrong", "correct", "correct")), row("b", ("correct", "wrong")), row("c", ("correct", "no attempt")), row("d", ("wrong",) * 4)]
    table = accuracy_table("t", {"base": [({"sharded": False, "dispute": True}, rows, [], [])]}, "base")
    assert [c.split(" ± ")[0] for c in table.splitlines()[-1].split(" | ") if " of 3" in c] == ["33.3", "33.3"]


def test_teachers_at_inference_stand_beside_teachers_in_training():
    def played(tutor, statuses):
        return [({"sharded": False, "dispute": False, "name": "p", "tutor": tutor}, [row("a", statuses)], [], [])]

    tests = {"p, teacher s": {"rl": played("s", ("correct",))}, "p, teacher w": {"rl": played("w", ("wrong",) * 4)}}
    table = teachers_table(tests, {"rl": [({"script": "grpo.py", "teacher": "x/w/model", "model": "b"}, [])]})
    assert "| p | rl | w | 100.0 ± 0.0 | 0.0 ± 0.0 |" in table
    assert teachers_table({"p, teacher s": tests["p, teacher s"]}, {}) is None


def judgement(dialogue, replies):
    """What assess() returns if the judge says these replies."""

    class Texts:
        view, text = staticmethod(lambda messages: messages), staticmethod(lambda said: said)

    talk, replies, reply = assess(dialogue, Problem("p", "math", "x", answer="42"), Texts), iter(replies), None
    while True:
        try:
            talk.send(reply)
        except StopIteration as end:
            return end.value
        reply = type("Said", (), {"ids": next(replies)})


def test_the_judge_labels_turns_and_hints_and_may_fail_to():
    given = judgement(row(said=["?", "x"]), ["Label: Clarification.", "No.", "I cannot tell"])
    assert given == {"id": "p/0", "types": ["clarification", None], "leaks": [False]}


def test_agreement_of_judge_and_rules_and_judged_leaks_are_shares_of_what_was_judged():
    rows = [row("a", ("no attempt", "wrong", "wrong", "wrong"), ["which?", "x", "x", "x"])] * 25
    leaks = [[i < 3, False, False, False] for i in range(25)]  # 3 of 100
    judged = [{"id": "a/0", "types": ["interrogation", "answer attempt", "hedge", None], "leaks": x} for x in leaks]
    shares = judged_shares(list(zip(rows, judged)))
    assert shares["hints that give the answer away"] == "3.0 %" and shares["agreement with the rules"] == "66.7 %"
    assert [shares[name] for name in (*TYPES, "no label")] == ["25.0 %", "0.0 %", "25.0 %", "0.0 %", "25.0 %", "0.0 %", "0.0 %", "25.0 %"]


HOSTILE = "<script>document.title='owned'</script></script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def written(tmp_path):
    """page.html of two models on three problems, one of them with markup in a student turn."""
    rows = [row("a", said=[HOSTILE, "second"]), row("b", ("wrong", "wrong")), row("c", ("correct",))]
    labels = {"base": as_run(rows), "mt-rl": as_run([row("a", ("correct",)), row("b"), row("c")])}
    page(tmp_path, {"t": labels}, [accuracy_table("t", labels, "base")], [], 50)
    return tmp_path / "page.html"


def test_nothing_a_model_wrote_ends_the_pages_script_element(written):
    text = written.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, flags=re.S)[1])
    assert data["tests"]["t"]["base"][0]["messages"][1]["content"] == HOSTILE and "<img" not in text


def test_the_page_works_in_a_browser(written, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium or Chrome on this machine")
    act = """<script>onload=()=>{const say=(k,v)=>document.body.setAttribute(k,v),pick=(id,v)=>{const e=document.getElementById(id);e.value=v;e.onchange()};
    say("data-all",document.getElementById("count").textContent);say("data-shown",document.querySelector("#l .student").textContent.includes("<script>"));
    pick("outcome","not solved");say("data-failed",document.getElementById("count").textContent);pick("outcome","solved at turn 2");
    say("data-second",document.getElementById("count").textContent);say("data-right",document.querySelector("#r h3").textContent)}</script>"""
    written.write_text(written.read_text() + act)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    dom = subprocess.run([browser, *flags, f"file://{written}"], capture_output=True, text=True, timeout=60).stdout
    body = re.search(r"<body[^>]*>", dom)[0]
    for said in ('data-all="3 of 3"', 'data-shown="true"', 'data-failed="1 of 3"', 'data-second="1 of 3"', 'data-right="mt-rl"'):
        assert said in body
    assert "<title>Dialogues</title>" in dom
