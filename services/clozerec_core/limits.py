"""The largest requests that are answered; larger ones are refused by name, never clamped."""

MAX_TOP_K = 1_000
MAX_SESSION_ITEMS = 1_000
MAX_EXCLUDE_ITEM_IDS = 10_000
MAX_SEEN_ITEMS = 10_000
"""A person's newest distinct items that `exclude_seen` leaves out."""
MAX_ID_BYTES = 256
MAX_ITEM_TEXT_BYTES = 8 * 1024
MAX_SEQUENCES = 1_024
MAX_SEQUENCE_TOKENS = 10_000
MAX_TEXTS = 1_024
MAX_ITEMS_PER_CALL = 1_000
MAX_EVENTS_PER_CALL = 1_000
MAX_METADATA_FIELDS = 256
