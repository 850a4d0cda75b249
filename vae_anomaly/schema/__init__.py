"""Table schemas: column kinds, cell parsing, conforming batches to a schema, encoding as tensors. Pure."""
