"""Secrets out of what is shown or stored: logins and keys in URIs, and what the environment keeps secret.

Knows text only. What is read and written is reached with the secret; only its name loses it.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
# user:password@ behind ://; a port with a path that has an @ is none. A password may hold a slash that nobody encoded.
_LOGIN = re.compile(r"(://[^/:@\s]*:)(?!\d+/)[^@\s]*@")
# A token alone, which web addresses have. The container of abfs://container@account is none.
_TOKEN = re.compile(r"(https?://)[^/:@\s]+@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"([?&;](?:sig|sas|[\w.%-]*(?:secret|token|passw|pwd|signature|credential|key)[\w.%-]*)=)[^&;#\s'\"]+", re.IGNORECASE
)
_SECRET_NAME = re.compile(r"SECRET|PASSW|TOKEN|CREDENTIAL|SIGNATURE|(?:ACCESS|API|PRIVATE|ACCOUNT|ENCRYPTION|SAS)_?KEY", re.IGNORECASE)
SHORTEST = 6  # a shorter value is no secret, and would be found everywhere


def redacted(text: str) -> str:
    """Return the text with ``***`` for every login and every secret parameter of a URI in it.

    >>> redacted("s3://AKIA:wJalr/XUt@bucket/day=1/x.csv?endpoint_override=host&session_token=abc")
    's3://AKIA:***@bucket/day=1/x.csv?endpoint_override=host&session_token=***'
    >>> redacted("abfs://lake@account.dfs.core.windows.net/x.csv")
    'abfs://lake@account.dfs.core.windows.net/x.csv'
    """
    for pattern, kept in ((_LOGIN, rf"\1{HIDDEN}@"), (_TOKEN, rf"\1{HIDDEN}@"), (_PARAMETER, rf"\1{HIDDEN}")):
        text = pattern.sub(kept, text)
    return text


def redacted_config(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the plain values of a configuration without the login of its tracking store, as they are kept with a model."""
    tracking = tree["tracking"]
    return tree | {"tracking": tracking | {"uri": tracking["uri"] and redacted(tracking["uri"])}}


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return ``redacted`` text that also lacks the value of every variable whose name says that it is a secret.

    >>> without_secrets("denied: hunter22 is wrong", {"MLFLOW_TRACKING_PASSWORD": "hunter22", "HOME": "denied"})
    'denied: *** is wrong'
    """
    secrets = {value for name, value in environment.items() if _SECRET_NAME.search(name) and len(value) >= SHORTEST}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN).replace(quote(secret, safe=""), HIDDEN)
    return redacted(text)
