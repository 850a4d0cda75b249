import bz2
import gzip
import lzma

import pyarrow as pa
import pytest

from vae_anomaly.storage.listing import advice, complaint

CSV = b"a,b\n1,2\n"
PACKED = {
    "gzip": (".gz", gzip.compress(CSV)),
    "bzip2": (".bz2", bz2.compress(CSV)),
    "Zstandard": (".zst", pa.compress(CSV, "zstd", asbytes=True)),
}


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_compressed_as_its_name_says_is_fine(kind: str) -> None:
    ending, content = PACKED[kind]
    assert complaint(content, f"in/x.csv{ending}") == complaint(content, f"in/no_name{ending}") == ""
    assert complaint(CSV, "in/x.csv") == complaint(CSV, "in/x") == complaint(b"", "x") == ""


@pytest.mark.parametrize("kind", PACKED)
def test_a_name_that_says_something_else(kind: str) -> None:
    ending, content = PACKED[kind]
    renamed = f"is compressed with {kind}, and its name does not end in {ending}. Name it"
    assert complaint(content, "in/x.csv") == f"{renamed} x.csv{ending}"
    assert complaint(content, f"in/X.CSV{ending.upper()}") == ""
    other = ".gz" if kind != "gzip" else ".zst"
    assert complaint(content, f"in/x.csv{other}") == f"{renamed} x.csv{ending}"
    assert complaint(CSV, f"in/x.csv{ending}") == f"is not compressed with {kind} as its name says. Name it x.csv, or copy it again"


@pytest.mark.parametrize("name", ["x.parquet", "x.parquet.gz", "x.arrow.gz", "x.ARROWS"])
def test_parquet_and_arrow_are_not_unpacked(name: str) -> None:
    said = "is compressed with gzip as a whole; Parquet and Arrow compress inside. Unpack it"
    assert complaint(gzip.compress(b"PAR1"), name) == said


def test_what_is_not_unpacked_at_all() -> None:
    said = "which is not read. Unpack it, or compress it with gzip"
    assert complaint(lzma.compress(CSV), "x.csv.xz") == complaint(lzma.compress(CSV), "x.csv") == f"is compressed with xz, {said}"
    assert complaint(b"\x1f\x9d\x90", "x.csv.Z") == f"is compressed with compress, {said}"


@pytest.mark.parametrize(
    ("error", "path", "expected"),
    [
        (OSError("Truncated compressed stream"), "s3://lake/x.csv.gz", ". Write or copy it again."),
        (OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"), "s3://lake/x.parquet", ". Write or copy it again."),
        (OSError("Expected to be able to read 1608 bytes for message body, got 1316"), "x.arrows", ". Write or copy it again."),
        (OSError("the server does not answer"), "s3://lake/x.csv", ""),
        (OSError(5, "Input/output error"), "x.csv", ""),
    ],
)
def test_a_damaged_file_is_to_be_copied_again_and_a_lost_one_is_not(error: OSError, path: str, expected: str) -> None:
    assert advice(error, path) == expected
