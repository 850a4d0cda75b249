#!/usr/bin/env bash
# A categorical that polars writes to an Arrow file is a dictionary of string views, which pyarrow can neither cast, decode nor count
#
# Versions: polars 2.1.0, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: pyarrow reads the file and gives the texts of the column.
#
# Seen: write_ipc of a Categorical gives dictionary<values=string_view, indices=uint32>. Reading and to_pylist work; a cast to
#   string, dictionary_decode and value_counts raise ArrowNotImplementedError. write_ipc(compat_level=oldest()) gives dictionaries of large_string, with which all three work.
#
# What to do: cast the dictionary, not the column: DictionaryArray.from_arrays(a.indices, a.dictionary.cast(pa.string())); or
#   write with compat_level=pl.CompatLevel.oldest().
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check pyarrow==25.0.1 polars==2.1.0
cd "$dir"
"$dir/venv/bin/python" - <<'PY'
import sys

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather

frame = pl.DataFrame({"mode": ["auto", "eco", None, "auto"]}, schema={"mode": pl.Categorical})
frame.write_ipc("new.arrow")
frame.write_ipc("old.arrow", compat_level=pl.CompatLevel.oldest())
seen = {}
for name in ("new", "old"):
    column = feather.read_table(f"{name}.arrow")["mode"].chunk(0)
    print(name, column.type, column.to_pylist())
    for what, ask in {
        "cast": lambda: column.cast(pa.string()),
        "dictionary_decode": lambda: column.dictionary_decode(),
        "value_counts": lambda: pc.value_counts(column.cast(column.type.value_type)),
        "cast of the dictionary": lambda: pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(pa.string())).dictionary_decode(),
    }.items():
        try:
            ask()
            seen[name, what] = True
        except pa.ArrowNotImplementedError as error:
            seen[name, what] = False
            print(f"  {what}: {str(error)[:110]}")
print(seen)
stated = {(n, w): n == "old" or w == "cast of the dictionary" for n, w in seen}
sys.exit(0 if seen == stated else 1)
PY
