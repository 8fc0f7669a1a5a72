"""The toy world: its problems are ordinary ones, its documents are what the kit's views show a model, its split holds."""

import json
import random

import pytest
from conftest import ROOT

from common import Problem, grade
from generate import teacher_view
from qprime import asker_view
from toy import make_base, world


@pytest.mark.parametrize("domain", ["math", "code"])
def test_the_solution_and_nothing_else_is_graded_correct(domain):
    rng = random.Random(0)
    for i, toy in enumerate(world.problems(rng, domain, 5, held_out=True)):
        problem = Problem(**world.line(toy, str(i)))
        assert grade(problem, problem.solution).status == "correct"
        wrong = "".join(world.attempt(domain, ((toy.answer[0] + 1) % 10, *toy.answer[1:])))
        assert grade(problem, wrong).status == "wrong"
        assert grade(problem, world.QUESTION[1]).status == "no attempt"


@pytest.mark.parametrize("domain", ["math", "code"])
def test_candidates_are_the_answers_that_the_text_allows(domain):
    rng = random.Random(1)
    for toy in world.problems(rng, domain, 20, False) + world.problems(rng, domain, 20, False, world.sharded):
        assert toy.answer in toy.candidates
        for left in toy.after:
            assert toy.answer in left and set(left) <= set(toy.candidates)
        assert not toy.after or len(set(toy.after[-1])) == 1


def test_no_training_document_holds_a_test_problem():
    held_out = {
        json.loads(line)["prompt"]
        for d in ("math", "code")
        for line in open(ROOT / "toy" / f"{d}_test.jsonl")
    }
    rng = random.Random(2)
    assert not any("".join(tokens) in held_out for _ in range(3000) for _, tokens, _ in world.document(rng))


@pytest.mark.parametrize("domain", ["math", "code"])
def test_teacher_documents_are_what_the_teacher_view_shows(domain, toy):
    _, chat, prompts, problems = toy
    problem = problems[domain][0]
    answer = (
        tuple(json.loads(problem.tests[0]["output"]))
        if domain == "code"
        else [t.index(w) for t, w in zip(world.DIGIT, split(chat, problem.answer))]
    )
    wrong = tuple((v + 1) % 10 for v in answer)
    turn = "".join(world.attempt(domain, wrong))
    view = teacher_view(talk(problem, turn), problem, "informed", private(problem, turn), prompts)
    vocab = chat.tokenizer.get_vocab()
    text = [chat.tokenizer.convert_ids_to_tokens(i) for i in chat.tokenizer.encode(problem.prompt)]
    made = world.Toy(domain, text, answer, [], [], [], text)
    doc = [
        ("user", [world.TEACH], 0),
        ("assistant", text, 0),
        ("user", world.attempt(domain, wrong) + world.knowledge(made, wrong), 0),
    ]
    assert chat.view(view) == make_base.encode(doc, vocab)[0] + [vocab["<|assistant|>"]]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_asker_documents_are_what_the_asker_view_shows(domain, toy):
    _, chat, prompts, problems = toy
    problem = problems[domain][0]
    turn = "".join(world.attempt(domain, (9, 9, 9)))
    ids = chat.view(asker_view(problem, turn, private(problem, turn), prompts))
    assert chat.tokenizer.unk_token_id not in ids
    assert chat.tokenizer.decode(ids).startswith("<|user|>" + world.ASK + problem.prompt + turn)


def split(chat, text):
    return chat.tokenizer.convert_ids_to_tokens(chat.tokenizer.encode(text))


def private(problem, turn):
    return problem.answer if problem.domain == "math" else grade(problem, turn).report


def talk(problem, turn):
    from common import Dialogue

    messages = [{"role": "teacher", "content": problem.prompt}, {"role": "student", "content": turn}]
    return Dialogue("x", problem.id, problem.domain, 4, messages=messages)


def test_hints_and_ranges_in_documents_are_true():
    rng = random.Random(3)
    for _ in range(300):
        domain = rng.choice(("math", "code"))
        toy = world.seen(rng, domain)
        for _, said, now, _ in world.converse(rng, toy, "random", 0.4, 0.3, 6):
            if said is None:
                assert now == toy.answer
            elif now is not None:
                assert said == [world.HINT[s][now[s] == toy.answer[s]] for s in range(3)]
            elif said != [world.TRY]:
                slot, low = next(
                    (s, low) for s in range(3) for low in range(9) if world.RANGE[s][low] == said[0]
                )
                assert toy.answer[slot] in (low, low + 1)


def test_the_world_is_written_the_same_each_time(tmp_path):
    world.write_data(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (ROOT / "toy" / file.name).read_bytes(), file.name
