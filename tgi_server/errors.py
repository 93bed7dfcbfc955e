"""Every error a user or a client can meet, with the status, type and metric label it is reported under.

Stdlib only. HTTP fields follow section 2.6 of the TGI router's behaviour: `{"error": ..., "error_type": ...}`.
"""

from __future__ import annotations

from collections.abc import Collection


class TgiError(Exception):
    """Base of all errors whose text is meant for a person; anything else that is raised is a defect.

    Class attributes:
        status: HTTP status code of the answer.
        error_type: the `error_type` field of the JSON body.
        label: value of the `err` label of `tgi_request_failure`.
        prefix: words put before the message in the JSON body.

    Attributes:
        logged: what logs say instead of a message that may quote what a client wrote; None where it does not.
    """

    status = 500
    error_type = "internal"
    label = "generation"
    prefix = ""
    logged: str | None = None

    def public_message(self) -> str:
        """The text a client sees."""
        return f"{self.prefix}{self}"

    def log_message(self) -> str:
        """The text that logs and traces have: without what a client wrote."""
        return f"{self.prefix}{self if self.logged is None else self.logged}"


class ConfigError(TgiError):
    """The options are readable but cannot work together or on this machine; the process exits with `exit_code`."""

    exit_code = 1
    error_type = "config"


class UsageError(ConfigError):
    """An option cannot be read at all: unknown name, wrong type. `names` are the options at fault, where known."""

    exit_code = 2

    def __init__(self, message: str, names: Collection[str] = ()) -> None:
        super().__init__(message)
        self.names = names


class ModelError(ConfigError):
    """The model's files are missing, broken or of an architecture that is not served."""


class FitError(ModelError):
    """What changes a model, or guesses for it, was made for another one."""


class ValidationError(TgiError):
    """A request breaks a rule.

    Attributes:
        param: the field at fault, where there is one.
        code: what clients know the mistake by, where there is an established word for it.
        logged: see `TgiError`.
    """

    status = 422
    error_type = "validation"
    label = "validation"
    prefix = "Input validation error: "

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, logged: str | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.logged = logged


class TemplateError(TgiError):
    """The chat template is missing or refused the conversation."""

    status = 422
    error_type = "template_error"
    label = "template"
    prefix = "Template error: "
    logged = "the chat template refused the conversation"


class OverloadedError(TgiError):
    """More requests than `max_concurrent_requests`."""

    status = 429
    error_type = "overloaded"
    label = "overloaded"

    def __init__(self, message: str = "Model is overloaded") -> None:
        super().__init__(message)


class ShuttingDownError(OverloadedError):
    """The server drains and takes no new requests (decision D23)."""

    status = 503

    def __init__(self, message: str = "Server is shutting down") -> None:
        super().__init__(message)


class GenerationError(TgiError):
    """A shard failed while it worked on the request."""

    status = 424
    error_type = "generation"
    label = "generation"
    prefix = "Request failed during generation: "


class IncompleteGenerationError(TgiError):
    """The token stream ended without a last token."""

    status = 500
    error_type = "incomplete_generation"
    label = "incomplete"

    def __init__(self, message: str = "Incomplete generation") -> None:
        super().__init__(message)


class UnhealthyError(TgiError):
    """The shards do not answer, or the server drains."""

    status = 503
    error_type = "healthcheck"

    def __init__(self, message: str = "unhealthy") -> None:
        super().__init__(message)
