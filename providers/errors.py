"""What can go wrong between us and an upstream.

    ProviderError
      UpstreamUnreachable   nothing was sent: the next target may be tried
      UpstreamTimeout       it may still be working: do not repeat blindly
      UpstreamRefused       it answered with an error after we had begun to answer: its words go into the stream
      UpstreamBroke         it broke off, or what it said is not HTTP
      LoadFailed            an engine did not come up

An upstream that answers with an error status is no exception: its status and body are passed through.
Providers know no HTTP status of ours; `gateway/api/errors.py` maps these classes.
"""

from __future__ import annotations


class ProviderError(Exception):
    """An upstream, or the engine behind it, did not do what was asked.

    Args:
        message: for the caller; says what happened and what to do. Holds no secret and no path of the operator's machine.
        source: the provider's name, so that the answer can say who failed.
        detail: for the log only.
    """

    code = "provider_error"

    def __init__(self, message: str, *, source: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.source = source
        self.detail = detail


class UpstreamUnreachable(ProviderError):
    """No connection: nothing was sent."""

    code = "upstream_unreachable"


class UpstreamTimeout(ProviderError):
    """Connected and sent, but no answer (or no further byte) in time."""

    code = "upstream_timeout"


class UpstreamRefused(ProviderError):
    """An error status that can no longer be passed through as one, because keep-alives have been sent already.

    Args:
        status: the upstream's own status.
        body: its own body, as it came.
    """

    code = "upstream_refused"

    def __init__(self, message: str, *, source: str = "", status: int, body: bytes) -> None:
        super().__init__(message, source=source)
        self.status = status
        self.body = body


class UpstreamBroke(ProviderError):
    """The answer ended early or was not HTTP.

    `nothing_received` is True while no byte of an answer had come.
    """

    code = "upstream_broke"

    def __init__(self, message: str, *, source: str = "", detail: str = "", nothing_received: bool = False) -> None:
        super().__init__(message, source=source, detail=detail)
        self.nothing_received = nothing_received


class LoadFailed(ProviderError):
    """An engine did not come up, or is not to be tried again yet.

    Args:
        exit_code: the process's exit status (negative: the signal's number), None where it was still running.
        log_lines: the last lines it printed, oldest first.
        retry_after_s: when it will be tried again, None where nobody knows.
    """

    code = "load_failed"

    def __init__(
        self,
        message: str,
        *,
        source: str = "",
        detail: str = "",
        exit_code: int | None = None,
        log_lines: tuple[str, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, source=source, detail=detail)
        self.exit_code = exit_code
        self.log_lines = log_lines
        self.retry_after_s = retry_after_s
