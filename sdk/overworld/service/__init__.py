"""What every service needs: settings, secrets, logs, child processes."""
