"""Files: the actions on them, pictures and videos included."""
