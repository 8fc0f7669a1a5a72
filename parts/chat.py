"""Not part of the method: a model's chat template, and which part of a turn is private reasoning.

chat = load_chat("google/gemma-3-12b-it")
ids = chat.view([{"role": "user", "content": "What is 3 + 5?"}])  # up to where the assistant speaks
ids += chat.turn("It is 9.") + chat.between("Look again.")        # and up to its next turn
visible("<think>7 or 8?</think>It is 8.")    # "It is 8."
visible("7 or 8?</think>It is 8.")           # "It is 8.", as the prompt may have opened the reasoning
visible("<think>7 or")                       # "", cut off inside the reasoning
"""

import math
import re
import sys
from functools import cache
from os.path import commonprefix

from tqdm import tqdm

from parts.engines import load_tokenizer
from parts.runs import BadInput


class Chat:
    """A tokenizer's chat template: the tokens that open a dialogue, stand between student turns, end a turn.

    Roles alternate and there is no system role, so that any template fits. If a message contains a control
    token such as `<end_of_turn>`, it is encoded as ordinary text, so that nobody can fake a turn.
    note: a line for the user if the template rewrites earlier turns (Qwen 3 drops their reasoning; a record
    keeps turns as sampled) or contains today's date; else None.
    end: id of the end-of-turn token. gap: blanks that stand before it. stops: ids that end a turn.
    opened_reasoning: "<think>" if the prompt opens the reasoning of each turn, else "".
    """

    MARK, THOUGHT = "MARKER", "REASON"  # texts of the probes

    def __init__(self, tokenizer, name: str):
        """name: the model's, for messages. Raises BadInput if the template cannot be used."""
        self.tokenizer, self.name = tokenizer, name
        # The probes below print no unknown word and hide no control token: "(?!)" never matches.
        self.unknown, self.shown = {}, math.inf
        self.token_of, self.control = {}, re.compile("(?!)")
        if not tokenizer.chat_template:
            raise BadInput(f"{name}: has no chat template; use the instruction-tuned version of the model")
        probe = self.probe()
        _, header, rest = probe.split(self.MARK)
        self.gap = rest[: -len(rest.lstrip())]
        self.end, added = self.between("B", end=True)[0], tokenizer.added_tokens_decoder
        if self.end not in tokenizer.all_special_ids and self.end not in added:
            raise BadInput(f"{name}: its chat template ends an assistant turn with no special token")
        if self.splits_turns():
            reason = "its template gives reasoning a turn of its own, as gpt-oss does"
            raise BadInput(f"{name}: {reason}; use a model whose turn is one message")
        self.stops = sorted({self.end} | ({tokenizer.eos_token_id} - {None}))
        notes = []
        if any(self.rewrites(text) for text in ("B", "<think>\nB\n</think>\n\nB")):
            notes.append("rewrites earlier turns; here they stay as they were sampled")
        days = [self.render(messages("A"), strftime_now=lambda form, day=day: day) for day in "12"]
        if days[0] != days[1]:
            notes.append(
                "puts today's date into the prompt; resumed on another day, a run goes on with the new date"
            )
        self.note = f"note: the template of {name} {', and '.join(notes)}" if notes else None
        self.learn_reasoning(header)
        probe = self.encode(probe)
        control = sorted({t.content for i, t in added.items() if t.special or i in probe}, key=len)[::-1]
        # While a message is rendered, a private-use character stands for each control token in it.
        self.token_of = {chr(0xF0000 + i): token for i, token in enumerate(control)}
        self.character_of = {token: character for character, token in self.token_of.items()}
        self.control = re.compile("|".join(map(re.escape, control)))
        self.unknown, self.shown = {}, 0  # words that the tokenizer does not know; how many were printed

    def probe(self) -> str:
        """A short conversation as text. Sets in_parts: whether messages must be lists, as for SmolVLM."""
        reasons = []
        for self.in_parts in (False, True):
            try:
                shown = self.render(messages(self.MARK, self.MARK, "C"))
                if shown.count(self.MARK) == 2 and f"'{self.MARK}'" not in shown:  # else it prints the list
                    return shown
                reasons.append("it does not show each message once")
            except Exception as e:  # a template is a program and may raise anything
                reasons.append(f"{type(e).__name__}: {e}")
        raise BadInput(f"{self.name}: its template cannot alternate user and assistant ({reasons[0]})")

    def learn_reasoning(self, header: str) -> None:
        """Learns from the template which texts end reasoning, and whether the prompt opens it.

        header: the template's text before an earlier assistant turn.
        """
        # A text ends reasoning if the template deletes, from an earlier turn, everything before it.
        quoted = re.findall(r"(?<=['\"])[^'\"\\\n]{4,40}(?=['\"])", str(self.tokenizer.chat_template))
        dropped = [text for text in set(quoted) if self.drops(text)]
        self.thought_ends = [text for text in dropped if not re.search(STOPS, text)]
        # The prompt opens reasoning if it has a known mark that is not closed, or if it ends in a text that
        # does not stand before an earlier turn.
        prompt = self.render(messages(self.MARK)).split(self.MARK)[1]
        extra, last = prompt[len(commonprefix([header, prompt])) :], re.split(STOPS, prompt)[-1]
        opens = re.search(STARTS, last) or dropped and extra.strip() and last.endswith(extra)
        self.opened_reasoning = "<think>" if opens else ""

    def rewrites(self, text: str) -> bool:
        """Whether the template shows an earlier turn differently from how it was sampled."""
        rest = self.render(messages("A", self.MARK, "C")).split(self.MARK, 1)[1]
        return self.render(messages("A")) + text + rest != self.render(messages("A", text, "C"))

    def splits_turns(self) -> bool:
        """Whether the end-of-turn token stands between the reasoning and the answer of one turn."""
        fields = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), self.THOUGHT)
        turn = {"role": "assistant", "content": self.MARK, **fields}
        shown = self.attempt([*messages("A"), turn], add_generation_prompt=False)
        _, _, answer = shown.rpartition(self.MARK)[0].partition(self.THOUGHT)
        return self.tokenizer.decode([self.end]) in answer

    def drops(self, text: str) -> bool:
        """Whether the template deletes, from an earlier turn, everything before this text."""
        shown = self.attempt(messages("A", f"{self.THOUGHT}{text}{self.MARK}", "C"))
        return self.MARK in shown and self.THOUGHT not in shown

    def attempt(self, messages: list[dict], **kwargs) -> str:
        """Like render(), but returns "" if the template refuses the messages."""
        try:
            return self.render(messages, **kwargs)
        except Exception:  # a template is a program and may raise anything
            return ""

    def hide(self, text: str) -> str:
        """The text with each control token replaced by its private-use character."""
        return self.control.sub(lambda match: self.character_of[match[0]], text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. A hidden control token is encoded in two pieces, as ordinary text."""
        ids = []
        for part in re.split("([\U000f0000-\U000fffff])", text):
            token = self.token_of.get(part)
            for piece in (token[0], token[1:]) if token else (part,):
                ids += self.tokenizer.encode(piece, add_special_tokens=False)
        if self.tokenizer.unk_token_id in ids and self.tokenizer.is_fast:
            self.note_unknown(text)
        return ids

    def note_unknown(self, text: str) -> None:
        """Prints words unknown to the tokenizer: the first, then whenever their number has doubled."""
        unk, pieces = self.tokenizer.unk_token_id, []
        text = re.sub("[\U000f0000-\U000fffff]", " ", text)  # hidden control tokens
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"]):
            pieces.append(text[start:end] if token == unk else " ")
        self.unknown |= dict.fromkeys("".join(pieces).split())
        if len(self.unknown) >= max(1, 2 * self.shown):
            new, self.shown = list(self.unknown)[self.shown :], len(self.unknown)
            listed = " ".join(new[:30]) + " …" * (len(new) > 30)
            fact = f"unknown to the tokenizer of {self.name}, which writes {self.tokenizer.unk_token} instead"
            advice = "use other words in problems and prompts, or another model"
            tqdm.write(f"note: {fact}: {listed}; {advice}", file=sys.stderr)

    def render(self, messages: list[dict], **kwargs) -> str:
        """The conversation as text up to where the assistant speaks; hides control tokens in messages."""
        messages = [{**m, "content": self.hide(m["content"])} for m in messages]
        if self.in_parts:
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        # Reasoning modes are switched off: the paper does not name one, and short turns fit the protocol.
        kwargs = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False} | kwargs
        return self.tokenizer.apply_chat_template(messages, **kwargs)

    def view(self, messages: list[dict]) -> list[int]:
        """Token ids of a whole conversation, up to where the assistant speaks."""
        return self.encode(self.render(messages))

    def between(self, text: str, end: bool = False) -> list[int]:
        """The template's tokens between two student turns, with the teacher's `text` among them.

        end: whether to begin with the end-of-turn token of the first student turn.
        """
        rest = self.render(messages("A", self.MARK, text)).split(self.MARK, 1)[1]
        ids = self.encode(rest.removeprefix(self.gap))
        return ids if end else ids[1:]

    def turn(self, text: str) -> list[int]:
        """Token ids of an assistant turn with this text, end-of-turn token included."""
        return self.encode(self.hide(text) + self.gap) + [self.end]

    def text(self, ids: list[int]) -> str:
        """Text of a sampled turn without its end token, after "<think>" if the prompt opens the reasoning."""
        ids = ids[:-1] if ids and ids[-1] in self.stops else ids
        text = self.opened_reasoning + self.tokenizer.decode(ids, skip_special_tokens=False)
        for end in self.thought_ends:
            text = text.replace(end, "</think>")
        return text

    def pieces(self, ids: list[int]) -> list[str]:
        """The text of each token. A character of several tokens goes to the last; the others are empty."""
        texts = []
        for i in range(len(ids)):
            # Some tokenizers drop a leading space, so each token is decoded together with those before it.
            before, now = (self.tokenizer.decode(ids[max(0, i - 8) : end]).rstrip("�") for end in (i, i + 1))
            texts.append(now[len(before) :])
        return texts


def messages(*texts: str) -> list[dict]:
    """Texts as messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@cache
def load_chat(path: str) -> Chat:
    """The Chat of a local folder or hub name; prints its note once. Raises EngineError or BadInput."""
    chat = Chat(load_tokenizer(path), path)
    if chat.note:
        print(chat.note, file=sys.stderr)
    return chat


# ------------------------------------------------------------------------------------------ private reasoning

# Most models put it into tags such as <think>, <Thought>, <seed:think>, <|START_THINKING|> and
# <|begin_of_thought|>. PAIRS has all other marks, from chat templates and from servers' reasoning parsers.
# In square brackets only Mistral's [THINK] counts, because "[Reasoning]" may be a heading.
NAMES = r"(?i:<\|?{}(?:think|thinking|thoughts?|reasoning)(?::\w+)?\|?>)"
PREFIX = r"(?:[\w:]*[:_])?"  # as in <seed:think>
PAIRS = {
    "[THINK]": "[/THINK]",  # Mistral
    "◁think▷": "◁/think▷",  # Kimi VL
    "<|open|>think<|sep|>": "<|close|>think<|sep|>",  # Kimi K3
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|channel|>analysis": "<|channel|>final<|message|>",  # gpt-oss
    "<|channel|>commentary": "<|channel|>final<|message|>",
    "to=self<|message|>": "to=user<|message|>",  # Muse
    "<|think|>": "<|content|>",  # Solar
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "[unused16]": "[unused17]",  # Pangu
}
STARTS = "|".join([NAMES.format(rf"(?!{PREFIX}end_){PREFIX}"), *map(re.escape, PAIRS)])
STOPS = "|".join(
    [NAMES.format(rf"(?:/{PREFIX}|{PREFIX}end_(?:of_)?)"), *map(re.escape, PAIRS.values())]
    + [r"\[BEGIN FINAL RESPONSE\]"]  # Apriel
)
# Apriel and Granite 3.2 open reasoning with a sentence. Any model may write Granite's, so it counts only if
# Granite's closing sentence follows.
SENTENCES = (
    r"\AHere are my reasoning steps:\n.*?(?:\[BEGIN FINAL RESPONSE\]|$)|"
    r"\AHere(?:'s| is) my thought process:.*?Here(?:'s| is) my response:"
)
# What may stand around an answer that follows reasoning.
OPENER = r"<response>|<\|START_(?:RESPONSE|TEXT)\|>|<\|begin_of_solution\|>|<\|open\|>response<\|sep\|>"
CLOSER = r"</response>|<\|END_(?:RESPONSE|TEXT)\|>|<\|end_of_solution\|>|\[END FINAL RESPONSE\]|<\|end\|>"


def visible(text: str) -> str:
    """The part of a turn that the other side sees."""
    hidden = rf"(?:{STARTS}).*?(?:{STOPS}|$)|{SENTENCES}"  # $: the turn was cut off inside its reasoning
    answer = re.split(STOPS, re.sub(hidden, "", text, flags=re.S))[-1].strip()
    return re.sub(rf"\A(?:{OPENER})|(?:{CLOSER})\Z", "", answer).strip()
