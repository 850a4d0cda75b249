"""Remove secrets from text that is shown or stored: logins and keys in URIs, and values of secret environment variables.

Files are still opened with the full URI; only the text about them is redacted.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
# user:password@ after ://, but not host:port/path@x. A password may contain a slash that was not percent-encoded.
_LOGIN = re.compile(r"(://[^/:@\s]*:)(?!\d+/)[^@\s]*@")
# token@ in a web address. The container in abfs://container@account is not a secret.
_TOKEN = re.compile(r"(https?://)[^/:@\s]+@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"([?&;](?:sig|sas|[\w.%-]*(?:secret|token|passw|pwd|signature|credential|key)[\w.%-]*)=)[^&;#\s'\"]+", re.IGNORECASE
)
_SECRET_NAME = re.compile(r"SECRET|PASSW|TOKEN|CREDENTIAL|SIGNATURE|(?:ACCESS|API|PRIVATE|ACCOUNT|ENCRYPTION|SAS)_?KEY", re.IGNORECASE)
SHORTEST = 6  # characters; shorter values are rarely secrets and occur in ordinary text


def redacted(text: str) -> str:
    """Return the text with ``***`` for every login and every secret parameter of a URI in it.

    >>> redacted("s3://AKIA:wJalr/XUt@bucket/day=1/x.csv?endpoint_override=host&session_token=abc")
    's3://AKIA:***@bucket/day=1/x.csv?endpoint_override=host&session_token=***'
    >>> redacted("abfs://lake@account.dfs.core.windows.net/x.csv")
    'abfs://lake@account.dfs.core.windows.net/x.csv'
    """
    for pattern, replacement in ((_LOGIN, rf"\1{HIDDEN}@"), (_TOKEN, rf"\1{HIDDEN}@"), (_PARAMETER, rf"\1{HIDDEN}")):
        text = pattern.sub(replacement, text)
    return text


def redacted_config(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration without the login in ``tracking.uri``, as they are stored with a model."""
    tracking = tree["tracking"]
    return tree | {"tracking": tracking | {"uri": tracking["uri"] and redacted(tracking["uri"])}}


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return ``redacted`` text, also without the value of every environment variable whose name marks it as a secret.

    >>> without_secrets("denied: hunter22 is wrong", {"MLFLOW_TRACKING_PASSWORD": "hunter22", "HOME": "denied"})
    'denied: *** is wrong'
    """
    secrets = {value for name, value in environment.items() if _SECRET_NAME.search(name) and len(value) >= SHORTEST}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN).replace(quote(secret, safe=""), HIDDEN)
    return redacted(text)
