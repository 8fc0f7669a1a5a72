"""Not part of the method: takes a model's private reasoning out of its turn.

    from parts.reasoning import visible
    visible("<think>7 or 8?</think>It is 8.")    # "It is 8."
    visible("7 or 8?</think>It is 8.")           # "It is 8.", as the prompt may open the reasoning
    visible("<think>7 or")                       # "", cut off inside the reasoning

Most models write it in tags such as <think>, <Thought>, <seed:think>, <|START_THINKING|> and
<|begin_of_thought|>. PAIRS has the other marks. Of words in brackets only Mistral's [THINK] counts, because
"[Reasoning]" may be a heading. The marks were taken from chat templates and from servers' reasoning parsers.
"""

import re

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
# Apriel and Granite 3.2 start with a sentence. Any model may write that of Granite, so its second one must
# follow.
SENTENCES = (
    r"\AHere are my reasoning steps:\n.*?(?:\[BEGIN FINAL RESPONSE\]|$)|"
    r"\AHere(?:'s| is) my thought process:.*?Here(?:'s| is) my response:"
)
# What may stand around an answer that follows reasoning.
OPENER = r"<response>|<\|START_(?:RESPONSE|TEXT)\|>|<\|begin_of_solution\|>|<\|open\|>response<\|sep\|>"
CLOSER = r"</response>|<\|END_(?:RESPONSE|TEXT)\|>|<\|end_of_solution\|>|\[END FINAL RESPONSE\]|<\|end\|>"


def visible(text: str) -> str:
    """Returns the part of a turn that the other side sees."""
    hidden = rf"(?:{STARTS}).*?(?:{STOPS}|$)|{SENTENCES}"  # $: the turn was cut off inside its reasoning
    answer = re.split(STOPS, re.sub(hidden, "", text, flags=re.S))[-1].strip()
    return re.sub(rf"\A(?:{OPENER})|(?:{CLOSER})\Z", "", answer).strip()
