"""Dialogues: the record, the views, the protocol, the sampling engine."""

import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import cast_of, characters
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MptConfig,
    Phi3Config,
    Phi3ForCausalLM,
)

import generate
from common import Dialogue, Problem, Verdict, as_tensors, grade, leaks, masked_logprobs
from evaluate import answer_losses
from generate import asker, converse, teacher_view
from grpo import checked_reward, per_token, turn_advantages
from parts.chat import Chat, load_chat
from parts.driver import Grade, Sample, drive
from parts.engines import EngineError, HFEngine, Turn, load_model, uncached
from parts.runs import BadInput
from qprime import drawn, question_instead
from sft import as_teacher

MATH = Problem(
    "m",
    "math",
    "What is 1 + 1?",
    answer="2",
    solution="Because of \\boxed{2}.",
    shards=["What is", "1 +", "1?"],
)

SEED = next(seed for seed in range(100) if drawn(seed, "x", 1))  # the first turn of "x" is replaced, if wrong
always = partial(question_instead, ask=asker, seed=SEED)


def talk(problem, chat, prompts, turns, teacher="informed", name="x", **options):
    """The coroutine of a dialogue in which the same model speaks for all."""
    return converse(cast_of(chat, prompts), problem, name, turns, getattr(generate, teacher), **options)


def record(shape, speakers, prompts=None, turns=4, n=6, **options):
    """Dialogues of a shape's model with itself about small problems."""
    name, model, chat = shape
    prompts = prompts or {
        "math": "{problem}",
        "informed": "T",
        "informed_math": "{turn} {knowledge}",
        "asker_math": "{problem} {turn} {knowledge}",
    }
    if name == "llama":
        prompts = {**prompts, "math": "Compute 1h 2t 3u plus 3h 1t 1u mod 1000."}
    talks = [(f"d{i}", talk(MATH, chat, prompts, turns, name=f"d{i}")) for i in range(n)]
    return sorted(drive(talks, speakers(model, chat, **options), grade), key=lambda d: d.id)


def scripted(coroutine, chat, said):
    """Runs one coroutine with given texts per role instead of models; returns (dialogue, [(role, ids)] that were asked for)."""
    said, asked, value = {role: iter(texts) for role, texts in said.items()}, [], None
    while True:
        try:
            request = coroutine.send(value)
        except StopIteration as end:
            return end.value, asked
        if isinstance(request, Grade):
            value = grade(request.problem, request.text)
        else:
            asked.append((request.role, request.ids[:]))
            ids = chat.tokenizer.encode(next(said[request.role]), add_special_tokens=False) + [chat.end]
            value = Turn(ids, [-1.0] * len(ids), "stop")


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recomputed_logprobs_equal_the_samplers_over_whole_dialogues(shape, speakers, temperature):
    dialogues = record(shape, speakers, temperature=temperature, max_tokens=12)
    with torch.no_grad():
        again = masked_logprobs(shape[1], *as_tensors(dialogues), temperature)
    sampled = torch.tensor([p for d in dialogues for p in d.sampled_logprobs])
    assert len(sampled) > 50 and (again - sampled).abs().max() <= 1e-4


def test_greedy_turns_equal_those_of_stock_generate(shape, speakers):
    _, model, chat = shape
    for d in record(shape, speakers, temperature=0.0, max_tokens=10, n=3):
        for n, _ in d.spans:
            out = model.generate(
                torch.tensor([d.ids[:n]]),
                max_new_tokens=10,
                do_sample=False,
                eos_token_id=chat.stops,
                pad_token_id=0,
            )
            length = out.shape[1] - n
            assert d.ids[n : n + length] == out[0, n:].tolist()


def test_a_dialogue_does_not_depend_on_the_others_in_its_batch(shape, speakers):
    together, alone = record(shape, speakers, n=5), record(shape, speakers, n=1)
    assert together[0].ids == alone[0].ids


def test_query_heads_share_keys_without_copies_and_say_what_they_say_with_copies(
    shapes, speakers, monkeypatch
):
    model, chat = load_model(shapes["qwen"], "cpu"), load_chat(shapes["qwen"])
    text = model.config.get_text_config()
    assert text.num_attention_heads > text.num_key_value_heads
    copies = "transformers.integrations.sdpa_attention.repeat_kv"
    with monkeypatch.context() as patch:
        patch.setattr("parts.engines.share_keys", lambda model: None)
        copied = record(("qwen", model, chat), speakers)
        patch.setattr(copies, None)
        with pytest.raises(TypeError):  # it would have been called
            record(("qwen", model, chat), speakers)
    monkeypatch.setattr(copies, None)
    shared = record(("qwen", model, chat), speakers)
    assert [d.ids for d in shared] == [d.ids for d in copied]


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_eager_attention_is_masked_like_that_of_torch(name, shapes, speakers):
    model, chat = load_model(shapes[name], "cpu"), load_chat(shapes[name])
    wanted = record((name, model, chat), speakers)
    model.set_attn_implementation("eager")
    assert [d.ids for d in record((name, model, chat), speakers)] == [d.ids for d in wanted]


@pytest.mark.parametrize(
    "setting, value, told",
    [
        ("_attn_implementation", "flex_attention", "flex_attention"),
        ("layer_types", ["full_attention", "linear_attention", "full_attention"], "linear_attention"),
    ],
)
def test_a_model_that_the_engine_has_no_masks_for_is_one_line(setting, value, told, shapes):
    model = load_model(shapes["qwen"], "cpu")
    setattr(model.config, setting, value)
    with pytest.raises(EngineError, match=told):
        HFEngine(model, [2])


@pytest.mark.parametrize("config", [BloomConfig(n_head=4), MptConfig(), FalconConfig(alibi=True)])
def test_attention_with_a_bias_for_distance_is_one_line(config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(EngineError, match="ALiBi"):
        HFEngine(model, [2])


def test_local_attention_of_gpt_neo_is_one_line():
    kinds = {"num_layers": 2, "attention_types": [[["global", "local"], 1]]}
    config = GPTNeoConfig(vocab_size=50, hidden_size=32, num_heads=2, **kinds)
    with pytest.raises(EngineError, match="layers of global, local"):
        HFEngine(GPTNeoForCausalLM(config), [2])


def test_a_context_ends_where_a_long_row_would_change_all_others(shapes):
    factors = {
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "rope_type": "longrope",
        "rope_theta": 1e4,
    }
    longer = {"max_position_embeddings": 4096, "original_max_position_embeddings": 32}
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = Phi3Config(**sizes, **longer, num_attention_heads=4, rope_parameters=factors, pad_token_id=0)
    model = Phi3ForCausalLM(config).eval()
    assert HFEngine(model, [2], max_tokens=8).context == 32

    def of_first(*lengths):
        ids = torch.arange(2 * max(lengths)).view(2, -1) % 50
        with torch.no_grad():
            return model(ids).logits[0, : lengths[0]]

    assert torch.allclose(of_first(8, 32), of_first(8, 16), atol=1e-5)
    assert not torch.allclose(of_first(8, 33), of_first(8, 16), atol=1e-5)  # that is why


def test_after_a_sync_nothing_is_kept_of_the_old_weights(base):
    model, chat = load_model(base, "cpu"), load_chat(base)
    ids = chat.view([{"role": "user", "content": "Compute 1h 2t 3u plus 3h 1t 1u mod 1000."}])

    def sample(engine, ids):
        engine.submit("key", "conversation", ids)
        return engine.poll()[0][1]

    engine = HFEngine(model, chat.stops, max_tokens=1)
    turn = sample(engine, ids)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    engine.sync(model.named_parameters())
    longer = ids + turn.ids + ids
    assert sample(engine, longer) == sample(HFEngine(model, chat.stops, max_tokens=1), longer)


def test_cached_keys_and_values_change_nothing(shape, speakers, monkeypatch):
    cached = record(shape, speakers)
    poll = HFEngine.poll

    def forgetful(self):
        done = poll(self)
        self.saved.clear()
        return done

    monkeypatch.setattr(HFEngine, "poll", forgetful)
    assert [d.ids for d in record(shape, speakers)] == [d.ids for d in cached]


def test_what_turns_begin_with_is_read_once(toy):
    model, chat, _, _ = toy
    engine, read = HFEngine(model, chat.stops, max_tokens=1), []
    forward = engine.forward
    engine.forward = lambda turns, kv: read.append(sum(map(uncached, turns))) or forward(turns, kv)
    ids = chat.view([{"role": "user", "content": "Compute 1h 2t 3u plus 3h 1t 1u mod 1000."}])
    for name, rest in (("a", []), ("b", []), ("c", [7, 8, 9])):
        engine.submit(name, name, ids + rest)
    done = dict(engine.poll())
    assert set(done) == {"a", "b", "c"}
    assert read == [len(ids), 1 + 3], "of the same ids the last one is read again, for what comes next"


def test_sampled_tokens_follow_the_models_distribution(toy, speakers):
    model, chat, _, _ = toy
    engine = speakers(model, chat, max_tokens=1, batch=4000)["student"].engine
    ids = chat.view([{"role": "user", "content": "Compute 1h 2t ?u plus 3h 1t 1u mod 1000."}])
    opening = chat.tokenizer.encode("\\boxed{400+30+", add_special_tokens=False)
    for i in range(4000):
        engine.submit(i, i, ids + opening)
    drawn = (
        torch.bincount(
            torch.tensor([turn.ids[0] for _, turn in engine.poll()]), minlength=model.config.vocab_size
        )
        / 4000
    )
    with torch.no_grad():
        p = torch.softmax(model(input_ids=torch.tensor([ids + opening])).logits[0, -1], -1)
    assert (drawn - p).abs().max() < 4 * (0.25 / 4000) ** 0.5


def test_end_of_turn_tokens_are_trained_and_teacher_tokens_are_not(shape, speakers):
    _, _, chat = shape
    for d in record(shape, speakers, max_tokens=40):
        sampled = [t for t, m in zip(d.ids, d.mask) if m]
        assert sum(t in chat.stops for t in sampled) == d.finishes.count("stop")
        assert len(d.ids) == len(d.mask) == len(d.logprobs)
        assert all(p == 0 for p, m in zip(d.logprobs, d.mask) if not m)


def test_a_turn_cut_by_the_limit_is_closed_by_an_end_token_that_is_not_trained(toy):
    chat, d = toy[1], Dialogue("x", "m", "math", 4)
    d.add_teacher_turn([3, 7, 5, 4], "hello")
    d.add_student_turn(Turn([9, 10], [-1.0, -2.0], "length"), "text", Verdict("wrong"), chat.end)
    assert d.ids[-3:] == [9, 10, chat.end] and d.mask[-3:] == [1, 1, 0]


def test_the_record_is_what_the_template_makes_of_the_messages_where_it_keeps_history(shape, speakers):
    name, _, chat = shape
    if chat.note:
        pytest.skip(f"the template of {name} rewrites earlier turns; the record keeps them")
    prompts = {"math": "{problem}", "informed": "T", "informed_math": "{turn} {knowledge}"}
    said = {"student": ["8", "8", "\\boxed{2}"], "teacher": ["Please try.", "Please try."]}
    d, _ = scripted(talk(MATH, chat, prompts, 4), chat, said)
    roles = [
        {"role": "user" if m["role"] == "teacher" else "assistant", "content": m["content"]}
        for m in d.messages[:-1]
    ]
    opening = len(chat.view(roles))
    assert d.ids[:opening] == chat.view(roles)


DROPS = "{% for m in messages %}<s>{{ m['content'].split('</think>')[-1] }}</s>{% endfor %}<s>"
DATED = "{{ strftime_now('%d %B %Y') }}{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}<s>"
CHANNELS = "{% for m in messages %}<s>{{ m.thinking }}</s><s>{{ m['content'] }}</s>{% endfor %}<s>"


def test_a_template_that_rewrites_history_or_tells_the_date_is_named(shapes):
    assert "rewrites earlier turns" in load_chat(shapes["qwen"]).note
    assert load_chat(shapes["gemma"]).note is None
    dropping, dated = (Chat(characters(["<s>", "</s>"], t, None, "</s>"), "M") for t in (DROPS, DATED))
    assert "rewrites earlier turns" in dropping.note and "date" not in dropping.note
    assert "today's date" in dated.note and "rewrites" not in dated.note


def test_a_template_that_gives_reasoning_a_turn_of_its_own_is_refused():
    with pytest.raises(BadInput, match="gives reasoning a turn of its own"):
        Chat(characters(["<s>", "</s>"], CHANNELS, None, "</s>"), "M")


def test_the_teacher_sees_the_answer_and_the_student_never_does(toy, speakers):
    model, chat, prompts, problems = toy
    for domain in ("math", "code"):
        for problem in problems[domain][:5]:
            secret = problem.answer if domain == "math" else "expected"
            d, asked = scripted(talk(problem, chat, prompts, 3), chat, attempts(problem))
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
    _, asked = scripted(talk(problems["code"][0], chat, prompts, 3), chat, attempts(problems["code"][0]))
    views = [chat.tokenizer.decode(ids) for role, ids in asked if role == "teacher"]
    assert "returned [1, 1, 1]" in views[0]
    assert "returned [2, 2, 2]" in views[1] and "returned [1, 1, 1]" not in views[1]


def test_before_the_first_program_the_teacher_of_code_is_told_so(toy):
    _, chat, prompts, problems = toy
    said = {"student": ["Which 1st?"] * 2, "teacher": ["Please try."]}
    _, asked = scripted(talk(problems["code"][0], chat, prompts, 2), chat, said)
    assert "No program yet." in chat.tokenizer.decode(asked[1][1])


def test_a_dialogue_ends_at_the_first_right_answer_or_after_n_turns(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    wrong = attempts(problem)["student"]
    solved, _ = scripted(
        talk(problem, chat, prompts, 4),
        chat,
        {"student": [wrong[0], problem.solution], "teacher": ["Please try."]},
    )
    failed, _ = scripted(talk(problem, chat, prompts, 3), chat, attempts(problem))
    assert (solved.solved, solved.turns, solved.statuses) == (2, 2, ["wrong", "correct"])
    assert (failed.solved, failed.turns, len(failed.messages)) == (None, 3, 6)


def disputed(problem, chat, prompts, turns, probability=1.0):
    dialogue = talk(problem, chat, prompts, turns)
    return generate.disputed(cast_of(chat, prompts), problem, dialogue, probability, seed=0)


def test_a_right_answer_is_disputed_once_and_stays_the_one_that_solved(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    said = {
        "student": [problem.solution, "\\boxed{100+10+1}"],
        "teacher": ["1st not 4, 2nd not 3, 3rd not 8."],
    }
    for turns in (1, 4):
        d, asked = scripted(disputed(problem, chat, prompts, turns), chat, said)
        assert (d.solved, d.statuses, d.limit) == (1, ["correct", "wrong"], turns)
        assert "Answer: 000+90+0" in chat.tokenizer.decode(dict(asked)["teacher"])
    failed, _ = scripted(disputed(problem, chat, prompts, 3), chat, attempts(problem))
    assert (failed.solved, failed.turns) == (None, 3)
    undisputed, _ = scripted(disputed(problem, chat, prompts, 3, probability=0.0), chat, said)
    assert undisputed.statuses == ["correct"]


def test_a_dialogue_succeeds_if_the_right_answer_is_kept_in_the_dispute():
    for statuses, succeeded in (
        (["correct"], True),
        (["correct", "correct"], True),
        (["correct", "wrong"], False),
    ):
        assert Dialogue("", solved=1, statuses=statuses).succeeded == succeeded
    assert not Dialogue("", statuses=["wrong"]).succeeded and not Dialogue("").succeeded


def test_hints_and_the_tokens_around_them_are_those_between_student_turns(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    d, _ = scripted(talk(problem, chat, prompts, 3), chat, attempts(problem))
    hints = [m["content"] for m in d.messages[1:] if m["role"] == "teacher"]
    predicted = [i for i, m in zip(d.ids, d.hint_mask) if m]
    assert len(hints) == 2 and predicted == [i for hint in hints for i in chat.between(hint)]
    assert d.hints == hints and not Dialogue("").hint_mask


def test_a_dispute_is_no_hint_and_no_teacher_learns_it(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    said = {
        "student": [attempts(problem)["student"][0], problem.solution, "Which 2nd?"],
        "teacher": ["1st not 4, 2nd is 3, 3rd is 8.", "2nd not 3."],
    }
    d, _ = scripted(disputed(problem, chat, prompts, 3), chat, said)
    learned = [t for t, m in zip(d.ids, d.hint_mask) if m]
    seen = as_teacher(d, chat, prompts)
    assert (d.statuses, d.hints) == (["wrong", "correct", "no attempt"], said["teacher"][:1])
    assert learned == chat.between(d.hints[0]) and len(seen.messages) == 4 and len(seen.spans) == 1


def test_log_losses_of_a_disputed_dialogue_end_where_it_was_solved(toy):
    model, chat, prompts, problems = toy
    problem = problems["math"][0]
    for replies, measured in (([problem.solution, "\\boxed{100+10+1}"], 1), (["\\boxed{100+10+1}"] * 3, 3)):
        said = {"student": replies, "teacher": ["1st not 4, 2nd not 3, 3rd not 8."] * 2}
        d, _ = scripted(disputed(problem, chat, prompts, 3), chat, said)
        assert len(answer_losses(model, chat, d, problem.solution)) == measured


def test_log_losses_are_of_the_answers_tokens_without_those_of_its_opening(toy):
    model, chat, prompts, problems = toy
    for domain in ("math", "code"):
        problem = problems[domain][0]
        d, _ = scripted(talk(problem, chat, prompts, 1), chat, {"student": [problem.solution]})
        start, ids = d.spans[0][0], chat.turn(problem.solution)
        assert chat.pieces(ids)[0].startswith(("\\boxed{", "```python"))  # the opening is one token
        row = Dialogue("", ids=d.ids[:start] + ids, mask=[0] * (start + 1) + [1] * (len(ids) - 1))
        with torch.no_grad():
            expected = -masked_logprobs(model, *as_tensors([row], "cpu")).mean()
        assert answer_losses(model, chat, d, problem.solution) == pytest.approx([expected.item()], abs=1e-5)


def test_a_critic_sees_what_was_said_and_nothing_private(toy):
    _, chat, prompts, problems = toy
    for domain in ("math", "code"):
        problem = problems[domain][0]
        d, asked = scripted(talk(problem, chat, prompts, 2, "critic"), chat, attempts(problem))
        view = chat.tokenizer.decode(dict(asked)["teacher"])
        assert (
            attempts(problem)["student"][0].strip() in view
            and "Answer:" not in view
            and "expected" not in view
        )


def test_a_dialogue_as_its_teacher_sees_it_is_the_critics_view_with_the_hints_trained(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    said = {**attempts(problem), "teacher": ["1st not 4, 2nd is 3, 3rd is 8.", "Please try."]}
    d, asked = scripted(talk(problem, chat, prompts, 3, "critic"), chat, said)
    seen = as_teacher(d, chat, prompts)
    assert [seen.ids[:n] for n, _ in seen.spans] == [ids for role, ids in asked if role == "teacher"]
    assert (
        chat.tokenizer.decode([t for t, m in zip(seen.ids, seen.mask) if m])
        == "1st not 4, 2nd is 3, 3rd is 8.<|end|>Please try.<|end|>"
    )


def test_injected_questions_replace_wrong_turns_and_nothing_private_enters_the_record(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    said = {
        "student": [attempts(problem)["student"][0], problem.solution],
        "asker": ["Which 2nd?"],
        "teacher": ["2nd 3 or 4."],
    }
    d, asked = scripted(talk(problem, chat, prompts, 4, inject=always), chat, said)
    assert [m["content"] for m in d.messages[1:]] == ["Which 2nd?", "2nd 3 or 4.", problem.solution]
    assert (d.injected, d.kinds, d.solved) == ([1], ["question", "attempt"], 2)
    assert problem.answer in chat.tokenizer.decode(dict(asked)["asker"])
    assert sum(d.mask) == len(chat.tokenizer.encode("Which 2nd?" + problem.solution)) + 2


@pytest.mark.parametrize("said", ["It is 2.", "<think>2 is right</think>Which digit is wrong?", ""])
def test_a_question_that_gives_away_what_is_private_is_not_injected(said, toy):
    _, chat, _, _ = toy
    prompts = {"asker_math": "{turn} {knowledge}"}
    d = Dialogue("x", "m", "math", 4)
    cast = cast_of(SimpleNamespace(view=str, text=lambda ids: said), prompts)
    asking = question_instead(cast, d, MATH, "3", Verdict("wrong"), asker, SEED)
    request = next(asking)
    with pytest.raises(StopIteration) as end:
        for _ in range(3):  # it is written anew twice
            assert isinstance(request, Sample)
            assert isinstance(asking.send(Turn([1], [0.0], "stop")), Grade)
            request = asking.send(Verdict("no attempt"))
    assert end.value.value is None and not d.injected


def test_a_second_question_is_injected_where_the_first_gives_the_answer_away(toy):
    _, chat, prompts, problems = toy
    problem = problems["math"][0]
    said = {
        "student": [attempts(problem)["student"][0], problem.solution],
        "asker": [problem.solution, "Which 2nd?"],
        "teacher": ["2nd 3 or 4."],
    }
    d, asked = scripted(talk(problem, chat, prompts, 4, inject=always), chat, said)
    assert (d.said[0], d.injected) == ("Which 2nd?", [1])
    assert [role for role, _ in asked].count("asker") == 2


def test_questions_are_injected_with_the_frequencies_of_equation_4():
    for t in (1, 2, 3, 4):
        share = sum(drawn(0, f"p/{i}", t) for i in range(4000)) / 4000
        assert abs(share - 0.75**t) < 4 * (0.25 / 4000) ** 0.5


@pytest.mark.parametrize("user", ["scripted", "rephrased"])
def test_the_prompt_that_asks_for_an_answer_comes_with_the_last_shard(user, toy):
    prompts = {**generate.PROMPTS, "math": "{problem} Box it."}
    said = {"student": ["8", "8", "8"], "teacher": ["Which 2nd?", "Which 3rd?"]}
    d, _ = scripted(talk(MATH, toy[1], prompts, 3, user, opening=MATH.shards[0]), toy[1], said)
    told = MATH.shards if user == "scripted" else [MATH.shards[0], *said["teacher"]]
    assert [m["content"] for m in d.messages[::2]] == [*told[:2], f"{told[2]} Box it."]


def test_a_sharded_problem_comes_in_pieces_and_ends_when_all_are_out(toy):
    _, chat, prompts, problems = toy
    said = {"student": ["Which 1st?", "\\boxed{100+10+1}", "Which 1st?"]}
    d, asked = scripted(talk(MATH, chat, prompts, 3, "scripted", opening=MATH.shards[0]), chat, said)
    assert [m["content"] for m in d.messages if m["role"] == "teacher"] == MATH.shards
    assert d.turns == d.limit == 3 and {role for role, _ in asked} == {"student"}


def test_a_rephrasing_user_is_told_the_next_piece_and_nothing_else(toy):
    _, chat, _, _ = toy
    prompts = {"math": "{problem}", "rephrased": "U", "rephrased_math": "{turn} tell: {knowledge}"}
    said = {"student": ["8", "8", "8"], "teacher": ["Which 1st?", "Which 2nd?"]}
    d, asked = scripted(talk(MATH, chat, prompts, 3, "rephrased", opening=MATH.shards[0]), chat, said)
    assert [m["content"] for m in d.messages if m["role"] == "teacher"] == [
        MATH.shards[0],
        "Which 1st?",
        "Which 2nd?",
    ]
    assert (
        d.knowledge == ["tell: 1 +", "tell: 1?", None] and [role for role, _ in asked].count("teacher") == 2
    )
    record = Dialogue("y", messages=d.messages[:2])
    view = teacher_view(cast_of(chat, prompts), record, MATH, "rephrased", MATH.shards[1])
    assert view[-1]["content"] == "8 tell: 1 +"


def test_a_user_who_chooses_tells_a_shard_or_none_and_ends_a_turn_after_the_last(shapes):
    chat = load_chat(shapes["gemma"])
    said = {"student": ["8"] * 5, "teacher": ["0: No idea.", "[2]: one, please", "Well.", "1: 1 and"]}
    talking = talk(MATH, chat, {**generate.PROMPTS, "math": "{problem} Box."}, 6, "chosen", opening="What is")
    d, asked = scripted(talking, chat, said)
    told = ["What is", "No idea.", "one, please", "Well.", "1 and Box."]
    assert [m["content"] for m in d.messages[::2]] == told
    assert (d.revealed, d.turns, d.limit) == ([0, 2, 0, 1], 5, 5)
    offered = [text for text in d.knowledge if text]
    assert all("1: 1 +" in text for text in offered)
    assert ["2: 1?" in text for text in offered] == [True, True, False, False]


def test_a_user_who_never_tells_all_ends_at_the_limit(shapes):
    chat, said = load_chat(shapes["gemma"]), {"student": ["8"] * 3, "teacher": ["no"] * 2}
    d, _ = scripted(talk(MATH, chat, generate.PROMPTS, 3, "chosen", opening="What is"), chat, said)
    assert (d.revealed, d.turns, d.outgrown) == ([0, 0], 3, False)


def test_only_hints_can_leak(toy):
    _, chat, _, _ = toy
    views = {
        "informed": "T",
        "informed_math": "{turn} {knowledge}",
        "rephrased": "U",
        "rephrased_math": "{turn}",
    }
    for teacher, found in (("informed", [1]), ("rephrased", [])):
        said = {"student": ["8", "8"], "teacher": ["\\boxed{2}"]}
        d, _ = scripted(talk(MATH, chat, {"math": "{problem}"} | views, 2, teacher), chat, said)
        assert d.leaks == found


def asked(prompt, answer):
    return Problem("p", "math", prompt, answer=answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("2", "It is 2."),
        ("2", "so \\boxed{2}, as 3 - 1 = 2"),
        ("2", "2"),
        ("7", "Not \\boxed{6} but \\boxed{7}, and \\boxed{8} is too much."),
        ("\\frac12", "The result should be 0.5, not 0.4."),
        ("\\frac{1}{2}", "You should get $1/2$ in the end."),
        ("220", "Look: 5 * 44 = 220."),
        ("3\\sqrt{2}", "You should get 3sqrt(2) then."),
        ("7", "Can you see why $x = 7$ is the answer?"),
        ("(1, 2)", "So the answer is (1, 2)."),
        ("5", "You get 5 apples."),
        ("7", "After she ate five, 12 - 5 = 7 of the apples were left."),
        ("12345", "Look at the 12,345 again."),
        ("3\\sqrt{1301}", "Where does the $3\\sqrt{1301}$ on the left come from?"),
        ("\\text{Evelyn}", "Look at Evelyn again."),
    ],
)
def test_a_hint_leaks_if_it_states_the_answer_in_any_form(answer, hint):
    assert leaks(asked("How many apples does she have?", answer), hint) == 1


@pytest.mark.parametrize(
    "hint",
    """It’s 42—nice. | It is 42 – nice! | Is it “42”? | You get '42' then. | ‘42’ | 42… | ⇒ 42 | ✅ 42 | 42 🎉 | <b>42</b>
    | # 42 | It is ４２ | \\fbox{42} | - 42""".split("|"),
)
def test_typography_around_an_answer_does_not_hide_it(hint):
    assert leaks(asked("How many apples does she have?", "42"), hint.strip()) == 1


def test_a_word_is_stated_in_small_or_capital_letters():
    assert leaks(asked("Is it prime?", "yes"), "The answer is Yes!") == 1


def test_the_numbers_of_a_list_are_no_answers():
    problem, hint = asked("What is 1 + 2?", "3"), "1. Check the sum.\n2. Do it again.\n3. Submit."
    assert not leaks(problem, hint) and leaks(problem, f"{hint}\n4. It is 3.")


@pytest.mark.parametrize(
    "hint",
    [
        "Look again at step 2.",
        "Look again at step “2”.",
        "You need x² – 1 and x ≤ 2 here.",
        "Look again at equation (2).",
        "You made 2 mistakes.",
        "Keep the term x^2 and work modulo 2.",
        "Let x = 2 and see what happens.",
        "There are 2 cases to look at.",
        "Raise it to the power of 2.",
        "Case 2 is missing. Step 2 is correct.",
        "It is 12.",
        "x2",
        "The answer is not 2.",
        "You should get 2 equations from this.",
        "",
    ],
)
def test_a_hint_with_the_digits_of_the_answer_is_no_leak(hint):
    assert leaks(asked("What is 1 + 1?", "2"), hint) == 0


def test_a_digit_is_no_leak_of_an_answer_of_many_digits_with_the_same_value():
    assert not leaks(asked("What?", "000+00+8"), "1st is 0, 2nd not 7, 3rd is 8.")


def test_what_the_problem_says_itself_is_no_leak():
    problem = asked("The sum is 12345. What is the largest part of the sum?", "12345")
    assert not leaks(problem, "You know that the sum is 12345.") and not leaks(problem, "Look at 12345.")
    assert leaks(problem, "So the answer is 12345.")


BOX = "\\boxed{" + r"\arctan(\arctan((x+i)^{0.3}))+" * 60 + "x}"


@pytest.mark.parametrize(
    "piece", ["is 9^9^9^9. ", "\\boxed{", "as", "{", "1+", "so (9^99999)! + x. ", "5 is correct ", BOX]
)
def test_a_hostile_hint_costs_little(piece):
    clock = time.perf_counter()
    leaks(asked("What?", "\\frac{1}{2}+\\sqrt[3]{x^2+1}"), piece * (20_000 // len(piece)))
    assert time.perf_counter() - clock < 2  # without bounds, some of these take a minute


def test_a_hint_of_code_leaks_if_its_program_is_right_or_the_solution_word_for_word():
    solution = "def f(n):\n    return n + 1"
    problem = Problem("c", "code", "Add 1.", asserts=["assert f(1) == 2"], func_name="f", solution=solution)
    assert leaks(problem, "```python\ndef f(k):\n    k += 1\n    return k\n```")
    assert leaks(problem, "Write def f(n): return n + 1")
    assert not leaks(problem, "```python\ndef f(k):\n    return k\n```") and not leaks(problem, "Add 1.")


def test_private_reasoning_is_not_shown_to_the_other_side():
    d = Dialogue(
        "x",
        "m",
        "math",
        4,
        messages=[
            {"role": "teacher", "content": "P"},
            {"role": "student", "content": "<think>hm</think>two"},
        ],
    )
    prompts = {"informed": "T", "informed_math": "{turn} {knowledge}", "asker_math": "{turn}"}
    cast = cast_of(SimpleNamespace(view=lambda messages: messages), prompts)
    assert teacher_view(cast, d, MATH, "informed", "2")[-1]["content"] == "two 2"
    assert next(asker(cast, d, MATH, "<think>hm", Verdict("wrong"))).ids[0]["content"] == ""


def test_the_log_holds_what_the_teacher_was_privately_shown_and_nothing_where_nothing_was(toy):
    _, chat, prompts, problems = toy
    math, code = problems["math"][0], problems["code"][0]
    informed, _ = scripted(talk(math, chat, prompts, 3), chat, attempts(math))
    assert informed.knowledge == [f"Answer: {math.answer}"] * 2 + [None]
    critic, _ = scripted(talk(code, chat, prompts, 3, "critic"), chat, attempts(code))
    assert critic.knowledge == [None] * 3
    tested, _ = scripted(talk(code, chat, prompts, 3), chat, attempts(code))
    assert "returned [1, 1, 1]" in tested.knowledge[0] and "returned [2, 2, 2]" in tested.knowledge[1]


def test_the_asker_of_math_sees_the_solution_as_the_teacher_does():
    cast = cast_of(SimpleNamespace(view=lambda messages: messages), generate.PROMPTS)
    d = Dialogue("x", messages=[{"role": "teacher", "content": "p"}, {"role": "student", "content": "3"}])
    asked = next(asker(cast, d, MATH, "3", Verdict("wrong"))).ids[-1]["content"]
    assert MATH.solution in asked
    assert MATH.solution in teacher_view(cast, d, MATH, "informed", MATH.answer)[-1]["content"]


def test_the_teacher_of_code_answers_a_question_about_the_attempt_whose_place_it_took(toy):
    _, chat, prompts, problems = toy
    code = problems["code"][0]
    said = {
        "student": [attempts(code)["student"][0], code.solution],
        "asker": ["Which 2nd?"],
        "teacher": ["2nd 3 or 4."],
    }
    d, _ = scripted(talk(code, chat, prompts, 2, inject=always), chat, said)
    assert d.said[0] == "Which 2nd?" and "returned [1, 1, 1]" in d.knowledge[0]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_dialogue_that_the_context_has_no_room_for_ends_alone(toy, role):
    _, chat, prompts, problems = toy
    coroutine, full = talk(problems["math"][0], chat, prompts, 3), Turn([], [], "context")
    wrong = chat.tokenizer.encode(attempts(problems["math"][0])["student"][0]) + [chat.end]
    request = next(coroutine)
    with pytest.raises(StopIteration) as end:
        while True:
            if isinstance(request, Sample):
                turn = Turn(wrong, [-1.0] * len(wrong), "stop")
                request = coroutine.send(full if request.role == role else turn)
            else:
                request = coroutine.send(Verdict("wrong"))
    assert end.value.value.outgrown and end.value.value.turns == (role == "teacher")


def test_engines_end_what_does_not_fit_and_play_the_rest(toy, speakers):
    model, chat, _, _ = toy
    engine = speakers(model, chat)["student"].engine
    engine.submit("long", "a", [chat.end] * 4090)
    engine.submit("short", "b", chat.view([{"role": "user", "content": "Compute "}]))
    done = {}
    while engine.pending:
        done |= dict(engine.poll())
    assert done["long"].finish == "context" and not done["long"].ids and done["short"].ids


@pytest.mark.parametrize("per_turn", [False, True])
def test_every_student_token_gets_the_advantage_of_its_dialogue_or_turn(per_turn):
    class Args:
        gamma, no_std, per_turn_return, leaks = 0.7, True, per_turn, "keep"

    def dialogue(lengths, solved):
        statuses = ["wrong"] * (len(lengths) - 1) + ["correct" if solved else "wrong"]
        d = Dialogue("x", statuses=statuses[: len(lengths)], solved=solved)
        for n in lengths:
            d.mask += [0, 0] + [1] * n
        return d

    group = [dialogue([2, 3], 2), dialogue([1], None)]
    first, second = (per_token(of_turns, d) for of_turns, d in zip(turn_advantages(group, Args), group))
    if per_turn:  # returns 0.7 and 1 of the solved one, 0 of the other: mean 1.7/3
        assert first == pytest.approx([0.7 - 1.7 / 3] * 2 + [1 - 1.7 / 3] * 3)
        assert second == pytest.approx([-1.7 / 3])
    else:  # rewards 0.7 and 0
        assert first == pytest.approx([0.35] * 5) and second == pytest.approx([-0.35])
    assert turn_advantages([dialogue([], None)] * 2, Args) == [[], []]  # a problem that fills the context
    assert turn_advantages([dialogue([2, 3], 2)] * 2, Args) == [[0, 0], [0, 0]]  # equal rewards


def test_a_group_without_its_leaks_is_normalized_over_the_rest():
    class Args:
        gamma, no_std, per_turn_return, leaks = 0.7, True, False, "drop"

    def dialogue(status, leaks):
        return Dialogue("x", statuses=[status], solved=1 if status == "correct" else None, leaks=[1] * leaks)

    group = [dialogue("correct", 1), dialogue("correct", 0), dialogue("wrong", 0), dialogue("wrong", 2)]
    assert turn_advantages(group, Args) == [[0.0], [0.5], [-0.5], [0.0]]
    assert turn_advantages(group[::3], Args) == [[0.0], [0.0]]  # no rest
    Args.leaks = "keep"
    assert turn_advantages(group, Args) == [[0.5], [0.5], [-0.5], [-0.5]]


@pytest.mark.parametrize(
    "value, taken", [(1, 1.0), (True, 1.0), (None, None), (float("nan"), None), ("", None)]
)
def test_a_reward_is_a_finite_number_of_any_type_and_else_one_line(value, taken, monkeypatch):
    monkeypatch.setattr("grpo.reward", lambda dialogue, gamma, t: value)
    if taken is None:
        with pytest.raises(BadInput, match="dialogue x: reward.. is .*; it must be a finite number"):
            checked_reward(Dialogue("x"), 0.7)
    else:
        assert checked_reward(Dialogue("x"), 0.7) == taken


def test_a_teacher_may_be_a_plain_function_that_returns_a_text(toy):
    _, chat, prompts, _ = toy
    said = {"student": ["8", "8"]}

    def mine(cast, dialogue, problem, latest):
        return hint

    hint = "Which 1st?"
    d, asked = scripted(converse(cast_of(chat, prompts), MATH, "x", 2, mine), chat, said)
    assert d.messages[2]["content"] == hint and {role for role, _ in asked} == {"student"}
    hint = 5
    with pytest.raises(BadInput, match="teacher mine returned 5"):
        scripted(converse(cast_of(chat, prompts), MATH, "x", 2, mine), chat, said)


def test_a_template_without_system_messages_is_one_line(shapes):
    prompts = {"math": "{problem}", "student": "Be careful."}
    with pytest.raises(BadInput, match="refuses the problem .*; leave the prompt 'student' empty"):
        next(talk(MATH, load_chat(shapes["gemma"]), prompts, 2))


def test_a_prompt_that_no_role_gives_is_named(toy):
    _, chat, _, _ = toy
    with pytest.raises(BadInput, match="there is no prompt 'informed_math'"):
        scripted(talk(MATH, chat, {"math": "{problem}", "informed": "T"}, 2), chat, {"student": ["8", "8"]})
