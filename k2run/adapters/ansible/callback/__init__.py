"""What Ansible loads."""
