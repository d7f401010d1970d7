"""How the iceberg and duckdb adapters find tables, read their files and query them."""
