import bz2
import gzip
import lzma

import pyarrow as pa
import pytest

from vae_anomaly.storage.listing import compression_error

CSV = b"a,b\n1,2\n"
PACKED = {
    "gzip": (".gz", gzip.compress(CSV)),
    "bzip2": (".bz2", bz2.compress(CSV)),
    "Zstandard": (".zst", pa.compress(CSV, "zstd", asbytes=True)),
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_compression_that_matches_the_suffix_is_accepted(kind: str) -> None:
    ending, content = PACKED[kind]
    assert compression_error(content, f"in/x.csv{ending}") == compression_error(content, f"in/no_name{ending}") == ""
    assert compression_error(CSV, "in/x.csv") == compression_error(CSV, "in/x") == compression_error(b"", "x") == ""


@pytest.mark.parametrize("kind", PACKED)
def test_a_compression_that_contradicts_the_suffix_is_refused(kind: str) -> None:
    ending, content = PACKED[kind]
    renamed = f"is compressed with {kind}, and its name does not end in {ending}. Name it"
    assert compression_error(content, "in/x.csv") == f"{renamed} x.csv{ending}"
    assert compression_error(content, f"in/X.CSV{ending.upper()}") == ""
    other = ".gz" if kind != "gzip" else ".zst"
    assert compression_error(content, f"in/x.csv{other}") == f"{renamed} x.csv{ending}"
    assert compression_error(CSV, f"in/x.csv{ending}") == f"is not compressed with {kind} as its name says. Name it x.csv, or copy it again"


@pytest.mark.parametrize("name", ["x.parquet", "x.parquet.gz", "x.arrow.gz", "x.ARROWS"])
def test_compressed_parquet_and_arrow_are_refused(name: str) -> None:
    said = "is compressed with gzip as a whole; Parquet and Arrow compress inside. Unpack it"
    assert compression_error(gzip.compress(b"PAR1"), name) == said


def test_unsupported_compressions_are_refused() -> None:
    said = "which is not supported. Unpack it, or compress it with gzip"
    for name in ("x.csv.xz", "x.csv"):
        assert compression_error(lzma.compress(CSV), name) == f"is compressed with xz, {said}"
    assert compression_error(b"\x1f\x9d\x90", "x.csv.Z") == f"is compressed with compress, {said}"
