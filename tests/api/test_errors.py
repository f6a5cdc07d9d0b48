"""The one table error → status: every class of ours and of the providers', told in one form."""

from __future__ import annotations

import inspect
import json

import pytest

from gateway import errors as ours
from gateway.api.errors import TABLE, in_stream, row_of, tell, tell_http
from gateway.storage.database import DatabaseUnavailable
from providers import errors as theirs

# class → status, whether SDKs may repeat it. Stated here again: it is what clients depend on.
EXPECTED: dict[type[Exception], tuple[int, bool]] = {
    ours.GatewayError: (500, True),
    ours.CallerError: (400, True),
    ours.Unauthenticated: (401, True),
    ours.Forbidden: (403, True),
    ours.UnknownModel: (404, True),
    ours.UnknownProvider: (404, True),
    ours.InvalidRequest: (400, True),
    ours.RouteNotServed: (501, False),
    ours.NotTranslatable: (501, False),
    ours.MethodNotAllowed: (405, True),
    ours.BodyTooLarge: (413, True),
    ours.CallerLeft: (400, True),
    ours.UploadTimedOut: (408, True),
    ours.UploadNotKept: (507, False),
    ours.RateLimited: (429, True),
    ours.CapacityError: (503, True),
    ours.QueueFull: (503, True),
    ours.WaitTimedOut: (503, True),
    ours.ShuttingDown: (503, True),
    ours.LargerThanBudget: (400, True),
    ours.NoRoomBesidePins: (503, False),
    ours.LoadStopped: (503, False),
    DatabaseUnavailable: (503, True),
    theirs.ProviderError: (502, True),
    theirs.UpstreamUnreachable: (502, True),
    theirs.UpstreamTimeout: (504, False),
    theirs.UpstreamKeyRefused: (502, False),
    theirs.UpstreamCoolingDown: (503, True),
    theirs.UpstreamBusy: (503, True),
    theirs.UpstreamRefused: (502, False),
    theirs.UpstreamBroke: (502, True),
    theirs.LoadFailed: (503, False),
    theirs.PullFailed: (502, False),
}


def made(kind: type[Exception]) -> Exception:
    """One of them, with something that must not be told."""
    if issubclass(kind, theirs.UpstreamRefused):
        return kind("outer", source="up", status=500, body=b"inner secret")
    if issubclass(kind, theirs.UpstreamCoolingDown | theirs.UpstreamBusy):
        return kind("outer", source="up", detail="inner secret", retry_after_s=1.0)
    if issubclass(kind, theirs.ProviderError):
        return kind("outer", source="up", detail="inner secret")
    assert issubclass(kind, ours.GatewayError)
    return kind("outer", detail="inner secret")


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_class_has_its_status_and_form(kind: type[Exception]) -> None:
    """Status, code, source and the hint to SDKs; the inner message stays inside."""
    error = made(kind)
    told = tell(error)
    status, retry = EXPECTED[kind]
    body = json.loads(told.body())["error"]
    assert told.status == status
    assert body["message"] == "outer"
    assert body["code"] == getattr(kind, "code", None)
    assert body["source"] == ("up" if issubclass(kind, theirs.ProviderError) else "gateway")
    assert ((b"x-should-retry", b"false") in told.headers) is not retry
    assert b"secret" not in told.body()


def test_no_class_is_forgotten() -> None:
    """Every error of the two trees stands in the table, and here."""
    found = {
        value
        for module in (ours, theirs)
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, ours.GatewayError | theirs.ProviderError)
    }
    assert found | {DatabaseUnavailable} == set(TABLE) == set(EXPECTED)


def test_class_that_is_not_listed_is_told_as_its_nearest_ancestor() -> None:
    """A provider may have its own."""

    class Odd(theirs.UpstreamTimeout):
        """One more."""

    assert row_of(Odd("x")) is TABLE[theirs.UpstreamTimeout]


@pytest.mark.parametrize(
    "error", [ValueError("inner secret"), KeyError("inner secret"), AssertionError("inner secret")]
)
def test_error_that_is_not_ours_tells_only_that_it_happened(error: Exception) -> None:
    """The log has the rest."""
    told = tell(error)
    assert told.status == 500
    assert b"secret" not in told.body()
    assert json.loads(told.body())["error"]["code"] == "internal_error"


@pytest.mark.parametrize(("seconds", "field"), [(0.2, b"1"), (5.0, b"5"), (5.01, b"6"), (300, b"300")])
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, field: bytes) -> None:
    """Coming back too early would only be refused again."""
    for error in (ours.QueueFull("x", retry_after_s=seconds), theirs.LoadFailed("x", retry_after_s=seconds)):
        assert (b"retry-after", field) in tell(error).headers


def test_load_failure_tells_exit_code_and_the_last_lines() -> None:
    """No more than a screen of them."""
    error = theirs.LoadFailed("x", exit_code=-11, log_lines=tuple(f"line {n}" for n in range(200)))
    body = json.loads(tell(error).body())["error"]
    assert body["exit_code"] == -11
    assert body["log_lines"] == [f"line {n}" for n in range(180, 200)]


@pytest.mark.parametrize("between_events", [True, False])
def test_error_in_a_stream_is_one_event(between_events: bool) -> None:
    """Set apart from an event that was cut."""
    data = in_stream(ours.WaitTimedOut("a\nb"), between_events=between_events)
    assert data.startswith(b"data: " if between_events else b"\n\ndata: ")
    assert data.endswith(b"}\n\n")
    assert data.strip().count(b"\n") == 0


@pytest.mark.parametrize(
    ("body", "own"),
    [
        (b'{"error":{"message":"no"}}', True),
        (b'{"error":"no"}', True),
        (b"{}", False),
        (b"[]", False),
        (b"<html>", False),
        (b"", False),
    ],
)
def test_refusal_in_a_stream_is_the_upstreams_words_where_they_are_an_error(body: bytes, own: bool) -> None:
    """Anything else is told in our form, with the upstream named."""
    error = theirs.UpstreamRefused("it refused", source="up", status=500, body=body)
    data = in_stream(error, between_events=True)
    if own:
        assert data == b"data: " + body + b"\n\n"
    else:
        assert json.loads(data[6:])["error"]["code"] == "upstream_refused"


@pytest.mark.parametrize(
    ("status", "code"), [(404, "not_found"), (405, "method_not_allowed"), (400, "invalid_request")]
)
def test_frameworks_refusals_have_the_same_form(status: int, code: str) -> None:
    """Unknown paths, wrong methods, bad parameters."""
    error = tell_http(status, "why")["error"]
    assert error == {
        "message": "why",
        "type": "invalid_request_error",
        "param": None,
        "code": code,
        "source": "gateway",
    }
