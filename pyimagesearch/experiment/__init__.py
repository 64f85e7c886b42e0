"""What the scripts and the report's command share: options, data, the run's folder."""
