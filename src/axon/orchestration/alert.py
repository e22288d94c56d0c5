"""A word to people when a run failed: one small JSON to a webhook, without names, messages or anything secret."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from axon.errors import AxonError

ALERT_URL = "AXON_ALERT_URL"
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Alert:
    """What the webhook gets.

    Attributes:
        text: One sentence; chat services (Slack, Mattermost) show this field.
        run: The pipeline run.
        model: Registered model.
        state: How the run ended.
        failed: The failed steps with their error codes. Not their messages, which may name cases or addresses.
        link: Where to look.
    """

    text: str
    run: str
    model: str
    state: str
    failed: list[str]
    link: str


def check_url(url: str) -> None:
    """See that ``url`` could be a webhook's; empty means that nobody wants to be told.

    Raises:
        AxonError: ``ALERT_URL``. It does not repeat the URL, which is a secret.
    """
    try:
        parts = urlsplit(url)
        usable = not url or (parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0)
    except ValueError:
        usable = False
    if not usable:
        raise AxonError(
            "ALERT_URL", f"{ALERT_URL} is no http(s) address", "correct the key axon_alert_url of the secret"
        )


def send(url: str, alert: Alert, timeout_s: float = TIMEOUT_S) -> str:
    """Post ``alert``; never raises, because a failed alert must not change how the run ended.

    Returns:
        str: What went wrong, without the URL; empty where the webhook took it.
    """
    try:
        check_url(url)
        body = json.dumps(asdict(alert)).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "axon"}
        request = urllib.request.Request(url, body, headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=timeout_s):  # noqa: S310
            return ""
    except Exception as error:
        status = getattr(error, "code", None)
        return f"HTTP {status}" if isinstance(status, int) else type(error).__name__
