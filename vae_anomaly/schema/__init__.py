"""What a table is: columns and their kinds, parsing, conforming, encoding. Pure."""
