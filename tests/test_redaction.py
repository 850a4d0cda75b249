import pytest

from vae_anomaly.redaction import redacted, without_secrets

SHOWN = [
    ("postgresql+psycopg://u:p%40ss@host:5432/db", "postgresql+psycopg://u:***@host:5432/db"),
    ("s3://AKIA1:wJalr/XUtn@bucket/a.csv", "s3://AKIA1:***@bucket/a.csv"),
    ("https://ghp_0123@host/x", "https://***@host/x"),
    ("http://:secret@host/x", "http://:***@host/x"),
    ("cannot open s3://a:b@c/d, s3://e:f@g/h", "cannot open s3://a:***@c/d, s3://e:***@g/h"),
    ("s3://b/x.csv?access_key=AK&secret_key=SK&region=eu", "s3://b/x.csv?access_key=***&secret_key=***&region=eu"),
    ("https://a.blob/x?sv=1&sig=abc%3D&se=2", "https://a.blob/x?sv=1&sig=***&se=2"),
    ("sqlite:///m.db?password=hunter2", "sqlite:///m.db?password=***"),
    ("https://h/x?X-Amz-Credential=a&X-Amz-Signature=b", "https://h/x?X-Amz-Credential=***&X-Amz-Signature=***"),
    ("gs://b/x?SECRET=1", "gs://b/x?SECRET=***"),
]
SAME = [
    "sqlite:///mlflow.db",
    "abfs://lake@account.dfs.core.windows.net/x.csv",
    "http://127.0.0.1:5000/a@b",
    "s3://bucket/day=2024-01-01/key=3/who@example.com.csv",
    "data/part-*.csv?",
    "mail somebody@example.com: see models:/a@champion",
]


@pytest.mark.parametrize(("text", "shown"), SHOWN)
def test_logins_and_secret_parameters_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize("text", SAME)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_secrets_of_the_environment_are_hidden_also_when_quoted() -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "a/b+c1", "HF_TOKEN": "a/b+c1d2", "SHORT_TOKEN": "on", "PATH": "/usr/bin", "MY_API_KEY": ""}
    assert without_secrets("a/b+c1d2 a/b+c1 a%2Fb%2Bc1 on /usr/bin", environment) == "*** *** *** on /usr/bin"
