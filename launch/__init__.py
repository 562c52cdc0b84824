"""How a run is started. Knows the command line of the program and nothing of what it computes."""
