"""The sections of bench/encoder.py."""
