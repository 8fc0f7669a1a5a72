"""The toy world: its problems are ordinary ones, its documents are what the kit's views show a model, its split holds."""

import itertools
import json
import random
import re
import zlib

import pytest
from conftest import ROOT, cast_of

from common import Problem, grade
from generate import asker, converse, load_prompts, mute, teacher_view
from parts.engines import load_model
from parts.runs import BadInput
from toy import make_base, world
from toy.held_out_feedback import ranges

KINDS = list(dict.fromkeys(kind for _, mixture in world.LESSONS for kind in mixture))


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
        for left in toy.candidates_after:
            assert toy.answer in left and set(left) <= set(toy.candidates)
        assert not toy.candidates_after or len(set(toy.candidates_after[-1])) == 1


def statement(tokens):
    """The problem that a turn states, as a student first meets it; None if it states none."""
    tokens = tokens[1:] if tokens[:1] == [world.ASK] else tokens
    shown = itertools.takewhile(lambda word: word not in (world.BOX, world.FENCE), tokens)
    return "".join(shown) if tokens and tokens[0] in (world.COMPUTE, world.WRITE) else None


@pytest.mark.parametrize("kind", KINDS)
def test_no_document_states_a_problem_that_is_held_out(kind):
    rng, stated = random.Random(2), set()
    for _ in range(200):
        stated |= {statement(tokens) for _, tokens, _ in kind(rng, rng.choice(("math", "code")))} - {None}
    assert len(stated) > 150 and not any(zlib.crc32(text.encode()) % 10 == 0 for text in stated)


def test_all_test_problems_are_held_out():
    for domain in ("math", "code"):
        for name in ("test", "shards"):
            for row in map(json.loads, open(ROOT / "toy" / f"{domain}_{name}.jsonl")):
                assert zlib.crc32(row.get("shards", [row["prompt"]])[0].encode()) % 10 == 0


@pytest.mark.parametrize("domain", ["math", "code"])
def test_teacher_documents_are_what_the_teacher_view_shows(domain, toy):
    _, chat, prompts, problems = toy
    problem, vocab = problems[domain][0], chat.tokenizer.get_vocab()
    made, wrong, turn = missed(chat, problem)
    cast = cast_of(chat, prompts)
    view = teacher_view(cast, talk(problem, turn), problem, "informed", private(problem, turn))
    doc = world.teacher_view(made, [(world.attempt(domain, wrong), [world.TRY], wrong, wrong)])[:-1]
    assert chat.view(view) == make_base.encode(doc, vocab)[0] + [vocab["<|assistant|>"]]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_asker_documents_are_what_the_asker_view_shows(domain, toy):
    _, chat, prompts, problems = toy
    problem, vocab = problems[domain][0], chat.tokenizer.get_vocab()
    made, wrong, turn = missed(chat, problem)
    ids = next(asker(cast_of(chat, prompts), talk(problem, turn), problem, turn, grade(problem, turn))).ids
    assert ids == make_base.encode(world.asker_view(made, wrong), vocab)[0] + [vocab["<|assistant|>"]]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_the_careful_prompts_show_the_student_what_careful_documents_begin_with(domain, toy):
    _, chat, _, problems = toy
    problem, vocab = problems[domain][0], chat.tokenizer.get_vocab()
    made, _, _ = missed(chat, problem)
    cast = cast_of(chat, load_prompts(ROOT / "toy" / "careful.json"))
    ids = next(converse(cast, problem, "x", 4, mute)).ids
    begin = world.student_view(made, [], careful=True)
    assert ids == make_base.encode(begin, vocab)[0] + [vocab["<|assistant|>"]]


def missed(chat, problem):
    """(the Toy of a problem line, the digits of a wrong attempt at it, that attempt's text)."""
    answer = (
        tuple(json.loads(problem.tests[0]["output"]))
        if problem.domain == "code"
        else tuple(t.index(w) for t, w in zip(world.DIGIT, split(chat, problem.answer)))
    )
    wrong, text = tuple((v + 1) % 10 for v in answer), split(chat, problem.prompt)
    made = world.Toy(problem.domain, text, answer, [], [], [], text)
    return made, wrong, "".join(world.attempt(problem.domain, wrong))


def split(chat, text):
    return chat.tokenizer.convert_ids_to_tokens(chat.tokenizer.encode(text))


def private(problem, turn):
    return problem.answer if problem.domain == "math" else grade(problem, turn).report


def talk(problem, turn):
    from common import Dialogue

    messages = [{"role": "teacher", "content": problem.prompt}, {"role": "student", "content": turn}]
    return Dialogue("x", problem.id, problem.domain, 4, messages=messages)


@pytest.mark.parametrize("domain", ["math", "code"])
def test_held_out_feedback_is_a_true_range_of_the_slot_asked_for_or_of_a_wrong_one(domain, toy):
    _, chat, _, problems = toy
    for problem in problems[domain][:20]:
        made, _, _ = missed(chat, problem)
        wrong = world.attempt(domain, (made.answer[0], (made.answer[1] + 1) % 10, made.answer[2]))
        for slot, turn in ((1, "".join(wrong)), (2, world.QUESTION[2])):
            reply = ranges(None, told(problem, turn), problem, None)
            assert made.answer[slot] in [
                low + more for low in range(9) for more in (0, 1) if reply == world.RANGE[slot][low]
            ]
    assert ranges(None, told(problem, problem.solution + "x"), problem, None) == world.TRY


def told(problem, turn):
    dialogue = talk(problem, turn)
    dialogue.statuses.append("wrong")
    return dialogue


def test_hints_and_ranges_of_conversations_are_true():
    rng = random.Random(3)
    for _ in range(300):
        domain = rng.choice(("math", "code"))
        toy = world.training_problem(rng, domain)
        for _, reply, digits, _ in world.conversation(rng, toy, "random", 0.4, 0.3, 6):
            if reply is None:
                assert digits == toy.answer
            elif digits is not None:
                assert reply == [world.HINT[s][digits[s] == toy.answer[s]][digits[s]] for s in range(3)]
            elif reply != [world.TRY]:
                slot, low = next(
                    (s, low) for s in range(3) for low in range(9) if world.RANGE[s][low] == reply[0]
                )
                assert toy.answer[slot] in (low, low + 1)


def earned(rng, toy, asks_at, turns=4, gamma=0.7):
    """The reward of a student that makes no slip and uses all feedback. At turn `asks_at` it asks, if that can help."""
    feedback, latest = [], None
    for t in range(1, turns + 1):
        left = [c for c in toy.candidates if world.agrees(c, feedback)]
        values = [len({c[s] for c in left}) for s in range(3)]
        if t == asks_at and max(values) > 2:  # a range leaves two
            slot = values.index(max(values))
            if latest or toy.domain == "math":  # in code the teacher of no program says `Please try.`
                feedback.append(("range", slot, min(8, max(0, toy.answer[slot] - rng.randrange(2)))))
            continue
        latest = world.next_candidate(left, latest) if latest else rng.choice(left)
        if latest == toy.answer:
            return gamma ** (t - 1)
        feedback.append(("hint", latest, [a == b for a, b in zip(latest, toy.answer)]))
    return 0


def test_a_question_pays_before_the_first_answer_in_math_and_only_after_it_in_code():
    rng, rewards = random.Random(3), {}
    for domain in ("math", "code"):
        toys = world.problems(rng, domain, 1000, False)
        for asks_at in (None, 1, 2):
            rewards[domain, asks_at] = sum(earned(rng, toy, asks_at) for toy in toys) / len(toys)
    assert rewards["math", 1] > rewards["math", None] + 0.1 and rewards["math", 1] > rewards["math", 2]
    assert rewards["code", 2] > rewards["code", None] + 0.04 > rewards["code", 1] + 0.1


def test_a_base_of_other_documents_tokens_or_seed_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(make_base, "ROWS", 1)
    made = {"tokens": 2 * make_base.WIDTH, "seed": 0}
    make_base.train(tmp_path, **made)
    before = (tmp_path / "resume.pt").read_bytes()
    for change in ({"tokens": 4 * make_base.WIDTH}, {"seed": 1}):
        with pytest.raises(BadInput, match="choose another --out"):
            make_base.train(tmp_path, **made | change)
    (tmp_path / "world.py").write_text("other documents")
    monkeypatch.setattr(world, "__file__", str(tmp_path / "world.py"))
    with pytest.raises(BadInput, match="world.py"):
        make_base.train(tmp_path, **made)
    assert (tmp_path / "resume.pt").read_bytes() == before


def test_the_documents_are_those_that_the_base_was_trained_on():
    """If you change them on purpose, make the base anew, then change this number."""
    drawn = []
    for tokens, _ in world.LESSONS:
        rng = random.Random(str(tokens))
        drawn.append([world.document(rng, tokens) for _ in range(400)])
    assert zlib.crc32(repr(drawn).encode()) == 461261822


@pytest.fixture
def documents(monkeypatch):
    """documents(kind, domain, n): n times (its problem, the trained turns, the others' turns), as tokens; no slips."""
    problems, training_problem = [], world.training_problem
    monkeypatch.setattr(
        world, "training_problem", lambda *args: problems.append(training_problem(*args)) or problems[-1]
    )
    monkeypatch.setattr(world, "slip", lambda rng, answer, p: answer)

    def make(kind, domain, n=200):
        rng = random.Random(f"{kind.__name__}/{domain}")
        for _ in range(n):
            doc = kind(rng, domain)
            yield (
                problems[-1],
                [t for _, t, trained in doc if trained],
                [t for role, t, _ in doc if role != "assistant"],
            )

    return make


def values(tokens):
    """The three digits of an attempt; None of a question."""
    table = world.DIGIT if tokens[0] == world.BOX else world.INDEX
    return None if len(tokens) == 1 else tuple(t.index(w) for t, w in zip(table, tokens[1:4]))


@pytest.mark.parametrize("domain", ["math", "code"])
@pytest.mark.parametrize("habit", world.HABITS)
def test_students_keep_their_habit(habit, domain, monkeypatch):
    monkeypatch.setattr(world, "slip", lambda rng, answer, p: answer)
    rng, revisions, deaf = random.Random(4), 0, 0
    for _ in range(100):
        toy, feedback, before = world.training_problem(rng, domain), [], None
        for _, _, digits, _ in world.conversation(rng, toy, habit, 0, 0, 5):
            assert digits in toy.candidates
            if before:
                revisions, deaf = revisions + 1, deaf + (not world.agrees(digits, feedback))
                assert (digits == before) == (habit == "repeats") or habit == "afresh"
            feedback.append(("hint", digits, [a == b for a, b in zip(digits, toy.answer)]))
            before = digits
    assert revisions > 50 and deaf / revisions == {"attentive": 0, "repeats": 1}.get(habit, deaf / revisions)
    assert habit != "afresh" or 0.2 < deaf / revisions < 0.8


def test_attentive_students_move_on_to_the_nearest_possible_answer():
    left = [(3, 5, 1), (4, 4, 1), (9, 4, 1)]
    assert world.next_candidate(left, latest=(3, 4, 1)) == (3, 5, 1)
    assert world.next_candidate(left, latest=(5, 4, 1)) == (9, 4, 1)
    assert world.next_candidate([(1, 0, 0), (7, 0, 0)], latest=(8, 0, 0)) == (1, 0, 0), "0 comes after 9"


@pytest.mark.parametrize("domain", ["math", "code"])
def test_careful_students_alone_carry_the_word(domain, documents):
    for kind in (world.doc_careful, world.doc_dialogue):
        for _, _, heard in documents(kind, domain):
            assert ([world.CAREFUL] in heard) == (kind is world.doc_careful)


@pytest.mark.parametrize("domain", ["math", "code"])
def test_careful_students_of_sharded_documents_end_with_the_answer_that_all_facts_leave(domain, documents):
    for toy, said, heard in documents(world.doc_sharded_careful, domain):
        assert values(said[-1]) == toy.answer
        assert heard[1:] == [toy.text, *toy.facts[: len(said) - 1]]


def test_pairs_hold_two_problems(documents):
    for _, _, heard in documents(world.doc_pair, "math"):
        first, _ = [tokens[0] for tokens in heard if statement(tokens)]
        assert first == world.COMPUTE


@pytest.mark.parametrize("domain", ["math", "code"])
def test_single_turns_are_possible_answers_and_certain_ones_right(domain, documents):
    for kind in (world.doc_certain, world.doc_single):
        for toy, said, heard in documents(kind, domain):
            assert heard == [toy.text] and values(said[0]) in toy.candidates
            assert kind is world.doc_single or values(said[0]) == toy.answer


@pytest.mark.parametrize("domain", ["math", "code"])
@pytest.mark.parametrize("kind", [world.doc_teacher, world.doc_reply])
def test_teachers_learn_their_last_turn_which_is_true(kind, domain, documents):
    hints = ranges = 0
    for toy, trained, heard in documents(kind, domain, 400):
        (reply,) = trained
        if len(reply) == 3:
            digits = values(heard[-1])
            assert reply == [world.HINT[s][digits[s] == toy.answer[s]][digits[s]] for s in range(3)]
            hints += 1
        elif reply != [world.TRY]:
            slot = world.QUESTION.index(heard[-1][0])
            assert toy.answer[slot] in [
                low + more for low in range(9) for more in (0, 1) if reply == [world.RANGE[slot][low]]
            ]
            ranges += 1
    assert hints > 150 and ranges > 20


@pytest.mark.parametrize("domain", ["math", "code"])
def test_askers_name_a_place_that_is_wrong(domain, documents):
    for toy, trained, heard in documents(world.doc_asker, domain):
        said = values(heard[0][1 + len(toy.text) :])
        slot = world.QUESTION.index(trained[0][0])
        assert said[slot] != toy.answer[slot]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_the_base_has_the_skills_that_its_card_states(domain, base):
    """Within three standard errors of this smaller sample."""
    n, card = 200, (ROOT / "toy" / "base" / "README.md").read_text()
    measured = make_base.skills(load_model(base, "cpu"), world.tokenizer(), domain, n)
    for skill in make_base.AIMS:
        stated = float(re.search(rf"\| {skill} \| ([\d.]+) \| ([\d.]+) ", card)[1 + (domain == "code")])
        assert abs(measured[skill] - stated) <= 3 * max(stated * (1 - stated), 0.02) ** 0.5 / n**0.5, skill


def test_the_world_is_written_the_same_each_time(tmp_path):
    world.write_data(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (ROOT / "toy" / file.name).read_bytes(), file.name
