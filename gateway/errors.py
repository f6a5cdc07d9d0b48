"""What the gateway itself says no to.

    GatewayError
      CallerError
        Unauthenticated       no key, or one we do not know
        Forbidden             a known key that may not do this
        UnknownModel          no model, alias or target of that name
        UnknownProvider       no provider of that name
        InvalidRequest        the body or a parameter is not what the route takes
        RouteNotServed        the model is there, but its provider does not serve this route
        NotTranslatable       it would have to be translated, and holds what the other API has no words for
        MethodNotAllowed      the route takes another method
        BodyTooLarge          over server.max_body_bytes
        CallerLeft            it went away before its upload was complete
        UploadTimedOut        nothing more of its upload came
        RateLimited           over a limit of the caller's
      CapacityError
        QueueFull             residency.queue_max requests wait already
        WaitTimedOut          residency.patience_s passed before there was room
        ShuttingDown          the gateway takes nobody in any more
        LargerThanBudget      could not fit even into empty memory
        NoRoomBesidePins      could not fit beside models that are pinned or cannot be unloaded
        LoadStopped           an admin unloaded the model while it was loading
      UploadNotKept           the gateway's own disk does not take an upload

Imports nothing and knows no HTTP: `api/errors.py` holds the one table error → status. `code` is stable and snake_case.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Something the gateway refuses or cannot do.

    Args:
        message: for the caller: what happened and what to do. Holds no secret.
        detail: for the log only.
        param: the field of the request that is meant.
        retry_after_s: when repeating may help; None: repeating the same cannot help.
        code: a narrower code than the class's own.
    """

    code = "gateway_error"

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class CallerError(GatewayError):
    """The caller must change something."""

    code = "caller_error"


class Unauthenticated(CallerError):
    """No key, or one we do not know."""

    code = "invalid_api_key"


class Forbidden(CallerError):
    """A known caller who may not do this."""

    code = "forbidden"


class UnknownModel(CallerError):
    """No model, alias or target of that name."""

    code = "model_not_found"


class UnknownProvider(CallerError):
    """No provider of that name is configured or found."""

    code = "provider_not_found"


class InvalidRequest(CallerError):
    """The body or a parameter is not what the route takes."""

    code = "invalid_request"


class RouteNotServed(CallerError):
    """The model is there, but no target of it serves this route."""

    code = "route_not_served"


class NotTranslatable(CallerError):
    """The provider does not serve this route, and what is asked for has no words in one that it does. `param`: what."""

    code = "not_translatable"


class MethodNotAllowed(CallerError):
    """The route takes another method."""

    code = "method_not_allowed"


class BodyTooLarge(CallerError):
    """Over server.max_body_bytes; the rest of the body has not been read."""

    code = "body_too_large"


class CallerLeft(CallerError):
    """It went away before its upload was complete. Nobody is there to be told."""

    code = "caller_left"


class UploadTimedOut(CallerError):
    """Nothing more of the upload came for too long."""

    code = "upload_timed_out"


class RateLimited(CallerError):
    """Over a limit of the caller's."""

    code = "rate_limited"


class CapacityError(GatewayError):
    """There is no place for the model now, or ever."""

    code = "capacity_error"


class QueueFull(CapacityError):
    """residency.queue_max requests wait already."""

    code = "queue_full"


class WaitTimedOut(CapacityError):
    """residency.patience_s passed before there was room."""

    code = "wait_timed_out"


class ShuttingDown(CapacityError):
    """The gateway takes nobody in any more."""

    code = "shutting_down"


class LargerThanBudget(CapacityError):
    """Could not fit even into empty memory."""

    code = "larger_than_budget"


class NoRoomBesidePins(CapacityError):
    """Could not fit beside models that are pinned, or that live in a server which cannot unload them."""

    code = "no_room_beside_pins"


class LoadStopped(CapacityError):
    """An admin unloaded the model while it was loading."""

    code = "load_stopped"


class UploadNotKept(GatewayError):
    """The gateway's own disk does not take the upload."""

    code = "upload_not_kept"
