"""OpenAI-compatible servers, as public reports describe them: what they refuse and in which words, what they reply."""

import http.server
import json
import threading
import time

import pytest
from commands import rows, run
from conftest import GEMMA, ROOT, cast_of, characters

from common import Problem, Verdict
from generate import converse, informed
from parts.chat import Chat
from parts.driver import Grade
from parts.engines import Endpoint, EngineError, Turn, refuses_length, retry_pause

TALK = dict(prompts=ROOT / "toy" / "prompts.json", threads=1)


def said(content="fine", finish="stop", **message):
    """A reply with status 200."""
    return 200, {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}


def refusal(status, text):
    """An answer with an error; text: its body, or the message in it."""
    return status, text if text[:1] in ("", "{", "[", "<") else {"error": {"message": text}}


@pytest.fixture
def serve(monkeypatch):
    """A function (answers) → (address, requests seen): a server that gives each answer, and then the last again.

    An answer is (status, body), (status, body, headers), or a function of the request that returns it. A body of the type bytes is
    sent again and again, without an end. No request waits before it is made again; serve.pauses has the seconds.
    """
    started, pauses, really = [], [], time.sleep
    others = set(threading.enumerate()) - {threading.current_thread()}  # may still retry for an earlier test

    def pause(seconds):
        really(seconds) if threading.current_thread() in others else pauses.append(seconds)

    monkeypatch.setattr("time.sleep", pause)

    def start(*answers):
        seen, left = [], list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request |= {"headers": dict(self.headers), "path": self.path}
                seen.append(request)
                answer = left.pop(0) if len(left) > 1 else left[0]
                status, body, *headers = answer(request) if callable(answer) else answer
                self.send_response(status)
                for name, value in (headers or [{}])[0].items():
                    self.send_header(name, value)
                self.end_headers()
                while isinstance(body, bytes) and not ended.wait(0.01):
                    self.wfile.write(body)
                if not isinstance(body, bytes):
                    self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

            def handle(self):
                try:
                    super().handle()
                except ConnectionError:  # the client waits no longer
                    pass

            def log_message(self, *_):
                pass

        one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
        started.append(one)
        return f"http://127.0.0.1:{one.server_port}/v1", seen

    ended, start.pauses = threading.Event(), pauses
    yield start
    ended.set()
    for one in started:
        one.shutdown()


def talk(endpoint, *texts):
    """The turns of dialogues that say these texts, in their order."""
    turns = {}
    for text in texts:
        endpoint.submit(text, "", [{"role": "user", "content": text}])
    while endpoint.pending:
        turns |= dict(endpoint.poll())
    return [turns[text] for text in texts]


def unless_bad(answer):
    """A server that gives this answer to dialogues with the word "bad" only."""
    return lambda request: answer if "bad" in str(request["messages"]) else said()


# ------------------------------------------------------------------------------------------ what does not fit

TOO_LONG = """
OpenAI | 400 | This model's maximum context length is 8192 tokens. However, your messages resulted in 8545 tokens.
OpenAI, responses | 400 | Your input exceeds the context window of this model. Please adjust your input and try again.
OpenAI, GPT-5 | 400 | Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.
OpenAI, letters | 400 | Invalid 'messages[2].content': string too long. Expected a string with maximum length 10485760
OpenAI, a minute | 429 | Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 342389.
Azure | 400 | {"error": {"message": "no", "code": "context_length_exceeded"}}
Gemini | 400 | [{"error": {"code": 400, "message": "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575)."}}]
Anthropic | 400 | prompt is too long: 213462 tokens > 200000 maximum
Anthropic, sum | 400 | input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000
Anthropic, bytes | 413 | {"error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}
Bedrock | 400 | Input is too long for requested model.
Bedrock, count | 400 | Too many input tokens. Max input tokens: 8192, request input token count: 9001
Bedrock, letters | 400 | Malformed input request: expected maxLength: 42000, actual: 46735, please reformat your input
vLLM, decoder | 400 | The decoder prompt (length 2136) is longer than the maximum model length of 2048.
vLLM, prompt | 400 | Prompt length of 2048 is longer than the maximum model length of 2048.
vLLM, negative | 400 | max_tokens must be at least 1, got -904.
vLLM, sum | 400 | 'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096
vLLM, input | 400 | Input length (11680) exceeds model's maximum context length (4096).
Xinference | 500 | {"detail": "[address=0.0.0.0:43769] The decoder prompt (length 66501) is longer than the maximum model length of 65536."}
SGLang | 400 | The input (5000 tokens) is longer than the model's context length (4096 tokens).
SGLang, count | 400 | Requested token count exceeds the model's maximum context length of 4096 tokens.
SGLang, allowed | 400 | Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens).
llama.cpp | 400 | request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it
llama.cpp, 500 | 500 | {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}}
llama.cpp, type | 500 | {"error": {"code": 500, "message": "no", "type": "exceed_context_size_error", "n_ctx": 256}}
llama-cpp-python | 500 | Requested tokens (2138) exceed context window of 2048
Ollama | 400 | prompt too long; exceeded max context length by 100918 tokens
LM Studio | 400 | {"error": "Trying to keep the first 111490 tokens when context the overflows. However, the model is loaded with less"}
LM Studio, keep | 400 | The number of tokens to keep from the initial prompt is greater than the context length.
TGI | 422 | {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096."}
TGI, input | 422 | {"error": "Input validation error: `inputs` must have less than 2048 tokens. Given: 2222"}
TensorRT-LLM | 400 | Encountered an error when fetching new request: Prompt length (5000) exceeds maximum input length (4096)
Cohere | 400 | {"message": "too many tokens: total number of tokens (prompt and prediction) cannot exceed 2048 - received 6354."}
Cohere, size | 400 | {"message": "too many tokens: size limit exceeded by 1 tokens."}
Moonshot | 400 | Invalid request: Your request exceeded model token limit: 8192 (requested: 9000)
Moonshot, max | 400 | model max length exceeded, max length:8192
Z.ai | 400 | {"error": {"code": "1261", "message": "Prompt exceeds max length"}}
Zhipu | 400 | {"error": {"code": "1261", "message": "Prompt 超长"}}
xAI | 400 | {"error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}
Mistral | 400 | Prompt contains 200000 tokens, too large for model with 131072 maximum context length
Groq | 400 | Please reduce the length of the messages or completion.
Groq, a minute | 413 | Request too large for model `llama` on tokens per minute (TPM): Limit 6000, Requested 12328
Together | 422 | The input (516368 tokens) is longer than the model's context length (262144 tokens).
Fireworks | 400 | The prompt is too long: 200000, model maximum context length: 131071
DeepSeek | 400 | This model's maximum context length is 65536 tokens. However, you requested 70000 tokens
DeepInfra | 400 | Requested input length 5000 exceeds maximum input length 4096
OpenRouter | 400 | This endpoint's maximum context length is 131072 tokens. However, you requested about 200000 tokens
OpenRouter, 200 | 200 | {"error": {"message": "This endpoint's maximum context length is 131072 tokens.", "code": 400}}
Copilot | 400 | prompt token count of 200000 exceeds the limit of 128000
MiniMax | 400 | invalid params, context window exceeds limit
Poolside | 400 | Input length 131393 exceeds the maximum allowed input length of 131040 tokens.
DashScope | 400 | <400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]
Baidu | 400 | {"error_code": 336007, "error_msg": "prompt tokens too long"}
watsonx | 400 | the number of input tokens 5000 cannot exceed the total tokens limit 4096 for this model
LiteLLM | 503 | litellm.APIConnectionError: OpenAIException - Requested token count exceeds the model's maximum context length
Cloudflare | 413 | The estimated number of input and maximum output tokens (6094) exceeded this model context window limit
AI21 | 422 | {"detail": "Prompt has 9000 tokens, but the limit is 8192 tokens"}
Volcengine | 400 | Total tokens of image and text exceed max message tokens. Request id: 1
nginx | 413 | <html><head><title>413 Request Entity Too Large</title></head></html>
no words | 413 |
"""


def table(text):
    """{name: (status, words)} of the lines of a table."""
    cells = [[cell.strip() for cell in line.split("|", 2)] for line in text.strip().splitlines()]
    return {name: (int(status), words) for name, status, words in cells}


@pytest.mark.parametrize("status, words", table(TOO_LONG).values(), ids=table(TOO_LONG))
def test_a_request_that_does_not_fit_ends_its_dialogue_at_once(status, words, serve):
    address, seen = serve(refusal(status, words))
    assert Endpoint(f"{address}#m").ask([]) == Turn("", [], "context") and len(seen) == 1


# ---------------------------------------------------------------------------- what is refused to one dialogue

REFUSED = """
Azure, content filter | 400 | {"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.", "code": "content_filter"}}
LiteLLM, content filter | 400 | litellm.ContentPolicyViolationError: AzureException - The response was filtered
OpenAI, usage policy | 400 | Invalid prompt: your prompt was flagged as potentially violating our usage policy.
DeepSeek, risk | 400 | Content Exists Risk
Moonshot, risk | 400 | {"error": {"message": "The request was rejected because it was considered high risk", "type": "content_filter"}}
DashScope, inspection | 400 | {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}}
Zhipu, sensitive | 400 | {"error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}}
Anthropic, output | 400 | Output blocked by content filtering policy
OpenRouter, moderation | 403 | {"error": {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}}
xAI, guidelines | 403 | {"error": "Content violates usage guidelines."}
Gemini, no choices | 200 | {"choices": [], "usage": {}}
Gemini, null choices | 200 | {"choices": null}
Gemini, prohibited | 200 | {"choices": [{"finish_reason": "content_filter: PROHIBITED_CONTENT", "message": {"role": "assistant"}}]}
Azure, filtered reply | 200 | {"choices": [{"finish_reason": "content_filter", "message": {"content": "The an"}}]}
OpenRouter, error in a choice | 200 | {"choices": [{"error": {"message": "upstream"}, "finish_reason": "error", "message": {"content": ""}}]}
Anthropic, empty message | 400 | messages: text content blocks must be non-empty
Anthropic, empty user | 400 | messages.2: user messages must have non-empty content
Mistral, empty message | 400 | Assistant message must have either content or tool_calls, but not none.
Moonshot, empty message | 400 | Invalid request: message at position 3 with role 'assistant' must not be empty
Bedrock, empty message | 400 | The text field in the ContentBlock object at messages.1.content.0 is blank. Add text, and try again.
vLLM with Ministral's template | 400 | Assistant message must have a string or a list of chunks in content or a list of tool calls.
llama.cpp, template | 500 | {"error": {"code": 500, "message": "Value is not callable: null at row 1, column 5", "type": "server_error"}}
vLLM, a crash | 500 | {"object": "error", "message": "list index out of range", "code": 500}
a gateway's time limit | 504 | <html><head><title>504 Gateway Time-out</title></head></html>
a page | 200 | <html>Sorry</html>
"""


@pytest.mark.parametrize("status, words", table(REFUSED).values(), ids=table(REFUSED))
def test_a_refusal_ends_one_dialogue_and_is_told(status, words, serve, capsys):
    address, _ = serve(unless_bad(refusal(status, words)))
    turns = talk(Endpoint(f"{address}#m"), "good", "bad", "fair")
    assert [turn.finish for turn in turns] == ["stop", "refused", "stop"]
    assert "refuses single requests, whose dialogues end (1 so far)" in capsys.readouterr().err


@pytest.mark.parametrize("status, words", table(REFUSED).values(), ids=table(REFUSED))
def test_what_is_refused_to_all_ends_the_run(status, words, serve):
    address, _ = serve(refusal(status, words))
    with pytest.raises(EngineError, match="does not answer"):
        talk(Endpoint(f"{address}#m"), "good")
    assert not refuses_length(status, words)


FATAL = """
a wrong key | 401 | Incorrect API key provided
no such model | 404 | The model `m` does not exist
no such model, LiteLLM | 400 | {"error": "Invalid model name passed in model=m"}
no credit, Anthropic | 400 | Your credit balance is too low to access the Anthropic API.
no credit, DeepSeek | 402 | Insufficient Balance
no credit, OpenAI | 429 | {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
"""


@pytest.mark.parametrize("status, words", table(FATAL).values(), ids=table(FATAL))
def test_a_refusal_of_everything_ends_the_run_at_its_first_request_and_marks_no_dialogue(
    status, words, serve
):
    address, seen = serve(said(), refusal(status, words))
    endpoint = Endpoint(f"{address}#m")
    assert talk(endpoint, "good")[0].finish == "stop"
    with pytest.raises(EngineError, match=f"HTTP {status}"):
        talk(endpoint, "good")
    assert len(seen) == 3  # two requests, and one to see whether others are answered


def test_dialogues_that_do_not_fit_end_no_run_as_long_as_others_are_answered(serve):
    address, _ = serve(unless_bad(refusal(400, "prompt is too long")))
    turns = talk(Endpoint(f"{address}#m"), "good", *[f"bad {i}" for i in range(25)])
    assert [turn.finish for turn in turns] == ["stop"] + ["context"] * 25


def test_where_nothing_fits_any_more_the_run_ends(serve):
    address, _ = serve(
        said(), refusal(400, "max_tokens: 9 > 8, which is the maximum allowed number of output tokens")
    )
    with pytest.raises(EngineError, match="maximum allowed"):
        talk(Endpoint(f"{address}#m"), *map(str, range(25)))


OTHER_LIMITS = """
a rate, in a reply | 200 | {"error": {"message": "Rate limit exceeded: limit 20 requests and 9000 tokens", "code": 429}}
a month's tokens | 400 | You exceeded your monthly quota of tokens
usage, Anthropic | 400 | You have reached your specified API usage limits.
a rate, Bedrock | 429 | Too many tokens, please wait before trying again.
a gateway in Go | 500 | context canceled
a gateway in Go, late | 504 | context deadline exceeded
overloaded | 529 | {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
"""


@pytest.mark.parametrize("status, words", table(OTHER_LIMITS).values(), ids=table(OTHER_LIMITS))
def test_other_limits_say_nothing_about_the_length(status, words):
    assert not refuses_length(status, words)


def test_roles_that_a_server_refuses_end_the_run(serve):
    def alternating(request):
        roles = [message["role"] for message in request["messages"]]
        return refusal(400, "roles must alternate") if "assistant" in roles else said()

    address, _ = serve(alternating)
    with pytest.raises(EngineError, match="roles must alternate"):
        Endpoint(f"{address}#m").ask([{"role": "assistant", "content": "x"}], probe=True)


# ----------------------------------------------------------------------------------------------------- replies

PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "fine"}]
REPLIES = {
    "a text": (said(), "fine"),
    "parts, Mistral": (said(PARTS), "fine"),
    "reasoning alone, vLLM": (said(None, "length", reasoning="hm"), ""),
    "reasoning alone, SGLang": (said("", "length", reasoning_content="hm"), ""),
    "reasoning alone, Ollama": (said("", "length", thinking="hm"), ""),
    "no content, Gemini": ((200, {"choices": [{"message": {}, "finish_reason": "length"}]}), ""),
    "an error of null": ((200, said()[1] | {"error": None}), "fine"),
    "an endless prelude, OpenRouter": ((200, "\n" * 500 + json.dumps(said()[1])), "fine"),
}


@pytest.mark.parametrize("answer, text", REPLIES.values(), ids=REPLIES)
def test_a_reply_is_read(answer, text, serve, capsys):
    address, _ = serve(answer)
    finish = answer[1]["choices"][0]["finish_reason"] if isinstance(answer[1], dict) else "stop"
    assert Endpoint(f"{address}#m").ask([]) == Turn(text, [], finish)
    assert ("replies without text" in capsys.readouterr().err) == (not text)


def test_events_are_told_when_their_number_has_doubled(serve, capsys):
    address, _ = serve(said(""))
    endpoint = Endpoint(f"{address}#m")
    for _ in range(9):
        endpoint.ask([])
    assert capsys.readouterr().err.count("without text") == 4  # 1, 2, 4, 8


def test_a_servers_words_in_a_reply_are_told(serve):
    address, _ = serve((200, {"error": {"message": "Provider returned error", "code": 429}, "choices": None}))
    with pytest.raises(EngineError, match="Provider returned error"):
        Endpoint(f"{address}#m").ask([])


@pytest.mark.parametrize("body", ["<html>Log in</html>", 'data: {"choices": []}\n\ndata: [DONE]'])
def test_the_start_of_a_reply_that_is_no_json_is_told(body, serve):
    address, _ = serve((200, body))
    with pytest.raises(EngineError, match=body[:9]):
        Endpoint(f"{address}#m").ask([])


def test_a_reply_that_never_ends_has_a_limit(serve, monkeypatch):
    monkeypatch.setattr("parts.engines.LONGEST", 0.1)
    address, _ = serve((200, b" "), said())
    assert Endpoint(f"{address}#m").ask([]).ids == "fine"


# -------------------------------------------------------------------------------------- what a server asks for


def modern(request):
    """OpenAI's models since o1."""
    if "max_tokens" in request:
        return refusal(
            400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
        )
    if request.get("temperature", 1) != 1:
        return refusal(400, "Unsupported value: 'temperature' does not support 0 with this model.")
    return said()


def test_todays_models_are_asked_again_and_the_others_requests_are_right_at_once(serve, capsys):
    address, seen = serve(modern)
    endpoint = Endpoint(f"{address}#m", "--judge", 7, 0.0)
    assert endpoint.ask([]).ids == endpoint.ask([]).ids == "fine"
    assert len(seen) == 4 and seen[-1]["max_completion_tokens"] == 7 and "temperature" not in seen[-1]
    assert "{'max_completion_tokens': 7} instead of {'max_tokens': 7, 'temp" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "`temperature` is deprecated for this model.",
        "invalid temperature: only 1 is allowed for this model",
        "gpt-5 models don't support temperature=0.0. Only temperature=1 is supported.",
        "Input validation error: `temperature` must be strictly positive",
    ],
)
def test_a_temperature_that_a_server_refuses_is_left_out(words, serve):
    address, _ = serve(lambda request: refusal(400, words) if "temperature" in request else said())
    assert Endpoint(f"{address}#m", temperature=0.0).ask([]).ids == "fine"


def test_parameters_are_changed_only_if_that_helps(serve):
    address, seen = serve(refusal(400, "no; you sent temperature 0.0"), refusal(400, "no"), said())
    endpoint = Endpoint(f"{address}#m", temperature=0.0)
    with pytest.raises(EngineError):
        endpoint.ask([])
    endpoint.ask([])
    assert seen[-1]["temperature"] == 0


BUSY = {
    "Rate limit reached: Limit 30000, Used 29000, Requested 1500. Please try again in 4.77s.": 4.77,
    "Please try again in 450ms.": 0.45,
    "Please try again in 1m2.5s. Need more tokens?": 62.5,
    "Please try again in 2h3m": 120,
    "Please retry after 26 seconds.": 26,
    '{"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]}}': 34,
}


@pytest.mark.parametrize("words, seconds", BUSY.items())
def test_the_pause_that_a_busy_server_asks_for_is_made(words, seconds, serve):
    address, _ = serve(refusal(429, words), said())
    assert Endpoint(f"{address}#m").ask([]).ids == "fine" and serve.pauses == [pytest.approx(seconds)]


def test_a_busy_server_that_asks_for_no_pause_is_asked_for_half_an_hour(serve):
    address, _ = serve(*[refusal(429, "Too many requests")] * 39, said())
    assert Endpoint(f"{address}#m").ask([]).ids == "fine"
    assert max(serve.pauses) <= 60 and sum(serve.pauses) > 20 * 60


def test_a_server_that_has_answered_may_restart(serve):
    pauses = [retry_pause(503, "", {}, tries, True) for tries in range(1, 7)]
    assert sum(pauses[:5]) > 40 and pauses[5] is None


def test_the_query_of_an_address_stays_behind_the_path_and_the_kit_names_itself(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    address, seen = serve(said())
    Endpoint(f"{address}/openai/deployments/m?api-version=2024-10-21&x=a%20b#m").ask([])
    assert seen[0]["path"] == "/v1/openai/deployments/m/chat/completions?api-version=2024-10-21&x=a+b"
    assert seen[0]["headers"]["api-key"] == "secret"
    (agent,) = [value for name, value in seen[0]["headers"].items() if name.lower() == "user-agent"]
    assert "OpenAI" not in agent  # firewalls block that


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "other"])
def test_a_proxy_is_not_asked_for_this_machine(host, serve, monkeypatch):
    address, _ = serve(said("direct"))
    proxy, _ = serve(said("by proxy"))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy.removesuffix("/v1"))
    reply = Endpoint(f"{address.replace('127.0.0.1', host)}#m").ask([]).ids
    assert reply == ("by proxy" if host == "other" else "direct")


# ---------------------------------------------------------------------------------------------------- the run

WORST = {
    "reasoning alone": said(None, "length", reasoning="hm"),
    "does not fit": refusal(
        400, "The decoder prompt (length 2136) is longer than the maximum model length of 2048."
    ),
    "does not fit, 500": refusal(500, "Context size has been exceeded."),
    "too large for a proxy": refusal(413, "<html>413 Request Entity Too Large</html>"),
    "content filter": refusal(400, '{"error": {"message": "filtered", "code": "content_filter"}}'),
    "no choices": (200, {"choices": []}),
    "an error with status 200": (200, {"error": {"message": "Provider returned error", "code": 502}}),
    "parts": said(PARTS),
    "a crash": (500, {"message": "list index out of range"}),
    "a reply that never ends": (200, b" "),
}


@pytest.fixture
def problems(base, tmp_path):
    """File of one problem for each answer of WORST, and two more."""
    lines = (ROOT / "toy" / "math_train.jsonl").read_text().splitlines()[: len(WORST) + 2]
    (tmp_path / "some.jsonl").write_text("\n".join(lines))
    return tmp_path / "some.jsonl"


def test_a_run_with_the_ten_worst_answers_plays_all_other_dialogues(
    problems, base, serve, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("parts.engines.LONGEST", 0.1)
    prompts = [json.loads(line)["prompt"] for line in problems.read_text().splitlines()]

    def answer(request):
        if "max_tokens" in request or "temperature" in request:
            return modern(request)
        said_to = str(request["messages"])
        return next((a for p, a in zip(prompts, WORST.values()) if json.dumps(p)[1:-1] in said_to), said())

    address, _ = serve(answer)
    options = dict(
        model=base,
        problems=problems,
        teacher_model=f"{address}#m",
        max_tokens=1,
        turns=3,
        teacher_temperature=0.0,
    )
    run("generate", out=tmp_path / "run", **options, **TALK)
    dialogues = {row["messages"][0]["content"]: row for row in rows(tmp_path / "run")}
    ends = [next("outgrown" if d["outgrown"] else "refused" if d["refused"] else len(d["statuses"])
            for text, d in dialogues.items() if prompt in text) for prompt in prompts]  # fmt: skip
    fate = dict(zip(WORST, ends))
    assert [name for name, end in fate.items() if end == "outgrown"] == list(WORST)[1:4]
    assert [name for name, end in fate.items() if end == "refused"] == [*list(WORST)[4:7], *list(WORST)[8:]]
    assert fate["reasoning alone"] == fate["parts"] == ends[-1] == ends[-2] == 3
    (counts,) = rows(tmp_path / "run", "metrics.jsonl")
    assert counts["outgrown"] == 3 / 12 and counts["refused"] == 5 / 12 and counts["empty_hints"] == 2 / 8
    assert "note: --teacher-model" in capsys.readouterr().err


def test_a_template_that_refuses_an_empty_message_ends_that_dialogue():
    special = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    check = "{% if m['role'] == 'assistant' and not m['content'] %}{{ raise_exception('empty') }}{% endif %}"
    ministral = "{% for m in messages %}" + check + "{% endfor %}" + GEMMA
    chat = Chat(characters(special, ministral, "<bos>", "<eos>"), "ministral")
    prompts = {"math": "{problem}", "informed": "T", "informed_math": "{turn} {knowledge}"}
    problem = Problem("m", "math", "1 + 1?", answer="2")
    dialogue, answer = converse(cast_of(chat, prompts), problem, "x", 5, informed), None
    with pytest.raises(StopIteration) as end:
        while True:
            request = dialogue.send(answer)
            texts = {"student": "hm", "teacher": ""}
            grades = isinstance(request, Grade)
            answer = (
                Verdict("wrong")
                if grades
                else Turn(chat.encode(texts[request.role]) + [chat.end], [], "stop")
            )
    played = end.value.value
    assert played.refused and not played.outgrown and played.turns == 2


@pytest.mark.parametrize("script", ["generate", "evaluate", "grpo"])
def test_a_run_whose_hints_are_empty_ends_with_the_reason(script, problems, base, serve, tmp_path, capsys):
    address, _ = serve(said("", "length", reasoning_content="hm"))
    options = dict(
        model=base,
        problems=problems,
        teacher_model=f"{address}#m",
        max_tokens=1,
        turns=2,
        out=tmp_path / "run",
    )
    if script == "grpo":
        with pytest.raises(SystemExit) as end:
            run(script, group=2, batch=2, steps=1, **options, **TALK)
        assert end.value.code == 2  # no reward, nothing learned
    else:
        run(script, *["play"] * (script == "evaluate"), **options, **TALK)
    written = capsys.readouterr()
    last = (written.out + written.err * (script == "grpo")).strip().splitlines()[-1]
    assert "100% of the hints were empty" in last and "raise --max-tokens" in last
