"""What the hub's refusals and a broken network mean for the user, one sentence each."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from llama_cpu.errors import UserError
from llama_cpu.hub.places import endpoint

_LOGIN = "run `hf auth login` or set HF_TOKEN"
# Answers after which the same request may succeed: busy, too many requests, a fault over there.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


def refused(repository: str, status: int, headers: Mapping[str, str]) -> UserError:
    """Explain an HTTP status of the hub. ``headers``: of its answer, in any case of letters."""
    lower = {name.lower(): value for name, value in headers.items()}
    code, said = lower.get("x-error-code", ""), lower.get("x-error-message", "")
    page = f"{endpoint()}/{repository}"
    if said == "Invalid credentials in Authorization header":
        return UserError(f"The hub does not accept your token; get a new one and {_LOGIN}.")
    if code == "GatedRepo":
        return UserError(
            f"{repository} is gated: ask for access on its page, {page}, then {_LOGIN} with a "
            "token of the account that was given access."
        )
    if code == "RepoNotFound" or status == 401:
        return UserError(
            f"There is no {repository} on {host()}, or it is private: check the name at {page}; "
            f"for a private repository, {_LOGIN}."
        )
    if status == 403:
        return UserError(
            f"{host()} does not give you {repository}: ask for access on its page, {page}, then "
            f"{_LOGIN} with a token that may read it."
        )
    if status == 404:
        return UserError(f"There is no {repository} on {host()}; check the name at {page}.")
    if status == 429:
        return UserError(
            f"{host()} says that there were too many requests; try again later, or {_LOGIN}, "
            "which raises the limit."
        )
    return UserError(f"{host()} answered with the HTTP status {status}; try again later.")


def unreachable(detail: str = "") -> UserError:
    """The hub cannot be reached at all. ``detail``: what the system said."""
    said = f" ({detail[:150]})" if detail else ""
    return UserError(
        f"{host()} cannot be reached{said}; check the network and HF_ENDPOINT, then run the same "
        "command again."
    )


def offline(what: str) -> UserError:
    """The user's own setting keeps the hub from being asked."""
    return UserError(
        f"{what} is not on this computer, and HF_HUB_OFFLINE is set, so nothing is downloaded; "
        "unset it, or choose another model with F3."
    )


def host() -> str:
    """Return the name of the hub, or of the user's mirror."""
    return urlsplit(endpoint()).netloc or endpoint()
