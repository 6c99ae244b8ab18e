"""The name that users import: a re-export of the control client."""
