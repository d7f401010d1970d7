"""Recognises failures by the symptoms that recovery runbooks declare, and proves that recovering from them works."""
