"""What the operator has said of a model's requests: who wins, on which route, and that the rest of the body stays."""

from __future__ import annotations

import json

import pytest

from gateway.proxy.policy import Policy, apply

CHAT = b"/v1/chat/completions"
COMPLETIONS = b"/v1/completions"
EMBEDDINGS = b"/v1/embeddings"
MESSAGES = b"/v1/messages"
COUNT = b"/v1/messages/count_tokens"
RESPONSES = b"/v1/responses"
OLLAMA_CHAT = b"/api/chat"
OLLAMA_GENERATE = b"/api/generate"
ROUTES = (CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, COUNT, RESPONSES, OLLAMA_CHAT, OLLAMA_GENERATE, b"/v1/rerank")


# ------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("policy", "body", "result"),
    [
        (Policy(defaults={"a": b"1"}), b'{"model":"m"}', b'{"a":1,"model":"m"}'),
        (Policy(defaults={"a": b"1"}), b'{"model":"m", "a": 0}', b'{"model":"m", "a": 0}'),
        (Policy(defaults={"a": b"1"}), b'{"model":"m", "a": null}', b'{"model":"m", "a": 1}'),
        (Policy(forced={"a": b"1"}), b'{"model":"m"}', b'{"a":1,"model":"m"}'),
        (Policy(forced={"a": b"1"}), b'{"a" :5, "model":"m"}', b'{"a" :1, "model":"m"}'),
        (Policy(dropped=frozenset("a")), b'{"a" :5, "model":"m"}', b'{"model":"m"}'),
        (Policy(dropped=frozenset("a"), defaults={"a": b"1"}), b'{"model":"m","a":5}', b'{"model":"m","a":1}'),
        (Policy(dropped=frozenset("a"), forced={"a": b"1"}), b'{"model":"m","a":5}', b'{"model":"m","a":1}'),
        (Policy(defaults={"a": b"2"}, forced={"a": b"1"}), b'{"model":"m","a":5}', b'{"model":"m","a":1}'),
        (Policy(defaults={"a": b"2"}, forced={"b": b"1"}), b'{"model":"m"}', b'{"a":2,"b":1,"model":"m"}'),
    ],
)
@pytest.mark.parametrize("route", [CHAT, EMBEDDINGS, RESPONSES + b"?x=1", b"/v1/something/new"])
def test_parameter_is_the_operators_or_the_callers(policy: Policy, body: bytes, result: bytes, route: bytes) -> None:
    """Dropped first, forced over the caller, defaults where the caller says nothing; on every route."""
    assert apply(policy, route, body) == result


@pytest.mark.parametrize("route", ROUTES)
def test_body_is_the_same_object_when_there_is_nothing_to_say(route: bytes) -> None:
    """No policy costs nothing; neither is a body copied that already is as it should be."""
    body = b'{"model":"m","temperature":0.50, "messages" : []}'
    assert apply(Policy(), route, body) is body
    assert apply(Policy(dropped=frozenset(("x",)), system_prompt="\n"), route, body) is body
    assert apply(Policy(defaults={"temperature": b"1"}), route, body) is body


def test_everything_else_stays_when_parameters_are_changed() -> None:
    """Unknown fields, big integers, escapes, white space, order."""
    body = b'{ "x\\u0041":[1e400, 12345678901234567890123],\n"a":1,\t"model":"m" , "u":"\\ud83d\\ude00 \xc3\xa9"}'
    policy = Policy(forced={"a": b"2"}, defaults={"z": b'"y"'}, dropped=frozenset(("nothing",)))
    assert apply(policy, CHAT, body) == body.replace(b'"a":1', b'"a":2').replace(b"{ ", b'{"z":"y", ', 1)


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
@pytest.mark.parametrize("forced", [False, True])
def test_limit_goes_to_the_routes_that_know_its_name(limit: str, forced: bool) -> None:
    """One that is put where it is no word would be refused by OpenAI and Anthropic."""
    know = {
        "max_tokens": {CHAT, COMPLETIONS, MESSAGES},
        "max_completion_tokens": {CHAT},
        "max_output_tokens": {RESPONSES},
    }
    policy = Policy(forced={limit: b"9"}) if forced else Policy(defaults={limit: b"9"})
    got = {route for route in ROUTES if apply(policy, route, b'{"model":"m"}') != b'{"model":"m"}'}
    assert got == know[limit]


@pytest.mark.parametrize(
    ("ours", "theirs"), [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
)
def test_limits_of_chat_are_one_when_they_have_two_names(ours: str, theirs: str) -> None:
    """A default gives way to the caller's other name; what is forced has no way around it."""
    body = f'{{"model":"m","{theirs}":7}}'.encode()
    assert apply(Policy(defaults={ours: b"9"}), CHAT, body) == body
    assert apply(Policy(defaults={ours: b"9"}), CHAT, body.replace(b"7", b"null")) == (
        f'{{"{ours}":9,"model":"m","{theirs}":null}}'.encode()
    )
    assert apply(Policy(forced={ours: b"9"}), CHAT, body) == f'{{"{ours}":9,"model":"m"}}'.encode()
    assert apply(Policy(forced={ours: b"9"}, defaults={theirs: b"8"}), CHAT, b"{}") == f'{{"{ours}":9}}'.encode()
    both = apply(Policy(forced={ours: b"9", theirs: b"8"}), CHAT, body)
    assert json.loads(both) == {ours: 9, theirs: 8, "model": "m"}


def test_limits_are_two_when_the_route_is_no_chat() -> None:
    """Elsewhere the other name means nothing, and is the upstream's business."""
    body = b'{"model":"m","max_completion_tokens":7}'
    assert apply(Policy(defaults={"max_tokens": b"9"}), COMPLETIONS, body) == b'{"max_tokens":9,' + body[1:]
    assert apply(Policy(forced={"max_tokens": b"9"}), COMPLETIONS, body) == b'{"max_tokens":9,' + body[1:]


def test_counting_tokens_takes_no_parameters_when_they_are_put_in() -> None:
    """Anthropic refuses them there; what is dropped and the system prompt count."""
    policy = Policy(defaults={"temperature": b"1"}, forced={"top_k": b"1"}, dropped=frozenset("x"), system_prompt="S")
    assert apply(policy, COUNT, b'{"model":"m","x":1}') == b'{"system":"S","model":"m"}'
    assert apply(policy, MESSAGES, b'{"model":"m","x":1}') == (
        b'{"temperature":1,"top_k":1,"system":"S","model":"m"}'
    )  # fmt: skip


# ------------------------------------------------------------ the system prompt

PROMPT = 'Say "é".'
WRITTEN = b'Say \\"\xc3\xa9\\".'
USER = b'{"role":"user","content":"hi"}'


def prompted(route: bytes, body: bytes, prompt: str = PROMPT) -> bytes:
    """The body with the prompt in it; without its model, which stands before all."""
    start = b'{"model":"m",'
    result = apply(Policy(system_prompt=prompt), route, start + body + b"}")
    assert b'"model":"m"' in result
    return result.replace(b'"model":"m",', b"", 1)[1:-1]


@pytest.mark.parametrize("route", [CHAT, OLLAMA_CHAT])
@pytest.mark.parametrize(
    ("messages", "result"),
    [
        (b"[]", b'[{"role":"system","content":"%b"}]' % WRITTEN),
        (b" [ ] ", b' [{"role":"system","content":"%b"} ] ' % WRITTEN),
        (b"[" + USER + b"]", b'[{"role":"system","content":"%b"},%b]' % (WRITTEN, USER)),
        (b"[\n " + USER + b"\n]", b'[{"role":"system","content":"%b"},\n %b\n]' % (WRITTEN, USER)),
        (
            b'[{"role":"system","content":"A\\u00e9 b"},' + USER + b"]",
            b'[{"role":"system","content":"%b\\n\\nA\\u00e9 b"},%b]' % (WRITTEN, USER),
        ),
        (
            b'[ { "content" : "A", "role" : "developer" } ]',
            b'[ { "content" : "%b\\n\\nA", "role" : "developer" } ]' % WRITTEN,
        ),
        (b'[{"role":"system","content":""}]', b'[{"role":"system","content":"%b"}]' % WRITTEN),
        (b'[{"role":"system","content":null}]', b'[{"role":"system","content":"%b"}]' % WRITTEN),
        (b'[{"role":"system"}]', b'[{"content":"%b","role":"system"}]' % WRITTEN),
        (
            b'[{"role":"system","content":[{"type":"text","text":"A"}]}]',
            b'[{"role":"system","content":[{"type":"text","text":"%b"},{"type":"text","text":"A"}]}]' % WRITTEN,
        ),
        (
            b'[{"role":"system","content":[]}]',
            b'[{"role":"system","content":[{"type":"text","text":"%b"}]}]' % WRITTEN,
        ),
        # one that is not at the beginning is the caller's affair
        (
            b"[" + USER + b',{"role":"system","content":"A"}]',
            b'[{"role":"system","content":"%b"},%b,{"role":"system","content":"A"}]' % (WRITTEN, USER),
        ),
        # what says "system" elsewhere is no system message
        (
            b'[{"role":"user","name":"system","content":[{"role":"system"}]}]',
            b'[{"role":"system","content":"%b"},{"role":"user","name":"system","content":[{"role":"system"}]}]'
            % WRITTEN,
        ),
        # nonsense is left to the upstream to refuse
        (b'[{"role":"system","content":5}]', b'[{"role":"system","content":"%b"},{"role":"system","content":5}]' % WRITTEN),
        (b"[1]", b'[{"role":"system","content":"%b"},1]' % WRITTEN),
        (b"null", b"null"),
        (b'"hi"', b'"hi"'),
    ],
)  # fmt: skip
def test_prompt_leads_the_messages_of_a_chat(route: bytes, messages: bytes, result: bytes) -> None:
    """Before the text of a leading system message, else as a message of its own; not a byte else."""
    assert prompted(route, b'"messages":' + messages + b',"n":1') == b'"messages":' + result + b',"n":1'


@pytest.mark.parametrize(
    ("route", "key"),
    [(MESSAGES, b"system"), (COUNT, b"system"), (RESPONSES, b"instructions"), (OLLAMA_GENERATE, b"system")],
)
@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b'"A\\n"', b'"%b\\n\\nA\\n"' % WRITTEN),
        (b'""', b'"%b"' % WRITTEN),
        (b"null", b'"%b"' % WRITTEN),
        (b"5", b"5"),
        (
            b'[ {"type":"text","text":"A","cache_control":{"type":"ephemeral"}}]',
            b'[{"type":"text","text":"%b"}, {"type":"text","text":"A","cache_control":{"type":"ephemeral"}}]' % WRITTEN,
        ),
    ],
)
def test_prompt_comes_before_the_callers_where_it_has_a_field(
    route: bytes, key: bytes, text: bytes, result: bytes
) -> None:
    """Anthropic's `system`, the Responses API's `instructions`, Ollama's `system`."""
    assert prompted(route, b'"x":1 , "%b" : %b' % (key, text)) == b'"x":1 , "%b" : %b' % (key, result)
    assert prompted(route, b'"x":1') == b'"%b":"%b","x":1' % (key, WRITTEN)


@pytest.mark.parametrize("route", [COMPLETIONS, EMBEDDINGS, b"/v1/rerank"])
def test_prompt_goes_nowhere_when_the_route_has_no_place_for_it(route: bytes) -> None:
    """A completion's prompt is the text itself."""
    body = b'"prompt":"a","input":"b","messages":[],"system":"x","instructions":"y"'
    assert prompted(route, body) == body


def test_prompts_last_line_break_is_none_of_it() -> None:
    """TOML's text in three quotes ends with one."""
    assert prompted(MESSAGES, b'"x":1', "\nBe\nbrief.\n") == b'"system":"Be\\nbrief.","x":1'


def test_prompt_comes_before_what_the_operator_has_forced() -> None:
    """Where both are said, both hold."""
    policy = Policy(forced={"instructions": b'"B"'}, defaults={"system": b'"C"'}, system_prompt="A")
    assert apply(policy, RESPONSES, b'{"instructions":"X"}') == b'{"system":"C","instructions":"A\\n\\nB"}'
    assert apply(policy, MESSAGES, b"{}") == b'{"system":"A\\n\\nC","instructions":"B"}'


def test_prompt_and_parameters_hold_together() -> None:
    """In a body as clients write it."""
    policy = Policy(
        defaults={"temperature": b"0.2", "max_tokens": b"64"},
        forced={"seed": b"7"},
        dropped=frozenset(("logit_bias", "user")),
        system_prompt="Be brief.",
    )
    body = (
        b'{\n  "model": "m",\n  "user": "u",\n  "messages": [{"role": "user", "content": "hi"}],\n'
        b'  "temperature": null,\n  "logit_bias": {"1": -100}\n}'
    )
    assert apply(policy, CHAT + b"?beta=true", body) == (
        b'{"max_tokens":64,"seed":7,\n  "model": "m",\n  "messages": [{"role":"system","content":"Be brief."},'
        b'{"role": "user", "content": "hi"}],\n  "temperature": 0.2\n}'
    )
