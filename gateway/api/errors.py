"""The one table error → HTTP status, and how every error is told: OpenAI's envelope plus who said it.

Only this file knows both errors and HTTP. A class not in the table is told as its nearest ancestor that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from gateway import errors as ours
from gateway.dialects.spoken import Spoken, enveloped, event_of
from gateway.metering.capture import masked
from gateway.proxy.routes import route_of
from gateway.storage.database import DatabaseUnavailable
from providers import errors as theirs


class Row(msgspec.Struct, frozen=True):
    """How one class of error is told.

    `retry` False: SDKs, which repeat 409/429/5xx by themselves, are told that repeating cannot help.
    """

    status: int
    type: str
    retry: bool = True


TABLE: Mapping[type[Exception], Row] = {
    ours.GatewayError: Row(500, "server_error"),
    ours.CallerError: Row(400, "invalid_request_error"),
    ours.Unauthenticated: Row(401, "authentication_error"),
    ours.Forbidden: Row(403, "permission_error"),
    ours.UnknownModel: Row(404, "invalid_request_error"),
    ours.UnknownProvider: Row(404, "invalid_request_error"),
    ours.InvalidRequest: Row(400, "invalid_request_error"),
    ours.RouteNotServed: Row(501, "invalid_request_error", retry=False),
    ours.NotTranslatable: Row(501, "invalid_request_error", retry=False),
    ours.MethodNotAllowed: Row(405, "invalid_request_error"),
    ours.BodyTooLarge: Row(413, "invalid_request_error"),
    ours.CallerLeft: Row(400, "invalid_request_error"),  # for the log: nobody hears it
    ours.UploadTimedOut: Row(408, "invalid_request_error"),
    ours.UploadNotKept: Row(507, "server_error", retry=False),
    ours.RateLimited: Row(429, "rate_limit_error"),
    ours.CapacityError: Row(503, "capacity_error"),
    ours.QueueFull: Row(503, "capacity_error"),
    ours.WaitTimedOut: Row(503, "capacity_error"),
    ours.ShuttingDown: Row(503, "capacity_error"),
    ours.LargerThanBudget: Row(400, "capacity_error"),
    ours.NoRoomBesidePins: Row(503, "capacity_error", retry=False),
    ours.LoadStopped: Row(503, "capacity_error", retry=False),
    DatabaseUnavailable: Row(503, "server_error"),
    theirs.ProviderError: Row(502, "upstream_error"),
    theirs.UpstreamUnreachable: Row(502, "upstream_error"),
    theirs.UpstreamTimeout: Row(504, "upstream_error", retry=False),
    theirs.UpstreamKeyRefused: Row(502, "upstream_error", retry=False),
    theirs.UpstreamCoolingDown: Row(503, "upstream_error"),
    theirs.UpstreamBusy: Row(503, "upstream_error"),
    # told with its own status where its words are an error of its own
    theirs.UpstreamRefused: Row(502, "upstream_error", retry=False),
    theirs.UpstreamBroke: Row(502, "upstream_error"),
    theirs.LoadFailed: Row(503, "load_error", retry=False),
    theirs.PullFailed: Row(502, "upstream_error", retry=False),
}
_UNFORESEEN = Row(500, "server_error")
_NOT_TAKEN = Row(400, "invalid_request_error")  # the database is there; what it was asked holds what it has no room for
# By code, where a class has several: clients that know OpenAI's word for a spent budget stop asking.
_BY_CODE: Mapping[str, Row] = {"insufficient_quota": Row(429, "insufficient_quota", retry=False)}


def spoken_at(path: str) -> Spoken:
    """In whose words a path is answered."""
    return Spoken.OLLAMA if path.startswith("/api/") else route_of(path).spoken


class Told(msgspec.Struct, frozen=True):
    """An error ready to be sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    envelope: Mapping[str, object]

    def body(self) -> bytes:
        return msgspec.json.encode(self.envelope)


def row_of(error: Exception) -> Row:
    if isinstance(error, ours.RateLimited) and error.code in _BY_CODE:
        return _BY_CODE[error.code]
    if isinstance(error, DatabaseUnavailable) and error.data_refused:
        return _NOT_TAKEN
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), _UNFORESEEN)


def tell(error: Exception, spoken: Spoken = Spoken.OPENAI) -> Told:
    """Status, header fields and envelope for any exception; of one that is not ours only that it happened is told."""
    row = row_of(error)
    fields: dict[str, object] = {"message": "Internal error; the log has the details", "type": row.type}
    fields |= {"param": None, "code": "internal_error", "source": "gateway"}
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    if isinstance(error, ours.GatewayError):
        fields |= {"message": error.message, "param": error.param, "code": error.code}
    elif isinstance(error, theirs.ProviderError):
        fields |= {"message": error.message, "code": error.code, "source": error.source or "gateway"}
    if isinstance(error, theirs.LoadFailed):
        # an engine prints what it was started with, and who asks is not always who started it
        fields |= {"exit_code": error.exit_code, "log_lines": tuple(map(masked, error.log_lines[-20:]))}
        fields["message"] = masked(error.message)
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(retry_after_s)))
    if not row.retry:
        headers.append((b"x-should-retry", b"false"))
    if isinstance(error, ours.MethodNotAllowed):
        headers.append((b"allow", b"POST"))  # raised by the data routes only; RFC 9110 §15.5.6 demands the field
    if row.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, theirs.UpstreamRefused) and (said := _own_words(error.body)) is not None:
        return Told(error.status, headers, enveloped(said["error"], spoken) if spoken in _OWN_ENVELOPES else said)
    return Told(row.status, headers, enveloped(fields, spoken))


_OWN_ENVELOPES = (Spoken.ANTHROPIC, Spoken.OLLAMA)


def in_stream(error: Exception, *, between_events: bool, spoken: Spoken = Spoken.OPENAI) -> bytes:
    """The same as the last piece of a stream that has begun. An upstream's own error object is passed on as it said it."""
    return event_of(tell(error, spoken).envelope, spoken, between_events=between_events)


def _own_words(body: bytes) -> Mapping[str, object] | None:
    try:
        said = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return None
    return said if "error" in said else None


_VALIDATION = "Validation failed for"  # the framework's words


def tell_http(status: int, detail: str) -> Mapping[str, object]:
    """The envelope for what the HTTP framework refuses by itself: unknown paths, wrong methods, bad parameters."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(
        status, "invalid_request" if status < 500 else "internal_error"
    )
    kind = "invalid_request_error" if status < 500 else "server_error"
    if detail.startswith(_VALIDATION):  # it repeats the query, where some put their key
        detail = detail.partition("?")[0] + ": a parameter is not of its kind (a number, true or false)"
    return {"error": {"message": detail, "type": kind, "param": None, "code": code, "source": "gateway"}}
