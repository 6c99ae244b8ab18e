"""The machine's side of a process: clock, entropy, files, tasks, log. Cores never import from here."""
