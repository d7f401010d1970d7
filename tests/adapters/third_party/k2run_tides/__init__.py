"""What k2run can ask a harbour."""
