"""File systems: listing, destinations and atomic writes; knows no tables."""
