from running_platform import platform  # noqa: F401 - a fixture
