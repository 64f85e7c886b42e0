"""What the scripts and commands share: options, data, a run's figures and folder."""
