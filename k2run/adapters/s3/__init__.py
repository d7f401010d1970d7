"""S3 stores: the client and the actions."""
