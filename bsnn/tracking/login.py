"""The login to Weights & Biases, and whether its server answers.

Both are checked without a prompt, and without the minutes of retries that wandb itself would take.
"""

from __future__ import annotations

import functools
import logging
import netrc
import os
import urllib.error
import urllib.request
from typing import Any, Literal
from urllib.parse import urlparse

import wandb
from omegaconf import OmegaConf
from wandb.errors import AuthenticationError, CommError, UsageError

from bsnn.config import CONF, TrackingConfig
from bsnn.errors import UserError

log = logging.getLogger(__name__)
Mode = Literal["online", "offline", "disabled"]
TIMEOUT = 30  # seconds for one question to the server


def configured(project: str | None = None, entity: str | None = None) -> TrackingConfig:
    """Return conf/tracking/wandb.yaml, the default place of live runs; the arguments override it."""
    loaded = OmegaConf.merge(OmegaConf.structured(TrackingConfig), OmegaConf.load(CONF / "tracking" / "wandb.yaml"))
    config: Any = OmegaConf.to_object(loaded)
    assert isinstance(config, TrackingConfig)
    config.project = project or config.project
    config.entity = entity or config.entity
    return config


def mode(requested: str) -> Mode:
    """Resolve `auto`: to WANDB_MODE if it is set, else online for a user with a login and a network, else offline.

    Raises UserError for online without a login: wandb itself would wait at a terminal for somebody to choose.
    """
    if not os.environ.get("WANDB_MODE", "unset"):
        os.environ.pop("WANDB_MODE", None)  # wandb refuses an empty one; another thread may have removed it
    if requested == "auto":
        requested = os.environ.get("WANDB_MODE") or ("online" if logged_in() and reachable() else "offline")
    match requested:
        case "online":
            if not logged_in():
                raise UserError(
                    f"W&B: expected a login, since tracking.mode or WANDB_MODE is online, found no key for {server()}; "
                    "run `wandb login`, set WANDB_API_KEY, or choose tracking.mode=offline or tracking=none."
                )
            return "online"
        case "none" | "disabled":
            return "disabled"
        case _:
            return "offline"


def logged_in() -> bool:
    """True if W&B would find a key: in the environment, or in the file where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return _key_in_netrc(server()) is not None
    except (AuthenticationError, ValueError):  # a key of the wrong form, a server that is no URL
        return False


def _key_in_netrc(server: str) -> str | None:
    """Return the key that `wandb login` left for this server; None if there is none.

    wandb's own reader knows the file and the hosts under which a key may lie: wandb's default server has had two.
    """
    try:
        from wandb.sdk.lib.wbauth import read_netrc_auth
    except ImportError:  # another version of wandb
        try:
            found = netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(server).netloc)
        except (OSError, netrc.NetrcParseError):
            return None
        return found[2] if found else None
    return read_netrc_auth(host=server)


@functools.cache
def reachable() -> bool:
    """Tell if W&B's server answers; asked once a process, since wandb would retry for minutes in each run."""
    reason = silence()
    if reason is not None:
        log.warning("W&B: %s doesn't answer (%s); runs are kept offline", server(), reason)
    return reason is None


def silence() -> str | None:
    """Return the error if the server gives no answer at all; None if it gives any."""
    try:
        urllib.request.urlopen(server(), timeout=5).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def server() -> str:
    return str(wandb.setup().settings.base_url)


def why_offline() -> str | None:
    """Say in one sentence why nothing can be published from here and what to do; None if a login is worth a try."""
    if os.environ.get("WANDB_MODE", "online") not in ("", "online"):
        return f"W&B: expected to be online, found WANDB_MODE={os.environ['WANDB_MODE']}; unset it."
    if not logged_in():
        return f"W&B: expected a login, found no key for {server()}; run `wandb login`, or set WANDB_API_KEY."
    reason = silence()
    if reason is not None:
        return f"W&B: expected an answer from {server()}, found none ({reason}); try again where it can be reached."
    return None


def connect(config: TrackingConfig) -> tuple[wandb.Api, str]:
    """Return W&B's public API and the entity that owns the runs.

    Raises UserError if nobody is logged in, the server doesn't answer, or it refuses the key.
    """
    reason = why_offline()
    if reason is not None:
        raise UserError(reason)
    os.environ.pop("WANDB_MODE", None)  # an empty one is refused
    try:
        api = wandb.Api(timeout=TIMEOUT)
        entity = config.entity or api.default_entity
    except (AuthenticationError, CommError, UsageError, ValueError) as error:
        raise UserError(
            f"W&B: expected {server()} to accept the login, found: {one_line(error)}; run `wandb login --relogin`."
        ) from error
    if not entity:
        raise UserError("W&B: expected an account with a default entity, found none; give one with --entity=NAME.")
    return api, str(entity)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
