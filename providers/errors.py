"""What can go wrong between us and an upstream.

    ProviderError
      UpstreamUnreachable   nothing was sent: the next target may be tried
      UpstreamTimeout       it may still be working: do not repeat blindly
      UpstreamKeyRefused    it does not take our key (401): the caller's key is not meant
      UpstreamCoolingDown   it failed several times, or asked us to wait: nothing was sent
      UpstreamBusy          all places that max_concurrent allows stayed taken: nothing was sent
      UpstreamRefused       it answered with an error after we had begun to answer: its words go into the stream
      UpstreamBroke         it broke off, or what it said is not HTTP
      LoadFailed            an engine did not come up
      PullFailed            an upstream could not fetch a model

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


class UpstreamKeyRefused(ProviderError):
    """It does not take our key. Told as an error of the gateway's operator: the caller's own key was right."""

    code = "upstream_key_refused"


class UpstreamCoolingDown(ProviderError):
    """It failed several times in a row, or asked us to wait; nothing was sent.

    Args:
        retry_after_s: when it will be tried again.
    """

    code = "upstream_cooling_down"

    def __init__(self, message: str, *, source: str = "", detail: str = "", retry_after_s: float) -> None:
        super().__init__(message, source=source, detail=detail)
        self.retry_after_s = retry_after_s


class UpstreamBusy(ProviderError):
    """All places that its `max_concurrent` allows stayed taken for `queue_s`; nothing was sent."""

    code = "upstream_busy"

    def __init__(self, message: str, *, source: str = "", detail: str = "", retry_after_s: float) -> None:
        super().__init__(message, source=source, detail=detail)
        self.retry_after_s = retry_after_s


class UpstreamRefused(ProviderError):
    """An error status that is not passed through as one: keep-alives have been sent already, or another target comes next.

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


class PullFailed(ProviderError):
    """An upstream could not fetch a model: no such name, no connection of its own, a full disk; with its own words."""

    code = "pull_failed"
