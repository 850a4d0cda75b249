"""A name becomes a folder with an artifact, or one line that says what there is instead."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.tracking.conftest import Logged
from vae_anomaly import artifact
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError, DamagedArtifact
from vae_anomaly.tracking import registry, store


def refusal(model: str, logged: Logged) -> str:
    with pytest.raises(ArtifactError) as refused:
        registry.resolve_model(model, uri=logged.uri)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def client(logged: Logged) -> MlflowClient:
    return MlflowClient(logged.uri)


# What is there


@pytest.mark.parametrize("model", ["models:/pump@champion", "models:/pump/1", "models:/pump", "models:/pump/latest"])
def test_a_registered_model_has_the_name_and_number_of_the_registry(model: str, logged: Logged, tiny_detector: Detector) -> None:
    found = registry.resolve_model(model, uri=logged.uri)
    assert (found.name, found.version) == ("pump", "1")
    assert artifact.load(found.folder).threshold.value == tiny_detector.threshold.value


@pytest.mark.parametrize("inner", ["", "/model", "/detector"])
def test_a_run_gives_its_detector_whether_it_registered_one_or_not(inner: str, logged: Logged) -> None:
    for run_id in (logged.version.run_id, logged.unregistered.run_id):
        found = registry.resolve_model(f"runs:/{run_id}{inner}", uri=logged.uri)
        assert (found.name, found.version) == (f"runs:/{run_id}", artifact.fingerprint(logged.folder / "out"))
        artifact.load(found.folder)


def test_a_logged_model_is_found_by_its_id(logged: Logged, client: MlflowClient) -> None:
    model = str(client.get_model_version("pump", "1").source)
    assert model.startswith("models:/m-")
    found = registry.resolve_model(model, uri=logged.uri)
    assert (found.name, found.version) == (model.removeprefix("models:/"), artifact.fingerprint(found.folder))


def test_a_folder_needs_no_store(logged: Logged, own_folder: Path) -> None:
    found = registry.resolve_model(str(logged.folder / "out"))
    assert (found.folder, found.name, found.version) == (logged.folder / "out", "out", artifact.fingerprint(logged.folder / "out"))
    shutil.copytree(logged.folder / "out", own_folder / "here")
    assert registry.resolve_model("here").name == "here"
    assert sorted(path.name for path in own_folder.iterdir()) == ["here"]


def test_versions_are_listed_with_aliases_and_tags(logged: Logged, tiny_detector: Detector) -> None:
    (version,) = registry.registered_versions(uri=logged.uri)
    assert (version.name, version.version, version.aliases, version.run_id) == ("pump", "1", ("champion",), logged.version.run_id)
    assert version.tags["schema_sha256"] == tiny_detector.schema.digest
    assert registry.registered_versions("pump", uri=logged.uri) == (version,)
    assert registry.registered_versions("else", uri=logged.uri) == ()


def test_the_newest_of_many_versions_is_found_behind_the_first_page() -> None:
    class Version:
        def __init__(self, number: int) -> None:
            self.version = str(number)

    class Page(list[Version]):
        token: str | None = None

    class Client:
        """Pages of two, in no order."""

        def search_model_versions(self, wanted: str, page_token: str | None = None) -> Page:
            assert wanted == "name='pump'"
            pages = [[9, 10], [2, 11], [3]]
            place = int(page_token or 0)
            page = Page(Version(n) for n in pages[place])
            page.token = str(place + 1) if place + 1 < len(pages) else None
            return page

    client: Any = Client()
    assert registry._newest(client, "pump", "") == "11"  # noqa: SLF001  # a store with five versions takes a minute to make


# What is not


def test_an_alias_or_a_number_that_is_not_there_says_which_are(logged: Logged) -> None:
    there_is = "pump has versions 1 and aliases @champion (version 1)."
    assert refusal("models:/pump@challenger", logged) == f"no model models:/pump@challenger in {logged.uri}: {there_is}"
    assert refusal("models:/pump/7", logged) == f"no model models:/pump/7 in {logged.uri}: {there_is}"
    assert refusal("models:/pump/seven", logged) == f"no model models:/pump/seven in {logged.uri}: {there_is}"


def test_a_name_that_is_not_there_says_which_are(logged: Logged) -> None:
    assert refusal("models:/valve@champion", logged) == f"no model models:/valve@champion in {logged.uri}: registered are pump."


@pytest.mark.usefixtures("own_folder")
def test_an_empty_registry_says_how_to_fill_it() -> None:
    with store.open_store(None) as uri:
        pass
    with pytest.raises(ArtifactError) as refused:
        registry.resolve_model("models:/vae-anomaly@champion")
    text = "no model is registered; fit one with vae-anomaly fit."
    assert str(refused.value) == f"no model models:/vae-anomaly@champion in {uri}: {text}"
    assert registry.registered_versions() == ()


def test_a_run_or_logged_model_that_is_not_there(logged: Logged) -> None:
    run, model = f"runs:/{'0' * 32}", f"models:/m-{'0' * 32}"
    assert refusal(run, logged) == f"no model {run} in {logged.uri}: there is no such run."
    assert refusal(model, logged) == f"no model {model} in {logged.uri}: there is no such logged model."


def test_a_run_without_a_detector(logged: Logged) -> None:
    inner = f"runs:/{logged.version.run_id}/figures"
    text = refusal(inner, logged)
    assert text.startswith(f"{inner} is no model of this package: there is no manifest.json at ")
    text = refusal(f"runs:/{logged.version.run_id}/nowhere", logged)
    assert text.endswith(": the store was moved, or they were removed. Use a copy, or fit again.")


def test_a_model_of_somebody_else(own_folder: Path) -> None:
    """Registered by other means, from a folder that holds no artifact of ours."""
    (own_folder / "theirs" / "artifacts").mkdir(parents=True)
    (own_folder / "theirs" / "artifacts" / "MLmodel").write_text("flavors: {}\n")
    with store.open_store(None) as uri:
        client = MlflowClient(uri)
        client.create_registered_model("theirs")
        client.create_model_version("theirs", (own_folder / "theirs").as_uri())
    with pytest.raises(ArtifactError) as refused:
        registry.resolve_model("models:/theirs/1")
    where = own_folder / "theirs" / "artifacts"
    assert str(refused.value) == f"models:/theirs/1 is no model of this package: there is no manifest.json at {where}."


def test_a_damaged_artifact_is_found_and_told_when_it_is_loaded(logged: Logged, own_folder: Path) -> None:
    shutil.copytree(logged.folder / "out", own_folder / "out")
    (own_folder / "out" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(DamagedArtifact, match=r"weights\.safetensors is damaged"):
        artifact.load(registry.resolve_model("out").folder)


def test_long_lists_are_cut() -> None:
    assert registry._listed(range(22)) == ", ".join(map(str, range(20))) + " and 2 more"  # noqa: SLF001  # twenty models take minutes
