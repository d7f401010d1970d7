"""A schema registry: the client, Avro and the actions."""
