"""Ansible: the actions on playbooks."""
