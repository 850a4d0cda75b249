import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import encoded, odd_rows
from vae_anomaly import artifact
from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError, DamagedArtifact, OutputError, UnknownFormat

Json = dict[str, Any]


@pytest.fixture
def folder(tiny_detector: Detector, tmp_path: Path) -> Path:
    artifact.save(tiny_detector, tmp_path / "model")
    return tmp_path / "model"


def scores(detector: Detector) -> bytes:
    """Return the bits of the scores of odd rows."""
    return detector.scores(encoded(detector.schema, odd_rows("mixed"))).total.numpy().tobytes()


def stamped(manifest: Json) -> Json:
    """Put the digest on a manifest as the docstring of the module describes it."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return content | {"digest": hashlib.sha256(text.encode()).hexdigest()}


def rewrite(folder: Path, change: Callable[[Json], Any]) -> None:
    """Change the manifest and put a digest on it that is right."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(stamped(manifest)))


def reweigh(folder: Path, content: bytes) -> None:
    """Write other weights and a manifest whose digests are right."""
    (folder / "weights.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(folder, lambda m: m["digests"].update({"weights.safetensors": digest}))


def damage(folder: Path) -> str:
    """Return why a folder is refused, without the parts that every such message has."""
    with pytest.raises(DamagedArtifact) as refused:
        artifact.load(folder)
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith(f"{folder}/")
    assert text.endswith(". Copy the model again, or fit again.")
    return text.removeprefix(f"{folder}/").removesuffix(". Copy the model again, or fit again.")


# What is written


def test_a_loaded_detector_is_the_saved_one(tiny_detector: Detector, folder: Path) -> None:
    loaded = artifact.load(folder)
    assert scores(loaded) == scores(tiny_detector)
    (values, tensors), (values_before, tensors_before) = loaded.state(), tiny_detector.state()
    assert json.dumps(values) == json.dumps(values_before)
    assert tensors.keys() == tensors_before.keys()
    assert all(torch.equal(tensors[name], tensors_before[name]) and tensors[name].dtype == tensors_before[name].dtype for name in tensors)


def test_the_folder_is_one_readable_json_and_one_safetensors_file(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "weights.safetensors"]
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    assert list(manifest) == ["format", "package", "package_version", "digests", "tensors", "state", "digest"]
    assert manifest["format"] == 2
    assert manifest["package"] == "vae-anomaly"
    assert manifest == stamped(manifest)
    assert text == json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    weights = (folder / "weights.safetensors").read_bytes()
    assert manifest["digests"] == {"weights.safetensors": hashlib.sha256(weights).hexdigest()}
    assert manifest["tensors"]["calibration"] == f"float64[{len(artifact.load(folder).threshold.calibration)}]"


def test_equal_detectors_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    artifact.save(artifact.load(folder), tmp_path / "again")
    for name in ("manifest.json", "weights.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_manifest_may_be_laid_out_in_another_way(tiny_detector: Detector, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent="\t").replace("\n", "\r\n"))
    assert scores(artifact.load(folder)) == scores(tiny_detector)


def test_a_number_that_json_does_not_have_is_not_written(tiny_detector: Detector, tmp_path: Path) -> None:
    broken = replace(tiny_detector, threshold=replace(tiny_detector.threshold, value=float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifact.save(broken, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_artifact_is_replaced_only_when_asked(tiny_detector: Detector, folder: Path) -> None:
    with pytest.raises(OutputError, match="exists and is not empty"):
        artifact.save(tiny_detector, folder)
    before = artifact.fingerprint(folder)
    other = tiny_detector.recalibrated(calibrate(np.arange(1.0, 40.0), 0.05))
    artifact.save(other, folder, replace=True)
    assert artifact.load(folder).threshold.value == other.threshold.value
    assert artifact.fingerprint(folder) != before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_replacing_refuses_a_folder_with_other_files(tiny_detector: Detector, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not empty"):
        artifact.save(tiny_detector, folder, replace=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_files_that_others_add_are_ignored(tiny_detector: Detector, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "model.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert scores(artifact.load(folder)) == scores(tiny_detector)


def test_an_artifact_whose_replacement_was_killed_is_loaded_from_aside(tiny_detector: Detector, folder: Path) -> None:
    folder.rename(folder.with_name(".model.old"))
    assert artifact.is_artifact(folder)
    assert scores(artifact.load(folder)) == scores(tiny_detector)


def test_a_replacement_between_the_two_files_is_read_again(tiny_detector: Detector, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tiny_detector.recalibrated(calibrate(np.arange(1.0, 40.0), 0.05))
    really_open = Path.open
    opened: list[str] = []

    def opening(self: Path, mode: str = "r") -> Any:
        opened.append(self.name)
        if opened == ["manifest.json", "weights.safetensors"]:
            artifact.save(other, folder, replace=True)
        return really_open(self, mode)

    monkeypatch.setattr(Path, "open", opening)
    assert artifact.load(folder).threshold.value == other.threshold.value
    assert [name for name in opened if name == "manifest.json"] == ["manifest.json"] * 3, "read, written, read again"


# What is refused


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    texts = {
        "absent": "folder not found; expected a folder with manifest.json and weights.safetensors.",
        "file": "it is a file; expected a folder with manifest.json and weights.safetensors.",
        "empty": "the folder has neither manifest.json nor weights.safetensors.",
    }
    for name, text in texts.items():
        with pytest.raises(ArtifactError) as refused:
            artifact.load(tmp_path / name)
        assert str(refused.value) == f"no model at {tmp_path}/{name}: {text}"
        assert type(refused.value) is ArtifactError
        assert not artifact.is_artifact(tmp_path / name)
    with pytest.raises(ArtifactError) as refused:
        artifact.load(Path("x" * 300))
    assert str(refused.value) == f"no model at {'x' * 300}: file name too long."


@pytest.mark.parametrize("number", [3, 99])
def test_a_newer_format_says_how_to_upgrade_whatever_else_is_in_it(folder: Path, number: int) -> None:
    (folder / "manifest.json").write_text(json.dumps({"format": number, "all": "else"}))
    with pytest.raises(UnknownFormat) as refused:
        artifact.load(folder)
    upgrade = "Upgrade: pip install -U vae-anomaly"
    assert str(refused.value) == f"{folder} was written by a newer version (format {number}; this one reads 2). {upgrade}"


@pytest.mark.parametrize("number", [0, -1, True, "1", 1.0, None, [1]])
def test_a_format_is_a_number_of_1_or_more(folder: Path, number: object) -> None:
    rewrite(folder, lambda m: m.update(format=number))
    assert damage(folder) == f"manifest.json is damaged: its format is {number!r}, not a number of 1 or more"


def test_little_of_what_is_wrong_is_quoted(folder: Path) -> None:
    rewrite(folder, lambda m: m.update(format=["long"] * 1000))
    assert damage(folder) == f"manifest.json is damaged: {('its format is ' + repr(['long'] * 1000))[: artifact.LONGEST_WHY - 1]}…"


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert damage(folder) == f"{name} is damaged: the file is missing"


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_instead_of_a_file_does_not_wait(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert damage(folder) == f"{name} is damaged: the file is missing"


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_file_too_large_is_not_read(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(artifact.MAX_ARTIFACT_BYTES, name, 1000)
    assert damage(folder) == f"{name} is damaged: it is larger than 1,000 bytes"


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_link_that_leaves_the_folder_is_not_followed(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    assert damage(folder) == f"{name} is damaged: it is a link to a file outside of the folder"


def test_links_within_the_folder_and_to_the_folder_are_followed(tiny_detector: Detector, folder: Path) -> None:
    (folder / "weights.safetensors").rename(folder / "blob")
    (folder / "weights.safetensors").symlink_to("blob")
    (folder.parent / "today").symlink_to(folder)
    assert scores(artifact.load(folder.parent / "today")) == scores(tiny_detector)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS means what it says on Linux")
def test_loading_takes_no_more_memory_and_imports_than_it_needs(folder: Path) -> None:
    """Reading up to the largest size that is bearable would reserve 8 GB for 60 kB; torch's compiler takes a second to import."""
    limited = (
        "import resource, sys; from pathlib import Path; from vae_anomaly import artifact; "
        "pages = int(Path('/proc/self/statm').read_text().split()[0]); "
        "resource.setrlimit(resource.RLIMIT_AS, (4096 * pages + 2**29, resource.RLIM_INFINITY)); "
        "print(len(artifact.load(Path(sys.argv[1])).schema.columns), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", limited, str(folder)], check=False, capture_output=True, text=True)
    assert done.stdout.split() == [str(len(artifact.load(folder).schema.columns)), "False"], done.stderr


def test_a_config_that_no_fit_could_have_had_is_damage_not_usage(folder: Path) -> None:
    rewrite(folder, lambda m: m["state"]["config"].update(seed=-1))
    assert damage(folder) == (
        "manifest.json is damaged: the model's fields do not fit together: ConfigError: seed must be in [0, 2⁶³); got -1"
    )


def test_a_file_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(ArtifactError) as refused:
        artifact.load(folder)
    assert str(refused.value) == f"{folder}/manifest.json cannot be read: permission denied."


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"format": 1', "Expecting ',' delimiter: line 1 column 13 (char 12)"),
        (b'{"format": 1, "state": NaN}', "NaN is not a JSON number"),
        (b'{"format": 1, "state": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"format": 1, "state": 1e999}', "1e999 is not a JSON number"),
        (b'{"format": 1, "format": 1}', "a key appears twice in one object"),
        (b'{"format": 1, "state": "\\ud800"}', "'utf-8' codec can't encode character '\\ud800' in position 24: surrogates not allowed"),
        (b"\xff\xfe", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
    ids=["empty", "cut", "nan", "inf", "too large a number", "twice", "surrogate", "utf-16"],
)
def test_a_manifest_that_is_not_json(folder: Path, content: bytes, why: str) -> None:
    (folder / "manifest.json").write_bytes(content)
    assert damage(folder) == f"manifest.json is damaged: it is not JSON as this package writes it ({why})"


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000])
def test_a_manifest_made_to_exhaust_the_parser(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    assert damage(folder).startswith("manifest.json is damaged: it is not JSON as this package writes it (")


def test_a_manifest_that_is_not_an_object(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1]")
    assert damage(folder) == "manifest.json is damaged: it is not a JSON object"


@pytest.mark.parametrize("key", ["package", "package_version", "digests", "tensors", "state", "digest"])
def test_a_key_that_is_missing_or_of_another_type(folder: Path, key: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    text = f"manifest.json is damaged: {key!r} is missing or not of type {type(manifest[key]).__name__}"
    for broken in ({k: v for k, v in manifest.items() if k != key}, manifest | {key: 3}):
        (folder / "manifest.json").write_text(json.dumps(broken))
        assert damage(folder) == text


def test_a_changed_threshold_is_seen(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["state"]["threshold"]["alpha"] = 0.2
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert damage(folder) == "manifest.json is damaged: its content differs from its digest"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "code.py"])
def test_a_manifest_that_names_other_files_is_refused_and_they_are_not_opened(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    rewrite(folder, lambda m: m["digests"].update({name: digest}))
    listed = sorted([name, "weights.safetensors"])
    assert damage(folder) == f"manifest.json is damaged: it has digests of {listed}, not of weights.safetensors alone"
    rewrite(folder, lambda m: m.update(digests={name: digest}))
    assert damage(folder) == f"manifest.json is damaged: it has digests of {[name]}, not of weights.safetensors alone"


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[:keep])
    assert damage(folder) == "weights.safetensors is damaged: it differs from its digest"
    reweigh(folder, content[:keep])
    assert damage(folder).startswith("weights.safetensors is damaged: it is not a safetensors file (")


def test_one_changed_bit_of_the_weights_is_detected(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    assert damage(folder) == "weights.safetensors is damaged: it differs from its digest"


@pytest.mark.parametrize(
    "header",
    [
        {"weight": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}},
        {"weight": {"dtype": "F64", "shape": [2**62, 4], "data_offsets": [0, 8]}},
        {"weight": {"dtype": "F64", "shape": [1], "data_offsets": [8, 0]}},
        {"weight": {"dtype": "F99", "shape": [1], "data_offsets": [0, 8]}},
    ],
    ids=["ten terabytes", "overflow", "backwards", "unknown type"],
)
def test_a_small_file_cannot_ask_for_a_large_tensor(folder: Path, header: Json) -> None:
    text = json.dumps(header).encode()
    reweigh(folder, struct.pack("<Q", len(text)) + text + bytes(8))
    assert damage(folder).startswith("weights.safetensors is damaged: it is not a safetensors file (")


def test_a_header_longer_than_the_file(folder: Path) -> None:
    reweigh(folder, struct.pack("<Q", 2**40) + b"{}")
    assert damage(folder).startswith("weights.safetensors is damaged: it is not a safetensors file (")


def test_tensors_are_those_that_the_manifest_describes(folder: Path) -> None:
    tensors = safetensors.torch.load((folder / "weights.safetensors").read_bytes())
    text = "weights.safetensors is damaged: tensor {!r} differs from its description in manifest.json"
    for changed in ({}, {"weight": tensors["weight"].float()}, {"weight": tensors["weight"].unsqueeze(0)}):
        reweigh(folder, safetensors.torch.save({k: v for k, v in tensors.items() if k != "weight"} | changed))
        assert damage(folder) == text.format("weight")
    reweigh(folder, safetensors.torch.save(tensors | {"more": torch.zeros(1)}))
    assert damage(folder) == text.format("more")


def test_an_impossible_state_names_the_manifest(folder: Path) -> None:
    rewrite(folder, lambda m: m["state"].pop("threshold"))
    assert damage(folder) == "manifest.json is damaged: the model's fields do not fit together: KeyError: 'threshold'"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_damage_or_changes_nothing(data: st.DataObject, tiny_detector: Detector, folder: Path) -> None:
    """Only white space and the spelling of text in the manifest can change without changing what it says."""
    shutil.rmtree(folder)
    artifact.save(tiny_detector, folder)
    path = folder / data.draw(st.sampled_from(["manifest.json", "weights.safetensors"]))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        loaded = artifact.load(folder)
    except (DamagedArtifact, UnknownFormat):
        return
    assert loaded.state()[0] == tiny_detector.state()[0]


# Nothing runs

LISTENING = """
import pickle, sys
from collections import OrderedDict
from pathlib import Path

from tests.tiny import encoded, odd_rows
from vae_anomaly import artifact

seen = []
sys.addaudithook(lambda event, args: seen.append(args) if event == "pickle.find_class" else None)
detector = artifact.load(Path(sys.argv[1]))
detector.scores(encoded(detector.schema, odd_rows("mixed")))
quiet = len(seen)
pickle.loads(pickle.dumps(OrderedDict(a=1)))
print(quiet, len(seen))
"""


def test_loading_and_scoring_unpickle_nothing(folder: Path) -> None:
    heard = subprocess.run([sys.executable, "-c", LISTENING, str(folder)], check=True, capture_output=True, text=True)
    assert heard.stdout.split() == ["0", "1"], "the second number is the control: a pickle that the hook must hear"


@pytest.mark.parametrize("name", ["a" * 5000, "models:/" + "a" * 5000, "models:/pump@champion"])
def test_a_name_that_no_file_system_takes_is_no_artifact(name: str) -> None:
    assert not artifact.is_artifact(Path(name))
