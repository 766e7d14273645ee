"""Reasons why a client gets no picture, with the status codes of HTTP. Each message is one line."""

from diffbir_jax.console.errors import UserError


class Refusal(UserError):
    """A request that is not carried out.

    Attributes:
        status: HTTP's status code.
    """

    status = 422


class TooLargeError(Refusal):
    """A picture, a result or a request is larger than the service allows."""

    status = 413


class NoPictureError(Refusal):
    """The file is no picture that can be read."""

    status = 415


class FullError(Refusal):
    """There is no room in the queue; the client should come again."""

    status = 429


class StoppingError(Refusal):
    """The service stops and takes no more jobs."""

    status = 503


class UnknownJobError(Refusal):
    """There is no such job for this client."""

    status = 404
