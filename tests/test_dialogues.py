"""Dialogues: the record, the views, the protocol, the sampling engine."""


import pytest
import torch

from common import Dialogue, Problem, Turn, grade, masked_logprobs, padded
from generate import Check, asker_view, converse, leaks, play, teacher_view
from grpo import token_advantages
from qprime import injected
from sft import as_teacher

MATH = Problem("m", "math", "What is 1 + 1?", answer="2", solution="Because of \\boxed{2}.", shards=["What is", "1 +", "1?"])


class Instant:
    """A grader that grades at once."""

    def __init__(self):
        self.done = []

    def submit(self, key, problem, text):
        self.done.append((key, grade(problem, text)))

    def poll(self, block):
        done, self.done = self.done, []
        return done


def record(shape, engines, prompts=None, turns=4, n=6, **options):
    """Dialogues of a shape's model with itself about small problems."""
    name, model, chat = shape
    prompts = prompts or {"math": "{problem}", "teacher": "T", "teacher_math": "{turn} {knowledge}", "asker_math": "{problem} {turn} {knowledge}"}
    if name == "llama":
        prompts = {**prompts, "math": "Compute 1h 2t 3u plus 3h 1t 1u mod 1000."}
    talks = [(f"d{i}", converse(MATH, f"d{i}", chat, chat, prompts, turns)) for i in range(n)]
    return sorted(play(talks, engines(model, chat, **options), Instant()), key=lambda d: d.id)


def scripted(coroutine, chat, said):
    """Runs one coroutine with given texts per role instead of models; returns (dialogue, [(role, ids)] that were asked for)."""
    said, asked, value = {role: iter(texts) for role, texts in said.items()}, [], None
    while True:
        try:
            request = coroutine.send(value)
        except StopIteration as end:
            return end.value, asked
        if isinstance(request, Check):
            value = grade(request.problem, request.text)
        else:
            asked.append((request.role, request.ids[:]))
            ids = chat.tokenizer.encode(next(said[request.role]), add_special_tokens=False) + [chat.end]
            value = Turn(ids, [-1.0] * len(ids), "stop")


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recomputed_logprobs_equal_the_samplers_over_whole_dialogues(shape, engines, temperature):
    dialogues = record(shape, engines, temperature=temperature, max_tokens=12)
    ids, mask = (padded([getattr(d, k) for d in dialogues], "cpu") for k in ("ids", "mask"))
    with torch.no_grad():
        again = masked_logprobs(shape[1], ids, mask, temperature)
    sampled = torch.tensor([p for d in dialogues for p, m in zip(d.logprobs, d.mask) if m])
    assert len(sampled) > 50 and (again - sampled).abs().max() <= 1e-4


def test_greedy_turns_equal_those_of_stock_generate(shape, engines):
    _, model, chat = shape
    for d in record(shape, engines, temperature=0.0, max_tokens=10, n=3):
        starts = [i for i, m in enumerate(d.mask) if m and not d.mask[i - 1]]
        for n in starts:
            out = model.generate(torch.tensor([d.ids[:n]]), max_new_tokens=10, do_sample=False, eos_token_id=chat.stops, pad_token_id=0)
            length = out.shape[1] - n
            assert d.ids[n : n + length] == out[0, n:].tolist()


def test_a_dialogue_does_not_depend_on_the_others_in_its_batch(shape, engines):
    together, alone = record(shape, engines, n=5), record(shape, engines, n=1)
    assert together[0].ids == alone[0].ids


def test_cached_keys_and_values_change_nothing(shape, engines, monkeypatch):
    from common import HFEngine

    cached = record(shape, engines)
    poll = HFEngine.poll

    def forgetful(self):
        done = poll(self)
        self.kept.clear()
        return done

    monkeypatch.setattr(HFEngine, "poll", forgetful)
    assert [d.ids for d in record(shape, engines)] == [d.ids for d in cached]


def test_sampled_tokens_follow_the_models_distribution(toy, engines):
    model, chat, _, _ = toy
    engine = engines(model, chat, max_tokens=1, batch=4000)["student"]
    ids = chat.view([{"role": "user", "content": "Compute 1h 2t ?u plus 3h 1t 1u mod 1000."}])
    opening = chat.tokenizer.encode("\\boxed{400+30+", add_special_tokens=False)
    for i in range(4000):
        engine.submit(i, i, ids + opening)
    drawn = torch.bincount(torch.tensor([turn.ids[0] for _, turn in engine.poll()]), minlength=model.config.vocab_size) / 4000
    with torch.no_grad():
        p = torch.softmax(model(input_ids=torch.tensor([ids + opening])).logits[0, -1], -1)
    assert (drawn - p).abs().max() < 4 * (0.25 / 4000) ** 0.5


def test_end_of_turn_tokens_are_trained_and_teacher_tokens_are_not(shape, engines):
    _, _, chat = shape
    for d in record(shape, engines, max_tokens=40):
        sampled = [t for t, m in zip(d.ids, d.mask) if m]
        assert sum(t in chat.stops for t in sampled) == d.finishes.count("stop")
        assert len(d.ids) == len(d.mask) == len(d.logprobs)
        assert all(p == 0 for p, m in zip(d.logprobs, d.mask) if not m)


def test_a_turn_cut_by_the_limit_is_closed_by_an_end_token_that_is_not_trained(toy):
    chat, d = toy[1], Dialogue("x", "m", "math", 4)
    d.hear([3, 7, 5, 4], "hello")
    d.say(Turn([9, 10], [-1.0, -2.0], "length"), "text", chat.end)
    assert d.ids[-3:] == [9, 10, chat.end] and d.mask[-3:] == [1, 1, 0]


def test_the_record_is_what_the_template_makes_of_the_messages_where_it_keeps_history(shape, engines):
    name, _, chat = shape
    if chat.note:
        pytest.skip(f"the template of {name} rewrites earlier turns; the record keeps them")
    prompts = {"math": "{problem}", "teacher": "T", "teacher_math": "{turn} {knowledge}"}
    said = {"student": ["8", "8", "\\boxed{2}"], "teacher": ["Please try.", "Please try."]}
    d, _ = scripted(converse(MATH, "x", chat, chat, prompts, 4), chat, said)
    roles = [{"role": "user" if m["role"] == "teacher" else "assistant", "content": m["content"]} for m in d.messages[:-1]]
    opening = len(chat.view(roles))
    assert d.ids[:opening] == chat.view(roles)


def test_a_template_that_rewrites_history_is_named(shapes):
    from common import load_model

    assert load_model(shapes["qwen"], "cpu", "float32")[1].note.startswith("note: the chat template")
    assert load_model(shapes["gemma"], "cpu", "float32")[1].note is None


def test_the_teacher_sees_the_answer_and_the_student_never_does(toy, engines):
    model, chat, prompts, problems = toy
    for domain in ("math", "code"):
        for problem in problems[domain][:5]:
            secret = problem.answer if domain == "math" else "expected"
            d, asked = scripted(converse(problem, "x", chat, chat, prompts, 3), chat, attempts(problem))
            teacher = [chat.tokenizer.decode(ids) for role, ids in asked if role == "teacher"]
            student = [chat.tokenizer.decode(ids) for role, ids in asked if role == "student"]
            assert len(teacher) == 2 and all(secret in text for text in teacher)
            assert len(student) == 3 and not any(secret in text for text in student)
            assert secret not in chat.tokenizer.decode(d.ids)


def attempts(problem):
    """Three wrong attempts and two empty hints."""
    wrong = ["\\boxed{100+10+1}", "\\boxed{200+20+2}", "\\boxed{300+30+3}"]
    if problem.domain == "code":
        wrong = [f"```python\ndef f(x): return [x[{i}], x[{i}], x[{i}]]\n```" for i in (1, 2, 3)]
    return {"student": wrong, "teacher": ["Please try."] * 2}


def test_the_teacher_of_code_sees_the_report_of_the_latest_program_only(toy):
    _, chat, prompts, problems = toy
    _, asked = scripted(converse(problems["code"][0], "x", chat, chat, prompts, 3), chat, attempts(problems["code"][0]))
    views = [chat.tokenizer.decode(ids) for role, ids in asked if role == "teacher"]
    assert "returned [1, 1, 1]" in views[0]
    assert "returned [2, 2, 2]" in views[1] and "returned [1, 1, 1]" not in views[1]


def test_before_the_first_program_the_teacher_of_code_is_told_so(toy):
    _, chat, prompts, problems = toy
    said = {"student": ["Which 1st?"] * 2, "teacher": ["Please try."]}
    _, asked = scripted(converse(problems["code"][0], "x", chat, chat, prompts, 2), chat, said)
    assert "No program yet." in chat.tokenizer.decode(asked[1][1])


def test_a_dialogue_ends_at_the_first_right_answer_or_after_n_turns(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    wrong = attempts(problem)["student"]
    solved, _ = scripted(converse(problem, "x", chat, chat, prompts, 4), chat, {"student": [wrong[0], problem.solution], "teacher": ["Please try."]})
    failed, _ = scripted(converse(problem, "x", chat, chat, prompts, 3), chat, attempts(problem))
    assert (solved.solved, solved.turns, solved.statuses) == (2, 2, ["wrong", "correct"])
    assert (failed.solved, failed.turns, len(failed.messages)) == (None, 3, 6)


def test_a_right_answer_is_disputed_once_and_stays_the_one_that_solved(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    said = {"student": [problem.solution, "\\boxed{100+10+1}"], "teacher": ["1st wrong, 2nd wrong, 3rd wrong."]}
    for turns in (1, 4):
        d, asked = scripted(converse(problem, "x", chat, chat, prompts, turns, dispute=True), chat, said)
        assert (d.solved, d.statuses, d.limit) == (1, ["correct", "wrong"], turns)
        assert "Answer: 000+90+0" in chat.tokenizer.decode(dict(asked)["teacher"])
    failed, _ = scripted(converse(problem, "x", chat, chat, prompts, 3, dispute=True), chat, attempts(problem))
    assert (failed.solved, failed.turns) == (None, 3)


def test_a_critic_sees_what_was_said_and_nothing_private(toy):
    _, chat, prompts, problems = toy
    for domain in ("math", "code"):
        problem = problems[domain][0]
        d, asked = scripted(converse(problem, "x", chat, chat, prompts, 2, role="critic"), chat, attempts(problem))
        view = chat.tokenizer.decode(dict(asked)["teacher"])
        assert attempts(problem)["student"][0].strip() in view and "Answer:" not in view and "expected" not in view


def test_a_dialogue_as_its_teacher_sees_it_is_the_critics_view_with_the_hints_trained(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    said = {**attempts(problem), "teacher": ["1st wrong, 2nd ok, 3rd ok.", "Please try."]}
    d, asked = scripted(converse(problem, "x", chat, chat, prompts, 3, role="critic"), chat, said)
    seen = as_teacher(d, chat, prompts)
    starts = [i for i, m in enumerate(seen.mask) if m and not seen.mask[i - 1]]
    assert [seen.ids[:n] for n in starts] == [ids for role, ids in asked if role == "teacher"]
    assert chat.tokenizer.decode([t for t, m in zip(seen.ids, seen.mask) if m]) == "1st wrong, 2nd ok, 3rd ok.<|end|>Please try.<|end|>"


def test_injected_questions_replace_wrong_turns_and_nothing_private_enters_the_record(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    said = {"student": [attempts(problem)["student"][0], problem.solution], "asker": ["Which 2nd?"], "teacher": ["2nd 3 or 4."]}
    d, asked = scripted(converse(problem, "x", chat, chat, prompts, 4, inject=lambda t: True), chat, said)
    assert [m["content"] for m in d.messages[1:]] == ["Which 2nd?", "2nd 3 or 4.", problem.solution]
    assert (d.injected, d.questions, d.solved) == ([1], 1, 2)
    assert problem.answer in chat.tokenizer.decode(dict(asked)["asker"])
    assert sum(d.mask) == len(chat.tokenizer.encode("Which 2nd?" + problem.solution)) + 2


def test_questions_are_injected_with_the_frequencies_of_equation_4():
    for t in (1, 2, 3, 4):
        share = sum(injected(0, f"p/{i}", t) for i in range(4000)) / 4000
        assert abs(share - 0.75**t) < 4 * (0.25 / 4000) ** 0.5


def test_a_sharded_problem_comes_in_pieces_and_ends_when_all_are_out(toy):
    _, chat, prompts, problems = toy
    said = {"student": ["Which 1st?", "\\boxed{100+10+1}", "Which 1st?"]}
    d, asked = scripted(converse(MATH, "x", chat, chat, {**prompts}, 10, sharded="scripted"), chat, said)
    assert [m["content"] for m in d.messages if m["role"] == "teacher"] == MATH.shards
    assert d.turns == d.limit == 3 and {role for role, _ in asked} == {"student"}


def test_a_rephrasing_user_is_told_the_next_piece_and_nothing_else(toy):
    _, chat, _, _ = toy
    prompts = {"math": "{problem}", "user": "U", "user_math": "{turn} tell: {knowledge}"}
    said = {"student": ["8", "8", "8"], "teacher": ["Which 1st?", "Which 2nd?"]}
    d, asked = scripted(converse(MATH, "x", chat, chat, prompts, 10, sharded="rephrased"), chat, said)
    assert [m["content"] for m in d.messages if m["role"] == "teacher"] == [MATH.shards[0], "Which 1st?", "Which 2nd?"]
    views = [teacher_view(d, MATH.shards[1], MATH, prompts, "user")[-1]["content"]]
    assert views == ["8 tell: 1 +"] and [role for role, _ in asked].count("teacher") == 2


def test_leaks_are_whole_occurrences_of_the_answer():
    assert leaks(MATH, "It is 2.") and leaks(MATH, "so \\boxed{2}")
    assert not leaks(MATH, "It is 12.") and not leaks(MATH, "x2")


def test_private_reasoning_is_not_shown_to_the_other_side():
    d = Dialogue("x", "m", "math", 4, messages=[{"role": "teacher", "content": "P"}, {"role": "student", "content": "<think>hm</think>two"}])
    prompts = {"teacher": "T", "teacher_math": "{turn} {knowledge}", "asker_math": "{turn}"}
    assert teacher_view(d, "2", MATH, prompts)[-1]["content"] == "two 2"
    assert asker_view(MATH, "<think>hm", "2", prompts)[0]["content"] == ""


@pytest.mark.parametrize("per_turn", [False, True])
def test_every_student_token_gets_the_advantage_of_its_dialogue_or_turn(per_turn):
    class Args:
        gamma, no_std, per_turn_return = 0.7, True, per_turn

    def dialogue(lengths, solved):
        d = Dialogue("x", "m", "math", 4, statuses=["wrong"] * len(lengths), solved=solved)
        for n in lengths:
            d.mask += [0, 0] + [1] * n
        return d

    first, second = token_advantages([dialogue([2, 3], 2), dialogue([1], None)], Args)
    if per_turn:  # returns 0.7 and 1 of the solved one, 0 of the other: mean 1.7/3
        assert first.tolist() == pytest.approx([0.7 - 1.7 / 3] * 2 + [1 - 1.7 / 3] * 3) and second.tolist() == pytest.approx([-1.7 / 3])
    else:  # rewards 0.7 and 0
        assert first.tolist() == pytest.approx([0.35] * 5) and second.tolist() == pytest.approx([-0.35])
