"""Stack files: the Compose format read into specs, and the plan of what a deployment changes. Used by ``swarmctl stack``."""
