"""File systems: listing, destinations, atomic writes and locks; knows no tables."""
