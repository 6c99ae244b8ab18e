"""``make demo``: a swarm of four nodes on this machine that loses its leader under load; shown on one screen, nothing left behind."""
