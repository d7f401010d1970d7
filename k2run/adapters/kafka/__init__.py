"""Kafka: the client, offsets, messages and the actions."""
