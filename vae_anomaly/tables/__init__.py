"""CSV, Parquet and Arrow files to and from Arrow record batches."""
