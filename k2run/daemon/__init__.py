"""What runs unattended: schedules, alerts, notifications, telemetry."""
