"""Iceberg tables: the catalog, queries and the actions."""
