"""How the kafka adapter talks to a cluster: clients, offsets, load."""
