"""The gateway's hands: doors, lines to the other processes, the data plane's keeper."""
