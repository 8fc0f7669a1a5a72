"""Runs with a known truth: intervals, pass@k, averages, leaks, tables, pictures, the page."""

import html
import itertools
import json
import re
import shutil
import subprocess

import pytest
import torch

from common import Dialogue, Problem, leaks
from parts import measures, pictures, report
from parts.measures import TYPES, TestRun, TrainingRun, dialogue_numbers, judged_shares, summary
from parts.runs import BadInput

TestRun.__test__ = False  # not a class of tests


def dialogue(problem="p", statuses=("wrong", "correct"), said=None, limit=4, sample=0, **more):
    """A problem of three tokens, student turns of two, hints of four."""
    said = said or ["x"] * len(statuses)
    messages = [{"role": "teacher", "content": "problem"}]
    for text in said:
        messages += [{"role": "student", "content": text}, {"role": "teacher", "content": "hint"}]
    mask = [0, 0, 0, 1, 1] + [0, 0, 0, 0, 1, 1] * (len(said) - 1)
    solved = statuses.index("correct") + 1 if "correct" in statuses else None
    found = {
        "messages": messages[:-1],
        "ids": [0] * len(mask),
        "mask": mask,
        "statuses": list(statuses),
        "solved": solved,
    }
    found |= {"finishes": ["stop"] * len(statuses), "knowledge": ["42"] * len(statuses), "limit": limit}
    return Dialogue(f"{problem}/{sample}", problem, **(found | more))


def run_of(dialogues, label="base", **more):
    found = {"test": "t", "problems": "t", "teacher": "base", "informed": True, "sharded": None, "turns": 4}
    found |= {"disputed": False, "single_turn": False, "losses": [], "judged": []}
    found |= {"settings": {"model": label, "seed": 0}} | more
    return TestRun(f"runs/{label}", label, dialogues=dialogues, **found)


def tables(runs, training=(), against="base"):
    """All tables, as [{column: text}] by title."""
    tests = report.group_runs(runs, against).items()
    measured = {test: measures.measure(labels, against) for test, labels in tests}
    trained = {run.label: measures.measure_training([run]) for run in training}
    return report.all_tables(measured, trained, against)


def row_of(found, title, label="base"):
    """The row of a label in the one table whose title begins so."""
    (rows,) = [rows for name, rows in found.items() if name.startswith(title)]
    return next(row for row in rows if row["model"] == label)


# ------------------------------------------------------------------------------------------------- statistics


def covered(truth, x, **kind):
    """In what share of simulations the interval holds the truth. x: [seeds, problems, simulations]."""
    _, low, high, _ = measures.interval(x.double(), **kind)
    return ((low <= truth) & (truth <= high)).double().mean().item()


def test_intervals_of_shares_cover_the_truth_in_95_of_100_runs_also_near_0():
    generator = torch.Generator().manual_seed(1)
    for rate in (0.005, 0.1, 0.5):
        runs = torch.rand(1, 500, 1000, generator=generator) < rate  # one seed, 500 problems
        assert abs(covered(rate, runs, shares=True) - 0.95) <= 0.03


def test_intervals_of_paired_differences_cover_the_truth_and_are_narrower():
    generator = torch.Generator().manual_seed(2)
    hard = torch.rand(1, 500, 1000, generator=generator)  # what the two models share
    first, second = (
        ((hard * 0.8 + torch.rand(1, 500, 1000, generator=generator) * 0.2) < t).double() for t in (0.4, 0.5)
    )
    assert abs(covered(second.mean() - first.mean(), second - first, paired=True) - 0.95) <= 0.02
    (_, low, high, _), alone = measures.interval(second - first), measures.interval(second)
    assert (high - low).mean() < (alone[2] - alone[1]).mean()


def test_intervals_cover_the_mean_over_seeds_that_differ():
    """The seeds' means have a standard deviation of 4 points; the problems are not equally hard."""
    generator = torch.Generator().manual_seed(3)
    ease = 0.2 + 0.8 * torch.rand(1, 500, 200, generator=generator)
    rates = ease + 0.04 * torch.randn(3, 1, 200, generator=generator)
    x = (torch.rand(3, 500, 200, generator=generator) < rates).double()
    mean, *_, alone = measures.interval(x)
    assert covered(0.6, x, shares=True) >= 0.92
    assert ((mean - 0.6).abs() <= alone).double().mean() < 0.8  # over problems alone


def test_the_interval_of_seeds_that_differ_by_a_constant_holds_the_mean_of_each():
    problems = torch.linspace(0.3, 0.5, 500, dtype=torch.float64)  # all alike: they add almost nothing
    x = torch.stack([problems - 0.1, problems, problems + 0.1])[..., None]
    mean, low, high, alone = measures.interval(x)
    half = measures.STUDENT_T[1] * 0.1 / 3**0.5
    assert mean.item() == pytest.approx(0.4) and alone < 0.006
    assert [low.item(), high.item()] == pytest.approx([0.4 - half, 0.4 + half], abs=1e-3)


def test_no_interval_is_empty_where_no_problem_is_solved_or_none_differs():
    none = torch.zeros(3, 500, 1, dtype=torch.float64)
    share, difference = measures.estimates("x", none)["x"], measures.estimates("x", none, False, True)["x"]
    assert report.cell(share) == "0.0 (0.0–0.8)" and report.cell(difference) == "0.0 ± 0.4"
    assert report.cell(measures.estimates("x", none + 1)["x"]) == "100.0 (99.2–100.0)"
    assert report.cell(measures.estimates("x", 2 + none, shares=False)["x"], scale=1) == "2.0"


def test_the_report_says_over_what_its_intervals_are():
    one, more = run_of([dialogue("a"), dialogue("b")]), [run_of([dialogue("a"), dialogue("b")], "rl")] * 2
    for runs, words in (
        ([one], "over problems (one seed"),
        ([*more], "over seeds and problems; in brackets"),
    ):
        measured = {"t": measures.measure({runs[0].label: runs}, "base")}
        assert words in report.headline(measured)
    mixed = {"t": measures.measure({"base": [one], "rl": more}, "base")}
    assert "(one seed, so only over problems: base)" in report.headline(mixed)


def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_that_hold_a_right_one():
    samples = [True, True, False, False, False, False]
    for k in range(1, 7):
        choices = list(itertools.combinations(samples, k))
        assert measures.pass_at(k, 6, 2) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_of_runs_is_the_mean_of_each_runs_own_up_to_the_samples_of_every_problem():
    first = run_of([dialogue("a", ("correct",)), dialogue("a"), dialogue("b"), dialogue("b"), dialogue("b")])
    second = run_of([dialogue("a"), dialogue("a"), dialogue("b"), dialogue("b")])
    assert measures.pass_curves([first, second]).mean(0).tolist() == [[0.25, 0.5], [0.0, 0.0]]


def test_tokens_are_those_of_both_sides_behind_the_problem():
    assert measures.tokens_by_turn(dialogue(statuses=("wrong", "wrong", "correct"))) == [2, 8, 14]
    assert [dialogue_numbers(dialogue(), 4, budget)["in budget"] for budget in (7, 8)] == [0.0, 1.0]
    assert dialogue_numbers(dialogue(statuses=("wrong",)), 4, 99)["in budget"] == 0.0


def test_equal_tokens_are_what_four_turns_cost_the_base():
    base, other = [dialogue("a", ("wrong",) * 4)], [dialogue("a", ("wrong",) * 3 + ("correct",))]
    found = tables([run_of(other, "mt-rl"), run_of(base)])
    assert row_of(found, "Solved at equal tokens")["tokens"] == "20"
    assert row_of(found, "Solved at equal tokens", "mt-rl")["solved with them, %"].startswith("100.0 (")


def test_accuracy_within_n_turns_is_averaged_over_samples_and_seeds_of_a_problem():
    seeds = [run_of([dialogue("a"), dialogue("b", ("wrong",) * 4)])]
    seeds += [run_of([dialogue("a", ("correct",)), dialogue("b", ("wrong",) * 4)])]
    assert measures.by_problem(seeds, lambda d: dialogue_numbers(d, 4, 0))[:, :4].tolist() == [
        [0.5, 1.0, 1.0, 1.0],
        [0.0] * 4,
    ]
    cell = row_of(tables(seeds), "Within n turns on t: 2 problems, up to 4 turns")["within 1"]
    assert cell.startswith("25.0 (")


def shown_gain(differences):
    """How a table shows a mean of paired differences, [seeds][problems]."""
    x = torch.tensor(differences, dtype=torch.float64)[..., None]
    return report.cell(measures.estimates("x", x, shares=False, paired=True)["x"], alone=True)


def test_differences_are_paired_problem_by_problem():
    solved = [("correct",), ("wrong",) * 4] * 10
    base = run_of([dialogue(f"{i}", statuses) for i, statuses in enumerate(solved)])
    same = run_of([dialogue(f"{i}", statuses) for i, statuses in reversed(list(enumerate(solved)))], "mt-rl")
    assert row_of(tables([base, same]), "Within n turns", "mt-rl")["− base, within 4"] == "0.0 ± 10.5"


def test_differences_between_seeds_are_those_of_equal_seeds_in_whatever_order_the_folders_are_given():
    runs = []
    for seed, (a, b) in zip(
        (2, 0, 1), [(("correct",), ("wrong",)), (("wrong",), ("wrong",)), (("wrong",), ("wrong",))]
    ):
        runs.append(run_of([dialogue("p", a), dialogue("q", b)], "mt-rl", settings={"seed": seed}))
    bases = [run_of(r.dialogues, settings=r.settings) for r in reversed(runs)]
    gain = row_of(tables(runs + bases), "Within n turns", "mt-rl")["− base, within 4"]
    assert gain == shown_gain([[0.0, 0.0]] * 3)


def test_a_loss_has_a_minus_sign_and_a_single_turn_no_plural():
    assert shown_gain([[-0.5, 0.5, -0.5, -0.5]]).startswith("−25.0 ± ")
    found = tables([run_of([dialogue("p", ("wrong",), limit=1)])])
    assert "Within n turns on t: 1 problems, up to 1 turn" in found


def test_the_two_averages_of_the_log_loss():
    losses = [{"id": "a/0", "losses": [4.0, 2.0]}, {"id": "b/0", "losses": [2.0, 2.0, 6.0]}]
    keep, unsolved = measures.loss_curves([run_of([dialogue("a"), dialogue("b")], losses=losses)], 4)
    assert [estimate["mean"] for estimate in keep] == [3.0, 2.0, 4.0, 4.0]
    assert [estimate and estimate["mean"] for estimate in unsolved] == [3.0, 2.0, 6.0, None]
    assert keep[0]["low"] < 3.0 < keep[0]["high"]


def test_the_change_of_the_log_loss_weighs_problems_alike_whatever_seeds_they_were_measured_in():
    losses = [{"id": "0/0", "losses": [4.0, 2.0]}, {"id": "1/0", "losses": [2.0, 2.0, 6.0]}]
    runs = [run_of([dialogue("0"), dialogue("1")], losses=some) for some in (losses, losses[:1])]
    keep, _ = measures.loss_curves(runs, 3)
    assert measures.loss_change(runs)["mean"] == keep[-1]["mean"] - keep[0]["mean"] == 1.0


def test_differences_have_an_interval_over_seeds():
    """Of three seeds that solve none, one and two more of two problems."""
    bases = [run_of([dialogue("0", ("wrong",)), dialogue("1", ("wrong",))]) for _ in range(3)]
    solved = [("wrong", "wrong"), ("wrong", "correct"), ("correct", "correct")]
    arms = [run_of([dialogue(str(i), (s,)) for i, s in enumerate(seed)], "mt-rl") for seed in solved]
    shown = row_of(tables([*bases, *arms]), "Within n turns", "mt-rl")["− base, within 4"]
    assert shown == shown_gain([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]) and shown.startswith("50.0 ± ")


def test_turns_are_attempts_questions_or_other():
    mixed = dialogue(
        statuses=("no attempt", "no attempt", "wrong"), said=["Which 1st?", "Hm.", "\\boxed{1}?"]
    )
    found = dialogue_numbers(mixed, 4, 0)
    assert [found[kind] for kind in ("attempt", "question", "other")] == [1.0, 1.0, 1.0]


def test_an_attempt_before_the_last_shard_is_premature():
    early = dialogue(statuses=("no attempt", "wrong", "wrong"), limit=3)
    late = dialogue(statuses=("no attempt", "no attempt", "wrong"), limit=3)
    assert [dialogue_numbers(d, 3, 0, sharded=True)["premature"] for d in (early, late)] == [0.5, 0.0]
    assert "premature" not in dialogue_numbers(early, 3, 0)
    run = run_of([early], sharded="scripted")
    row = row_of(tables([run]), "Turns by rule")
    assert row["attempts before the last shard, mean % of a dialogue's turns"].startswith("50.0 ± ")
    assert row["dialogues with such an attempt, %"].startswith("100.0 (")


def test_leaks_that_were_planted_are_all_found():
    problem = Problem("p", "math", "x", answer="42")
    hints = ["Look at the sum again."] * 97 + ["It is 42.", "so \\boxed{42}", "42"]
    dialogues = [
        dialogue(f"p{i}", ("wrong", "wrong"), leaks=[1] * leaks(problem, h)) for i, h in enumerate(hints)
    ]
    assert summary(dialogues, 4)["leaks"] == pytest.approx(0.03)


def test_repeats_are_counted_turn_by_turn_and_never_across_dialogues():
    dialogues = [
        dialogue(statuses=("wrong",) * 3, said=["x", "x", "y"]),
        dialogue(statuses=("wrong",), said=["y"]),
    ]
    assert summary(dialogues, 4)["repeats"] == 0.5


def test_agreement_of_judge_and_rules_and_judged_leaks_are_shares_of_what_was_judged():
    statuses, said = ("no attempt", "wrong", "wrong", "wrong"), ["which?", "x", "x", "x"]
    played = [dialogue("a", statuses, said, sample=i) for i in range(26)]  # the last one was not judged
    types = ["interrogation", "answer attempt", "hedge", None]
    judged = [{"id": f"a/{i}", "types": types, "leaks": [i < 3, False, False, False]} for i in range(25)]
    shares = judged_shares(run_of(played, judged=judged))
    assert (
        shares["hints that give the answer away"] == "3.0 %"
        and shares["agreement with the rules"] == "66.7 %"
    )
    expected = ["25.0 %", "0.0 %", "25.0 %", "0.0 %", "25.0 %", "0.0 %", "0.0 %", "25.0 %"]
    assert [shares[name] for name in (*TYPES, "no label")] == expected


def test_a_run_that_is_judged_in_part_alone_has_no_judged_turns_in_the_report():
    played = [dialogue("a", ("wrong",), sample=i) for i in range(2)]
    judged = [{"id": f"a/{i}", "types": ["hedge"], "leaks": []} for i in range(2)]
    part, whole = (tables([run_of(played, judged=judged[:n])]) for n in (1, 2))
    assert "Turns by the judge, %" in whole and "Turns by the judge, %" not in part


# ----------------------------------------------------------------------------------------------------- tables


def test_undecided_verdicts_are_in_the_table():
    run = run_of([dialogue("a", ("undecided", "correct")), dialogue("b", ("wrong", "wrong"))])
    assert row_of(tables([run]), "What went wrong")["undecided"] == "25.0"


def test_right_answers_that_survive_a_dispute_are_counted_among_the_disputed():
    replies = [
        ("wrong", "correct", "correct"),
        ("correct", "wrong"),
        ("correct", "no attempt"),
        ("wrong",) * 4,
        ("wrong", "correct"),  # no room was left for the dispute
    ]
    played = [dialogue(name, statuses) for name, statuses in zip("abcde", replies)]
    found = row_of(tables([run_of(played, disputed=True)]), "Right answers")
    assert found["right answers"] == "3"
    assert [found[name].split(" (")[0] for name in ("kept, %", "no attempt, %")] == ["33.3", "33.3"]


def test_a_right_answer_repeated_in_a_dispute_is_not_told_as_something_that_went_wrong():
    played = [dialogue("a", ("correct", "correct"), said=["4", "4"])]
    shown = (row_of(tables([run_of(played, disputed=d)]), "What went") for d in (False, True))
    assert [row["repeated turns"] for row in shown] == ["100.0", "–"]


def test_disputes_about_one_problem_in_several_seeds_are_one_of_the_intervals_problems():
    played = [dialogue("a", ("correct", "correct")), dialogue("b", ("correct", "wrong"))]
    one, three = (tables([run_of(played, disputed=True)] * n) for n in (1, 3))
    kept, of_three = (row_of(found, "Right answers")["kept, %"] for found in (one, three))
    assert kept == of_three == "50.0 ± 49.8"


def test_hints_are_counted_where_dialogues_have_no_turn_at_all():
    empty = Dialogue("e/0", "e", messages=[{"role": "teacher", "content": "problem"}])
    told = dialogue("a", ("wrong", "correct"), leaks=[1])
    assert summary([empty, told], 4)["leaks"] == 1.0


def test_the_informed_teacher_is_named_after_its_model_and_others_by_their_own_name_first():
    names = {
        "m": [{}, {"teacher": "informed"}, {"teacher": "informed", "teacher_model": None}],
        "big": [{"teacher": "informed", "teacher_model": "http://host/v1#big"}],
        "critic": [{"teacher": "critic"}, {"teacher": "critic", "teacher_model": None}],
        "critic by big": [{"teacher": "critic", "teacher_model": "hub/big"}],
    }
    for name, asked in names.items():
        assert {measures.teacher_name({"model": "hub/m"} | args) for args in asked} == {name}


def test_a_model_is_named_after_its_run_however_its_path_ends():
    assert {measures.last_part(f"runs/mt-rl{end}") for end in ("", "/", "/model", "/model/")} == {"mt-rl"}


def test_seeds_of_a_model_are_compared_with_the_one_run_of_its_base():
    base, *seeds = (run_of([dialogue("a", end)], label) for label, end in RUNS)
    (row,) = [
        r for r in measures.measure({"base": [base], "rl": seeds}, "base")["arms"].values() if "gain" in r
    ]
    assert row["gain"]["within 4"]["mean"] == 0.5 and row["gain"]["within 4"]["high"] > 1


def test_of_unequal_numbers_of_seeds_those_with_a_counterpart_are_compared():
    solved, failed = (run_of([dialogue("a", end), dialogue("b", end)]) for end in (("correct",), ("wrong",)))
    few = measures.measure({"base": [solved, failed], "rl": [failed, solved]}, "base")
    more = measures.measure({"base": [solved, failed], "rl": [failed, solved, solved]}, "base")
    assert few["arms"]["rl"]["gain"] == more["arms"]["rl"]["gain"]


RUNS = [("base", ("wrong",) * 4), ("rl", ("wrong", "correct")), ("rl", ("wrong",) * 4)]


def test_teachers_at_inference_stand_beside_teachers_in_training():
    strong = run_of([dialogue("a", ("correct",))], "rl", test="p, teacher s", teacher="s")
    weak = run_of([dialogue("a", ("wrong",) * 4)], "rl", test="p, teacher w", teacher="w")
    trained = TrainingRun("rl", "grpo.py", "w", 8, [{"tokens": 5, "questions": 0.0, "reward": 0.5}])
    expected = {"test": "t", "model": "rl", "teacher in training": "w"}
    row = row_of(tables([strong, weak], [trained]), "Teacher at inference", "rl")
    found = {name: text.split(" (")[0] for name, text in row.items()}
    assert found == expected | {"teacher s at inference": "100.0", "teacher w at inference": "0.0"}
    assert not any(title.startswith("Teacher at") for title in tables([strong], [trained]))


def test_arms_stand_in_the_papers_order_and_unknown_ones_behind_them_as_they_come():
    given = ["zeta", "mt-rl", "alpha", "primed", "st-sft", "mt-rl", "mt-sft", "base"]
    ordered = ["base", "st-sft", "mt-sft", "mt-rl", "primed", "zeta", "alpha"]
    assert report.in_paper_order(given, "base") == ordered
    assert report.in_paper_order(["mt-rl", "gemma-3-12b-it"], "gemma-3-12b-it") == ["gemma-3-12b-it", "mt-rl"]
    assert report.in_paper_order(["base", "mt-sft"], "mt-sft") == ["base", "mt-sft"]


@pytest.mark.parametrize(
    "label, name",
    [
        ("mt-rl", "MT-RL"),
        ("primed-rl", "Q-primed RL"),
        ("st-rl-32", "ST-RL, g = 32"),
        ("st-rl-32b", "ST-RL-32b"),
        ("mt-sft-mine", "MT-SFT-mine"),
        ("base (careful)", "base (careful)"),
        ("gemma-3-12b-it", "gemma-3-12b-it"),
        ("amt-rl", "amt-rl"),
    ],
)
def test_arms_have_the_papers_names_and_unknown_ones_their_own(label, name):
    assert report.arm_name(label) == name


def test_tables_name_arms_as_the_paper_does_and_results_by_their_labels(tmp_path):
    text = report.write(tmp_path, [run_of([dialogue()], label) for label in ("base", "mt-rl")], [], "base", 1)
    assert "| test | base | MT-RL |" in text and "\n| MT-RL | " in text and "mt-rl" not in text
    assert set(json.loads((tmp_path / "results.json").read_text())["tests"]["t"]["arms"]) == {"base", "mt-rl"}


def test_no_two_arms_have_the_same_color_and_known_ones_look_the_same_in_every_report():
    labels = [*report.ARMS, "N-2", "N-8", "base (careful)"]
    found, few = (pictures.looks(some, [*report.ARMS]) for some in (labels, ["mt-rl", "N-2"]))
    assert len({look["color"] for look in found.values()}) == len(labels)
    assert few["mt-rl"] == found["mt-rl"] and few["N-2"]["color"] != few["mt-rl"]["color"]


def test_more_arms_than_the_paper_has_take_the_colors_of_those_that_are_not_there():
    labels = ["mt-rl", *(f"mine-{n}" for n in range(len(pictures.COLORS) - 1))]
    found = pictures.looks(labels, [*report.ARMS])
    assert {look["color"] for look in found.values()} == set(pictures.COLORS)


def test_controls_are_dotted_and_hollow():
    control = pictures.looks(["base", "base (careful)"], ["base"])["base (careful)"]
    assert control["linestyle"] == ":" and control["markerfacecolor"] == "white"


def test_fig_3_has_the_10_turn_sft_of_the_paper_beside_the_main_arms():
    estimate = [{"mean": 1.0, "low": 0.5, "high": 1.5}]
    arm = {"log-loss": {"solved keep": estimate, "unsolved only": [None]}, "trained on": None}
    test = {"turns": 1, "arms": dict.fromkeys(report.ARMS, arm), "problems": "t", "domain": "math"}
    panel, _ = report.loss_panels({"t": test | {"trained": None}})
    assert {line.label for line in panel.lines} == {"base", "st-rl", "mt-sft", "mt-rl", "mt-sft-10"}


def test_crowded_pictures_show_the_main_arms_and_all_unknown_ones_and_never_nothing():
    crowd = ["base", "mt-sft", "mt-rl", "primed", "primed-rl", "mt-rl-weak", "zeta"]
    assert report.labels_to_draw(crowd) == ["base", "mt-sft", "mt-rl", "primed-rl", "zeta"]
    assert report.labels_to_draw(crowd[:6]) == crowd[:6]
    assert report.labels_to_draw(["primed", "unprimed"], ("mt-rl",)) == ["primed", "unprimed"]


@pytest.mark.parametrize("base", ["base", "gemma-3-12b-it"])
def test_the_papers_numbers_stand_only_below_tests_of_the_same_protocol(base):
    """The paper's problems were sharded or told in full in a single turn; ten turns with a teacher are neither."""
    name = "lost-in-conversation-math"
    kinds = {"ten turns": {}, "single": {"single_turn": True}, "sharded": {"sharded": "scripted"}}
    runs = [run_of([dialogue()], base, test="mine")]
    for test, kind in kinds.items():
        runs += [run_of([dialogue()], label, test=test, problems=name, **kind) for label in (base, "mt-rl")]
    found = tables([*runs, run_of([dialogue()], "own", test="sharded", **kinds["sharded"])], against=base)
    (rows,) = [rows for title, rows in found.items() if title.startswith("Table 1")]
    shown = [(row["test"], row[base], row["mt-rl"]) for row in rows if row["test"] == "in the paper"]
    assert shown == [("in the paper", "92.0", "94.1 ± 2"), ("in the paper", "62.7", "69.9 ± 1")]
    below = [above["test"] for above, row in itertools.pairwise(rows) if row["test"] == "in the paper"]
    assert below == ["single", "sharded"]


def test_tests_in_full_and_sharded_of_the_same_problems_are_neighbors_in_table_1():
    kinds = [{"test": f"{p} single", "problems": p, "single_turn": True, "turns": 1} for p in "ab"]
    kinds += [{"test": f"{p} sharded", "problems": p, "sharded": "scripted"} for p in "ab"]
    found = tables([run_of([dialogue()], **kind) for kind in [*kinds, {"test": "main"}]])
    (rows,) = [rows for title, rows in found.items() if title.startswith("Table 1")]
    assert [row["test"] for row in rows] == ["main", "a single", "a sharded", "b single", "b sharded"]


def played(folder, **more):
    """The run in a folder of `evaluate.py play` with these arguments."""
    arguments = {"command": "play", "model": "m", "problems": "p.jsonl", "teacher_model": "t", "seed": 0}
    arguments |= {"sharded": None, "dispute": 0, "teacher": "informed", "max_tokens": 8, "temperature": 1}
    arguments |= {"teacher_temperature": 1, "answers": "rule", "prompts": None, "turns": 10}
    (folder / "metrics.jsonl").touch()
    (folder / "config.json").write_text(json.dumps({"arguments": arguments | more}))
    return measures.load_test(str(folder), Dialogue.from_row)


def test_a_single_turn_is_a_test_of_its_own_whoever_the_teacher_and_in_no_picture_of_turns(tmp_path):
    runs = [played(tmp_path, turns=turns) for turns in (1, 10)]
    names = {run.test: run.single_turn for run in runs}
    assert names == {"p (single turn)": True, "p, teacher t": False}
    tests = {
        name: {"single_turn": single, "sharded": None, "disputed": False, "teacher": "t"}
        for name, single in names.items()
    }
    assert list(report.main_tests(tests)) == ["p, teacher t"]


def test_the_sister_papers_numbers_stand_only_beside_those_of_an_informed_teacher():
    for informed in (True, False):
        found = tables([run_of([dialogue()], problems="omni-math-test", informed=informed)])
        (rows,) = [rows for heading, rows in found.items() if heading.startswith("Within n turns")]
        assert any("paper" in row["model"] for row in rows) == informed


def test_the_untuned_student_has_the_left_panel_of_fig_2():
    runs = []
    for label, teacher in itertools.product(("base", "mt-rl"), "sw"):
        runs.append(run_of([dialogue()], label, test=f"t, teacher {teacher}", teacher=teacher))
    measured = {
        test: measures.measure(labels, "base") for test, labels in report.group_runs(runs, "base").items()
    }
    left, right = report.teacher_panels(measured, {}, "base")
    assert [[line.label for line in panel.lines] for panel in (left, right)] == [["base"], ["mt-rl"]]
    assert left.lines[0].x == ["with teacher s", "with teacher w"]


def test_the_sister_papers_row_says_that_its_problems_are_others():
    found = tables([run_of([dialogue("a", ("wrong",) * 4)], problems="omni-math-test")])
    (rows,) = [rows for title, rows in found.items() if title.startswith("Within n turns")]
    assert "of all problems; here by default those whose answer a rule can judge" in rows[-1]["model"]


def trained_run(folder, script="grpo.py", limit=4, domain="math", **arguments):
    """Writes the folder of a training run, with a dialogue; returns the path of its model."""
    folder.mkdir()
    settings = {"script": script, "model": "toy/base", "seed": 0} | arguments
    (folder / "config.json").write_text(json.dumps({"arguments": settings}))
    if "data" not in arguments:
        row = {
            "step": 1,
            **vars(dialogue(said=['"domain": "x", "limit": 9', "x"], limit=limit, domain=domain)),
        }
        (folder / "dialogues.jsonl").write_text(json.dumps(row) + "\n")
    return str(folder / "model")


def test_domain_and_turns_of_training_are_those_of_the_dialogues_of_all_runs_that_made_the_model(tmp_path):
    measures.trained_on.cache_clear()
    first = trained_run(tmp_path / "primed", "qprime.py", domain="code")
    assert measures.trained_on(first) == {"domains": ["code"], "turns": 4}
    second = trained_run(tmp_path / "rl", limit=2, model=first)
    assert measures.trained_on(second) == {"domains": ["code", "math"], "turns": 4}
    sft = trained_run(tmp_path / "sft", "sft.py", data=[str(tmp_path / "primed")])
    assert measures.trained_on(sft) == {"domains": ["code"], "turns": 4}
    (tmp_path / "primed" / "dialogues.jsonl").unlink()
    measures.trained_on.cache_clear()
    assert measures.trained_on(second) == measures.trained_on(sft) == measures.UNKNOWN
    assert measures.trained_on("toy/base") is None


def test_what_a_model_was_trained_on_is_unknown_without_its_folder_unless_its_training_is_given(tmp_path):
    folder = {"model": str(tmp_path / "rl" / "model")}
    assert played(tmp_path, **folder).trained_on is None  # no run of the kit
    test = played(tmp_path, **folder, **{"model's script": "grpo.py"})
    assert test.trained_on == measures.UNKNOWN
    test.dialogues = [dialogue()]
    training = TrainingRun("rl", "grpo.py", "t", 8, [step(1, 0.0, tokens=1, questions=0, reward=0)])
    training.trained_on = MATH
    text = report.write(tmp_path / "out", [test], [training], "rl", 1)
    assert "![math: trained, " in text


MATH, CODE, SINGLE = ({"domains": [d], "turns": n} for d, n in (("math", 2), ("code", 2), ("math", 1)))


def panels_of(domains, trained_on):
    """Panels of Fig. 1 of the base and of models that learned from these; a test of each domain."""
    runs = []
    for i, domain in enumerate(domains):
        test = {"test": f"t_{i}, teacher x", "problems": f"t_{i}"}
        runs.append(run_of([dialogue(domain=domain), dialogue("q", domain=domain)], **test))
        for n, learned in enumerate(trained_on):
            runs.append(run_of(runs[-1].dialogues, f"arm-{n}", trained_on=learned, **test))
    grouped = report.group_runs(runs, "base")
    tests = {test: measures.measure(labels, "base") for test, labels in grouped.items()}
    return list(report.accuracy_panels(tests))


@pytest.mark.parametrize(
    "trained_on, titles",
    [
        ([MATH], ["math: trained", "code: never trained"]),
        ([MATH, SINGLE], ["math: trained", "code: never trained"]),
        ([CODE], ["code: trained", "math: never trained"]),
        ([MATH, CODE], ["code", "math"]),
        ([MATH, measures.UNKNOWN], ["code", "math"]),
        ([], ["code", "math"]),
    ],
)
def test_panels_say_what_was_trained_on_if_that_is_known_and_that_stands_left(trained_on, titles):
    assert [panel.title for panel in panels_of(["code", "math"], trained_on)] == titles


def test_panels_of_several_tests_of_a_domain_have_their_problems_names():
    titles = [panel.title for panel in panels_of(["math", "math", "code"], [MATH])]
    assert titles == ["t 0: trained", "t 1: trained", "code: never trained"]


@pytest.mark.parametrize(
    "trained_on, end",
    [([MATH], 2), ([MATH, SINGLE], 2), ([MATH, MATH | {"turns": 3}], None), ([measures.UNKNOWN], None)],
)
def test_panels_mark_the_turn_where_multi_turn_training_ended_if_it_is_one(trained_on, end):
    (panel,) = panels_of(["math"], trained_on)
    assert (panel.mark, panel.mark_name) == (end, f"training: N = {end}" if end else "")


def test_more_arms_than_curves_that_can_be_told_apart_are_rows_of_differences():
    (few,), crowded = panels_of(["math"], [MATH] * 7), panels_of(["math"], [MATH] * 8)
    assert few.y_label and len(few.lines) == 8 == report.MAX_CURVES
    assert [panel.title for panel in crowded] == ["math: trained\nwithin 4 turns"]
    assert not crowded[0].y_label and crowded[0].x_label == "points above base"
    assert [line.label for line in crowded[0].lines] == [f"arm-{n}" for n in range(8)]  # not the base itself
    (low,), (high,) = crowded[0].lines[0].band
    assert low < crowded[0].lines[0].y[0] == 0 < high


@pytest.mark.parametrize("other, shared", [("solved, %", True), ("reward", False)])
def test_panels_of_one_quantity_have_one_y_axis(other, shared):
    panels = []
    for y_label, y in (("solved, %", [1, 2]), (other, [50, 90])):
        line = pictures.Line("base", "base", range(1, 3), y, (y, y))
        panels.append(pictures.Panel("", "", y_label, [line]))
    left, right = pictures.draw_curves(panels, pictures.looks(["base"], [])).axes
    assert (left.get_ylim() == right.get_ylim()) == shared
    assert (left.get_ylim()[1] > 90) == shared


def test_rows_join_the_points_that_are_not_pale():
    row = pictures.Line("mt-rl", "MT-RL", ["good", "mute", "weak"], [3, 1, 2], ([2, 0, 1], [4, 2, 3]))
    look = pictures.looks(["mt-rl"], [])
    (axis,) = pictures.draw_rows([pictures.Panel("", "solved", "", [row])], look, ["mute"]).axes
    assert list(axis.lines[-1].get_xdata()) == [3, 2]
    assert [line.get_alpha() for line in axis.lines if line.get_label() == "mute"] == [0.4]


def test_a_table_leaves_out_names_that_repeat_and_fills_in_columns_that_some_rows_lack():
    rows = [{"test": "t", "a": "1"}, {"test": "t", "b": "2"}, {"test": "u", "a": "3"}]
    assert report.grid(rows) == [["test", "a", "b"], ["t", "1", ""], ["", "", "2"], ["u", "3", ""]]


# ------------------------------------------------------------------------------------ the folder and the page

LABELS = ("zeta", "unprimed-rl", "primed-rl", "mt-sft-10", "mt-rl", "mt-sft", "st-rl", "st-sft", "base")
HOSTILE = "<script>document.title='owned'</script></script><!--<img src=x onerror=\"document.title='owned'\">"


def many_runs():
    """Nine arms, two seeds: full, sharded and disputed tests, two teachers, samples, losses, a judge."""
    runs, training = [], []
    for (i, label), _ in itertools.product(enumerate(LABELS), range(2)):
        played = [
            dialogue(f"{n}", ("wrong",) * ((n + i) % 3) + ("correct",), sample=s)
            for n in range(6)
            for s in (0, 1)
        ]
        losses = [{"id": d.id, "solved": d.solved, "losses": [0.5] * d.turns} for d in played]
        judged = [
            {"id": d.id, "types": ["hedge"] * d.turns, "leaks": [False] * (d.turns - 1)} for d in played
        ]
        kinds = [{"test": "t, teacher x", "losses": losses}, {"test": "u, teacher x", "problems": "u"}]
        kinds += [{"test": "t, teacher critic", "teacher": "critic", "informed": False}]
        kinds += [{"test": "t (disputed)", "disputed": True}]
        kinds += [{"test": "s (sharded)", "problems": "s", "sharded": "scripted", "judged": judged}]
        runs += [run_of(played, label, **kind) for kind in kinds]
        metrics = [{"tokens": 10, "questions": 0.1 * step, "reward": 0.5} for step in range(20)]
        training.append(TrainingRun(label, "grpo.py" if "rl" in label else "sft.py", "x", 9600, metrics))
    return runs, training


@pytest.fixture(scope="module")
def full_report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "figures"
    report.write(out, *many_runs(), "base", 50)
    return out


def test_a_report_of_everything_holds_all_figures_none_larger_than_60_kb(full_report):
    names = {f"fig{n}.png" for n in range(1, 7)} | {"budget.png", "report.md", "report.html", "results.json"}
    assert {file.name for file in full_report.iterdir()} == names
    assert max(file.stat().st_size for file in full_report.glob("*.png")) <= 60_000


def test_no_table_has_more_than_ten_columns(full_report):
    lines = [line for line in (full_report / "report.md").read_text().splitlines() if line.startswith("|")]
    assert max(line.count("|") - 1 for line in lines) <= 10


def test_no_interval_of_a_report_is_empty(full_report):
    assert not re.search(r"± 0\.0+\b", (full_report / "report.md").read_text())


def test_results_hold_what_the_tables_show_and_no_nan(full_report):
    def refuse(name):
        raise ValueError(name)

    results = json.loads((full_report / "results.json").read_text(), parse_constant=refuse)
    arm = results["tests"]["t, teacher x"]["arms"]["mt-rl"]
    gain = arm["gain"]["within 1"]
    shown = f"{100 * gain['mean']:z.1f} ± {50 * (gain['high'] - gain['low']):.1f} [{100 * gain['alone']:.1f}]"
    assert f"| {shown} |" in (full_report / "report.md").read_text()
    assert arm["dialogues"] == 24 and arm["log-loss"]["dialogues"] == 24 and "alone" in arm["within 1"]
    assert results["training"]["mt-rl"]["played"] == 9600


def test_a_figure_without_data_is_not_written_and_one_of_an_earlier_report_is_removed(tmp_path):
    for name in ("fig2.png", "fig3.png", "notes.txt"):
        (tmp_path / name).write_text("old")
    report.write(tmp_path, [run_of([dialogue()])], [], "base", 50)
    names = {"fig1.png", "fig6.png", "report.md", "report.html", "results.json", "notes.txt"}
    assert {file.name for file in tmp_path.iterdir()} == names


@pytest.mark.filterwarnings("error")  # matplotlib warns where a panel has no height or width left
@pytest.mark.parametrize("label", ["base", "a-name-of-sixty-characters-" + "x" * 33])
def test_a_single_bar_has_room_beside_a_long_legend_and_a_long_name(label, tmp_path):
    judged = [{"id": "p/0", "types": ["hedge"] * 2, "leaks": [False]}]
    report.write(tmp_path, [run_of([dialogue()], label, judged=judged)], [], label, 50)
    assert "by the judge" in (tmp_path / "report.md").read_text()


def test_a_test_curve_is_the_mean_of_the_seeds_over_the_steps_that_were_tested():
    rows = [{"tokens": 1, "questions": 0, "reward": 0, "step": step} for step in (1, 2, 3)]
    seeds = []
    for solved in (0.2, 0.4):
        tested = {"test_solved_1": 0.1, "test_solved_2": solved}
        seeds.append(TrainingRun("mt-rl", "grpo.py", "x", 1, [rows[0] | tested, rows[1], rows[2] | tested]))
    numbers = measures.measure_training(seeds)
    assert numbers["test"]["step"] == [1, 3]
    *_, panel = report.training_panels({"mt-rl": numbers})
    assert "test" in panel.y_label and list(panel.lines[0].y) == pytest.approx([30, 30])
    low, high = panel.lines[0].band
    assert low[0] < 20 and high[0] > 40  # two seeds


def test_dialogues_solved_after_a_leak_are_told_and_taken_off(tmp_path):
    played = [dialogue("a", ("wrong", "correct")), dialogue("b", ("correct",)), dialogue("c", ("wrong",))]
    played[0].leaks = [1]
    found = row_of(tables([run_of(played)]), "Hints that give")
    assert (found["dialogues solved after one"], found["all others solved"]) == ("33.3", "33.3")


def test_training_runs_alone_make_a_report(tmp_path):
    _, training = many_runs()
    report.write(tmp_path, [], training, "base", 50)
    assert [file.name for file in tmp_path.glob("*.png")] == ["fig5.png"]


@pytest.fixture
def written(tmp_path):
    """report.html of two models on three problems, one of them with markup in a student turn."""
    first = dialogue("a", said=[HOSTILE, "<think>aside</think>second"], knowledge=["hidden 42", None])
    base = [first, dialogue("b", ("wrong", "wrong")), dialogue("c", ("correct",))]
    other = [dialogue("c"), dialogue("b"), dialogue("a", ("correct",))]
    rl = trained(leaks={1: [1]}, pieces=[HOSTILE, "b", "c", "d"], trainer_logprobs=[-0.5] * 4)
    report.write(tmp_path, [run_of(other, "mt-rl"), run_of(base)], [rl], "base", 50)
    return tmp_path / "report.html"


def test_nothing_a_model_wrote_ends_the_pages_script_element(written):
    text = written.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, flags=re.S)[1])
    base = data["tests"][0]["arms"][0]
    assert (
        base["label"] == "base"
        and base["dialogues"][0]["messages"][1]["content"] == HOSTILE
        and "<img" not in text
    )


def test_the_page_holds_the_first_dialogue_of_each_of_so_many_problems(tmp_path):
    played = [dialogue(x, sample=sample, said=[f"{sample}"] * 2) for sample in (1, 0, 2) for x in "cba"]
    report.write(tmp_path, [run_of(played)], [], "base", 2)
    text = (tmp_path / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, flags=re.S)[1])
    shown = data["tests"][0]["arms"][0]["dialogues"]
    assert [(d["problem"], d["messages"][1]["content"]) for d in shown] == [("a", "0"), ("b", "0")]


# Four dialogues of a step with γ = 0.5: rewards 1, 0.5, 0, 0.5, so mean 0.5, std √(1/8) = 0.354.
SOLVED = (("correct",), ("wrong", "correct"), ("wrong", "wrong"), ("wrong", "correct"))
GRPO = {"reward": (1.0, 0.5, 0.0, 0.5), "advantage": (1.414, 0.0, -1.414, 0.0)}


def trained(step=1, group="0-p", arguments=None, leaks=(), **details):
    """A run of grpo.py with one group. leaks: those of its dialogues by index."""
    logged = []
    for i, statuses in enumerate(SOLVED):
        d = dialogue("p", statuses, leaks=dict(leaks).get(i, []))
        d.id, d.logprobs = f"{step}/{group}/{i}", [-1.0] * len(d.ids)
        row = {"step": step, "problem": "p", "reward": GRPO["reward"][i]}
        logged.append((row | {"advantages": [GRPO["advantage"][i]] * d.turns} | details, d))
    metrics = [{"step": step, "tokens": 10, "questions": 0.0, "reward": 0.5}]
    config = {"arguments": {"model": "base", "seed": 0, "teacher": "informed"} | (arguments or {})}
    return TrainingRun("mt-rl", "grpo.py", "base", 4, metrics, logged, config=config)


def the_group(run):
    """Its only group as it is on the page."""
    ((group,),) = [arm["groups"] for arm in report.groups_to_read([run])]
    return group


def test_a_group_shows_rewards_with_mean_and_std_and_the_advantage_of_each_dialogue():
    group = the_group(trained())
    assert group["title"] == "step 1, p: rewards 1 0.5 0 0.5; mean 0.50, std 0.35"
    titles = [d["title"] for d in group["dialogues"]]
    assert titles[0] == "reward 1 → advantage +1.41" and titles[2] == "reward 0 → advantage −1.41"


def test_the_rewards_of_a_group_are_those_of_dialogues_that_were_not_dropped_for_a_leak():
    title = the_group(trained(arguments={"leaks": "drop"}, leaks={1: [1]}))["title"]
    assert title.startswith("step 1, p: rewards 1 0 0.5; mean 0.50, std 0.41")
    assert "hints that give the answer away: 1" in title


def test_tokens_are_blue_where_the_advantage_is_positive_orange_where_negative_and_gray_at_0():
    first, second, third, _ = the_group(trained())["dialogues"]
    colors = {d["turns"][0]["color"].rpartition(",")[0] for d in (first, second, third)}
    assert colors == {"rgba(0, 114, 178", "rgba(0, 0, 0", "rgba(213, 94, 0"}
    assert first["turns"][0]["color"].startswith("rgba(0, 114, 178")
    assert third["turns"][1]["color"].startswith("rgba(213, 94, 0")
    alphas = [float(report.shade(a).rstrip(")").rpartition(",")[2]) for a in (0.1, 1.0, -1.0, 2.0, 99.0)]
    assert alphas[0] < alphas[1] == alphas[2] < alphas[3] < alphas[4] <= 0.6


def test_each_token_of_a_turn_has_both_log_probs():
    run = trained(pieces=list("abcd"), trainer_logprobs=[-0.1, -0.2, -0.3, -0.4])
    run.logged[1][1].logprobs = [0, 0, 0, -1.0, -2.0, 0, 0, 0, 0, -3.0, -4.0]  # two turns of two tokens
    tokens = [turn["tokens"] for turn in the_group(run)["dialogues"][1]["turns"]]
    assert tokens == [[("a", "-1", "-0.1"), ("b", "-2", "-0.2")], [("c", "-3", "-0.3"), ("d", "-4", "-0.4")]]


def test_the_page_has_few_groups_of_a_step_first_that_whose_tokens_are_logged():
    runs = [trained(group=f"{i}-p") for i in range(9)]
    runs[7] = trained(group="7-p", pieces=["x"] * 4, trainer_logprobs=[-1.0] * 4)
    runs[0].logged = [pair for run in runs for pair in run.logged] + trained(step=2).logged
    (arm,) = report.groups_to_read([runs[0], trained()])  # the second is a further seed
    assert [group["title"][:6] for group in arm["groups"]] == ["step 1"] * report.GROUPS + ["step 2"]
    assert arm["groups"][0]["dialogues"][0]["turns"][0]["tokens"]
    assert not arm["groups"][1]["dialogues"][0]["turns"][0]["tokens"]


def test_a_leaked_hint_is_marked_by_rule_and_by_judge_and_listed():
    hint = {"statuses": ("wrong", "wrong", "correct")}
    played = [dialogue("a", leaks=[2], **hint), dialogue("b", **hint)]
    judged = [
        {"id": "a/0", "types": [], "leaks": [True, True]},
        {"id": "b/0", "types": [], "leaks": [None, False]},
    ]
    tests = report.group_runs([run_of(played, judged=judged)], "base")
    texts = report.dialogues_to_read(tests, 50)
    a, b = texts[0]["arms"][0]["dialogues"]
    assert a["flags"] == {2: "judge", 4: "rule and judge"} and not b["flags"]
    assert a["messages"][4]["content"] == "hint"
    rows = report.flagged_hints(texts)
    assert [(r["problem"], r["after turn"], r["flagged by"]) for r in rows] == [
        ("a", "1", "judge"),
        ("a", "2", "rule and judge"),
    ]
    assert the_group(trained(leaks={1: [1]}))["dialogues"][1]["flags"] == {2: "rule"}


def test_the_first_middle_and_last_step_of_training_are_read(tmp_path):
    arguments = {"script": "grpo.py", "model": "base"}
    (tmp_path / "config.json").write_text(json.dumps({"arguments": arguments}))
    steps = range(1, 21)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": n}) + "\n" for n in steps))
    rows = [{"step": n, **vars(dialogue())} for n in steps]
    (tmp_path / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = measures.load_training(tmp_path, Dialogue.from_row)
    assert [row["step"] for row, _ in run.logged] == [1, 11, 20] and run.played == 20


BROWSE = """<script>
const say = (name, what) => document.body.setAttribute("data-" + name, what);
onload = () => {
  say("link", $("contents").firstChild.getAttribute("href"));
  say("first", [...$("sections").children].slice(0, 5).map(e => e.tagName).join(" "));
  say("all", $("count").textContent);
  say("left", $("left-dialogue").textContent);
  say("right", $("right-dialogue").textContent);
  say("private", [...$("left-dialogue").querySelectorAll(".private")].map(e => e.textContent).join("|"));
  say("reasoning", $("left-dialogue").querySelector(".reasoning").textContent);
  say("group", $("group").textContent);
  const members = [...$("members").children];
  say("members", members.map(e => e.firstChild.textContent).join("|"));
  const token = members[0].querySelector(".trained span");
  say("token", token.textContent + " " + token.style.background + " " + token.title);
  say("flagged", members.map(e => e.querySelectorAll(".flagged").length).join(" "));
  for (const i of [1, 2, 3, 5]) {  // only the left, only the right, left not solved, left at turn 2
    $("outcome").value = i;
    $("outcome").onchange();
    say("outcome-" + Math.min(i, 4), $("count").textContent);
  }
  $("outcome").value = 0;
  $("text").value = "SECOND";
  $("text").oninput();
  say("text", $("count").textContent);
}
</script>"""


def test_the_page_works_in_a_browser(written, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium or Chrome on this machine")
    written.write_text(written.read_text() + BROWSE)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{written}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    said = re.findall(r'data-([\w-]+)="([^"]*)"', re.search(r"<body[^>]*>", dom)[0])
    said = {name: html.unescape(text) for name, text in said}
    assert said["link"] == "#dialogues" and said["first"] == "H2 IMG P H3 DIV"  # picture, caption, table
    assert said["left"].startswith("base: solved at turn 2") and HOSTILE in said["left"]
    assert said["right"].startswith("MT-RL: solved at turn 1")
    assert said["private"] == "|wrongteacher sees: hidden 42||correct"
    assert said["reasoning"] == "<think>aside</think>"
    assert said["group"].startswith("step 1, p: rewards 1 0.5 0 0.5; mean 0.50, std 0.35")
    assert said["members"].startswith("reward 1 → advantage +1.41: solved at turn 1|reward 0.5")
    color = "rgba(0, 114, 178, 0.38)"
    assert said["token"] == f"{HOSTILE} {color} log-prob: sampler -1, trainer -0.5; advantage +1.41"
    assert said["flagged"] == "0 1 0 0"
    assert said["all"] == "3 of 3" and said["text"] == "1 of 3"
    assert [said[f"outcome-{i}"] for i in range(1, 5)] == ["0 of 3", "1 of 3", "1 of 3", "1 of 3"]
    assert "<title>Report" in dom


@pytest.mark.parametrize(
    "others, told",
    [
        ({"seed": 0, "max_tokens": 8}, "same model, test and seed"),
        ({"seed": 1, "max_tokens": 3}, "runs/base has --max-tokens 3, runs/base 8"),
    ],
)
def test_runs_that_are_no_further_seed_of_a_test_are_refused(others, told):
    settings = [{"model": "m", "seed": 0, "max_tokens": 8}, {"model": "m", **others}]
    runs = [run_of([dialogue()], settings=each) for each in settings]
    with pytest.raises(BadInput, match=told):
        measures.check_comparable(runs, "base")


def prompted(label, prompts, solved="wrong", seed=0):
    settings = {"model": label, "seed": seed, "prompts": prompts}
    config = {"arguments": {"prompts": f"toy/{prompts}.json"}}
    return run_of([dialogue(statuses=("wrong", solved))], label, settings=settings, config=config)


def test_a_model_that_was_played_with_two_prompts_files_has_two_rows():
    runs = [prompted("base", "careful", "correct"), prompted("base", "usual"), prompted("rl", "usual")]
    measures.name_prompts(runs)
    measures.check_comparable(runs, "base")
    found = tables(runs)
    assert row_of(found, "Within n turns", "base (careful)")["− base, within 4"].startswith("100.0")
    assert row_of(found, "Within n turns", "base")["within 4"].startswith("0.0")


def test_two_models_with_different_prompts_are_refused():
    runs = [prompted("base", "usual"), prompted("st", "usual"), prompted("rl", "careful")]
    measures.name_prompts(runs)
    with pytest.raises(BadInput, match="play both with the same --prompts"):
        measures.check_comparable(runs, "base")


def test_the_trend_of_few_steps_is_that_of_their_halves():
    assert measures.trend([{"x": value} for value in (0, 0, 9, 1, 1)], "x").startswith("0.00 → 1.00")


def step(number, equal, **counts):
    """A row of metrics.jsonl of GRPO."""
    zeros = dict.fromkeys(("cut", "no_attempt", "undecided", "failures", "outgrown", "empty_hints"), 0.0)
    return zeros | {"step": number, "solved_1": 0.0, "equal_groups": equal, "trained_tokens": 9} | counts


def test_a_run_says_why_it_learns_little_after_3_6_12_such_steps_in_a_row():
    metrics, told = [], []
    for number in range(1, 15):
        metrics.append(step(number, equal=0.4 if number == 1 else 0.9, outgrown=0.5))
        if reason := measures.why_stalled(metrics):
            told.append(number)
            assert "90%" in reason and "50% of the dialogues outgrew the context" in reason
    assert told == [4, 7, 13]  # the first step is none of them


def test_a_first_step_that_taught_nothing_is_told_at_once():
    assert measures.why_stalled([step(1, equal=1.0, trained_tokens=0)])
    assert not measures.why_stalled([step(1, equal=0.9)])


def test_equal_rewards_of_problems_that_are_too_easy_are_told_as_such():
    assert "use harder problems" in measures.equal_rewards_note([step(1, equal=1.0, solved_1=0.9, cut=0.9)])


def test_empty_hints_are_counted():
    hints = dialogue(statuses=["wrong", "wrong", "wrong"])
    hints.messages[2]["content"] = " "
    assert summary([hints], 4)["empty_hints"] == 0.5


def config(model="base", **arguments):
    """What a config.json holds of a test run."""
    return {
        "command": "python x.py",
        "arguments": {"model": model, "seed": 0, "teacher": "informed"} | arguments,
    }


def test_models_of_one_name_that_were_trained_differently_are_no_seeds(tmp_path):
    recipes = {}
    for name, lr in (("a", 0.1), ("b", 0.1), ("c", 0.2)):
        (tmp_path / name / "rl").mkdir(parents=True)
        arguments = {"model": "base", "seed": ord(name), "out": name, "lr": lr, "data": [f"{name}/talk"]}
        arguments |= {f"content of {name}/talk/dialogues.jsonl": name}
        (tmp_path / name / "rl" / "config.json").write_text(json.dumps({"arguments": arguments}))
        recipes[name] = measures.recipe(str(tmp_path / name / "rl" / "model"))
    assert recipes["a"] == recipes["b"] and recipes["a"]["model's data"] == ["talk"]
    a, b, c = (run_of([], "rl", config=config(f"{name}/rl/model", **recipes[name])) for name in "abc")
    measures.check_labels([a, b], [])
    with pytest.raises(BadInput, match="label rl, but are not seeds of one model: model's lr 0.1 and 0.2"):
        measures.check_labels([a, c], [])


def test_models_that_the_kit_did_not_train_are_one_label_only_at_one_path():
    a, b = (run_of([], "rl", config=config(path)) for path in ("a/rl", "b/rl"))
    measures.check_labels([a, a], [])
    with pytest.raises(BadInput, match="not seeds of one model"):
        measures.check_labels([a, b], [])


def test_teachers_of_one_name_and_two_models_are_no_one_test():
    of_base = run_of([dialogue()], config=config("hub/base"))
    for teacher, differs in ((None, False), ("hub/base", False), ("other/base", True)):
        other = run_of([dialogue()], "rl", config=config("runs/base", teacher_model=teacher))
        assert measures.teachers_differ(of_base, other) == differs


def test_models_that_met_no_common_teacher_are_named(tmp_path):
    mine = run_of([dialogue()], teacher="base", test="t, teacher base")
    own = run_of([dialogue()], "rl", teacher="rl", test="t, teacher rl")
    (note,) = report.notes_on_teachers([own, mine], "base")
    assert "on t, rl met teacher rl and not base" in note
    assert not report.notes_on_teachers([mine, run_of([dialogue()], "rl", teacher="base"), own], "base")


def test_the_pictures_numbers_stand_in_their_alt_texts(tmp_path):
    """In the page and in report.md; the tests are of math and have four turns, of which the second solves it."""
    run, other = (run_of([dialogue(statuses=end)], label) for label, end in RUNS[:2])
    report.write(tmp_path, [run, other], [], "base", 1)
    alt = "math, solved within n turns, %, turns n: base 0 at 1, 0 at 4; rl 0 at 1, 100 at 4."
    assert f"![{alt}](fig1.png)" in (tmp_path / "report.md").read_text()
    assert f'"alt": "{alt}"' in (tmp_path / "report.html").read_text()


def test_the_report_has_the_command_and_the_models_of_every_run(tmp_path):
    run = run_of([dialogue()], "rl", config=config("runs/rl/model", teacher_model="hub/base"))
    shown = report.write(tmp_path, [run], [], "base", 1)
    (line,) = [line for line in (tmp_path / "report.md").read_text().splitlines() if "python x.py" in line]
    assert "runs/rl/model | informed | hub/base" in line and "python x.py" not in shown
