"""The pure in-memory store: tables and indexes, transactions applied deterministically, the events they make."""
